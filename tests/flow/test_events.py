"""`/events`: what happens in any replica, heard by whoever listens to one of them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from service.app import wall_clock
from tests.flow.conftest import Database, Start, TestConductor, config, rows_of
from tests.sse import listening
from tests.steps import eventually

pytestmark = pytest.mark.mongo


async def promote(db: Database, agent_id: str, value: str = "1h", **changes: Any) -> None:
    agent = {"agent_id": agent_id, "name": f"The {agent_id}", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config(value, **changes)})


async def run_now(db: Database, agent_id: str) -> None:
    requested = {"councilor_run_requested_at": wall_clock()}
    await db["agents"].update_one({"agent_id": agent_id}, {"$set": requested})


async def test_a_run_is_told_from_its_start_to_its_end(start: Start, db: Database) -> None:
    """By the predecessor's names and fields."""
    service = await start()
    async with listening(service.http, service.base_url) as heard:
        assert heard.headers["Content-Type"].startswith("text/event-stream")
        await promote(db, "scout")
        (job,) = await heard.until("job_changed", agent_id="scout")
        assert (job["change"], job["state"]) == ("job_scheduled", "scheduled")
        await run_now(db, "scout")
        (started,) = await heard.until("councilor_started", councilor_id="scout")
        (completed,) = await heard.until("councilor_completed", councilor_id="scout")
    (row,) = await rows_of(db, "scout")
    assert started.keys() == {
        *("councilor_id", "task_name", "display_name", "execution_id", "started_at")
    }
    names = ("The scout", "look around", row["execution_id"])
    assert tuple(started[n] for n in ("display_name", "task_name", "execution_id")) == names
    assert started.keys() | {"status", "severity", "completed_at", "duration_ms"} <= (
        completed.keys()
    )
    assert (completed["status"], completed["severity"]) == ("completed", "success")
    assert completed["duration_ms"] == row["duration_ms"]
    assert completed["execution_id"] == row["execution_id"]


