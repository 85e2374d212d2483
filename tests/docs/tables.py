"""The tables of the pages, for tests that hold them against the code."""

import re

from tests.docs.pages import ROOT

_CODE = re.compile(r"`([^`]+)`")
_CELLS = re.compile(r"(?<!\\)\|")


def section(page: str, heading: str) -> str:
    """What stands between a heading and the next one."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"# {heading}\n")
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def table(page: str, heading: str, place: int = 0) -> list[list[str]]:
    """The rows of a table below a heading, as cells of text; the first has the names."""
    tables = re.findall(r"(?:^\|.*\n)+", section(page, heading), re.MULTILINE)
    names, _, *rows = tables[place].splitlines()
    return [[cell.strip() for cell in _CELLS.split(row)[1:-1]] for row in (names, *rows)]


def codes(cell: str) -> list[str]:
    """What stands in backquotes."""
    return _CODE.findall(cell)


def column(page: str, heading: str, at: int = 0, place: int = 0) -> list[str]:
    """What stands in backquotes in a column of a table."""
    _, *rows = table(page, heading, place)
    return [code for row in rows for code in codes(row[at])]
