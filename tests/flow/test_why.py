"""Why did it (not) run? Each answer, from a whole service that has lived through it."""

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from service.app import wall_clock
from tests.flow.conftest import Database, Service, Start, TestConductor, config, rows_of
from tests.flow.process import Launch, launch
from tests.steps import eventually

__all__ = ["launch"]

pytestmark = pytest.mark.mongo

SECOND = timedelta(seconds=1)


async def promote(db: Database, agent_id: str, value: str = "1s", **changes: Any) -> None:
    how = config(value, **changes)
    agent = {"agent_id": agent_id, "is_councilor": True, "councilor_config": how}
    await db["agents"].insert_one(agent)


async def change(db: Database, agent_id: str, **fields: object) -> None:
    named = {name.replace("__", "."): value for name, value in fields.items()}
    await db["agents"].update_one({"agent_id": agent_id}, {"$set": named})


async def why(service: Service, agent_id: str, at: datetime | None = None) -> dict[str, Any]:
    query = f"?at={quote(at.isoformat())}" if at is not None else ""
    status, said = await service.get(f"/jobs/{quote(agent_id, safe='')}/why{query}")
    assert status == 200, said
    assert said["agent_id"] == agent_id
    assert said["text"]
    return dict(said)


async def ended(db: Database, agent_id: str, status: str) -> dict[str, Any] | None:
    rows = [row for row in await rows_of(db, agent_id) if row["status"] == status]
    return rows[0] if rows else None


async def state_of(db: Database, agent_id: str) -> str:
    agent = await db["agents"].find_one({"agent_id": agent_id}) or {}
    return str((agent.get("councilor_status") or {}).get("state"))


async def is_in(db: Database, agent_id: str, state: str) -> bool:
    return await state_of(db, agent_id) == state


async def test_a_slot_that_ran_and_one_that_failed(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, "well")
    await promote(db, "ill", prompt="status")
    row = await eventually(lambda: ended(db, "well", "completed"))
    said = await why(service, "well", row["scheduled_for"] + SECOND / 2)
    assert (said["outcome"], said["reason"]) == ("ran", None)
    assert said["execution"]["execution_id"] == row["execution_id"]
    assert datetime.fromisoformat(said["slot"]) == row["scheduled_for"]
    failed = await eventually(lambda: ended(db, "ill", "error"))
    said = await why(service, "ill", failed["scheduled_for"])
    assert (said["outcome"], said["reason"]) == ("failed", "failed")
    assert "no such tool" in said["text"]


