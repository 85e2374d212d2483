"""Document in, record out: every way in which existing writers change a document."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from pymongo import InsertOne, UpdateOne

from service.app import wall_clock
from tests.flow.conftest import (
    Database,
    Start,
    TestConductor,
    config,
    job_of,
    next_run_of,
    rows_of,
)
from tests.steps import eventually

pytestmark = pytest.mark.mongo

PROMOTION: dict[str, Any] = {"is_councilor": True, "customization": None}


async def promote(db: Database, agent_id: str, **changes: Any) -> None:
    """As the gateway does it: the agent is there already."""
    await db["agents"].insert_one({"agent_id": agent_id, "name": f"The {agent_id}"})
    promotion = {**PROMOTION, "councilor_config": config(**changes), "updated_at": wall_clock()}
    await db["agents"].update_one({"agent_id": agent_id}, {"$set": promotion})


async def test_a_promotion_becomes_a_run_a_row_and_statistics(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "scout")
    row = (await eventually(lambda: completed(db, "scout")))[0]
    agent = await eventually(lambda: db["agents"].find_one({"stats": {"$exists": True}}))
    accepted_at = agent["councilor_status"]["accepted_at"]
    assert row["scheduled_for"] == accepted_at + timedelta(seconds=1)
    assert row["execution_id"] == f"exec_scout_{round(row['scheduled_for'].timestamp() * 1000)}"
    assert {name: type(value) for name, value in row.items()} | EXECUTION_TYPES == {
        name: type(value) for name, value in row.items()
    }
    assert (row["status"], row["severity"], row["trigger"]) == ("completed", "success", "schedule")
    assert row["output"] == "fine"
    assert agent["stats"]["success_rate"] == 100.0
    assert agent["stats"]["total_executions"] == agent["stats"]["successful_executions"] >= 1
    assert agent["updated_at"] < accepted_at
    call = conductor.calls[0]
    assert call.headers["Idempotency-Key"] == row["execution_id"]
    assert (call.body["prompt"], call.body["agent_name"]) == ("look", "scout")


EXECUTION_TYPES = {
    "execution_id": str,
    "councilor_id": str,
    "scheduled_for": datetime,
    "trigger": str,
    "status": str,
    "severity": str,
    "reason": type(None),
    "started_at": datetime,
    "completed_at": datetime,
    "created_at": datetime,
    "duration_ms": int,
    "lateness_ms": int,
    "output": str,
    "error": type(None),
    "attempts": list,
    "spec_hash": str,
    "owner": str,
}


async def completed(db: Database, agent_id: str, count: int = 1) -> list[dict[str, Any]] | None:
    rows = [row for row in await rows_of(db, agent_id) if row["status"] == "completed"]
    return rows if len(rows) >= count else None


async def test_a_pause_holds_and_a_resumption_keeps_the_phase(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "scout")
    first = (await eventually(lambda: completed(db, "scout")))[0]["scheduled_for"]
    enabled = "councilor_config.schedule.enabled"
    await db["agents"].update_one({"agent_id": "scout"}, {"$set": {enabled: False}})
    paused_at = wall_clock()
    await eventually(lambda: is_in_state(db, "scout", "paused"))
    assert (await job_of(db, "scout") or {})["next_run_time"] is None
    # Watched through by another councilor, not by the clock: it runs twice meanwhile.
    await promote(db, "other")
    await eventually(lambda: completed(db, "other", 2))
    await db["agents"].update_one({"agent_id": "scout"}, {"$set": {enabled: True}})
    resumed_at = wall_clock()
    later = await eventually(lambda: run_after(db, "scout", resumed_at))
    during = [r for r in await rows_of(db, "scout") if paused_at < r["scheduled_for"] < resumed_at]
    assert during == []
    assert (later["scheduled_for"] - first) % timedelta(seconds=1) == timedelta(0)


async def is_in_state(db: Database, agent_id: str, state: str) -> bool:
    agent = await db["agents"].find_one({"agent_id": agent_id}, {"councilor_status": 1})
    job = await job_of(db, agent_id)
    return (
        agent is not None
        and agent.get("councilor_status", {}).get("state") == state
        and (job or {}).get("job_state", {}).get("state") == state
    )


async def run_after(db: Database, agent_id: str, instant: datetime) -> dict[str, Any] | None:
    rows = [row for row in await rows_of(db, agent_id) if row["scheduled_for"] > instant]
    return rows[0] if rows else None


async def test_a_new_prompt_is_used_by_the_very_next_run_and_moves_nothing(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    service = await start()
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout"))
    task = {"name": "new", "prompt": "look again"}
    await db["agents"].update_one(
        {"agent_id": "scout"}, {"$set": {"councilor_config.task": task, "updated_at": wall_clock()}}
    )
    edited_at = wall_clock()
    await eventually(lambda: run_after(db, "scout", edited_at))
    await eventually(lambda: completed(db, "scout", 4))
    await service.stop()
    slots = [row["scheduled_for"] for row in await rows_of(db, "scout")]
    assert {later - slot for slot, later in pairwise(slots)} == {timedelta(seconds=1)}
    before = sum(slot <= edited_at for slot in slots)
    assert conductor.prompts_of("scout")[before:] == ["look again"] * (len(slots) - before)


async def test_an_edited_schedule_starts_anew_and_never_fires_the_past(
    start: Start, db: Database
) -> None:
    await start()
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout"))
    schedule = {"type": "interval", "value": "1h", "enabled": True}
    await db["agents"].update_one(
        {"agent_id": "scout"}, {"$set": {"councilor_config.schedule": schedule}}
    )
    edited_at = wall_clock()

    async def follows() -> bool:
        next_run = await next_run_of(db, "scout")
        return next_run is not None and next_run > edited_at + timedelta(minutes=59)

    await eventually(follows)
    await promote(db, "other")
    await eventually(lambda: completed(db, "other", 2))
    assert await run_after(db, "scout", edited_at) is None


async def test_a_replaced_document_keeps_its_slots(start: Start, db: Database) -> None:
    """A whole-document writer wipes the status, and with it the anchor: the job still knows it."""
    await start()
    await promote(db, "scout", value="10m")
    await eventually(lambda: is_in_state(db, "scout", "scheduled"))
    slot = await next_run_of(db, "scout")
    agent = await db["agents"].find_one({"agent_id": "scout"})
    assert agent is not None
    accepted_at = agent["councilor_status"]["accepted_at"]
    await db["agents"].replace_one(
        {"agent_id": "scout"},
        {"agent_id": "scout", "is_councilor": True, "councilor_config": config("10m")},
    )
    await eventually(lambda: has_anchor(db, "scout", accepted_at))
    assert await next_run_of(db, "scout") == slot


async def has_anchor(db: Database, agent_id: str, accepted_at: datetime) -> bool:
    agent = await db["agents"].find_one({"agent_id": agent_id})
    status = (agent or {}).get("councilor_status") or {}
    return bool(status.get("accepted_at") == accepted_at)


@pytest.mark.parametrize("way", ["demote", "delete", "unset", "false alone", "rename", "drop"])
async def test_what_is_no_longer_a_councilor_never_starts_again(
    start: Start, db: Database, way: str
) -> None:
    await start()
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout"))
    agents = db["agents"]
    match way:
        case "demote":
            update = {"$set": {"is_councilor": False}, "$unset": {"councilor_config": ""}}
            await agents.update_one({"agent_id": "scout"}, update)
        case "unset":
            await agents.update_one({"agent_id": "scout"}, {"$unset": {"is_councilor": ""}})
        case "false alone":
            await agents.update_one({"agent_id": "scout"}, {"$set": {"is_councilor": False}})
        case "delete":
            await agents.delete_one({"agent_id": "scout"})
        case "rename":
            await agents.rename("agents_before")
        case _:
            await agents.drop()
    gone_at = wall_clock()
    await eventually(lambda: has_no_job(db, "scout"))
    await promote(db, "other")
    await eventually(lambda: completed(db, "other", 2))
    started = [row for row in await rows_of(db, "scout") if row["started_at"] is not None]
    assert max(row["scheduled_for"] for row in started) <= gone_at
    agent = await agents.find_one({"agent_id": "scout"})
    assert "councilor_status" not in (agent or {})


async def has_no_job(db: Database, agent_id: str) -> bool:
    return await job_of(db, agent_id) is None


async def test_bulk_writes_and_inserts_that_are_promoted_already(
    start: Start, db: Database
) -> None:
    await start()
    await db["agents"].bulk_write(
        [
            *(
                InsertOne({"agent_id": f"a{n}", **PROMOTION, "councilor_config": config("10m")})
                for n in range(300)
            ),
            UpdateOne({"agent_id": "a0"}, {"$set": {"councilor_config.schedule.enabled": False}}),
        ]
    )

    async def all_follow() -> bool:
        jobs = [job async for job in db["apscheduler_jobs"].find()]
        scheduled = [job for job in jobs if job["next_run_time"] is not None]
        return (len(jobs), len(scheduled)) == (300, 299)

    async def all_verdicts_are_written() -> bool:
        scheduled = {"councilor_status.state": "scheduled"}
        return await db["agents"].count_documents(scheduled) == 299

    await eventually(all_follow)
    await eventually(all_verdicts_are_written)


async def test_a_run_that_is_asked_for_runs_once(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, "scout", value="1h", enabled=False)
    requested_at = wall_clock().replace(microsecond=0)
    request = {"$set": {"councilor_run_requested_at": requested_at}}
    await db["agents"].update_one({"agent_id": "scout"}, request)
    (row,) = await eventually(lambda: completed(db, "scout"))
    assert row["execution_id"].endswith(f"_{round(requested_at.timestamp() * 1000)}_manual")
    assert row["trigger"] == "manual"
    await service.stop()
    await start()
    assert len(await rows_of(db, "scout")) == 1


async def test_a_stale_or_homeless_request_is_recorded_and_never_runs(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    old = wall_clock() - timedelta(hours=2)
    await promote(db, "scout", value="1h")
    await db["agents"].update_one(
        {"agent_id": "scout"}, {"$set": {"councilor_run_requested_at": old.isoformat()}}
    )
    await db["agents"].insert_one({"agent_id": "plain", "councilor_run_requested_at": wall_clock()})
    (stale,) = await eventually(lambda: rows_of(db, "scout"))
    (homeless,) = await eventually(lambda: rows_of(db, "plain"))
    assert (stale["status"], stale["severity"]) == ("missed", "warning")
    assert (homeless["status"], homeless["reason"]) == ("skipped", "demoted")
    assert conductor.calls == []


async def test_one_bad_document_gets_a_verdict_and_harms_nobody(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    poison = {"_id": 1, "agent_id": "poison", "is_councilor": True, "councilor_config": config()}
    raw = bson.encode(poison).replace(b"look around", b"look \xff\xfe\xfd\xfcnd")
    await db.command("insert", "agents", documents=[RawBSONDocument(raw)])
    bad = config("0m")
    await db["agents"].insert_one(
        {"agent_id": "bad", "is_councilor": True, "councilor_config": bad}
    )
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout"))
    await eventually(lambda: is_in_state(db, "bad", "invalid"))
    await eventually(lambda: is_in_state(db, "poison", "invalid"))
    agent = await db["agents"].find_one({"agent_id": "bad"})
    assert agent is not None
    assert agent["councilor_status"]["error"]["field"] == "councilor_config.schedule.value"
    await db["agents"].update_one(
        {"agent_id": "bad"}, {"$set": {"councilor_config.schedule.value": "1s"}}
    )
    await eventually(lambda: completed(db, "bad"))
    assert {call.agent_id for call in conductor.calls} == {"scout", "bad"}


async def test_of_two_documents_with_one_agent_id_the_smaller_id_has_it(
    start: Start, db: Database
) -> None:
    await start()
    twin = {"agent_id": "twin", "is_councilor": True}
    await db["agents"].insert_one({"_id": 2, **twin, "councilor_config": config("10m")})
    await eventually(lambda: has_state(db, 2, "scheduled"))
    await db["agents"].insert_one({"_id": 1, **twin, "councilor_config": config("20m")})
    await eventually(lambda: has_state(db, 2, "invalid"))
    await eventually(lambda: has_state(db, 1, "scheduled"))
    await eventually(lambda: has_value(db, "twin", "20m"))
    await db["agents"].delete_one({"_id": 1})
    await eventually(lambda: has_state(db, 2, "scheduled"))
    await eventually(lambda: has_value(db, "twin", "10m"))


async def has_state(db: Database, document_id: object, state: str) -> bool:
    agent = await db["agents"].find_one({"_id": document_id})
    return bool(((agent or {}).get("councilor_status") or {}).get("state") == state)


async def has_value(db: Database, agent_id: str, value: str) -> bool:
    job = await job_of(db, agent_id)
    return job is not None and bool(job["job_state"]["value"] == value)


async def test_our_own_writes_cost_no_event(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout", 3))
    assert await service.metric('councilor_watch_events_total{op="insert"}') == 1
    assert await service.metric('councilor_watch_events_total{op="update"}') == 1
    assert await service.metric('councilor_reconcile_total{result="error"}') == 0


async def test_overlapping_slots_are_skipped_and_say_so(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "scout", prompt="wait for it")
    await eventually(lambda: has_reason(db, "scout", "overlap", 2))
    conductor.released.set()
    await eventually(lambda: completed(db, "scout"))
    assert len(conductor.calls) >= 1
    slots = [row["scheduled_for"] for row in await rows_of(db, "scout")]
    assert len(set(slots)) == len(slots)


async def has_reason(db: Database, agent_id: str, reason: str, count: int) -> bool:
    found = [row for row in await rows_of(db, agent_id) if row["reason"] == reason]
    return len(found) >= count


async def test_one_slot_waits_for_the_end_of_the_run_and_the_others_are_skipped(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "scout", prompt="wait for it", overlap="queue_one")
    first = (await eventually(lambda: rows_of(db, "scout")))[0]
    # The second slot waits without a row; let a third one come due before the run may end.
    third = first["scheduled_for"] + timedelta(seconds=2.2)
    await eventually(lambda: is_after(third))
    conductor.released.set()
    await eventually(lambda: completed(db, "scout", 2))
    rows = await eventually(lambda: rows_until(db, "scout", 3))
    assert [(row["status"], row["reason"]) for row in rows[:3]] == [
        ("completed", None),
        ("completed", None),
        ("skipped", "overlap"),
    ]


async def is_after(instant: datetime) -> bool:
    return wall_clock() > instant


async def rows_until(db: Database, agent_id: str, count: int) -> list[dict[str, Any]] | None:
    rows = await rows_of(db, agent_id)
    return rows if len(rows) >= count else None


async def test_the_http_side_tells_of_every_councilor(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, "a/b ü", value="10m")
    await promote(db, "paused", value="10m", enabled=False)
    await promote(db, "bad", value="nonsense")
    await eventually(lambda: is_in_state(db, "bad", "invalid"))
    status, page = await service.get("/jobs?limit=2")
    assert status == 200
    assert (page["total"], page["next"], len(page["items"])) == (3, "bad", 2)
    _, rest = await service.get("/jobs?limit=2&after=bad")
    assert [item["agent_id"] for item in rest["items"]] == ["paused"]
    assert rest["next"] is None
    _, one = await service.get("/jobs/a%2Fb%20%C3%BC")
    assert (one["schedule"], one["state"], len(one["next_runs"])) == (
        "interval=10m",
        "scheduled",
        5,
    )
    assert (await service.get("/jobs/nobody"))[0] == 404
    assert (await service.get("/jobs?limit=x"))[1]["error"]["code"] == "bad_request"
    assert (await service.get("/livez"))[0] == 200
    assert (await service.get("/healthz"))[1]["jobs"] == {
        "scheduled": 1,
        "paused": 1,
        "invalid": 1,
    }


async def test_a_token_guards_all_but_probes_and_metrics(start: Start) -> None:
    from pydantic import SecretStr

    service = await start(scheduler_http_token=SecretStr("s3cret"))
    assert (await service.get("/jobs"))[0] == 401
    assert (await service.get("/metrics"))[0] == 200
    authorization = {"Authorization": "Bearer s3cret"}
    async with service.http.get(f"{service.base_url}/jobs", headers=authorization) as response:
        assert response.status == 200


async def test_a_monday_is_a_monday(start: Start, db: Database) -> None:
    await start()
    monday = {"type": "cron", "value": "0 9 * * 1", "timezone": "Europe/Berlin"}
    await promote(db, "scout", **monday)
    await eventually(lambda: is_in_state(db, "scout", "scheduled"))
    next_run = await next_run_of(db, "scout")
    assert next_run is not None
    assert next_run.astimezone(UTC).weekday() == 0


async def test_a_document_that_is_put_back_brings_no_past_with_it(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    """Its verdict says that it was scheduled; what came due since did not, for a demoted agent."""
    await start()
    await promote(db, "scout", catch_up="all")
    await eventually(lambda: completed(db, "scout"))
    copy = await db["agents"].find_one_and_delete({"agent_id": "scout"})
    assert copy is not None
    deleted_at = wall_clock()
    await eventually(lambda: has_no_job(db, "scout"))
    await promote(db, "other")
    await eventually(lambda: completed(db, "other", 2))
    await db["agents"].insert_one(copy)
    back_at = wall_clock()
    await eventually(lambda: run_after(db, "scout", back_at))
    rows = await rows_of(db, "scout")
    assert [row for row in rows if deleted_at < row["scheduled_for"] < back_at] == []


async def test_a_document_without_the_agent_id_it_claims_runs_nothing_on_request(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "twin", value="10m")
    await eventually(lambda: is_in_state(db, "twin", "scheduled"))
    loser: dict[str, Any] = {"_id": bson.ObjectId("f" * 24), "agent_id": "twin"}
    promotion = {"is_councilor": True, "councilor_config": config("10m", "another prompt")}
    await db["agents"].insert_one({**loser, **promotion})
    await eventually(lambda: has_state(db, loser["_id"], "invalid"))
    request = {"$set": {"councilor_run_requested_at": wall_clock()}}
    await db["agents"].update_one({"_id": loser["_id"]}, request)
    await promote(db, "other")
    await eventually(lambda: completed(db, "other"))
    assert conductor.prompts_of("twin") == []


async def test_a_ledger_that_is_dropped_while_we_run_starts_nothing_twice(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    services = [await start(), await start()]
    await promote(db, "scout")
    await eventually(lambda: completed(db, "scout"))
    await db["councilor_executions"].drop()
    await eventually(lambda: completed(db, "scout", 2))
    for service in services:
        await service.stop()
    keys = [call.headers["Idempotency-Key"] for call in conductor.calls]
    assert len(keys) == len(set(keys))
