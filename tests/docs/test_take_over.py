"""docs/take-over.md, typed to the letter on a standalone mongod as the gateway left it.

Once as a package sets mongod up, with a password, and once as started by hand, without.
"""

import re
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from apscheduler.jobstores.mongodb import MongoDBJobStore  # noqa: TID251 the gateway's
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from pymongo import MongoClient

from service.adapters.mongo.client import Client
from service.domain.cron import cron_from
from service.domain.interval import interval_from
from tests.docs.pages import block
from tests.flow.conftest import TestConductor, free_port
from tests.flow.process import Replica, process_of
from tests.mongosh import typed
from tests.steps import eventually
from tests.takeover.gateway import Document, Left, left_by_the_gateway, pickle_jobs, write_all
from tests.takeover.newcomer import Newcomer

SETTINGS, PASSWORD = "take-over-settings", "take-over-settings-password"
BERLIN = "Europe/Berlin"
OURS = ("stats", "councilor_status")
"""The fields of an agent that are the service's, CONTRACT section 1."""


@pytest.fixture
async def conductor() -> AsyncIterator[TestConductor]:
    conductor = TestConductor()
    async with conductor.listening():
        yield conductor


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


@pytest.mark.mongo
async def test_the_guide_by_hand_without_a_password(
    tmp_path: Path, conductor: TestConductor
) -> None:
    async with machine(tmp_path, conductor, has_password=False) as (person, left):
        newcomer = person
        await assert_checked(newcomer)
        await assert_refused(newcomer, because="a standalone server has no change streams")
        before = await agents_of(newcomer)
        assert "agent_32" in await newcomer.mongosh("take-over-weekdays")
        both_days = await newcomer.mongosh("take-over-both-days")
        assert re.findall(r"agent_\d+", both_days) == ["agent_47"]
        assert "2026-10-03" in await newcomer.mongosh("take-over-latest")
        await newcomer.shell("take-over-before", "take-over-stop-by-hand")
        await newcomer.shell("take-over-start-by-hand", "take-over-initiate")
        assert "nothing is lost" in await newcomer.shell("take-over-after")
        newcomer = newcomer.and_then("take-over-zone", "take-over-url")
        await assert_refused(newcomer, because="several rows with one execution_id")
        await newcomer.mongosh("take-over-old-jobs")
        assert (await newcomer.mongosh("take-over-unique-ids")).split() == ["20"]
        assert block("take-over-run") == "councilor-scheduler run\n"
        async with process_of(await newcomer.environment()) as replica:
            assert (await replica.saw("resync_finished"))["documents"] == 50
            await assert_taken_over(newcomer, left, before)
            await assert_runs(newcomer, left, conductor)
            await assert_mondays_are_mondays(newcomer, left)
            await assert_counting_goes_on(newcomer)
            await assert_spread(newcomer)
            await assert_stopped(replica)
        await assert_old_scheduler_works(newcomer)
        await newcomer.mongosh("take-over-no-trace")
        await assert_no_trace(newcomer, left)
        await assert_standalone_again(newcomer, "take-over-standalone-by-hand")


async def assert_mondays_are_mondays(newcomer: Newcomer, left: Left) -> None:
    now = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    days = [next_run(now[agent["agent_id"]]).isoweekday() for agent in left.by_number[:2]]
    assert days == [1, 7]
    for agent in left.crons:
        there, value = now[agent["agent_id"]], agent["councilor_config"]["schedule"]["value"]
        assert next_run(there) == old_next_run(there, value)


async def assert_counting_goes_on(newcomer: Newcomer) -> None:
    """From 1,000 runs at 75.8 %: one more, which succeeds."""
    await newcomer.line("councilor-scheduler run-now agent_1")

    async def stats() -> Document:
        agents = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
        found: Document = agents["agent_1"]["stats"]
        return found if found["total_executions"] > 1_000 else {}

    found = await eventually(stats)
    sums = (found["total_executions"], found["successful_executions"], found["success_rate"])
    assert sums == (1_001, 759, 75.8)


async def assert_spread(newcomer: Newcomer) -> None:
    """None but intervals of hours and more are spread, and all of them still run."""
    was = {
        agent["agent_id"]: agent["councilor_status"].get("accepted_at")
        for agent in await agents_of(newcomer)
        if "councilor_status" in agent
    }
    await newcomer.mongosh("take-over-spread")
    agents = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    spread = {
        agent_id
        for agent_id, agent in agents.items()
        if "spread" in agent.get("councilor_config", {}).get("schedule", {})
    }
    assert {"agent_1", "agent_3"} < spread
    assert not {"agent_0", "agent_2", "agent_20", "agent_36", "agent_44"} & spread

    async def accepted_anew() -> bool:
        now = {
            agent["agent_id"]: agent["councilor_status"]
            for agent in await agents_of(newcomer)
            if agent["agent_id"] in spread
        }
        return all(now[name]["accepted_at"] > was[name] for name in spread)

    await eventually(accepted_anew)
    said = await newcomer.line("councilor-scheduler jobs | tail -1")
    assert "36 scheduled, 7 paused, 7 invalid" in said


