"""What must be true on the way of docs/take-over.md, whoever types it."""

import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import bson
import pytest
from apscheduler.jobstores.mongodb import MongoDBJobStore  # noqa: TID251 the gateway's
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from pymongo import MongoClient

from service.domain.interval import interval_from
from tests.flow.conftest import TestConductor, free_port
from tests.flow.process import Replica, process_of
from tests.steps import eventually
from tests.takeover.gateway import Document, Left, left_by_the_gateway, pickle_jobs, write_all
from tests.takeover.newcomer import Newcomer

SETTINGS, PASSWORD = "take-over-settings", "take-over-settings-password"
BERLIN = "Europe/Berlin"
OURS = ("stats", "councilor_status")
"""The fields of an agent that are the service's, CONTRACT section 1."""


@asynccontextmanager
async def machine(
    folder: Path, conductor: TestConductor, *, has_password: bool
) -> AsyncIterator[tuple[Newcomer, Left]]:
    """A newcomer at a machine with a standalone mongod, full of what the gateway left."""
    settings = (SETTINGS, PASSWORD) if has_password else (SETTINGS,)
    ports = free_port(), free_port()
    newcomer = Newcomer(folder, *ports, conductor.url, settings, has_password=has_password)
    left = left_by_the_gateway()
    try:
        newcomer.prepare()
        with newcomer.client() as client:
            write_all(client, "conductor_state", left)
        yield newcomer, left
    finally:
        with suppress(subprocess.CalledProcessError):  # it may have ended before
            newcomer.mongod("--shutdown", "--dbpath", "data")


async def agents_of(newcomer: Newcomer) -> list[Document]:
    with newcomer.client() as client:
        return list(client["conductor_state"]["agents"].find())


def users_part(agent: Document) -> bytes:
    """All of a document but what is the service's, byte for byte."""
    return bson.encode({name: value for name, value in agent.items() if name not in OURS})


async def jobs_of(newcomer: Newcomer) -> Mapping[str, Document]:
    with newcomer.client() as client:
        found = client["conductor_state"]["apscheduler_jobs"].find()
        return {job["_id"]: job for job in found}


async def rows_of(newcomer: Newcomer, agent_id: str) -> list[Document]:
    with newcomer.client() as client:
        wanted = {"councilor_id": agent_id, "scheduled_for": {"$exists": True}}
        return list(client["conductor_state"]["councilor_executions"].find(wanted))


def old_trigger(value: str) -> CronTrigger:
    """When the gateway's scheduler ran a cron."""
    return CronTrigger.from_crontab("0 0 * * *" if value == "@daily" else value, BERLIN)


async def assert_checked(newcomer: Newcomer) -> None:
    """Before anything is changed, on the standalone server."""
    said = await newcomer.shell("take-over-check", fails_with=1)
    assert "36 scheduled, 7 paused, 7 invalid" in said
    assert "Every Monday at 09:00, Europe/Berlin" in said
    assert '"0m" is no time at all' in said


async def assert_refused(newcomer: Newcomer, *, because: str) -> None:
    """The service says why it does not start, and ends."""
    async with process_of(await newcomer.environment()) as replica:
        assert await replica.ended() == 2
        assert replica.process.stderr is not None
        assert because in (await replica.process.stderr.read()).decode()


async def assert_taken_over(newcomer: Newcomer, left: Left, before: list[Document]) -> None:
    """No agent is lost or changed; each councilor has its verdict, and its job."""

    async def told() -> bool:
        agents, jobs = await agents_of(newcomer), await jobs_of(newcomer)
        return sum("councilor_status" in agent for agent in agents) == len(jobs) == 50

    await eventually(told)
    await assert_kept(newcomer, before)
    now = {agent["_id"]: agent for agent in await agents_of(newcomer)}
    assert len(now) == len(left.all)
    states = {agent["agent_id"]: agent.get("councilor_status", {}) for agent in now.values()}
    for agents, state in (
        ([*left.intervals, *left.crons, *left.by_number], "scheduled"),
        (left.paused, "paused"),
        (left.meaningless, "invalid"),
        ([*left.demoted, *left.plain], None),
    ):
        assert [states[agent["agent_id"]].get("state") for agent in agents] == [state] * len(agents)
    for agent in left.meaningless:
        assert states[agent["agent_id"]]["error"]["hint"]
    for agent in left.intervals:
        status = states[agent["agent_id"]]
        period = interval_from(agent["councilor_config"]["schedule"]["value"])
        assert status["next_runs"][0] == status["accepted_at"] + period
    jobs = await jobs_of(newcomer)
    assert jobs.keys() == {agent["agent_id"] for agent in left.councilors}
    assert all(isinstance(job["job_state"], dict) for job in jobs.values())


