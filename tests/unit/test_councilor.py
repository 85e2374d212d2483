"""Documents as writers leave them, and what is read from them."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.config import CatchUp, Overlap, instant_from
from service.domain.councilor import (
    Councilor,
    InvalidCouncilor,
    NotCouncilor,
    Notifications,
    SchedulePolicy,
    Task,
    parse_councilor,
)

POLICY = SchedulePolicy()
INTERVAL = {"type": "interval", "value": "30m", "enabled": True}
CRON = {"type": "cron", "value": "@daily"}
TASK = {"name": "Audit", "prompt": "Look", "context_files": None, "output_format": "checklist"}
CHANNELS = ["email", "panel", "toast"]
TOLD = {"on_success": False, "on_warning": True, "on_error": True, "channels": CHANNELS}
CONFIG = {"title": "Chief", "schedule": INTERVAL, "task": TASK, "notifications": TOLD}
FROM_GATEWAY: dict[str, Any] = {
    "_id": "65f0",
    "agent_id": "agent_1",
    "name": "Auditor",
    "title": "Code Auditor",
    "emoji": "🔍",
    "customization": None,
    "is_councilor": True,
    "councilor_config": CONFIG,
    "stats": {"total_executions": 3},
}
GONE = object()


def changed(path: str, value: object) -> dict[str, Any]:
    """The gateway's document with one field set, or taken away; `.x` is in councilor_config."""
    document = deepcopy(FROM_GATEWAY)
    *parents, name = whole(path).split(".")
    place = document
    for parent in parents:
        place = place[parent]
    place[name] = value
    if value is GONE:
        del place[name]
    return document


def whole(path: str) -> str:
    return f"councilor_config{path}" if path.startswith(".") else path


def with_schedule(**schedule: object) -> dict[str, Any]:
    return changed(".schedule", schedule)


def councilor(document: dict[str, Any]) -> Councilor:
    reading = parse_councilor(document, POLICY)
    assert isinstance(reading, Councilor), reading
    return reading


def invalid(document: dict[str, Any], policy: SchedulePolicy = POLICY) -> InvalidCouncilor:
    reading = parse_councilor(document, policy)
    assert isinstance(reading, InvalidCouncilor), reading
    return reading


def test_document_of_the_gateway_is_a_councilor() -> None:
    read = councilor(FROM_GATEWAY)
    assert (read.agent_id, read.display_name, read.enabled) == ("agent_1", "Auditor", True)
    assert (read.schedule.kind, read.schedule.text) == ("interval", "30m")
    assert read.task == Task("Audit", "Look", (), "checklist")
    assert read.notifications == Notifications(False, True, True, ("email", "panel", "toast"))
    assert (read.catch_up, read.overlap, read.delay) == (CatchUp.ONCE, Overlap.SKIP, timedelta(0))
    assert (read.paused_until, read.cwd, read.ai_provider) == (None, None, None)


def test_every_field_is_read() -> None:
    policies = {"catch_up": "all", "overlap": "queue_one", "spread": "5m", "enabled": False}
    until = datetime(2026, 12, 24, tzinfo=UTC)
    document = with_schedule(**CRON, **policies, timezone="Europe/Berlin", paused_until=until)
    document |= {"cwd": "/repo", "ai_provider": "x", "councilor_run_requested_at": "2026-11-23"}
    read = councilor(document)
    assert (read.schedule.zone, read.enabled) == ("Europe/Berlin", False)
    assert (read.catch_up, read.overlap) == (CatchUp.ALL, Overlap.QUEUE_ONE)
    assert timedelta(0) <= read.delay < timedelta(minutes=5)
    assert (read.paused_until, read.cwd, read.ai_provider) == (until, "/repo", "x")
    assert read.run_requested_at == datetime(2026, 11, 23, tzinfo=UTC)


def rows(table: dict[str, Any]) -> list[Any]:
    """One row for each value of each path."""
    shown = {id(GONE): "missing"}
    return [
        pytest.param(path, value, id=f"{path} {shown.get(id(value), ascii(value)[:24])}")
        for path, values in table.items()
        for value in values
    ]


HARMLESS = {
    "customization": [GONE, {"display_name": None}, ["x"]],
    "name": [7, None],
    "stats": ["broken"],
    ".title": [GONE, None],
    ".notifications": [GONE, None, {"channels": None}, {"channels": ["toast", "panel"]}],
    ".task.name": [GONE, None, ""],
    ".task.prompt": ["x" * 10_000],
    ".task.context_files": [GONE, []],
    ".task.output_format": [None, "summary", "detailed"],
    ".schedule.enabled": [GONE, None],
    ".schedule.timezone": ["Mars/Base", None],  # of an interval
    ".schedule.spread": [None],
    ".schedule.paused_until": [None, "2026-12-24"],
    ".schedule.skip_next": [None, True],
    ".schedule.unheard_of": [{"a": [1]}],
}


