"""What a killed process leaves behind, and what the next one makes of it."""

import signal
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.app import wall_clock
from tests.flow.conftest import Database, TestConductor, config, rows_of
from tests.flow.process import Launch, launch
from tests.flow.test_one_change import completed, has_reason, is_after, run_after
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo

SECOND = timedelta(seconds=1)


def slots_of(rows: list[dict[str, Any]]) -> list[datetime]:
    """Every slot that these rows stand for."""
    slots: list[datetime] = []
    for row in rows:
        slot = row.get("first_slot") or row["scheduled_for"]
        while slot <= (row.get("last_slot") or row["scheduled_for"]):
            slots.append(slot)
            slot += SECOND
    return slots


@pytest.mark.parametrize("catch_up", ["once", "skip", "all"])
async def test_a_killed_process_costs_no_slot_its_row_and_moves_none(
    launch: Launch, db: Database, conductor: TestConductor, catch_up: str
) -> None:
    agent = {"agent_id": "scout", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config(catch_up=catch_up)})
    first = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout", 2))
    first.kill()
    await first.ended()
    killed_at = wall_clock()
    await eventually(lambda: is_after(killed_at + 4 * SECOND))
    second = await launch(CONDUCTOR_API_URL=conductor.url)
    await second.saw("resync_finished")
    back_at = wall_clock()
    await eventually(lambda: run_after(db, "scout", back_at + SECOND))
    rows = await rows_of(db, "scout")
    slots = slots_of(rows)
    assert slots == [slots[0] + n * SECOND for n in range(len(slots))]
    caught_up = [row for row in rows if row["trigger"] == "catch_up"]
    missed = sum(row.get("slots_missed", 0) for row in rows)
    match catch_up:
        case "once":
            assert len(caught_up) <= 1
            assert missed >= 3
        case "skip":
            assert caught_up == []
            assert missed >= 4
        case _:
            assert len(caught_up) >= 4
            assert missed == 0
    assert all(row["reason"] == "outage" for row in rows if row["status"] == "missed")


async def test_a_run_of_a_dead_replica_is_closed_and_the_next_slot_runs(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    agent = {"agent_id": "scout", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config(prompt="wait here")})
    first = await launch(CONDUCTOR_API_URL=conductor.url)
    await first.saw("run_started")
    first.kill()
    await first.ended()
    conductor.released.set()
    await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: has_reason(db, "scout", "interrupted", 1))
    await eventually(lambda: completed(db, "scout"))
    found = await db["agents"].find_one({"agent_id": "scout"})
    rows = await rows_of(db, "scout")
    ended = [row for row in rows if row["status"] in ("completed", "error")]
    assert found is not None
    assert found["stats"]["total_executions"] >= len(ended) - 1  # one may just be counted
    (interrupted,) = [row for row in rows if row["reason"] == "interrupted"]
    assert (interrupted["status"], interrupted["severity"]) == ("error", "error")


async def test_two_replicas_start_each_slot_once(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    for name in ("a", "b", "c"):
        agent = {"agent_id": name, "is_councilor": True}
        await db["agents"].insert_one({**agent, "councilor_config": config()})
    replicas = [await launch(CONDUCTOR_API_URL=conductor.url) for _ in range(2)]
    for replica in replicas:
        await replica.saw("resync_finished")
    for name in ("a", "b", "c"):
        await eventually(lambda name=name: completed(db, name, 4))  # type: ignore[misc]
    for replica in replicas:
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.ended() == 0
    keys = [call.headers["Idempotency-Key"] for call in conductor.calls]
    assert len(keys) == len(set(keys))
    for name in ("a", "b", "c"):
        slots = slots_of(await rows_of(db, name))
        assert slots == [slots[0] + n * SECOND for n in range(len(slots))]


async def test_slots_are_found_though_apscheduler_jobs_was_dropped_meanwhile(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    """It is a projection: nothing is lost with it, neither the phase nor what was missed."""
    agent = {"agent_id": "scout", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config()})
    first = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout", 2))
    first.kill()
    await first.ended()
    await db["apscheduler_jobs"].drop()
    killed_at = wall_clock()
    await eventually(lambda: is_after(killed_at + 3 * SECOND))
    second = await launch(CONDUCTOR_API_URL=conductor.url)
    await second.saw("resync_finished")
    back_at = wall_clock()
    await eventually(lambda: run_after(db, "scout", back_at))
    slots = slots_of(await rows_of(db, "scout"))
    assert slots == [slots[0] + n * SECOND for n in range(len(slots))]
