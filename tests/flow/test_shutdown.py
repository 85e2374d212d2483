"""SIGTERM: nothing new starts, what runs may end, the rest is recorded as interrupted."""

import signal
from collections import Counter

import pytest

from tests.flow.conftest import Database, TestConductor, config, rows_of
from tests.flow.process import Launch, launch
from tests.flow.test_one_change import completed
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo


async def insert(db: Database, prompt: str) -> None:
    agent = {"agent_id": "scout", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config(prompt=prompt)})


async def test_a_run_that_ends_within_the_drain_time_is_recorded(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await insert(db, "wait a little")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("run_started")
    replica.process.send_signal(signal.SIGTERM)
    await replica.saw("drain_started")
    conductor.released.set()
    assert await replica.ended() == 0
    await replica.saw("scheduler_stopped")
    (row,) = await completed(db, "scout") or []
    assert row["output"] == "fine"
    assert len(conductor.calls) == 1
    assert await db["scheduler_replicas"].count_documents({}) == 0


async def test_a_run_that_outlasts_the_drain_time_is_interrupted(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await insert(db, "wait for ever")
    replica = await launch(CONDUCTOR_API_URL=conductor.url, SCHEDULER_DRAIN_TIMEOUT="1s")
    await replica.saw("run_started")
    replica.process.send_signal(signal.SIGINT)
    assert await replica.ended() == 0
    row = (await rows_of(db, "scout"))[0]
    assert (row["status"], row["severity"], row["reason"]) == ("error", "error", "interrupted")
    agent = await db["agents"].find_one({"agent_id": "scout"})
    assert agent is not None
    assert agent["stats"]["total_executions"] == 1


async def test_a_second_signal_ends_it_at_once(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await insert(db, "wait for ever")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("run_started")
    replica.process.send_signal(signal.SIGTERM)
    await replica.saw("drain_started")
    replica.process.send_signal(signal.SIGTERM)
    assert await replica.ended(within=3) == 1


async def test_slots_that_come_due_while_draining_are_left_to_the_next_start(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await insert(db, "wait for ever")
    replica = await launch(CONDUCTOR_API_URL=conductor.url, SCHEDULER_DRAIN_TIMEOUT="3s")
    await replica.saw("run_started")
    replica.process.send_signal(signal.SIGTERM)
    assert await replica.ended() == 0
    before = len(await rows_of(db, "scout"))
    conductor.released.set()
    await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout"))
    rows = await rows_of(db, "scout")
    assert any(row["reason"] == "outage" for row in rows[before:])


async def test_of_fifty_runs_those_that_end_in_time_are_kept_and_the_rest_interrupted(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    agents = [
        {
            "agent_id": f"{prompt}-{n}",
            "is_councilor": True,
            "councilor_config": config("1h", prompt),
        }
        for n in range(25)
        for prompt in ("wait", "hang")
    ]
    await db["agents"].insert_many(agents)
    replica = await launch(CONDUCTOR_API_URL=conductor.url, SCHEDULER_DRAIN_TIMEOUT="2s")
    await replica.saw("resync_finished")
    await db["agents"].update_many({}, {"$currentDate": {"councilor_run_requested_at": True}})
    await replica.saw("run_started", count=50)
    replica.process.send_signal(signal.SIGTERM)
    await replica.saw("drain_started")
    conductor.released.set()
    assert await replica.ended() == 0
    rows = [row async for row in db["councilor_executions"].find()]
    endings = Counter((row["councilor_id"].split("-")[0], row["reason"]) for row in rows)
    assert endings == {("wait", None): 25, ("hang", "interrupted"): 25}
    counted = await db["agents"].count_documents({"stats.total_executions": 1})
    assert counted == 50
