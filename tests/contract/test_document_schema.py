"""The validator that `schema` prints, judged by MongoDB itself against our own reading."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from bson import json_util
from pymongo.errors import WriteError

from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.client import Client
from service.adapters.mongo.validator import OtherValidator, install
from service.domain.councilor import (
    Councilor,
    InvalidCouncilor,
    NotCouncilor,
    SchedulePolicy,
    parse_councilor,
)
from service.domain.document_schema import agents_validator
from service.domain.jobs import Past
from service.domain.verdict import verdict_on
from tests.contract.test_agents import councilor, desired_of
from tests.documents import anything, nearly_right
from tests.fakes import NOON
from tests.flow.conftest import Database, config

pytestmark = pytest.mark.mongo

EXAMPLES = Path(__file__).parent.parent / "examples"
POLICY = SchedulePolicy()
VALIDATOR = agents_validator()


@pytest.fixture
def db(client: Client, database: str) -> Database:
    return client[database]


async def accepted(client: Client, documents: Sequence[dict[str, Any]]) -> set[int]:
    """The places of those that satisfy the validator."""
    numbered = [{**document, "_id": n} for n, document in enumerate(documents)]
    stages = [{"$documents": {"$literal": numbered}}, {"$match": VALIDATOR}]
    cursor = client["any"].aggregate([*stages, {"$project": {"_id": 1}}])
    return {row["_id"] async for row in cursor}


def examples(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for path in sorted((EXAMPLES / folder).glob("*.json")):
        content = json_util.loads(path.read_text())
        found += content if isinstance(content, list) else [content]
    return found


@pytest.mark.parametrize("seed", range(10))
async def test_every_valid_councilor_and_every_plain_agent_is_accepted(
    client: Client, seed: int
) -> None:
    random = Random(seed)
    documents = [nearly_right(random) for _ in range(500)]
    documents += [d for _ in range(100) if isinstance(d := anything(random), dict)]
    passed = await accepted(client, documents)
    readings = [parse_councilor(document, POLICY) for document in documents]
    for place, reading in enumerate(readings):
        is_fine = isinstance(reading, NotCouncilor) or (
            isinstance(reading, Councilor) and reading.problem is None
        )
        if is_fine:
            assert place in passed, documents[place]
    invalid = [n for n, reading in enumerate(readings) if isinstance(reading, InvalidCouncilor)]
    assert len([n for n in invalid if n not in passed]) > 0.8 * len(invalid)


async def test_examples_are_judged_as_check_judges_them(client: Client) -> None:
    """But for what a schema cannot say: which days come, and which zones there are."""
    good, bad = examples("good"), examples("bad")
    assert len(await accepted(client, good)) == len(good)
    passed = {bad[place]["agent_id"] for place in await accepted(client, bad)}
    assert passed == {"never-comes", "wrong-zone"}


async def test_strict_refuses_what_is_wrong_and_nobody_else(
    client: Client, database: str, db: Database
) -> None:
    await db["agents"].insert_many([councilor("was-wrong", "0m"), councilor("fine")])
    assert await install(client, database, "agents", VALIDATOR, strict=True) == 1
    with pytest.raises(WriteError):
        await db["agents"].insert_one(councilor("wrong", "0m"))
    with pytest.raises(WriteError):
        await db["agents"].update_one(
            {"agent_id": "fine"}, {"$set": {"councilor_config.schedule.value": "often"}}
        )
    await db["agents"].insert_one({"agent_id": "plain", "customization": None})
    promotion = {"is_councilor": True, "customization": None, "councilor_config": config("30m")}
    await db["agents"].update_one({"agent_id": "plain"}, {"$set": promotion})
    enabled = {"$set": {"councilor_config.schedule.enabled": False}}
    await db["agents"].update_many({}, enabled)
    demotion = {"$set": {"is_councilor": False}, "$unset": {"councilor_config": ""}}
    await db["agents"].update_one({"agent_id": "plain"}, demotion)


async def test_verdicts_reach_documents_that_were_wrong_before(
    client: Client, database: str, db: Database
) -> None:
    await db["agents"].insert_many([councilor("was-wrong", "0m"), councilor("fine")])
    await install(client, database, "agents", VALIDATOR, strict=True)
    agents = MongoAgents(client, database, "agents")
    for document in await agents.find(None):
        verdict = verdict_on(desired_of(document), Past(), None, NOON)
        await agents.write_verdicts([(document, verdict)])
    states = [a["councilor_status"]["state"] async for a in db["agents"].find().sort("agent_id")]
    assert states == ["scheduled", "invalid"]


async def test_without_strict_nothing_is_refused(
    client: Client, database: str, db: Database
) -> None:
    assert await install(client, database, "agents", VALIDATOR, strict=False) == 0
    await db["agents"].insert_one(councilor("wrong", "0m"))
    assert await install(client, database, "agents", VALIDATOR, strict=True) == 1


async def test_a_validator_of_somebody_elses_is_left_alone(
    client: Client, database: str, db: Database
) -> None:
    theirs = {"name": {"$exists": True}}
    await db.create_collection("agents", validator=theirs)
    with pytest.raises(OtherValidator):
        await install(client, database, "agents", VALIDATOR, strict=True)
    assert (await db["agents"].options())["validator"] == theirs