async def assert_kept(newcomer: Newcomer, before: list[Document]) -> None:
    now = {agent["_id"]: agent for agent in await agents_of(newcomer)}
    assert [users_part(now[agent["_id"]]) for agent in before] == [*map(users_part, before)]


def next_run(agent: Document) -> datetime:
    run: datetime = agent["councilor_status"]["next_runs"][0]
    return run


def old_next_run(agent: Document, value: str) -> datetime:
    run: datetime = old_trigger(value).get_next_fire_time(
        None, agent["councilor_status"]["observed_at"]
    )
    return run


async def assert_runs(newcomer: Newcomer, left: Left, conductor: TestConductor) -> None:
    """What comes due runs, and what is asked for."""
    said = await newcomer.shell("take-over-look")
    assert '"status":"ok"' in said
    assert "50 councilors: 36 scheduled, 7 paused, 7 invalid" in said
    await newcomer.shell("take-over-run-now")

    async def completed(agent_id: str, trigger: str) -> bool:
        rows = await rows_of(newcomer, agent_id)
        return ("completed", trigger) in {(row["status"], row["trigger"]) for row in rows}

    await eventually(lambda: completed("agent_0", "manual"))
    await eventually(lambda: completed("agent_2", "schedule"))
    assert conductor.prompts_of("agent_0") == ["Look at part 0."]
    called = {call.agent_id for call in conductor.calls}
    left_alone = [*left.paused, *left.meaningless, *left.demoted, *left.plain]
    assert called.isdisjoint(agent["agent_id"] for agent in left_alone)


async def assert_stopped(replica: Replica) -> None:
    replica.process.terminate()
    assert await replica.ended() == 0
    assert replica.events[-1]["event"] == "scheduler_stopped"


async def assert_old_scheduler_works(newcomer: Newcomer) -> None:
    """APScheduler's own store is at home again, once our rows are dropped; not before."""
    with newcomer.client() as client:
        with pytest.raises(TypeError):
            store_of(client).get_next_run_time()
        await newcomer.mongosh("take-over-back")
        pickle_jobs(client, "conductor_state", ["agent_0", "agent_1"])
        store = store_of(client)
        assert store.get_next_run_time() is not None
        assert {job.id for job in store.get_all_jobs()} == {"agent_0", "agent_1"}


def store_of(client: MongoClient[Document]) -> MongoDBJobStore:
    store = MongoDBJobStore("conductor_state", "apscheduler_jobs", client=client)
    store.start(BackgroundScheduler(timezone=UTC), "default")
    return store


def replication_warnings(client: MongoClient[Document]) -> list[str]:
    lines: list[str] = client.admin.command("getLog", "startupWarnings")["log"]
    return [line for line in lines if "system.replset" in line]


async def assert_standalone_again(newcomer: Newcomer, *restart: str) -> None:
    """A standalone again, without a warning: with the agents, and no replica set."""
    newcomer = newcomer.and_then(PASSWORD if newcomer.has_password else SETTINGS)
    await newcomer.shell(*restart)
    with newcomer.client() as client:
        assert "setName" not in client.admin.command("hello")
        assert client["conductor_state"]["agents"].count_documents({}) == 56
        assert replication_warnings(client)
    if newcomer.has_password:
        await newcomer.mongosh("take-over-forget-set-right")
    await newcomer.mongosh("take-over-forget-set")
    await newcomer.shell(*restart)
    with newcomer.client() as client:
        assert client["conductor_state"]["agents"].count_documents({}) == 56
        assert replication_warnings(client) == []
