"""10,000 documents as nobody should write them, beside 100 good councilors."""

from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any
from urllib.parse import quote

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON, InvalidDocument
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from service.app import wall_clock
from service.domain.councilor import InvalidCouncilor, SchedulePolicy, parse_councilor
from tests.contract.test_agents import councilor
from tests.documents import damaged, nearly_right
from tests.flow.conftest import Database, Start, TestConductor, config
from tests.flow.process import Launch, launch
from tests.flow.test_one_change import completed, has_state
from tests.flow.test_restart import slots_of
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo

BAD, GOOD, WRONG_TEXTS = 10_000, 100, 200
SECONDS = 5
UNDECODABLE = {
    "agent_id": {"$regex": "^damaged-"},
    "councilor_status.state": "invalid",
    "councilor_status.error.message": {"$regex": "cannot be decoded"},
}


async def inserted(db: Database, random: Random) -> None:
    """Documents that the server takes: some of them it refuses itself."""
    raw = db["agents"].with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    await raw.insert_many(
        [damaged(councilor(f"damaged-{n}", _id=f"damaged-{n}")) for n in range(WRONG_TEXTS)]
    )
    missing = BAD - WRONG_TEXTS
    while missing > 0:
        batch = [document for _ in range(missing) if (document := encodable(random)) is not None]
        try:
            missing -= len((await db["agents"].insert_many(batch, ordered=False)).inserted_ids)
        except BulkWriteError as error:
            missing -= error.details["nInserted"]


def encodable(random: Random) -> dict[str, Any] | None:
    document = nearly_right(random, wrong=0.95)
    try:
        bson.encode(document)
    except (InvalidDocument, OverflowError):
        return None
    return document


async def test_good_councilors_keep_their_slots_among_ten_thousand_bad_documents(
    start: Start, db: Database
) -> None:
    names = [f"good-{n}" for n in range(GOOD)]
    await inserted(db, Random("bad"))
    good = [{"agent_id": name, "is_councilor": True} for name in names]
    await db["agents"].insert_many([{**agent, "councilor_config": config()} for agent in good])
    service = await start(is_ready=False)
    await eventually(service.is_ready, within=60, saying="ready")
    ready_at = wall_clock()
    until = ready_at + timedelta(seconds=SECONDS)
    await eventually(lambda: have_run(db, names, until), within=60)
    for name in names:
        rows = db["councilor_executions"].find({"councilor_id": name}).sort("scheduled_for", 1)
        slots = slots_of([row async for row in rows])
        assert slots == [slots[0] + timedelta(seconds=n) for n in range(len(slots))]
    assert await service.metric('councilor_reconcile_total{result="error"}') == 0
    assert (await service.get("/livez"))[0] == 200
    count = await verdicts(db)
    assert (count["good"], count["without"]) == (GOOD, 0)
    assert count["told"] > BAD / 3
    assert await db["agents"].count_documents(UNDECODABLE) == WRONG_TEXTS


async def have_run(db: Database, names: list[str], until: Any) -> bool:
    """Tell whether each of them has a row for a slot after that instant."""
    wanted = {"councilor_id": {"$in": names}, "scheduled_for": {"$gt": until}}
    return len(await db["councilor_executions"].distinct("councilor_id", wanted)) == len(names)


async def verdicts(db: Database) -> Counter[str]:
    """How many documents say what is wrong with them, and how many should and do not."""
    count, policy = Counter[str](), SchedulePolicy(min_interval=timedelta(seconds=1))
    raw = db["agents"].with_options(codec_options=CodecOptions(document_class=RawBSONDocument))
    async for document in raw.find():
        try:
            fields: dict[str, Any] = bson.decode(document.raw, CodecOptions(tz_aware=True))
        except (InvalidBSON, OverflowError):
            count["undecodable"] += 1
            continue
        status = fields.get("councilor_status")
        error = status.get("error") if isinstance(status, dict) else None
        if str(fields.get("agent_id")).startswith("good-"):
            count["good"] += status is not None and status["state"] == "scheduled"
        elif isinstance(parse_councilor(fields, policy), InvalidCouncilor):
            is_told = isinstance(error, dict) and error["field"] and error["message"]
            count["told" if is_told else "without"] += 1
    return count


async def status_of(db: Database) -> Any:
    agent = await db["agents"].find_one({})
    return (agent or {}).get("councilor_status")


ODD_IDS = (
    "a.b",
    "$set",
    "a\0b",
    "\U0001f50d",
    "../x?y=%2F&z",
    " ",
    "x" * 1_000,
    "__proto__",
    "\u202e",
)
NO_IDS = ("", 7, None, b"a", ["a"], "x" * 10_000)


async def test_odd_agent_ids_run_and_impossible_ones_are_told(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    service = await start()
    wanted = [*ODD_IDS, *NO_IDS]
    agents = [{"_id": n, "agent_id": name, "is_councilor": True} for n, name in enumerate(wanted)]
    await db["agents"].insert_many([{**agent, "councilor_config": config()} for agent in agents])
    for name in ODD_IDS:
        await eventually(lambda name=name: completed(db, name, 1), saying=ascii(name)[:20])  # type: ignore[misc]
        shown = await service.get(f"/jobs/{quote(name, safe='')}")
        assert (shown[0], shown[1]["agent_id"]) == (200, name)
    for number in range(len(ODD_IDS), len(wanted)):
        await eventually(lambda number=number: has_state(db, number, "invalid"))  # type: ignore[misc]
        agent = await db["agents"].find_one({"_id": number})
        assert agent is not None
        assert agent["councilor_status"]["error"]["field"] == "agent_id"
    assert {call.agent_id for call in conductor.calls} == set(ODD_IDS)


async def test_one_bad_document_is_one_verdict_and_one_warning_a_revision(
    launch: Launch, db: Database
) -> None:
    agents = db["agents"]
    await agents.insert_one(councilor("bad", "0m"))
    replica = await launch(SCHEDULER_RESYNC_INTERVAL="1s")
    await replica.saw("job_rejected")
    first = await eventually(lambda: status_of(db))
    await agents.update_one({}, {"$set": {"updated_at": wall_clock(), "name": "Bad"}})
    await replica.saw("resync_finished", count=4)
    assert await status_of(db) == first
    await agents.update_one({}, {"$set": {"councilor_config.schedule.value": "1 m"}})
    await replica.saw("job_rejected", count=2)
    await agents.update_one({}, {"$set": {"councilor_config.schedule.value": "1m"}})
    await replica.saw("job_scheduled")
    await replica.saw("resync_finished", count=7)
    told = [event["error"] for event in replica.events if event["event"] == "job_rejected"]
    assert len(told) == 2
    assert ('"0m"' in told[0], '"1 m"' in told[1]) == (True, True)
    assert [e["level"] for e in replica.events if e["event"] == "job_rejected"] == ["warning"] * 2