@pytest.mark.parametrize(("path", "value"), rows(HARMLESS))
def test_councilor_runs_all_the_same(path: str, value: object) -> None:
    assert councilor(changed(path, value)).enabled


NAMES = {
    "what was chosen": ({"customization": {"display_name": "Ada"}}, "Ada"),
    "the name": ({"customization": {"display_name": ""}}, "Auditor"),
    "the title": ({"name": None}, "Code Auditor"),
    "the councilor's title": ({"name": 7, "title": ""}, "Chief"),
}


@pytest.mark.parametrize(("fields", "expected"), NAMES.values(), ids=NAMES)
def test_people_see(fields: dict[str, object], expected: str) -> None:
    assert councilor(FROM_GATEWAY | fields).display_name == expected


def test_task_without_a_name_has_the_best_there_is() -> None:
    document = changed(".task.name", GONE)
    assert councilor(document).task.name == "Chief"
    del document["councilor_config"]["title"]
    assert councilor(document).task.name == "Auditor"


WRONG = {
    "is_councilor": ["yes", 1, []],
    "agent_id": [GONE, None, "", 7],
    "councilor_config": [GONE, None, [], "x"],
    ".title": [7],
    ".schedule": [GONE, None, "30m"],
    ".schedule.type": [GONE, None, "hourly", 1],
    ".schedule.value": [GONE, 30, "", "0m", "\u0663m", "59s", "x" * 99_999, "0 9 * * 1"],
    ".schedule.enabled": ["true", 1],
    ".schedule.timezone": [1],
    ".schedule.catch_up": ["some", 1],
    ".schedule.overlap": ["both"],
    ".schedule.spread": ["some", 5, "0m"],
    ".schedule.paused_until": ["soon", 1_767_225_600],
    ".schedule.skip_next": ["yes"],
    ".task": [GONE, None, "Look"],
    ".task.prompt": [GONE, None, "", "x" * 10_001, b"x", ["Look"]],
    ".task.name": [7],
    ".task.context_files": ["a.py", [1], [None]],
    ".task.output_format": ["pdf"],
    ".notifications": [[], "panel"],
    ".notifications.on_error": [1],
    ".notifications.channels": ["panel", [7]],
}


MESSAGES: dict[str, tuple[str, object, str]] = {
    "a long prompt": (".task.prompt", "x" * 10_001, "has 10,001 characters, too many"),
    "an empty prompt": (".task.prompt", "", "is empty"),
    "no prompt": (".task.prompt", GONE, "is missing"),
    "a prompt of bytes": (".task.prompt", b"x", "is of type bytes, not a text"),
    "no schedule": (".schedule", GONE, "is missing"),
    "a schedule of text": (".schedule", "30m", 'is "30m", not a document'),
    "a number": (".schedule.value", 30, "is 30, not a text"),
    "one more way": (".schedule.type", "weekly", 'is "weekly", none of the words that are'),
    "no flag": (".schedule.enabled", "yes", 'is "yes", neither true nor false'),
    "no date": (".schedule.paused_until", "soon", 'is "soon", no date that can be used'),
}


@pytest.mark.parametrize(("path", "value", "words"), MESSAGES.values(), ids=MESSAGES)
def test_message_names_the_value(path: str, value: object, words: str) -> None:
    problem = invalid(changed(path, value)).problem
    assert problem.message.startswith(f"{whole(path)} {words}")


@pytest.mark.parametrize(("path", "value"), rows(WRONG))
def test_problem_names_the_field_and_how_to_mend_it(path: str, value: object) -> None:
    problem = invalid(changed(path, value)).problem
    assert problem.field == whole(path)
    assert problem.hint
    assert 0 < len(problem.message) < 300


PARTS: dict[str, Any] = {
    "resume of what was never promoted": ({"enabled": True}, "type"),
    "five words": ({"type": "cron", "value": "run it every single day"}, "value"),
    "impossible date": ({"type": "cron", "value": "0 0 30 2 *"}, "value"),
    "unknown zone": ({**CRON, "timezone": "CEST"}, "timezone"),
    "interval as a cron": ({"type": "cron", "value": "30m"}, "value"),
    "a value that speaks of zones": ({"type": "interval", "value": "time zone"}, "value"),
}


@pytest.mark.parametrize(("schedule", "field"), PARTS.values(), ids=PARTS)
def test_problem_of_a_schedule_names_its_part(schedule: dict[str, object], field: str) -> None:
    assert invalid(with_schedule(**schedule)).problem.field == f"councilor_config.schedule.{field}"


def test_spread_stays_within_an_interval() -> None:
    document = with_schedule(type="interval", value="2m", spread="1h")
    delays = [councilor(document | {"agent_id": f"a{n}"}).delay for n in range(50)]
    assert max(delays) < timedelta(minutes=2)


def test_cron_denser_than_allowed_is_invalid() -> None:
    document = with_schedule(type="cron", value="*/5 * * * *")
    problem = invalid(document, SchedulePolicy(min_interval=timedelta(minutes=10))).problem
    assert "5m" in problem.message
    assert "10m" in problem.hint
    assert councilor(document).enabled