async def test_a_failure_tells_its_error_and_a_skip_its_reason(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    service = await start()
    async with listening(service.http, service.base_url) as heard:
        await promote(db, "ill", prompt="status")
        await run_now(db, "ill")
        (error,) = await heard.until("councilor_error", councilor_id="ill")
        assert "no such tool" in error["error"]
        assert (error["status"], error["severity"]) == ("error", "error")
        await promote(db, "busy", "1s", prompt="wait")
        skipped = (await heard.until("councilor_skipped", councilor_id="busy"))[0]
        assert (skipped["status"], skipped["reason"]) == ("skipped", "overlap")
        conductor.released.set()


@pytest.mark.usefixtures("may_read_all")
async def test_a_notification_is_told_where_a_ui_shall_show_it(start: Start, db: Database) -> None:
    service = await start()
    async with listening(service.http, service.base_url) as heard:
        await promote(db, "mailed", prompt="500")
        channels = {"councilor_config.notifications.channels": ["email"]}
        await db["agents"].update_one({"agent_id": "mailed"}, {"$set": channels})
        await promote(db, "shown", prompt="500")
        for agent_id in ("mailed", "shown"):
            await run_now(db, agent_id)
        (told,) = await heard.until("councilor_notification")
        assert (told["councilor_id"], told["severity"]) == ("shown", "error")
        assert {"panel", "toast"} & set(told["channels"])

        async def are_both_there() -> bool:
            return await db["scheduler_notifications"].count_documents({}) == 2

        await eventually(are_both_there)
        await run_now(db, "shown")
        assert len(await heard.until("councilor_notification", count=2)) == 2


async def test_runs_of_other_replicas_are_told_too(start: Start, db: Database) -> None:
    ttl = timedelta(seconds=2)
    one, other = await start(scheduler_replica_ttl=ttl), await start(scheduler_replica_ttl=ttl)

    async def know_each_other() -> bool:
        return {await each.metric("councilor_members") for each in (one, other)} == {2}

    await eventually(know_each_other)
    agents = {f"agent {n}" for n in range(20)}  # by their ranks, some run here and some there
    async with (
        listening(one.http, one.base_url) as here,
        listening(other.http, other.base_url) as there,
    ):
        for agent_id in agents:
            await promote(db, agent_id)
            await run_now(db, agent_id)
        for heard in (here, there):
            completed = await heard.until("councilor_completed", count=len(agents))
            assert {event["councilor_id"] for event in completed} == agents
    owners = [row["owner"] async for row in db["councilor_executions"].find()]
    assert len(set(owners)) == 2


async def test_who_comes_back_hears_what_was_missed_from_any_replica(
    start: Start, db: Database
) -> None:
    one = await start()
    await promote(db, "scout")
    async with listening(one.http, one.base_url) as heard:
        await run_now(db, "scout")
        await heard.until("councilor_completed", count=1)
        last_id = heard.last_id
    await run_now(db, "scout")
    await eventually(lambda: has_ended(db, "scout", 2))
    async with listening(one.http, one.base_url, last_id) as heard:
        await heard.until("councilor_completed", count=1)
    await one.stop()
    other = await start()  # it was not there when that happened
    await run_now(db, "scout")
    await eventually(lambda: has_ended(db, "scout", 3))
    async with listening(other.http, other.base_url, last_id) as heard:
        missed = await heard.until("councilor_completed", count=2)
        await run_now(db, "scout")
        completed = await heard.until("councilor_completed", count=3)
    ids = [event["execution_id"] for event in completed]
    assert ids == [row["execution_id"] for row in (await rows_of(db, "scout"))[1:]]
    assert missed == completed[:2]


async def has_ended(db: Database, agent_id: str, count: int) -> bool:
    rows = await rows_of(db, agent_id)
    return len([row for row in rows if row["status"] == "completed"]) >= count


@pytest.mark.parametrize("last_id", ["nonsense", "82FFFFFFFF", "0/1", "8263" * 200, "../../etc"])
async def test_a_place_that_nobody_knows_is_said_to_be_lost(
    start: Start, db: Database, last_id: str
) -> None:
    service = await start()
    await promote(db, "scout")
    async with listening(service.http, service.base_url, last_id) as heard:
        await heard.until("events_lost")
        await run_now(db, "scout")
        await heard.until("councilor_completed")


async def test_a_stream_ends_with_the_service_and_wants_the_token(
    start: Start, db: Database
) -> None:
    service = await start(scheduler_http_token=SecretStr("open sesame"))
    async with listening(service.http, service.base_url) as heard:
        assert heard.status == 401
    bearer = {"Authorization": "Bearer open sesame"}
    async with listening(service.http, service.base_url, **bearer) as heard:
        assert heard.status == 200
        async with asyncio.timeout(5):
            await service.stop()
            async with heard.news:
                await heard.news.wait_for(lambda: heard.is_over)


async def test_nobody_listens_and_the_ledger_is_not_followed(
    start: Start, db: Database, client: Any, replica_set_url: str, scheduler_url: str
) -> None:
    """A change stream costs the database something; it is there only while it is needed."""
    service = await start()

    async def streams() -> int:
        # Another user's, if the service is one: to see them takes a right of an administrator's.
        whose = {"allUsers": scheduler_url != replica_set_url}
        operations_now = {"$currentOp": {"idleCursors": True, **whose}}
        stages = [operations_now, {"$match": {"ns": {"$regex": db.name}}}]
        operations = [one async for one in client.admin.aggregate(stages)]
        cursors = [
            one for one in operations if one["type"] == "idleCursor" or one["op"] == "getmore"
        ]
        # Of the database as a whole, or of the ledger where that is all that the user may follow.
        followed = {f"{db.name}.$cmd.aggregate", f"{db.name}.councilor_executions"}
        return sum(one["ns"] in followed for one in cursors)

    assert await streams() == 0
    async with listening(service.http, service.base_url):
        await eventually(streams)  # between two reads, a cursor is on no list


async def test_who_does_not_read_is_left_behind(start: Start, db: Database) -> None:
    """What it does not take is not kept for it for ever; the others hear everything."""
    service = await start()
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(service.base_url.rsplit(":", 1)[1]), limit=1_024
    )
    writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"welcome")
    async with listening(service.http, service.base_url) as heard:
        rows = [
            {
                "execution_id": f"exec_{n}",
                "councilor_id": f"agent {n}",
                "status": "error",
                "error": "x" * 1_900,
                "scheduled_for": wall_clock() - timedelta(days=1),
            }
            for n in range(12_000)
        ]
        for begin in range(0, len(rows), 1_000):
            await db["councilor_executions"].insert_many(rows[begin : begin + 1_000])
            await heard.until("councilor_error", count=begin + 1_000, within=30)
        assert len(heard.of("councilor_error")) == 12_000
        assert await service.metric("councilor_event_listeners_left_behind_total") == 1
    writer.close()
