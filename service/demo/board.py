"""What the demo shows at a glance: the table of councilors, the facts at the end, what to try."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from service.adapters.mongo.writer import Standing
from service.demo.facts import Fact

_STYLES = {
    "success": "green",
    "scheduled": "green",
    "warning": "yellow",
    "paused": "yellow",
    "error": "red",
    "invalid": "red",
}
_SIGNS = {True: Text("✔", "green"), False: Text("✖", "bold red"), None: Text("·", "dim")}


def councilors(standings: Sequence[Standing], now: datetime) -> RenderableType:
    """One line for each councilor."""
    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim"
    )
    for column in ("councilor", "state", "schedule", "next run", "last run"):
        table.add_column(column)
    table.add_column("runs", justify="right")
    for standing in standings:
        meaning = Text(standing.explanation)
        if standing.error is not None:
            meaning = Text(standing.error, "red")
        table.add_row(
            Text(standing.name, "bold"),
            _coloured(standing.state),
            meaning,
            _until(standing.next_run_at, now),
            _coloured(standing.last_severity or "none yet"),
            str(standing.runs),
        )
    return table


def closing(facts: Sequence[Fact]) -> RenderableType:
    """The facts, one below the other."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for fact in facts:
        style = "" if fact.holds is not False else "bold red"
        table.add_row(_SIGNS[fact.holds], Text(fact.figure, "bold"), Text(fact.meaning, style))
    return table


def suggestions(pairs: Sequence[tuple[str, str]]) -> RenderableType:
    """What to type, and what comes of it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for command, meaning in pairs:
        table.add_row(Text(command, "bold cyan"), Text(meaning))
    return table


def _coloured(word: str) -> Text:
    return Text(word, _STYLES.get(word, "dim"))


def _until(instant: datetime | None, now: datetime) -> Text:
    if instant is None:
        return Text("never", "dim")
    return Text("now" if instant <= now else f"in {_ceiling(instant - now)} s")


def _ceiling(duration: timedelta) -> int:
    return -(-duration // timedelta(seconds=1))