@pytest.mark.parametrize("promoted", [False, None, GONE], ids=["false", "null", "missing"])
def test_agent_that_is_not_promoted_is_no_councilor(promoted: object) -> None:
    document = changed("is_councilor", promoted) | {"councilor_config": 7}
    assert parse_councilor(document, POLICY) == NotCouncilor("agent_1")


def hash_of(document: dict[str, Any]) -> str:
    return parse_councilor(document, POLICY).spec_hash  # type: ignore[union-attr]  # promoted, all


SPECS: dict[str, Any] = {
    "60m is 1h": ({"value": "60m"}, {"value": "1h"}, True),
    "@daily is 0 0 * * *": (CRON, {**CRON, "value": "0 0 * * *"}, True),
    "the service's zone, named": (CRON, {**CRON, "timezone": "UTC"}, True),
    "paused": ({}, {"enabled": False}, True),
    "zone of an interval": ({}, {"timezone": "Asia/Tokyo"}, True),
    "for a while": ({}, {"paused_until": "2026-12-24", "skip_next": True}, True),
    "policies": ({}, {"catch_up": "all", "overlap": "queue_one"}, True),
    "another value": ({"value": "30m"}, {"value": "31m"}, False),
    "another type": ({}, CRON, False),
    "zone of a cron": (CRON, {**CRON, "timezone": "Asia/Tokyo"}, False),
    "spread": ({}, {"spread": "5m"}, False),
    "the same spread": ({"spread": "60s"}, {"spread": "1m"}, True),
}


@pytest.mark.parametrize(("one", "other", "is_equal"), SPECS.values(), ids=SPECS)
def test_spec_hash_covers_what_moves_slots(
    one: dict[str, object], other: dict[str, object], is_equal: bool
) -> None:
    hashes = {hash_of(with_schedule(**{**INTERVAL, **changes})) for changes in (one, other)}
    assert (len(hashes) == 1) is is_equal


def test_spec_hash_does_not_cover_the_task() -> None:
    assert hash_of(changed(".task", {"prompt": "Something else"})) == hash_of(FROM_GATEWAY)


def test_broken_task_does_not_touch_the_spec_hash() -> None:
    """A prompt that is emptied and mended must not move the due times (P7)."""
    assert hash_of(changed(".task.prompt", "")) == hash_of(FROM_GATEWAY)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (".schedule.overlap", "queue"),
        (".schedule.catch_up", 7),
        (".schedule.paused_until", "soon"),
        (".schedule.enabled", "yes"),
    ],
)
def test_broken_field_that_moves_no_slot_does_not_touch_the_spec_hash(
    path: str, value: object
) -> None:
    """A typo that is made and mended must not move the due times either."""
    assert hash_of(changed(path, value)) == hash_of(FROM_GATEWAY)


NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
DATES = {
    "naive is UTC": (NEW_YEAR.replace(tzinfo=None), NEW_YEAR),
    "with an offset": ("2026-01-01T01:00:00+01:00", NEW_YEAR),
    "Zulu": ("2026-01-01T00:00:00Z", NEW_YEAR),
    "for ever": ("9999-12-31T23:59:59", datetime(9000, 1, 1, tzinfo=UTC)),
    "before all time": ("0001-01-01T00:00:00+14:00", None),
    "words": ("tomorrow", None),
    "a number": (1_767_225_600, None),
}


@pytest.mark.parametrize(("value", "expected"), DATES.values(), ids=DATES)
def test_instants_are_read_in_utc(value: object, expected: datetime | None) -> None:
    assert instant_from(value) == expected


MEANINGFUL = ["interval", "cron", "1h", "0m", "@daily", "0 9 * * 1", "UTC", "all", "2026-11-23"]
TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(MEANINGFUL)
NUMBERS = st.booleans() | st.integers() | st.floats()
LEAVES = st.none() | NUMBERS | TEXTS | st.datetimes() | st.binary()
PATHS = st.sampled_from([*FROM_GATEWAY, *HARMLESS, *WRONG])
FIELDS = PATHS.map(lambda path: path.split(".")[-1])
ANYTHING: Any = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | TEXTS, inner, max_size=6),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(st.builds(changed, PATHS, ANYTHING) | st.dictionaries(FIELDS, ANYTHING))
def test_no_document_is_too_strange_to_be_judged(document: dict[str, Any]) -> None:
    match parse_councilor(document, POLICY):
        case InvalidCouncilor(problem=problem):
            assert problem.hint
            assert len(problem.message) < 500
        case Councilor(schedule=schedule):
            assert schedule.next_slot(NEW_YEAR, NEW_YEAR) > NEW_YEAR


def test_agent_id_that_is_no_utf8_is_judged_too() -> None:
    """MongoDB holds none, but `check --file` reads JSON, where it may be escaped."""
    parse_councilor(with_schedule(**INTERVAL, spread="5m") | {"agent_id": "\ud800"}, POLICY)
