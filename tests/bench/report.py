"""What people and programs see of the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.figures import Figures, Row


def show_machine(console: Console, machine: Mapping[str, str | int]) -> None:
    """One line of what the figures were measured on."""
    said = ", ".join(f"{name} {value}" for name, value in machine.items())
    console.print(f"machine: {said}", highlight=False)


def show(console: Console, figures: Figures) -> None:
    """The medians of a benchmark at one size, and between which values the runs were."""
    console.print(table_of(figures))


def table_of(figures: Figures) -> Table:
    """A line for each row that was measured."""
    benchmark, runs = figures.benchmark, len(figures.samples)
    title = f"{benchmark.name}, n = {figures.n:,}: median of {runs}"
    table = Table(title=title, caption=benchmark.about, title_justify="left")
    table.add_column("figure")
    for name in ("median", "least … most", "unit", "growth", "APScheduler"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in benchmark.rows:
        median = figures.median(row.key)
        if median is not None:
            values = figures.values(row.key)
            span = f"{number(min(values))} … {number(max(values))}"
            stock = _stock(figures, row)
            table.add_row(row.label, number(median), span, row.unit, row.growth, stock)
    return table


def _stock(figures: Figures, row: Row) -> str:
    value = figures.median(row.stock)
    return row.stock if value is None else number(value)


def number(value: float) -> str:
    """Three digits that mean something, and all of those before the point."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def content_of(machine: Mapping[str, str | int], them: Sequence[Figures]) -> dict[str, Any]:
    """Everything, for programs."""
    return {"machine": dict(machine), "benchmarks": [_content(figures) for figures in them]}


def _content(figures: Figures) -> dict[str, Any]:
    rows = {row.key: _row(figures, row) for row in figures.benchmark.rows}
    return {
        "name": figures.benchmark.name,
        "n": figures.n,
        "figures": {key: row for key, row in rows.items() if row["median"] is not None},
    }


def _row(figures: Figures, row: Row) -> dict[str, Any]:
    return {
        "label": row.label,
        "unit": row.unit,
        "growth": row.growth,
        "median": figures.median(row.key),
        "runs": figures.values(row.key),
        "apscheduler": row.stock or None
        if figures.median(row.stock) is None
        else figures.median(row.stock),
    }
