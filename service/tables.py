"""Tables for people, JSON for programs: what the commands print."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from service.checking import Finding

_LONGEST_REASON = 160
_STYLES = {
    "success": "green",
    "completed": "green",
    "scheduled": "green",
    "running": "cyan",
    "warning": "yellow",
    "paused": "yellow",
    "skipped": "yellow",
    "missed": "yellow",
    "error": "red",
    "invalid": "red",
}


def show_jobs(items: Sequence[Mapping[str, object]], now: datetime, *, as_json: bool) -> None:
    """Print the items of `/jobs`."""
    if as_json:
        print_json(items)
        return
    table = _table("agent", "state", "schedule", "next run", "last run", "last", "success")
    for item in items:
        error = item["error"]
        said = error["message"] if isinstance(error, Mapping) else item["explanation"]
        rate = item["success_rate"]
        table.add_row(
            _text(item["agent_id"]),
            _coloured(item["state"]),
            _text(said),
            _from_now(item["next_run_time"], now),
            _from_now(item["last_execution"], now),
            _coloured(item["last_severity"]),
            f"{rate} %" if rate is not None else "",
        )
    _print(table, "no councilors" if not items else None)


def show_history(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows of the ledger."""
    if as_json:
        print_json(rows)
        return
    table = _table("slot (UTC)", "trigger", "status", "severity", "took", "why")
    for row in rows:
        took = row.get("duration_ms")
        table.add_row(
            _instant(row.get("scheduled_for") or row.get("started_at")),
            str(row.get("trigger") or ""),
            _coloured(row.get("status")),
            _coloured(row.get("severity")),
            f"{took / 1000:.1f} s" if isinstance(took, int) else "",
            _text(_one_line(_why(row))),
        )
    _print(table, "no executions" if not rows else None)


def _why(row: Mapping[str, object]) -> str:
    """The reason, and what is known beside it."""
    reason, error, missed = row.get("reason"), row.get("error"), row.get("slots_missed")
    if isinstance(missed, int) and missed > 1:
        return f"{reason}: {missed:,} slots, the last {_instant(row.get('last_slot'))}"
    return ": ".join(str(part) for part in (reason, error) if part)


def show_findings(
    findings: Sequence[Finding], sources: Sequence[str], *, as_json: bool, with_runs: bool
) -> None:
    """Print what `check` found, each with the file that it is about, if any, and its next runs."""
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    if not findings:
        _console().print("no councilors")
        return
    console = _console()
    widths = (min(30, max(12, *(len(finding.agent_id or "") for finding in findings))), 13, 19, 10)
    titles = ("agent", "state", "next run (UTC)", "runs a day", "what it means")
    console.print(_row(widths, *(Text(title, style="bold") for title in titles)))
    for finding, source in zip(findings, sources, strict=True):
        row = _row(
            widths,
            _text(finding.agent_id or "(none)"),
            _coloured(finding.state.replace("_", " ")),
            Text(_instant(finding.next_runs[0]) if finding.next_runs else ""),
            Text(_rate(finding.runs_per_day)),
            _text(finding.explanation),
        )
        console.print(row)
        notes = [*_notes(finding, source)]
        if with_runs:
            notes += [Text(_instant(run), style="dim") for run in finding.next_runs]
        for note in notes:
            console.print(Padding(note, (0, 0, 0, 4), expand=False))
    console.print(Text(f"\n{_summary(findings)}"))


def _row(widths: Sequence[int], *cells: Text) -> Table:
    """One row of a table; what is to be said at length stands in lines of its own below."""
    row = Table(box=None, pad_edge=False, show_header=False)
    for width in widths:
        row.add_column(width=width, overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(*cells)
    return row


def _notes(finding: Finding, source: str) -> Iterator[Text]:
    if source and (finding.error is not None or finding.warnings):
        yield _text(source, "dim")
    if finding.error is not None:
        field, message = finding.error["field"], finding.error["message"]
        said = message if message.startswith(field) else f"{field}: {message}"
        yield _text(said, "red")
        yield _text(f"→ {finding.error['hint']}", "red")
    for warning in finding.warnings:
        yield _text(f"! {warning}", "yellow")


def _rate(runs_per_day: float | None) -> str:
    if runs_per_day is None:
        return ""
    if runs_per_day < 1:
        return f"{runs_per_day:.2g}"
    return f"{runs_per_day:,.2f}".rstrip("0").rstrip(".")


def _summary(findings: Sequence[Finding]) -> str:
    """How many there are, and the price of them all."""
    counts = Counter(finding.state for finding in findings)
    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items())
    runs = sum(f.runs_per_day or 0 for f in findings if f.state == "scheduled")
    return f"{states}: {runs:,.1f} runs a day, {30 * runs:,.0f} in 30 days"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table, instead: str | None) -> None:
    _console().print(instead if instead is not None else table)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 200  # a pipe has no width of its own
    return console


def print_json(content: object) -> None:
    """Print what programs read."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    sys.stdout.buffer.write(orjson.dumps(content, default=str, option=options) + b"\n")
    sys.stdout.flush()


def _one_line(value: object) -> str:
    line = " ".join(str(value or "").split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def _text(value: object, style: str = "") -> Text:
    """What users wrote, without what would steer a terminal."""
    text = "" if value is None else str(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)


def _coloured(word: object) -> Text:
    text = str(word) if word is not None else ""
    return Text(text, style=_STYLES.get(text, ""))


def _instant(value: object) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else ""


def _from_now(value: object, now: datetime) -> str:
    if not isinstance(value, datetime):
        return ""
    distance = value - now
    is_over = distance < timedelta(0)
    seconds = round(abs(distance).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            amount = f"{seconds // size}{unit}"
            break
    else:
        amount = f"{seconds}s"
    return f"{amount} ago" if is_over else f"in {amount}"