async def assert_no_trace(newcomer: Newcomer, left: Left) -> None:
    now = {agent["_id"]: agent for agent in await agents_of(newcomer)}
    of_the_gateway = {"total_executions", "success_rate", "last_execution"}
    assert not any("councilor_status" in agent for agent in now.values())
    assert all(agent.get("stats", {}).keys() <= of_the_gateway for agent in now.values())
    for agent in [*left.crons, *left.paused, *left.plain]:
        assert now[agent["_id"]] == agent


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


@pytest.mark.mongo
async def test_the_guide_by_systemd_with_a_password(
    tmp_path: Path, conductor: TestConductor
) -> None:
    async with machine(tmp_path, conductor, has_password=True) as (person, left):
        newcomer = person
        await assert_checked(newcomer)
        zoned = await newcomer.mongosh("take-over-zone-in-documents")
        assert "modifiedCount: 19" in zoned
        await newcomer.mongosh("take-over-weekdays", "take-over-weekdays-by-name")
        before = await agents_of(newcomer)
        await newcomer.shell("take-over-before", "take-over-stop-systemd")
        await newcomer.shell("take-over-key-systemd", "take-over-start-systemd")
        await newcomer.shell("take-over-initiate")
        assert "nothing is lost" in await newcomer.shell("take-over-after")
        newcomer = newcomer.and_then("take-over-url-password")
        await newcomer.mongosh("take-over-old-jobs")
        await newcomer.mongosh("take-over-unique-ids", "take-over-stats")
        assert "createUser" in await newcomer.shell("take-over-role")
        service = newcomer.and_then("take-over-role")
        async with process_of(await service.environment()) as replica:
            await replica.saw("resync_finished")
            await assert_taken_over(newcomer, left, before)
            await assert_runs_as_before(newcomer, left)
            await assert_runs(newcomer, left, conductor)
            await assert_stopped(replica)
        # All but the one that somebody asked to run: that is written in its document.
        await assert_kept(newcomer, [agent for agent in before if agent["agent_id"] != "agent_0"])
        await assert_old_scheduler_works(newcomer)
        await assert_standalone_again(newcomer, "take-over-standalone-systemd")


async def assert_runs_as_before(newcomer: Newcomer, left: Left) -> None:
    """With the old zone and days by name, every cron runs when the gateway would have run it."""
    now = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    for agent in [*left.crons, *left.by_number]:
        there, value = now[agent["agent_id"]], agent["councilor_config"]["schedule"]["value"]
        assert next_run(there) == old_next_run(there, value), value


WEEKDAYS = ("1", "0", "6", "0-4", "1-5", "0,3", "*/2", "1-5/2", "0-6/2", "2,4-6", "mon,3", "5-6")


@pytest.mark.mongo
async def test_days_by_name_are_the_days_of_the_old_scheduler(
    client: Client, database: str, replica_set_url: str
) -> None:
    """For each way to write the field; what has no number is left alone."""
    written = [f"30 9 * * {days}" for days in WEEKDAYS] + ["0 9 * * MON-FRI", "0 9 * * *"]
    agents = client[database]["agents"]
    schedules = [{"type": "cron", "value": value} for value in written]
    await agents.insert_many(
        {"_id": value, "is_councilor": True, "councilor_config": {"schedule": schedule}}
        for value, schedule in zip(written, schedules, strict=True)
    )
    script = block("take-over-weekdays") + block("take-over-weekdays-by-name")
    await typed(replica_set_url, f'db = db.getSiblingDB("{database}");{script}')
    now = {
        agent["_id"]: agent["councilor_config"]["schedule"]["value"]
        async for agent in agents.find()
    }
    assert [now[value] for value in written[-2:]] == written[-2:]
    for old, new in now.items():
        assert ten_slots(new) == ten_fires(old), (old, new)


def ten_slots(value: str) -> list[datetime]:
    cron, slots = cron_from(value, "UTC"), [datetime(2026, 11, 24, tzinfo=UTC)]
    for _ in range(10):
        following: Any = cron.next_slot(slots[-1], slots[0])
        slots.append(following)
    return slots[1:]


def ten_fires(value: str) -> list[datetime]:
    trigger, fires = CronTrigger.from_crontab(value, UTC), list[datetime]()
    now = datetime(2026, 11, 24, tzinfo=UTC)
    for _ in range(10):
        now = trigger.get_next_fire_time(None, now + timedelta(seconds=1))
        fires.append(now)
    return fires
