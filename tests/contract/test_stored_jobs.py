"""What every store of jobs, and every list of replicas, promises: fakes and real collections."""

from collections.abc import AsyncIterator
from datetime import timedelta

import bson
import pytest

from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.jobs import MongoStoredJobs
from service.adapters.mongo.keys import key_of
from service.adapters.mongo.replicas import MongoReplicas
from service.domain.councilor import SchedulePolicy
from service.domain.jobs import AgentDocument, Desired, Job, Past
from service.domain.planning import Put, desired_job, plan
from service.ports import Replicas, StoredJobs
from tests.contract.test_agents import councilor
from tests.fakes import NOON, FakeClock, FakeReplicas, FakeStoredJobs

TTL = timedelta(seconds=30)


def job(agent_id: str = "scout") -> Job:
    desired = desired_job(AgentDocument(key_of(agent_id), councilor(agent_id)), SchedulePolicy())
    assert isinstance(desired, Desired)
    (action,) = plan(desired, None, Past(accepted_at=NOON), NOON)
    assert isinstance(action, Put)
    return action.job


def real_store(client: Client, database: str) -> MongoStoredJobs:
    return MongoStoredJobs(client, database, "jobs", owner="replica-1", clock=FakeClock())


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mongo)])
async def stored(request: pytest.FixtureRequest) -> AsyncIterator[StoredJobs]:
    if request.param == "fake":
        yield FakeStoredJobs()
        return
    database = request.getfixturevalue("database")
    async with connected(request.getfixturevalue("replica_set_url")) as client:
        yield real_store(client, database)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mongo)])
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    if request.param == "fake":
        yield FakeReplicas(FakeClock())
        return
    database = request.getfixturevalue("database")
    async with connected(request.getfixturevalue("replica_set_url")) as client:
        yield MongoReplicas(client, database)


async def test_what_is_saved_is_loaded(stored: StoredJobs) -> None:
    await stored.save([job()], [])
    found = (await stored.load())["scout"]
    assert (found.accepted_at, found.next_run_at) == (NOON, NOON + timedelta(minutes=30))
    assert (found.spec_hash, found.state) == (job().spec_hash, "scheduled")


async def test_what_is_removed_is_gone(stored: StoredJobs) -> None:
    await stored.save([job("a"), job("b")], [])
    await stored.save([], ["a"])
    assert set(await stored.load()) == {"b"}


async def test_strangers_are_removed_and_missing_ones_named(stored: StoredJobs) -> None:
    await stored.save([job("a"), job("stranger")], [])
    assert set(await stored.keep_only(["a", "lost"])) == {"lost"}
    assert set(await stored.load()) == {"a"}


@pytest.mark.mongo
async def test_a_pickled_job_of_another_program_is_replaced_and_never_read(
    client: Client, database: str
) -> None:
    jobs = client[database]["jobs"]
    foreign = {"_id": "scout", "next_run_time": 1.5, "job_state": bson.Binary(b"\x80\x04N.")}
    await jobs.insert_one(foreign)
    store = real_store(client, database)
    assert await store.load() == {}
    await store.save([job()], [])
    found = await jobs.find_one({"_id": "scout"})
    assert found == {
        "_id": "scout",
        "next_run_time": NOON + timedelta(minutes=30),
        "job_state": {
            "trigger": "interval",
            "value": "30m",
            "timezone": None,
            "anchor": NOON,
            "spec_hash": job().spec_hash,
            "state": "scheduled",
            "owner": "replica-1",
            "updated_at": NOON,
        },
    }


async def test_a_replica_lives_until_its_time_runs_out(replicas: Replicas) -> None:
    await replicas.heartbeat("fresh", {"host": "$here"}, TTL)
    await replicas.heartbeat("dead", {}, timedelta(0))
    assert await replicas.alive() == ["fresh"]


async def test_a_replica_that_leaves_is_dead_at_once(replicas: Replicas) -> None:
    await replicas.heartbeat("one", {}, TTL)
    await replicas.leave("one")
    assert await replicas.alive() == []


async def test_the_long_dead_are_forgotten_and_the_living_are_not(replicas: Replicas) -> None:
    await replicas.heartbeat("living", {}, TTL)
    await replicas.heartbeat("long dead", {}, timedelta(days=-2))
    await replicas.forget_dead()
    assert await replicas.alive() == ["living"]


@pytest.mark.mongo
async def test_a_heartbeat_keeps_the_start_and_moves_the_end(client: Client, database: str) -> None:
    replicas, rows = MongoReplicas(client, database), client[database]["scheduler_replicas"]
    await replicas.heartbeat("one", {"host": "h", "pid": 1, "version": "0"}, TTL)
    first = await rows.find_one()
    await replicas.heartbeat("one", {"host": "h", "pid": 1, "version": "0"}, TTL)
    second = await rows.find_one()
    assert first is not None
    assert second is not None
    assert set(second) == {
        "_id",
        "host",
        "pid",
        "version",
        "started_at",
        "heartbeat_at",
        "expires_at",
    }
    assert second["started_at"] == first["started_at"]
    assert second["expires_at"] - second["heartbeat_at"] == TTL
