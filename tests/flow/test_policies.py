"""What becomes of slots that nobody could run: outages, edits and pauses meanwhile, overlaps."""

from datetime import datetime, timedelta

import pytest

from service.app import wall_clock
from tests.flow.conftest import Database, TestConductor, config, job_of, rows_of
from tests.flow.process import Launch, launch
from tests.flow.test_one_change import completed, is_after, run_after
from tests.flow.test_one_offs import promoted, restarted, set_fields, status_of
from tests.flow.test_restart import slots_of
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo

SECOND, MINUTE, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)


async def left_behind(db: Database, since: datetime, *, accepted_at: datetime) -> None:
    """What a service that ended leaves: the slots from `since` on have no rows."""
    status = await status_of(db)
    await set_fields(db, councilor_status=status | {"accepted_at": accepted_at})
    result = await db["apscheduler_jobs"].update_one(
        {"_id": "scout"}, {"$set": {"next_run_time": since, "job_state.anchor": accepted_at}}
    )
    assert result.matched_count == 1


OUTAGES = {"once": (1, 1), "skip": (0, 1), "all": (100, 1)}


@pytest.mark.parametrize(("catch_up", "expected"), OUTAGES.items(), ids=OUTAGES)
async def test_thirty_days_of_a_minutely_councilor_are_one_row(
    launch: Launch,
    db: Database,
    conductor: TestConductor,
    catch_up: str,
    expected: tuple[int, int],
) -> None:
    await promoted(db, "1m", catch_up=catch_up)
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: status_of(db))
    await eventually(lambda: job_of(db, "scout"))
    replica.kill()
    await replica.ended()
    now = wall_clock().replace(microsecond=0)
    accepted_at = now - 40 * DAY - 20 * SECOND  # the latest slot is 20 s ago, and missed
    await left_behind(db, accepted_at + 10 * DAY, accepted_at=accepted_at)
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("run_missed")
    caught_up, missed_rows = expected
    await eventually(lambda: has_caught_up(db, caught_up), within=40)
    rows = [row for row in await rows_of(db, "scout") if row["trigger"] != "manual"]
    missed = [row for row in rows if row["status"] == "missed"]
    assert len(missed) == missed_rows
    first, last, count = (missed[0][n] for n in ("first_slot", "last_slot", "slots_missed"))
    assert first == accepted_at + 10 * DAY
    assert count == (last - first) // MINUTE + 1 == 43_201 - caught_up
    assert len([row for row in rows if row["trigger"] == "catch_up"]) == caught_up


async def has_caught_up(db: Database, count: int) -> bool:
    rows = await rows_of(db, "scout")
    done = [row for row in rows if row["trigger"] == "catch_up" and row["status"] != "running"]
    return len(done) >= count and any(row["status"] == "missed" for row in rows)


async def test_an_edit_during_an_outage_fires_nothing_of_the_past(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await promoted(db, catch_up="all")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout"))
    replica.kill()
    await replica.ended()
    killed_at = wall_clock()
    await eventually(lambda: is_after(killed_at + 3 * SECOND))
    schedule = config("2s", catch_up="all")["schedule"]
    await set_fields(db, councilor_config__schedule=schedule)
    edited_at = wall_clock()
    await launch(CONDUCTOR_API_URL=conductor.url)
    row = await eventually(lambda: run_after(db, "scout", killed_at + SECOND))
    assert row["scheduled_for"] > edited_at
    assert row["scheduled_for"] == (await status_of(db))["accepted_at"] + 2 * SECOND


async def test_slots_inside_a_pause_do_not_exist_whoever_was_running(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    """Paused while the service runs, resumed while it is down, and the other way round."""
    enabled = "councilor_config__schedule__enabled"
    await promoted(db, catch_up="all")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout"))
    await set_fields(db, **{enabled: False})
    paused_at = wall_clock()
    await eventually(lambda: is_paused(db))
    replica = await restarted(replica, launch, conductor)
    await eventually(lambda: is_after(paused_at + 3 * SECOND))
    replica.kill()
    await replica.ended()
    await set_fields(db, **{enabled: True})
    resumed_at = wall_clock()
    await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: run_after(db, "scout", resumed_at))
    rows = await rows_of(db, "scout")
    assert [row for row in rows if paused_at < row["scheduled_for"] < resumed_at] == []
    anchor = (await status_of(db))["accepted_at"]
    assert all((row["scheduled_for"] - anchor) % SECOND == timedelta(0) for row in rows)


async def is_paused(db: Database) -> bool:
    job = await db["apscheduler_jobs"].find_one({"_id": "scout"})
    return job is not None and job["next_run_time"] is None


@pytest.mark.parametrize("overlap", ["skip", "queue_one"])
async def test_a_run_that_is_killed_amid_overlaps_leaves_every_slot_its_row(
    launch: Launch, db: Database, conductor: TestConductor, overlap: str
) -> None:
    agent = {"agent_id": "scout", "is_councilor": True}
    waiting = config(prompt="wait here", overlap=overlap)
    await db["agents"].insert_one({**agent, "councilor_config": waiting})
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    began = await replica.saw("run_started")
    if overlap == "skip":
        await replica.saw("run_skipped", count=2)
    else:
        await eventually(lambda: is_after(datetime.fromisoformat(began["timestamp"]) + 3 * SECOND))
    replica = await restarted(replica, launch, conductor)
    conductor.released.set()
    await eventually(lambda: completed(db, "scout", 2))
    rows = await rows_of(db, "scout")
    slots = slots_of(rows)
    assert slots == [slots[0] + n * SECOND for n in range(len(slots))]
    reasons = {row["reason"] for row in rows}
    assert "interrupted" in reasons
    assert ("overlap" in reasons) or overlap == "queue_one"
    keys = [call.headers["Idempotency-Key"] for call in conductor.calls]
    assert len(keys) == len(set(keys))


async def test_a_replica_that_joins_leaves_waiting_slots_to_the_one_that_holds_them(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    """A slot that waits for the end of a run has no row yet: it is no outage for a newcomer."""
    agent = {"agent_id": "scout", "is_councilor": True}
    waiting = config("2s", prompt="wait here", overlap="queue_one", catch_up="skip")
    await db["agents"].insert_one({**agent, "councilor_config": waiting})
    await launch(CONDUCTOR_API_URL=conductor.url)
    first = (await eventually(lambda: rows_of(db, "scout")))[0]["scheduled_for"]
    await eventually(lambda: is_after(first + 4.2 * SECOND))
    newcomer = await launch(CONDUCTOR_API_URL=conductor.url)
    await newcomer.saw("resync_finished")
    await eventually(lambda: is_after(first + 8.2 * SECOND))
    assert [row["status"] for row in await rows_of(db, "scout")] == ["running"]
    conductor.released.set()
    await eventually(lambda: run_after(db, "scout", first + 10 * SECOND))
    rows = await rows_of(db, "scout")
    assert [(row["status"], row["reason"]) for row in rows[:3]] == [
        ("completed", None),
        ("completed", None),
        ("skipped", "overlap"),
    ]
    slots = [row["scheduled_for"] for row in rows]
    assert slots == [first + 2 * n * SECOND for n in range(len(slots))]
