"""Tables for people, JSON for programs: what the commands print."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from service.cells import coloured, instant, text
from service.checking import Finding
from service.domain.why import Why
from service.inquiry import explained
from service.views import history_table, jobs_summary, jobs_table

_PIPE_WIDTH = 200


def show_jobs(
    items: Sequence[Mapping[str, object]], total: int, now: datetime, *, as_json: bool
) -> None:
    """Print the items of `/jobs`, some of `total`."""
    if as_json:
        print_json(items)
        return
    out = console()
    if items:
        out.print(jobs_table(items, now, out.width))
        out.print()
    out.print(jobs_summary(items, total, now))


def show_history(rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows of the ledger."""
    if as_json:
        print_json(rows)
        return
    out = console()
    out.print(history_table(rows, out.width) if rows else "no executions")


def show_why(agent_id: str, found: Why, *, as_json: bool) -> None:
    """Print what became of a slot."""
    if as_json:
        print_json(explained(agent_id, found))
        return
    out = console()
    slot = f"{instant(found.slot)} UTC" if found.slot is not None else "no slot"
    head = Text.assemble(text(agent_id, "bold"), f"  {slot}  ", coloured(found.fate.value))
    out.print(head)
    out.print(text(found.text), soft_wrap=False)


def show_findings(
    findings: Sequence[Finding], sources: Sequence[str], *, as_json: bool, with_runs: bool
) -> None:
    """Print what `check` found, each with the file that it is about, if any, and its next runs."""
    if as_json:
        found = zip(findings, sources, strict=True)
        print_json([{**asdict(finding), "file": source or None} for finding, source in found])
        return
    out = console()
    if not findings:
        out.print("no councilors")
        return
    widths = (min(30, max(12, *(len(finding.agent_id or "") for finding in findings))), 13, 19, 10)
    titles = ("agent", "state", "next run (UTC)", "runs a day", "what it means")
    out.print(_row(widths, *(Text(title, style="bold") for title in titles)))
    for finding, source in zip(findings, sources, strict=True):
        row = _row(
            widths,
            text(finding.agent_id or "(none)"),
            coloured(finding.state.replace("_", " ")),
            Text(instant(finding.next_runs[0]) if finding.next_runs else ""),
            Text(_rate(finding.runs_per_day)),
            text(finding.explanation),
        )
        out.print(row)
        notes = [*_notes(finding, source)]
        if with_runs:
            notes += [Text(instant(run), style="dim") for run in finding.next_runs]
        for note in notes:
            out.print(Padding(note, (0, 0, 0, 4), expand=False))
    out.print(Text(f"\n{_summary(findings)}"))


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
        yield text(source, "dim")
    if finding.error is not None:
        field, message = finding.error["field"], finding.error["message"]
        said = message if message.startswith(field) else f"{field}: {message}"
        yield text(said, "red")
        yield text(f"→ {finding.error['hint']}", "red")
    for warning in finding.warnings:
        yield text(f"! {warning}", "yellow")


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


def show_answer(answer: Mapping[str, object], *, as_json: bool) -> None:
    """Print what came of a wish for one agent."""
    if as_json:
        print_json(answer)
        return
    console().print(text(f"{answer['agent_id']}: {answer['said']}"), soft_wrap=True)


def console() -> Console:
    """Standard output, for people: as wide as the terminal, or as COLUMNS says."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return Console(highlight=False)
    return Console(highlight=False, width=_PIPE_WIDTH)  # a pipe has no width of its own


def print_json(content: object) -> None:
    """Print what programs read."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z
    sys.stdout.buffer.write(orjson.dumps(content, default=str, option=options) + b"\n")
    sys.stdout.flush()
