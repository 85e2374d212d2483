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
    if curve := curve_of(figures):
        shown = " ".join(number(value) for value in curve)
        console.print(f"memory in MB, each 10 s: {spark(curve)}  {shown}", highlight=False)


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


def curve_of(figures: Figures) -> Sequence[float]:
    """The medians of the figures that are a curve, in the order of their keys."""
    start = figures.benchmark.curve
    keys = {key for sample in figures.samples for key in sample if start and key.startswith(start)}
    return [value for key in sorted(keys) if (value := figures.median(key)) is not None]


def spark(values: Sequence[float]) -> str:
    """A line as high as the values, from the least to the most of them."""
    least, span = min(values), max(values) - min(values)
    marks = "▁▂▃▄▅▆▇█"
    return "".join(marks[round((v - least) / span * 7) if span else 0] for v in values)


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
        "curve": curve_of(figures),
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