async def test_a_slot_that_is_running_one_that_it_skips_and_one_to_come(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    service = await start()
    await promote(db, "busy", prompt="wait")
    skipped = await eventually(lambda: ended(db, "busy", "skipped"))
    running = await ended(db, "busy", "running")
    assert running is not None
    said = await why(service, "busy", running["scheduled_for"])
    assert (said["outcome"], said["reason"]) == ("running", None)
    assert "still running" in said["text"]
    said = await why(service, "busy", skipped["scheduled_for"])
    assert (said["outcome"], said["reason"]) == ("skipped", "overlap")
    said = await why(service, "busy", wall_clock() + timedelta(hours=3))
    assert (said["outcome"], said["execution"]) == ("future", None)
    assert "in the future" in said["text"]
    conductor.released.set()


async def test_a_pause_is_the_reason_while_it_lasts_and_afterwards(
    start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, "resting")
    await promote(db, "other")
    ran = await eventually(lambda: ended(db, "resting", "completed"))
    await change(db, "resting", councilor_config__schedule__enabled=False)
    await eventually(lambda: is_in(db, "resting", "paused"))
    begin = wall_clock() + SECOND / 4

    async def has_gone_on() -> bool:  # watched through by another councilor, not by the clock
        rows = await rows_of(db, "other")
        return len([row for row in rows if row["scheduled_for"] > begin + SECOND]) >= 2

    await eventually(has_gone_on)
    in_pause = begin + SECOND + SECOND / 2
    said = await why(service, "resting", in_pause)
    assert (said["outcome"], said["reason"], said["execution"]) == ("paused", "paused", None)
    await change(db, "resting", councilor_config__schedule__enabled=True)
    await eventually(lambda: is_in(db, "resting", "scheduled"))
    said = await why(service, "resting", in_pause)
    assert (said["outcome"], said["reason"]) == ("paused", "paused")
    assert "paused at the time" in said["text"]
    said = await why(service, "resting", ran["scheduled_for"])
    assert said["outcome"] == "ran"


async def test_a_config_that_is_invalid_is_the_reason_and_still_is_once_it_is_mended(
    start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, "broken")
    await promote(db, "other")
    await eventually(lambda: ended(db, "broken", "completed"))
    await change(db, "broken", councilor_config__task__prompt="")
    await eventually(lambda: is_in(db, "broken", "invalid"))
    begin = wall_clock()

    async def has_gone_on() -> bool:
        rows = await rows_of(db, "other")
        return len([row for row in rows if row["scheduled_for"] > begin + SECOND]) >= 2

    await eventually(has_gone_on)
    while_broken = begin + SECOND + SECOND / 2
    said = await why(service, "broken", while_broken)
    assert (said["outcome"], said["reason"]) == ("invalid", "invalid")
    assert "prompt" in said["text"]
    await change(db, "broken", councilor_config__task__prompt="look")
    await eventually(lambda: is_in(db, "broken", "scheduled"))
    said = await why(service, "broken", while_broken)
    assert (said["outcome"], said["reason"]) == ("invalid", "invalid")
    assert "prompt" in said["text"]


async def test_before_its_promotion_and_after_its_demotion_it_is_no_councilor(
    start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, "young", "1h")
    await db["agents"].insert_one({"agent_id": "plain", "is_councilor": False})
    await eventually(lambda: is_in(db, "young", "scheduled"))
    said = await why(service, "young", wall_clock() - timedelta(days=1))
    assert (said["outcome"], said["reason"]) == ("not_promoted", "not_promoted")
    assert "Not promoted yet" in said["text"]
    assert (await why(service, "young"))["outcome"] == "future"  # its first slot
    assert (await why(service, "plain"))["outcome"] == "not_promoted"
    await promote(db, "old")
    ran = await eventually(lambda: ended(db, "old", "completed"))
    demotion = {"$set": {"is_councilor": False}, "$unset": {"councilor_config": ""}}
    await db["agents"].update_one({"agent_id": "old"}, demotion)

    async def is_demoted() -> bool:
        return (await service.get("/jobs/old"))[0] == 404

    await eventually(is_demoted)
    assert (await why(service, "old", ran["scheduled_for"]))["outcome"] == "ran"
    said = await why(service, "old", wall_clock() + timedelta(minutes=1))
    assert (said["outcome"], said["reason"]) == ("not_promoted", "demoted")
    await db["agents"].delete_one({"agent_id": "old"})
    said = await why(service, "old", wall_clock() + timedelta(minutes=1))
    assert (said["outcome"], said["reason"]) == ("not_promoted", "deleted")


async def test_a_slot_missed_in_an_outage_and_a_run_that_was_interrupted(
    start: Start, launch: Launch, db: Database, conductor: TestConductor
) -> None:
    replica = await launch(CONDUCTOR_API_URL=conductor.url)
    await replica.saw("resync_finished")
    await promote(db, "idle", "1s", catch_up="skip")
    await promote(db, "hung", "2s", prompt="hang")
    await eventually(lambda: ended(db, "hung", "running"))
    await eventually(lambda: ended(db, "idle", "completed"))
    replica.kill()
    await replica.ended()
    died = wall_clock()

    async def has_missed_some() -> bool:
        return wall_clock() > died + 3 * SECOND

    await eventually(has_missed_some)
    service = await start(scheduler_replica_ttl=timedelta(seconds=2))
    row = await eventually(lambda: ended(db, "idle", "missed"))
    assert row["first_slot"] < row["last_slot"]
    for at in (row["first_slot"] + SECOND / 2, row["last_slot"]):
        said = await why(service, "idle", at)
        assert (said["outcome"], said["reason"]) == ("missed", "outage")
        assert timedelta(0) <= at - datetime.fromisoformat(said["slot"]) < SECOND
    hung = await eventually(lambda: ended(db, "hung", "error"), within=30)
    said = await why(service, "hung", hung["scheduled_for"])
    assert (said["outcome"], said["reason"]) == ("failed", "interrupted")
    assert "interrupted" in said["text"]


async def test_questions_about_nobody_and_about_no_instant(start: Start, db: Database) -> None:
    service = await start()
    await promote(db, "scout", "1h")
    await eventually(lambda: is_in(db, "scout", "scheduled"))
    status, said = await service.get("/jobs/nobody/why")
    assert (status, said["error"]["code"]) == (404, "not_found")
    for at in ("yesterday", "2026-13-01", "9", "12345-01-01T00:00:00Z"):
        status, said = await service.get(f"/jobs/scout/why?at={at}")
        assert (status, said["error"]["code"]) == (400, "bad_request"), at
        assert said["error"]["message"].startswith("at: ")
    status, said = await service.get("/jobs/scout/why?when=now")
    assert (status, said["error"]["message"].split(":")[0]) == (400, "when")
