"""Councilors and slots as a person sees them in a terminal of any width."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from service.cells import (
    coloured,
    duration,
    from_now,
    instant,
    next_run,
    percent,
    short_instant,
    text,
)
from service.columns import Column, Row, laid_out, wanted_by, widths_in
from service.domain.jobs import JobState
from service.domain.printable import one_line

Item = Mapping[str, object]

_LONGEST_REASON = 160
_JOBS = (
    Column("agent", 14),
    Column("name", 24, goes=1),
    Column("state", 9),
    Column("schedule", 24, goes=4),
    Column("next run", 8),
    Column("at (UTC)", 14, goes=2),
    Column("last run", 8),
    Column("result", 7),
    Column("success", 7, goes=3),
)
_SCHEDULE = 3
_HISTORY = (
    Column("slot (UTC)", 19),
    Column("trigger", 8),
    Column("status", 9),
    Column("severity", 8),
    Column("late", 6, goes=2),
    Column("took", 7),
    Column("why", 40, goes=3),
    Column("execution", 30, goes=1),
)
_WHY = 6


def jobs_table(items: Sequence[Item], now: datetime, width: int) -> RenderableType:
    """The items of `/jobs`, one row each; what is wrong with one stands below it."""
    rows = [Row(_job_cells(item, now)) for item in items]
    widths = widths_in(_JOBS, wanted_by(_JOBS, rows, width), width)
    is_below = widths[_SCHEDULE] is None
    noted = [
        Row(row.cells, [*_job_notes(item, row.cells[_SCHEDULE] if is_below else None)])
        for item, row in zip(items, rows, strict=True)
    ]
    return laid_out(_JOBS, widths, noted)


def _job_cells(item: Item, now: datetime) -> Sequence[Text]:
    name = item["name"] if item["name"] != item["agent_id"] else None
    return (
        text(item["agent_id"]),
        text(name),
        coloured(item["state"]),
        text(item["explanation"]),
        next_run(item["next_run_time"], now),
        Text(short_instant(item["next_run_time"])),
        Text(from_now(item["last_execution"], now)),
        coloured(item["last_severity"]),
        text(percent(item["success_rate"])),
    )


def _job_notes(item: Item, schedule: Text | None) -> Iterator[Text]:
    if schedule:
        yield Text(schedule.plain, "dim")
    error = item["error"]
    if isinstance(error, Mapping):
        yield text(error["message"], "red")
        yield text(f"→ {error['hint']}", "red")


def jobs_summary(items: Sequence[Item], total: int, now: datetime) -> str:
    """How many are shown, of how many, in which states, and when the next run comes."""
    whole = f"{total:,} councilor{'' if total == 1 else 's'}"
    if not items:
        return f"none of {whole}" if total else "no councilors"
    shown = whole if len(items) == total else f"{len(items):,} of {whole}"
    counts = Counter(item["state"] for item in items)
    states = ", ".join(f"{counts[state]:,} {state.value}" for state in JobState if counts[state])
    runs = [run for item in items if isinstance(run := item["next_run_time"], datetime)]
    when = f"; next run {next_run(min(runs), now)}" if runs else ""
    return f"{shown}: {states}{when}"


def history_table(rows: Sequence[Item], width: int) -> RenderableType:
    """Rows of the ledger; on narrow terminals, why something did not run stands below it."""
    cells = [Row(_history_cells(row)) for row in rows]
    widths = widths_in(_HISTORY, wanted_by(_HISTORY, cells, width), width)
    if widths[_WHY] is None:
        cells = [Row(row.cells, [why] if (why := row.cells[_WHY]) else ()) for row in cells]
    return laid_out(_HISTORY, widths, cells)


def _history_cells(row: Item) -> Sequence[Text]:
    has_begun = row.get("started_at") is not None
    return (
        Text(instant(row.get("scheduled_for") or row.get("started_at"))),
        text(row.get("trigger")),
        coloured(row.get("status")),
        coloured(row.get("severity")),
        Text(duration(row.get("lateness_ms")) if has_begun else ""),
        Text(duration(row.get("duration_ms"))),
        Text(one_line(_why(row), _LONGEST_REASON)),
        text(row.get("execution_id")),
    )


def _why(row: Item) -> str:
    """The reason, and what is known beside it."""
    reason, error, missed = row.get("reason"), row.get("error"), row.get("slots_missed")
    if isinstance(missed, int) and missed > 1:
        return f"{reason}: {missed:,} slots, the last {instant(row.get('last_slot'))}"
    return ": ".join(str(part) for part in (reason, error) if part)
