"""What the page on operations has people type works, and its tables say what the code says."""

import ast
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from service.cli.common import FAILED, FINE, INTERRUPTED, WRONG_USAGE
from service.domain.interval import interval_text
from service.domain.planning import Change
from service.settings import Settings
from service.web.openapi import OPENAPI
from tests.chaos.__main__ import _arguments as chaos_arguments
from tests.chaos.plan import Kind
from tests.docs.pages import ROOT, block
from tests.docs.reader import Reader, needs
from tests.docs.tables import codes, column, section, table
from tests.docs.test_pages import COMMANDS
from tests.flow.conftest import Database, Start, config, free_port, rows_of
from tests.mongosh import mongosh
from tests.steps import eventually

PAGE = "operations.md"
SCOUT = {"agent_id": "coverage-scout"}


async def promoted(db: Database, prompt: str = "look") -> None:
    """Promote the agent, and have it run once."""
    agent = {**SCOUT, "is_councilor": True, "councilor_config": config("1h", prompt)}
    await db["agents"].insert_one(agent)
    asked = {"$currentDate": {"councilor_run_requested_at": True}}
    await db["agents"].update_one(SCOUT, asked)

    async def has_run() -> bool:
        rows = await rows_of(db, SCOUT["agent_id"])
        return [row["status"] for row in rows if row["status"] != "running"] != []

    await eventually(has_run)


def shown(default: object) -> str:
    """A default as the table has it."""
    match default:
        case None:
            return "none"
        case timedelta():
            return f"`{interval_text(default)}`"
        case SecretStr():
            return f"`{default.get_secret_value()}`"
    return f"`{default}`"


def test_every_setting_is_in_the_table_with_its_default() -> None:
    rows = {codes(row[0])[0]: row[1] for row in table(PAGE, "Settings")[1:]}
    fields = {name.upper(): shown(field.default) for name, field in Settings.model_fields.items()}
    assert rows == fields | {"MONGODB_URL": "required"}


def test_every_command_is_in_the_table() -> None:
    spoken = {name.removeprefix("councilor-scheduler ") for name in column(PAGE, "Commands")}
    assert {name.split()[0] for name in spoken} == set(COMMANDS.commands)


def test_every_exit_code_is_in_the_table() -> None:
    _, *rows = table(PAGE, "Commands", place=1)
    assert [int(row[0]) for row in rows] == [FINE, FAILED, WRONG_USAGE, INTERRUPTED]


def test_every_address_is_in_the_table() -> None:
    addresses = {address.partition("?")[0] for address in column(PAGE, "HTTP")}
    assert addresses == set(OPENAPI["paths"])


def test_every_parameter_of_an_address_is_in_its_row() -> None:
    rows = {codes(row[0])[0].partition("?")[0]: row for row in table(PAGE, "HTTP")[1:]}
    for path, told in OPENAPI["paths"].items():
        asked = [each["name"] for each in told["get"].get("parameters", [])]
        text = " ".join(rows[path])
        assert [name for name in asked if path != "/events" and name not in text] == [], path


_TELLS = {"debug", "info", "warning", "error", "exception", "log"}


def told_in(source: Path) -> Iterator[str]:
    """The events that a module tells by their names."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log" | "told"), attr=attribute), args=given
            ) if attribute in _TELLS:
                texts = [each for argument in given for each in ast.walk(argument)]
                for text in texts:
                    if isinstance(text, ast.Constant) and isinstance(text.value, str):
                        yield text.value


def test_every_log_event_is_in_the_table() -> None:
    sources = [each for each in (ROOT / "service").rglob("*.py") if "demo" not in each.parts]
    told = {name for source in sources for name in told_in(source)} | {str(c) for c in Change}
    assert len(told) > 40
    assert set(column(PAGE, "Logs", 1)) == told


@pytest.mark.mongo
async def test_every_check_is_in_the_table(start: Start) -> None:
    service = await start()
    _, said = await service.get("/readyz")
    assert set(column(PAGE, "HTTP", place=1)) <= set(said["checks"])
    needed = {name for name in said["checks"] if name not in NOT_NEEDED}
    assert set(column(PAGE, "HTTP", place=1)) == needed


NOT_NEEDED = {"conductor", "verdicts"}
"""Checks that are told, and that make no replica unready."""


@pytest.mark.mongo
async def test_http_answers_as_the_page_asks(reader: Reader, db: Database) -> None:
    needs("curl")
    await promoted(db)
    said = await reader.shell("operations-http")
    for words in ('"status":"ok"', '"total":1', '"next_runs":[', '"completed"', '"outcome":'):
        assert words in said
    assert "councilor_build_info" in said
    assert '"error":{"code"' not in said


@pytest.mark.mongo
async def test_the_token_opens_what_it_should(
    start: Start, replica_set_url: str, database: str, tmp_path: Path
) -> None:
    needs("curl")
    port = free_port()
    await start(scheduler_http_port=port, scheduler_http_token=SecretStr("open-sesame"))
    reader = Reader(tmp_path, replica_set_url, database, http_port=port)
    wrong = replace(reader, environ={"SCHEDULER_HTTP_TOKEN": "wrong"})
    with pytest.raises(AssertionError, match="operations-token"):
        await wrong.shell("operations-token")
    right = replace(reader, environ={"SCHEDULER_HTTP_TOKEN": "open-sesame"})
    assert orjson.loads(await right.shell("operations-token"))["items"] == []


@pytest.mark.mongo
async def test_events_are_heard(reader: Reader, db: Database) -> None:
    needs("curl")
    async with reader.going("operations-events") as heard:

        async def is_welcome() -> bool:
            return heard.has(": welcome")

        await eventually(is_welcome)
        await promoted(db)

        async def has_heard() -> bool:
            return heard.has("event: councilor_completed") and heard.has("event: job_changed")

        await eventually(has_heard)


@pytest.mark.mongo
async def test_notifications_are_read_and_marked(reader: Reader, db: Database) -> None:
    mongosh()
    await promoted(db, prompt="status")

    async def is_told() -> object:
        return await db["scheduler_notifications"].find_one({"read": False})

    assert (await eventually(is_told))["councilor_id"] == "coverage-scout"
    assert "modifiedCount: 1" in await reader.mongosh("operations-notifications")
    first, _ = block("operations-notifications").splitlines()
    assert 'channels: "panel"' in first


def test_the_kinds_of_faults_are_those_of_chaos() -> None:
    text = section(PAGE, "Chaos")
    rows = table(PAGE, "Chaos")[1:]
    kinds = {row[place] for row in rows for place in (0, 3, 6)}
    assert kinds == {kind.value for kind in Kind}
    assert f"{len(Kind)} kinds of faults" in text


def test_chaos_takes_what_the_page_gives_it() -> None:
    calls = [shlex.split(line, comments=True) for line in block("operations-chaos").splitlines()]
    assert {script for script, *_ in calls} == {"scripts/chaos"}
    alone, twenty, broken = (chaos_arguments(arguments) for _, *arguments in calls)
    assert (len(alone.seed), alone.seconds) == (1, 60)
    assert (twenty.seed, twenty.seconds) == (range(1, 21), 60)
    assert broken.sabotage == "drop-index"
