"""What the page on documents has people write is read as it says, and its tables are whole."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pymongo.errors import WriteError

from service.adapters.mongo.rows import stretch_of
from service.app import wall_clock
from service.cli.common import PROGRAM
from service.domain.config import Config
from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from service.domain.cron import cron_from
from service.domain.execution import Reason, Status, Stretch, Trigger
from service.domain.interval import interval_from
from service.domain.severity import Severity
from tests.docs.pages import block
from tests.docs.reader import Reader
from tests.docs.tables import codes, column, section, table
from tests.flow.conftest import Database, config, rows_of
from tests.integration.test_cli import commanded
from tests.mongosh import mongosh, node, typed
from tests.steps import eventually

PAGE = "documents.md"
SCOUT = {"agent_id": "coverage-scout"}
Document = dict[str, Any]


async def scout_of(db: Database) -> Document:
    found = await db["agents"].find_one(SCOUT)
    assert found is not None
    return found


async def judged(db: Database) -> Document:
    """The agent's document, once it has a verdict."""

    async def is_judged() -> object:
        found = await db["agents"].find_one(SCOUT)
        return found if found and "councilor_status" in found else None

    found: Document = await eventually(is_judged)
    return found


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("writer", "explanation"),
    [
        pytest.param("mongosh", "Every 30 minutes", id="mongosh"),
        pytest.param(
            "python", "Every day from Monday to Friday at 09:00, Europe/Berlin", id="PyMongo"
        ),
        pytest.param("node", "Every hour", id="Node"),
    ],
)
async def test_every_writer_can_promote(
    reader: Reader, db: Database, writer: str, explanation: str
) -> None:
    """Who is there; none of them makes a new agent of an id that nobody has."""
    await db["agents"].insert_one({**SCOUT})
    match writer:
        case "mongosh":
            mongosh()
            await reader.mongosh("documents-mongosh")
        case "python":
            await reader.python("documents-pymongo")
        case _:
            node()
            await reader.node("documents-node")
    status = (await judged(db))["councilor_status"]
    assert (status["state"], status["error"]) == ("scheduled", None)
    assert status["explanation"] == explanation


@pytest.mark.mongo
async def test_the_shell_does_what_writers_do(reader: Reader, db: Database) -> None:
    await db["agents"].insert_one({**SCOUT})
    said = await reader.shell("documents-shell")
    assert said.splitlines()[0] == "coverage-scout: promoted"
    assert len(said.splitlines()) == len(block("documents-shell").splitlines())
    assert (await scout_of(db))["is_councilor"] is False


def councilor_in(document: Document) -> Councilor:
    read = parse_councilor(document, SchedulePolicy())
    assert isinstance(read, Councilor)
    return read


EDITS: dict[str, Callable[[Document], bool]] = {
    "pause": lambda agent: not councilor_in(agent).enabled,
    "resume": lambda agent: councilor_in(agent).enabled,
    "pause until a date": lambda agent: (
        councilor_in(agent).paused_until == datetime(2027, 1, 4, tzinfo=UTC)
    ),
    "give it another schedule": lambda agent: councilor_in(agent).schedule.text == "@daily",
    "give it another task": lambda agent: councilor_in(agent).task.prompt == "Is it above 85 %?",
    "run it once, now": lambda agent: councilor_in(agent).run_requested_at is not None,
    "leave out the next slot": lambda agent: councilor_in(agent).skip_next,
    "demote": lambda agent: not agent["is_councilor"] and "councilor_config" not in agent,
}
"""What is so after the update, and not before."""
UPDATES = {row[0]: codes(row[1])[0] for row in table(PAGE, "Edits")[1:]}


def test_every_edit_of_the_page_is_tried() -> None:
    assert set(UPDATES) == set(EDITS)


@pytest.mark.mongo
@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_means_what_the_page_says(
    replica_set_url: str, database: str, db: Database, edit: str
) -> None:
    begin = config("30m", enabled=edit != "resume")
    await db["agents"].insert_one({**SCOUT, "is_councilor": True, "councilor_config": begin})
    assert not EDITS[edit](await scout_of(db))
    update = f'db.agents.updateOne({{agent_id: "coverage-scout"}}, {UPDATES[edit]})'
    said = await typed(replica_set_url, f'db = db.getSiblingDB("{database}"); {update}')
    assert "modifiedCount: 1" in said
    assert EDITS[edit](await scout_of(db))


