"""SIGTERM: nothing new starts, what runs may end, the rest is recorded as interrupted."""

import signal

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
