"""What the questions are answered by does what the answer says."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from service.app import wall_clock
from service.domain.accounts import Fate
from tests.docs.reader import Reader, needs
from tests.docs.tables import column
from tests.flow.conftest import Database, config, next_run_of, rows_of
from tests.mongosh import mongosh
from tests.steps import eventually

PAGE = "faq.md"
ID = "coverage-scout"
SCOUT = {"agent_id": ID}
HOURLY = config("1h")


def test_every_outcome_is_explained() -> None:
    assert set(column(PAGE, "Why did it not run?")) == {str(fate) for fate in Fate}


async def promoted(db: Database, **more: object) -> None:
    await db["agents"].insert_one(
        {**SCOUT, "is_councilor": True, "councilor_config": HOURLY, **more}
    )
    await eventually(lambda: has_status(db))


async def has_status(db: Database) -> bool:
    return await db["agents"].find_one({**SCOUT, "councilor_status": {"$ne": None}}) is not None


@pytest.mark.mongo
async def test_why_it_did_not_run_is_answered(reader: Reader, db: Database) -> None:
    await promoted(db)
    said = " ".join((await reader.shell("faq-why")).split())
    for words in ("No slot has come yet", "no executions", "Every hour"):
        assert words in said
    at_an_instant = said.count("lies in the future") + said.count("Not promoted yet at that time")
    assert at_an_instant == 2  # the second, where this machine's clock is past it


@pytest.mark.mongo
async def test_readiness_is_answered(reader: Reader) -> None:
    needs("curl")
    assert '"status":"ok"' in await reader.shell("faq-ready")


@pytest.mark.mongo
async def test_the_document_says_what_was_made_of_it(reader: Reader, db: Database) -> None:
    mongosh()
    await promoted(db)
    said = await reader.mongosh("faq-status")
    assert "state: 'scheduled'" in said
    assert "observed_at: ISODate(" in said


@pytest.mark.mongo
async def test_what_is_invalid_is_found(reader: Reader, db: Database) -> None:
    wrong = {**SCOUT, "is_councilor": True, "councilor_config": {}}
    await db["agents"].insert_one(wrong)
    with pytest.raises(AssertionError, match="schedule is missing") as failed:
        await reader.shell("faq-invalid")  # check ends with 1, since there is one
    assert "coverage-scout" in str(failed.value)


@pytest.mark.mongo
async def test_a_zone_can_be_named(reader: Reader, db: Database) -> None:
    mongosh()
    await promoted(db)
    await reader.mongosh("faq-zone")

    async def is_explained() -> bool:
        agent = await db["agents"].find_one(SCOUT)
        assert agent is not None
        said: str = agent["councilor_status"]["explanation"]
        return said == "Every Monday at 09:00, Europe/Berlin"

    await eventually(is_explained)


@pytest.mark.mongo
async def test_everything_is_paused_and_resumed_at_once(reader: Reader, db: Database) -> None:
    mongosh()
    await promoted(db)
    await db["agents"].insert_one({"agent_id": "plain"})
    tomorrow = wall_clock() + timedelta(hours=23)
    paused = [tomorrow + timedelta(days=30), wall_clock(), "2026-01-01", None]
    await db["agents"].insert_many(
        {
            "agent_id": str(number),
            "is_councilor": True,
            "councilor_config": config("1h", paused_until=until),
        }
        for number, until in enumerate(paused)
    )
    longest = await paused_until(db, "0")

    async def is_paused() -> bool:
        run = await next_run_of(db, ID)
        return run is not None and run > tomorrow

    async def is_resumed() -> bool:
        run = await next_run_of(db, ID)
        return run is not None and run < tomorrow

    await eventually(is_resumed)
    assert "modifiedCount: 4" in await reader.mongosh("faq-pause-all")
    await eventually(is_paused)
    assert await paused_until(db, "0") == longest
    for number in ("1", "2", "3"):
        assert await paused_until(db, number) > tomorrow
    assert "modifiedCount: 5" in await reader.mongosh("faq-resume-all")
    await eventually(is_resumed)


async def paused_until(db: Database, agent_id: str) -> datetime:
    agent = await db["agents"].find_one({"agent_id": agent_id})
    assert agent is not None
    until: datetime = agent["councilor_config"]["schedule"]["paused_until"]
    return until


@pytest.fixture
async def other(reader: Reader, db: Database) -> AsyncIterator[Database]:
    """The database that the agent is moved to."""
    name = reader.text("faq-move").partition('getSiblingDB("')[2].partition('"')[0]
    assert name != reader.database
    yield db.client[name]
    await db.client.drop_database(name)


@pytest.mark.mongo
async def test_an_agent_moves_with_its_times(reader: Reader, db: Database, other: Database) -> None:
    mongosh()
    await promoted(db, stats={"total_executions": 7, "success_rate": 100.0})
    was = await db["agents"].find_one(SCOUT)
    await reader.mongosh("faq-move")
    assert await other["agents"].find_one() == was
    left = await db["agents"].find_one(SCOUT)
    assert left is not None
    assert left["is_councilor"] is False


@pytest.mark.mongo
async def test_old_rows_go_and_young_ones_stay(reader: Reader, db: Database) -> None:
    mongosh()
    now = wall_clock()
    for days in (1, 91):
        row = {"councilor_id": ID, "completed_at": now - timedelta(days=days)}
        await db["councilor_executions"].insert_one({**row, "execution_id": f"exec_{days}"})
    assert "deletedCount: 1" in await reader.mongosh("faq-old-rows")
    assert await db["councilor_executions"].distinct("execution_id") == ["exec_1"]


@pytest.mark.mongo
async def test_nothing_is_left_but_the_agents(offline_reader: Reader, db: Database) -> None:
    mongosh()
    await db["agents"].insert_one({**SCOUT, "stats": {"total_executions": 1}})
    await db["councilor_executions"].insert_one({"councilor_id": ID})
    await offline_reader.mongosh("faq-uninstall")
    assert await rows_of(db, ID) == []
    assert await db.list_collection_names() == ["agents"]
    assert set(await db["agents"].find_one() or {}) == {"_id", "agent_id"}