@pytest.mark.mongo
async def test_a_validator_tells_writers_until_it_is_removed(
    offline_reader: Reader, db: Database
) -> None:
    wrong = {**SCOUT, "is_councilor": True, "councilor_config": {}}
    said = await offline_reader.shell("documents-schema")
    assert "refuses what does not fit" in said
    with pytest.raises(WriteError):
        await db["agents"].insert_one(dict(wrong))
    await offline_reader.mongosh("documents-schema-removed")
    await db["agents"].insert_one(dict(wrong))


async def test_the_page_shows_what_check_prints() -> None:
    """Without colours, since this is no terminal."""
    command, *shown = block("documents-check").splitlines()
    arguments = command.removeprefix(f"$ {PROGRAM} ").split()
    code, out, _ = await commanded(*arguments, COLUMNS="100")
    assert code == 1
    assert [line.rstrip() for line in out.splitlines()] == shown


@pytest.mark.mongo
async def test_what_the_service_writes_is_in_the_tables(reader: Reader, db: Database) -> None:
    agent = {**SCOUT, "is_councilor": True, "councilor_config": config("1h", skip_next=True)}
    agent["councilor_run_requested_at"] = wall_clock()
    await db["agents"].insert_one(agent)

    async def is_counted() -> object:
        found = await scout_of(db)
        return found if {"stats", "councilor_status"} <= set(found) else None

    found = await eventually(is_counted)
    assert set(column(PAGE, "The verdict")) == set(found["councilor_status"])
    in_prose = block_of_stats()
    assert in_prose == set(found["stats"]) - {"counted"}
    (row,) = await rows_of(db, "coverage-scout")
    of_the_service = {"_id", "nonce", "counted", "provisional"}
    written = {*row, *of_a_stretch(), "output_truncated"} - of_the_service
    assert set(column(PAGE, "The ledger")) == written
    collections = set(column(PAGE, "Other collections")) | {"agents", "councilor_executions"}
    assert set(await db.list_collection_names()) - collections == set()


def block_of_stats() -> set[str]:
    """What the section on statistics begins with."""
    text = section(PAGE, "The statistics").partition(".")[0]
    return {name for name in codes(text) if "_" in name}


def of_a_stretch() -> set[str]:
    return set(stretch_of(Stretch(wall_clock(), wall_clock(), 2)))


def test_every_field_that_is_read_is_in_the_table() -> None:
    """With its default, and with the words that it may be."""
    rows = {codes(row[0])[0]: row for row in table(PAGE, "Fields")[1:]}
    read = dict(fields_of(Config, "councilor_config"))
    assert {name for name in rows if name.startswith("councilor_config.")} == set(read)
    for name, (default, words) in read.items():
        assert default in rows[name][2], name
        assert set(words) <= set(codes(rows[name][1])), name


def fields_of(part: type[BaseModel], path: str) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    for name, field in part.model_fields.items():
        kind, where = field.annotation, f"{path}.{name}"
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields_of(kind, where)
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        yield where, ("required" if field.is_required() else shown(default), words_of(kind))


def shown(default: object) -> str:
    match default:
        case bool():
            return f"`{str(default).lower()}`"
        case str() if default:
            return f"`{default}`"
        case ["panel"]:
            return '`["panel"]`'
    return ""


def words_of(kind: object) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return [str(word) for word in kind]
    return [word for word in get_args(kind) if isinstance(word, str)]


def test_every_status_reason_and_severity_is_explained() -> None:
    reasons = set(column(PAGE, "Statuses and reasons", 1))
    assert reasons == {str(reason) for reason in Reason}
    rows = {codes(row[0])[0]: codes(row[1]) for row in table(PAGE, "The ledger")[1:]}
    assert rows["status"] == [str(status) for status in Status]
    assert rows["trigger"] == [str(trigger) for trigger in Trigger]
    assert rows["severity"][:3] == [str(severity) for severity in Severity]


@pytest.mark.parametrize("value", column(PAGE, "Crons"))
def test_every_cron_of_the_page_is_one(value: str) -> None:
    """Alone, or as a field."""
    whole = value if value.startswith("@") or " " in value else EXAMPLES[value]
    assert cron_from(whole, "UTC").explanation


EXAMPLES = {"FRI-MON": "0 9 * * FRI-MON", "*/15": "*/15 * * * *", "1,15": "0 9 1,15 * *"}


def test_every_word_for_a_cron_is_one() -> None:
    _, interval, cron = table(PAGE, "What schedules mean")
    assert [interval_from(value) for value in codes(interval[1])[:5]]
    for value in codes(cron[1]):
        assert cron_from(value, "UTC").explanation
