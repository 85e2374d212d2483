"""One-offs by document, each with a restart in the middle: run now, paused until, skip next."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from service.app import wall_clock
from tests.flow.conftest import Database, Start, TestConductor, config, rows_of
from tests.flow.process import Launch, Replica, launch
from tests.flow.test_one_change import completed, is_after, run_after
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo

SECOND = timedelta(seconds=1)


async def promoted(db: Database, value: str = "1s", **schedule: Any) -> None:
    agent = {"agent_id": "scout", "is_councilor": True, "note": "mine"}
    await db["agents"].insert_one({**agent, "councilor_config": config(value, **schedule)})


async def set_fields(db: Database, **fields: object) -> None:
    changes = {name.replace("__", "."): value for name, value in fields.items()}
    result = await db["agents"].update_one({"agent_id": "scout"}, {"$set": changes})
    assert result.matched_count == 1


async def status_of(db: Database) -> dict[str, Any]:
    agent = await db["agents"].find_one({"agent_id": "scout"})
    status: dict[str, Any] = (agent or {}).get("councilor_status") or {}
    return status


async def skipped_slot(db: Database) -> datetime | None:
    return (await status_of(db)).get("skipped_slot")


async def restarted(replica: Replica, launch: Launch, conductor: TestConductor) -> Replica:
    """Killed, and started anew."""
    replica.kill()
    await replica.ended()
    another = await launch(CONDUCTOR_API_URL=conductor.url)
    await another.saw("resync_finished")
    return another


def skips(rows: list[dict[str, Any]]) -> list[datetime]:
    return [row["scheduled_for"] for row in rows if row["reason"] == "skip_next"]


SKIP_NEXT = "councilor_config__schedule__skip_next"


async def test_skip_next_takes_out_one_slot_though_the_service_is_killed_meanwhile(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await promoted(db, "3s")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout"))
    await set_fields(db, **{SKIP_NEXT: True})
    slot = await eventually(lambda: skipped_slot(db))
    status = await status_of(db)
    assert slot not in status["next_runs"]
    assert status["next_runs"][0] == slot + 3 * SECOND
    assert status["explanation"] == f"Every 3 seconds, except {slot:%Y-%m-%d %H:%M:%S} UTC"
    replica = await restarted(replica, launch, conductor)
    await eventually(lambda: run_after(db, "scout", slot))
    replica = await restarted(replica, launch, conductor)
    await eventually(lambda: run_after(db, "scout", wall_clock() - SECOND))
    rows = await rows_of(db, "scout")
    assert skips(rows) == [slot]
    (row,) = [row for row in rows if row["scheduled_for"] == slot]
    assert (row["status"], row["severity"], row["trigger"]) == ("skipped", "warning", "schedule")
    agent = await db["agents"].find_one({"agent_id": "scout"})
    assert agent is not None
    assert agent["councilor_config"] == config("3s", skip_next=True), "the flag is the user's"
    keys = [call.headers["Idempotency-Key"] for call in conductor.calls]
    assert len(keys) == len(set(keys))


async def test_skip_next_works_again_once_it_was_taken_away(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promoted(db, "2s", skip_next=True)
    first = await eventually(lambda: skipped_slot(db))
    assert first == (await status_of(db))["accepted_at"] + 2 * SECOND
    await eventually(lambda: run_after(db, "scout", first))
    await set_fields(db, **{SKIP_NEXT: False})
    await eventually(lambda: is_without(db, "skipped_slot"))
    await set_fields(db, **{SKIP_NEXT: True})
    second = await eventually(lambda: skipped_slot(db))
    await eventually(lambda: run_after(db, "scout", second))
    assert skips(await rows_of(db, "scout")) == [first, second]


async def is_without(db: Database, name: str) -> bool:
    return name not in await status_of(db)


async def test_skip_next_that_passes_during_an_outage_is_skipped_and_over(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await promoted(db, "2s", catch_up="skip")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: completed(db, "scout"))
    await set_fields(db, **{SKIP_NEXT: True})
    slot = await eventually(lambda: skipped_slot(db))
    replica.kill()
    await replica.ended()
    await eventually(lambda: is_after(slot + 2.5 * SECOND))
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("resync_finished")
    back_at = wall_clock()
    later = await eventually(lambda: run_after(db, "scout", back_at))
    rows = await rows_of(db, "scout")
    assert skips(rows) == [slot]
    assert later["reason"] is None
    (missed,) = [row for row in rows if row["status"] == "missed"]
    assert missed["first_slot"] == slot + 2 * SECOND


async def test_paused_until_holds_over_a_restart_and_ends_by_itself(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("resync_finished")
    # MongoDB keeps milliseconds.
    until = wall_clock().replace(microsecond=0) + 5 * SECOND
    await promoted(db, paused_until=until)
    status = await eventually(lambda: status_of(db))
    assert status["state"] == "scheduled"
    assert status["explanation"] == f"Every second, not before {until:%Y-%m-%d %H:%M:%S} UTC"
    assert until <= status["next_runs"][0] < until + SECOND
    replica = await restarted(replica, launch, conductor)
    row = await eventually(lambda: run_after(db, "scout", until - timedelta(microseconds=1)))
    first = (await rows_of(db, "scout"))[0]
    assert row["scheduled_for"] == first["scheduled_for"], "a pause has no slots"
    assert (row["scheduled_for"], row["reason"]) == (status["next_runs"][0], None)
    assert (await status_of(db)) == status, "nothing to say when it is over"


async def test_a_run_that_is_asked_for_while_the_service_is_down_runs_once_when_it_is_back(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await promoted(db, "1h")
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await eventually(lambda: status_of(db))
    replica.kill()
    await replica.ended()
    requested_at = wall_clock().replace(microsecond=0)
    await set_fields(db, councilor_run_requested_at=requested_at)
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    (row,) = await eventually(lambda: completed(db, "scout"))
    assert (row["trigger"], row["scheduled_for"]) == ("manual", requested_at)
    assert row["execution_id"].endswith("_manual")
    replica = await restarted(replica, launch, conductor)
    await set_fields(db, councilor_run_requested_at=requested_at + SECOND)
    await eventually(lambda: completed(db, "scout", 2))
    assert len(conductor.calls) == len(await rows_of(db, "scout")) == 2


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        pytest.param({"is_councilor": False}, "skipped", "demoted", id="demoted"),
        pytest.param({}, "missed", "stale", id="two hours old"),
    ],
)
async def test_a_request_that_is_refused_says_why_and_stays_so_after_a_restart(
    launch: Launch,
    db: Database,
    conductor: TestConductor,
    fields: dict[str, Any],
    status: str,
    reason: str,
) -> None:
    requested_at = wall_clock() - (2 * 3600 * SECOND if reason == "stale" else timedelta(0))
    await promoted(db, "1h")
    await set_fields(db, councilor_run_requested_at=requested_at, **fields)
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    (row,) = await eventually(lambda: rows_of(db, "scout"))
    assert (row["status"], row["reason"], row["trigger"]) == (status, reason, "manual")
    await restarted(replica, launch, conductor)
    await set_fields(db, is_councilor=True, councilor_run_requested_at=wall_clock())
    await eventually(lambda: completed(db, "scout"))
    assert len(await rows_of(db, "scout")) == 2
    assert len(conductor.calls) == 1


async def test_a_request_that_is_no_date_is_told_in_the_document(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promoted(db)
    await set_fields(db, councilor_run_requested_at={"at": "noon"})
    error = await eventually(lambda: error_of(db))
    assert error["field"] == "councilor_run_requested_at"
    assert error["hint"]
    await eventually(lambda: completed(db, "scout"))
    await set_fields(db, councilor_run_requested_at=None)
    await eventually(lambda: is_without_error(db))


async def error_of(db: Database) -> Any:
    return (await status_of(db)).get("error")


async def is_without_error(db: Database) -> bool:
    return (await status_of(db))["error"] is None
