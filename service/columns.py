"""Tables that fit a width: columns give way in a stated order, and what is said at length folds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

_GAP = 2
_INDENT = 4
Widths = Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One that takes `least` cells, and more where it has more to say.

    Where there is no room for all, the one with the lowest `goes` goes first; 0 stays.
    """

    title: str
    least: int
    goes: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A cell for each column, and lines of their own below."""

    cells: Sequence[Text]
    notes: Sequence[Text] = ()


def widths_in(columns: Sequence[Column], wanted: Sequence[int], room: int) -> Widths:
    """How wide each column may be where it would be as wide as is `wanted`; None: left out.

    One that wants nothing and may go, goes.
    """
    shown = {place for place, column in enumerate(columns) if wanted[place] or not column.goes}
    wanted = [wish or len(column.title) for column, wish in zip(columns, wanted, strict=True)]
    least = [min(column.least, wish) for column, wish in zip(columns, wanted, strict=True)]
    while _total([least[place] for place in shown]) > room:
        going = [place for place in shown if columns[place].goes]
        if not going:
            break
        shown.remove(min(going, key=lambda place: columns[place].goes))
    widths = {place: wanted[place] for place in shown}
    return _narrowed(widths, least, room, len(columns))


def _narrowed(
    widths: dict[int, int], least: Sequence[int], room: int, count: int
) -> list[int | None]:
    """Take what is too much from whichever is the widest, never below its least."""
    too_much = _total(widths.values()) - room
    while too_much > 0:
        wide = [place for place, width in widths.items() if width > least[place]]
        if not wide:
            break
        widths[max(wide, key=lambda place: widths[place])] -= 1
        too_much -= 1
    return [widths.get(place) for place in range(count)]


def _total(widths: Iterable[int]) -> int:
    whole = list(widths)
    return sum(whole) + _GAP * max(0, len(whole) - 1)


def wanted_by(columns: Sequence[Column], rows: Sequence[Row], room: int) -> Sequence[int]:
    """The widest cell of each column, or its title; 0 where it has nothing to say."""
    widest = [
        max((row.cells[place].cell_len for row in rows), default=0) for place in range(len(columns))
    ]
    return [
        min(room, max(width, len(column.title))) if width else 0
        for width, column in zip(widest, columns, strict=True)
    ]


def laid_out(columns: Sequence[Column], widths: Widths, rows: Sequence[Row]) -> RenderableType:
    """Rows below their titles, in the columns that have a width."""
    titles = Row([Text(column.title, "bold") for column in columns])
    parts: list[RenderableType] = []
    table = _grid(widths)
    for row in (titles, *rows):
        shown = zip(row.cells, widths, strict=True)
        table.add_row(*(cell for cell, width in shown if width is not None))
        if row.notes:  # they take the whole width, which no row of a table can
            parts += [table, *(Padding(note, (0, 0, 0, _INDENT)) for note in row.notes)]
            table = _grid(widths)
    return Group(*parts, table)


def _grid(widths: Widths) -> Table:
    grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, show_header=False)
    for width in widths:
        if width is not None:
            grid.add_column(width=width, overflow="fold")
    return grid
