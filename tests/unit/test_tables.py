"""What people are shown fits their terminal, and is shown as what it is: text."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from service.cells import duration, from_now, next_run
from service.columns import Column, widths_in
from service.views import history_table, jobs_summary, jobs_table

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
WIDTHS = (60, 80, 120, 200)
LONG_ID = "dependency-auditor-for-" + "all-of-the-repositories-" * 4 + "of-the-platform-team"
STEERING = "esc\x1b[31mRED\x07 \u202ebidi\u2066 \u200bzero\nline\ttab"
Item = dict[str, Any]


def item(agent_id: str = "scout", **fields: object) -> Item:
    shown: Item = {
        "agent_id": agent_id,
        "name": agent_id,
        "state": "scheduled",
        "schedule": "interval=30m",
        "timezone": None,
        "explanation": "Every 30 minutes",
        "next_run_time": NOW + timedelta(minutes=4),
        "last_execution": NOW - timedelta(minutes=26),
        "last_severity": "success",
        "success_rate": 97.5,
        "error": None,
    }
    return shown | fields


PAUSED = item("dozer", state="paused", next_run_time=None)
INVALID = item(
    "broken",
    state="invalid",
    explanation=None,
    next_run_time=None,
    last_execution=None,
    last_severity=None,
    success_rate=None,
    error={"field": "f", "message": '"0m" is no time at all', "hint": "write at least one second"},
)
LENGTHY = item(
    LONG_ID,
    name="A name that goes on for longer than anybody would read " * 3,
    explanation="Every Monday at 09:00, Europe/Berlin, not before 2027-01-04 00:00:00 UTC",
)
MANY = [item(f"agent-{n:02}") for n in range(26)]
ALL = [item(), PAUSED, INVALID, LENGTHY, *MANY]


def row(status: str, **fields: object) -> Item:
    shown: Item = {
        "execution_id": "exec_scout_1795435200000",
        "scheduled_for": NOW,
        "trigger": "schedule",
        "status": status,
        "severity": None,
        "started_at": NOW,
        "lateness_ms": 12,
    }
    return shown | fields


ERROR = "no answer within 30m: Conductor may have done it all the same, so it is not sent again"
ROWS = [
    row("running"),
    row("completed", severity="success", duration_ms=12_345),
    row("error", severity="error", duration_ms=1_800_000, reason="timeout", error=ERROR),
    row("skipped", severity="warning", reason="overlap", started_at=None),
    row("missed", reason="outage", slots_missed=1_234, last_slot=NOW, trigger="catch_up"),
]


def lines_of(shown: RenderableType, width: int) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(shown)
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def jobs_lines(items: Sequence[Item], width: int) -> list[str]:
    return lines_of(jobs_table(items, NOW, width), width)


@pytest.mark.parametrize("width", WIDTHS)
def test_every_line_fits_and_no_word_is_broken(width: int) -> None:
    lines = jobs_lines(ALL, width)
    assert max(cell_len(line) for line in lines) <= width
    for words in ("scout  ", "scheduled", "paused", "invalid", "in 4m", "26m ago", "success"):
        assert any(words in line for line in lines), words
    assert '    "0m" is no time at all' in lines
    assert "    → write at least one second" in lines


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_agent_id_is_folded_and_never_cut(width: int) -> None:
    lines = jobs_lines(ALL, width)
    end = min(lines[0].index(title) for title in ("name", "state") if title in lines[0])
    first = next(n for n, line in enumerate(lines) if line.startswith(LONG_ID[:10]))
    pieces = [line[:end].strip() for line in lines[first:]]
    assert "".join(pieces).startswith(LONG_ID)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_long_agent_id_costs_the_others_one_line_each_at_most(width: int) -> None:
    """Below 80 columns one more, for the schedule."""
    lines = jobs_lines([LENGTHY, *MANY], width)
    first = next(n for n, line in enumerate(lines) if line.startswith("agent-00"))
    assert len(lines[first:]) == len(MANY) * (2 if width < 80 else 1)


def test_what_there_is_no_room_for_goes_in_the_order_of_its_importance() -> None:
    item_named = item(name="Scout of the coverage of it all")
    titles = {width: jobs_lines([LENGTHY, item_named], width)[0] for width in WIDTHS}
    assert "name" in titles[200]
    assert "name" not in titles[120]
    assert "at (UTC)" in titles[120]
    assert "at (UTC)" not in titles[80]
    assert titles[80].split("  ")[-1] == "result"
    assert "schedule" not in titles[60]
    assert "    Every 30 minutes" in jobs_lines([LENGTHY, item_named], 60)


def test_columns_in_which_nothing_stands_are_left_out() -> None:
    (title, *_) = jobs_lines([INVALID], 200)
    assert title.split() == ["agent", "state", "next", "run", "last", "run", "result"]


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_of_users_are_shown_and_never_interpreted(width: int) -> None:
    items = [
        item("[red]markup[/red]", name=":smile: [bold]"),
        item(STEERING, name=STEERING, explanation=STEERING),
        INVALID | {"error": {"message": f"m {STEERING}", "hint": f"h {STEERING}"}},
        item("日本語のエージェント😀", name="会議の議事録をまとめる人"),
    ]
    lines = jobs_lines(items, width)
    assert max(cell_len(line) for line in lines) <= width
    assert all(line.isprintable() for line in lines)
    said = "".join("".join(line.split()) for line in lines)
    assert "[red]markup" in said
    assert "esc�[31m" in said
    assert "日本語のエージ" in said


@pytest.mark.parametrize("count", [0, 1, 30])
def test_the_summary_counts_what_is_shown(count: int) -> None:
    items = [item(f"a-{n}", next_run_time=NOW + timedelta(minutes=4 + n)) for n in range(count)]
    assert jobs_summary(items, count, NOW) == {
        0: "no councilors",
        1: "1 councilor: 1 scheduled; next run in 4m",
        30: "30 councilors: 30 scheduled; next run in 4m",
    }.get(count)


def test_the_summary_tells_of_states_of_what_was_left_out_and_of_late_runs() -> None:
    late = item(next_run_time=NOW - timedelta(minutes=5))
    assert jobs_summary([item(), late, PAUSED, INVALID], 12, NOW) == (
        "4 of 12 councilors: 2 scheduled, 1 paused, 1 invalid; next run 5m late"
    )
    assert jobs_summary([], 12, NOW) == "none of 12 councilors"
    assert jobs_summary([PAUSED], 1, NOW) == "1 councilor: 1 paused"


@pytest.mark.parametrize("width", WIDTHS)
def test_history_fits_and_says_why(width: int) -> None:
    lines = lines_of(history_table(ROWS, width), width)
    assert max(cell_len(line) for line in lines) <= width
    said = " ".join(" ".join(lines).split())
    for words in ("2026-11-23 12:00:00", "catch_up", "completed", "12.3 s", "30m", "overlap"):
        assert words in said, words
    assert "outage: 1,234 slots, the last 2026-11-23 12:00:00" in said
    assert ("exec_scout_1795435200000" in said) is (width == 200)
    assert ("why" in lines[0]) is (width > 80)
    if width <= 80:
        assert "    overlap" in lines


def test_an_error_is_one_line_of_text_and_cut() -> None:
    lines = lines_of(history_table([row("error", error=STEERING + "x" * 500)], 200), 200)
    said = "".join("".join(lines).split())
    assert "esc�[31mRED��bidi��zeroline" in said
    assert sum(line.count("x") for line in lines) < 200


WIDTHS_IN: dict[str, tuple[tuple[int, ...], int, list[int | None]]] = {
    "room for all": ((5, 20, 9), 80, [5, 20, 9]),
    "the widest gives way first": ((5, 60, 9), 40, [5, 22, 9]),
    "then both, alike": ((50, 60, 9), 41, [14, 14, 9]),
    "one has to go": ((30, 60, 9), 25, [14, None, 9]),
    "wanted by nobody": ((30, 0, 9), 80, [30, None, 9]),
    "never below its least": ((30, 60, 9), 10, [10, None, 9]),
}


@pytest.mark.parametrize(("wanted", "room", "widths"), WIDTHS_IN.values(), ids=WIDTHS_IN)
def test_columns_share_the_room(
    wanted: tuple[int, ...], room: int, widths: list[int | None]
) -> None:
    columns = (Column("a", 10), Column("b", 10, goes=1), Column("c", 9))
    assert widths_in(columns, wanted, room) == widths


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "in 0s"), (119, "in 119s"), (120, "in 2m"), (-7_200, "2h ago"), (200_000, "in 2d")],
)
def test_distances_are_told_in_the_largest_unit_that_says_enough(seconds: int, said: str) -> None:
    assert from_now(NOW + timedelta(seconds=seconds), NOW) == said


@pytest.mark.parametrize(("seconds", "said"), [(60, "in 60s"), (-1, "now"), (-90, "90s late")])
def test_a_run_that_should_have_come_is_late(seconds: int, said: str) -> None:
    assert next_run(NOW + timedelta(seconds=seconds), NOW).plain == said


def test_durations_are_short() -> None:
    assert [duration(ms) for ms in (None, 12, 99_900, 100_000, 5_400_000)] == [
        *("", "0.0 s", "99.9 s", "1m40s", "1h30m")
    ]
