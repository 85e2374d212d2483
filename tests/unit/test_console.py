"""Log lines for people: aligned, short, in UTC, and without what would steer their terminal."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO

import pytest
import stamina
import structlog

from service.console import LinesForPeople, has_colours
from service.telemetry import configure_logging

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LINE = LinesForPeople(is_coloured=False)


def line_of(**fields: object) -> str:
    return LINE(None, "info", {"timestamp": "11-23 12:00:00Z", "level": "info", **fields})


def test_fields_stand_below_each_other_and_the_long_one_last() -> None:
    started = {"agent_id": "scout", "execution_id": "exec_scout_1", "trigger": "schedule"}
    lines = [
        line_of(event="run_started", **started),
        line_of(event="job_scheduled", agent_id="日本語", next_run_time=NOON),
    ]
    assert lines == [
        "11-23 12:00:00Z info    run_started      agent_id=scout                    "
        "trigger=schedule execution_id=exec_scout_1",
        "11-23 12:00:00Z info    job_scheduled    agent_id=日本語                   "
        "next_run_time=2026-11-23T12:00:00Z",
    ]


def test_values_are_one_line_of_text_and_cut() -> None:
    steering = "esc\x1b[2J\u202e\nnew"
    line = line_of(event="run_failed", agent_id=steering, error=steering * 100, reason="")
    assert line.isprintable()
    assert 'agent_id="esc�[2J� new"' in line
    assert line.endswith('…" reason=""')
    assert len(line) < 300


def test_a_traceback_stands_below_and_steers_nothing() -> None:
    line, *below = line_of(event="failed", exception="Traceback:\n  \x1b[2Jx").splitlines()
    assert line.endswith("failed")
    assert below == ["    Traceback:", "      �[2Jx"]


COLOURS = {
    "a terminal": ({}, True, True),
    "a pipe": ({}, False, False),
    "no colours, please": ({"NO_COLOR": "1"}, True, False),
    "empty is unset": ({"NO_COLOR": "", "FORCE_COLOR": ""}, True, True),
    "colours into a pipe": ({"FORCE_COLOR": "1"}, False, True),
    "both": ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
    "a dumb terminal": ({"TERM": "dumb"}, True, False),
}


@pytest.mark.parametrize(("environ", "is_terminal", "expected"), COLOURS.values(), ids=COLOURS)
def test_colours_are_for_terminals(
    environ: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    assert has_colours(environ, is_terminal=is_terminal) is expected


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield Terminal()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    stamina.instrumentation.set_on_retry_hooks(None)


def test_auto_is_for_people_on_a_terminal(terminal: Terminal) -> None:
    configure_logging("auto", "info", terminal)
    structlog.get_logger().info("run_started", agent_id="scout")
    assert "\x1b[1mrun_started" in terminal.getvalue()
    assert "Z\x1b[0m \x1b[32minfo" in terminal.getvalue()
