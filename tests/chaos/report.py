"""What people see of a run: its plan, its totals, and whether everything held."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from bson.json_util import dumps
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.chaos.history import History, has_run
from tests.chaos.plan import Fault

_SHOWN = 20
_SHOWN_OF_EACH = 5
_AFTERMATH = timedelta(seconds=15)
_KEPT = ("documents", "rows", "jobs", "not_ready", "began", "healed", "jobs_read", "settled")
_KEPT_VALUES = ("agents", "calls", "writes", "faults", "exits")


@dataclass(frozen=True, slots=True)
class Totals:
    """A run in numbers."""

    seed: int
    faults: int
    writes: int
    slots: int
    starts: int
    retries: int
    takeovers: int
    exits: int
    worst_ms: int
    violations: int


def totals_of(seed: int, history: History, violations: Mapping[str, Sequence[str]]) -> Totals:
    """Count what happened."""
    calls = Counter(call.execution_id for call in history.calls)
    late = [row["lateness_ms"] for row in history.rows if has_run(row)]
    interrupted = (r["reason"] == "interrupted" or len(r["attempts"]) > 1 for r in history.rows)
    return Totals(
        seed=seed,
        faults=len(history.faults),
        writes=len(history.writes),
        slots=sum(row.get("slots_missed") or 1 for row in history.rows),
        starts=len(calls),
        retries=calls.total() - len(calls),
        takeovers=sum(interrupted),
        exits=len(history.exits),
        worst_ms=max(late, default=0),
        violations=sum(map(len, violations.values())),
    )


def show_plan(console: Console, plan: Sequence[Fault]) -> None:
    """Every fault, by the time at which it strikes."""
    for fault in plan:
        console.print(escape(str(fault)), highlight=False)


def show_run(
    console: Console, totals: Totals, history: History, violations: Mapping[str, Sequence[str]]
) -> None:
    """The faults and what they led to, then the verdict."""
    console.print(_faults_of(history))
    show_totals(console, [totals])
    for leaving in history.exits:
        last = leaving.said.rpartition("\n")[2][:400]
        said = f"replica {leaving.replica} ended with {leaving.code}: {last}"
        console.print(escape(said), style="yellow", highlight=False)
    _show_violations(console, violations)
    counts = ", ".join(f"{len(said)} x {name}" for name, said in violations.items() if said)
    if counts:
        console.print(f"FAILED, seed {totals.seed}: {counts}", style="bold red", highlight=False)
    else:
        held = f"PASSED, seed {totals.seed}: all {len(violations)} invariants held"
        console.print(held, style="bold green", highlight=False)


def _show_violations(console: Console, violations: Mapping[str, Sequence[str]]) -> None:
    """The first few of each invariant, so that many of one do not hide another."""
    found = [f"{name}: {one}" for name, said in violations.items() for one in said[:_SHOWN_OF_EACH]]
    for sentence in found[:_SHOWN]:
        console.print(escape(sentence), style="red", highlight=False)
    if (more := sum(map(len, violations.values())) - len(found[:_SHOWN])) > 0:
        console.print(f"… and {more} more", style="red")


def show_totals(console: Console, them: Sequence[Totals]) -> None:
    """A line for each run."""
    table = Table(title="Totals")
    names = asdict(them[0]) if them else {}
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for totals in them:
        style = "red" if totals.violations else ""
        table.add_row(*(str(value) for value in asdict(totals).values()), style=style)
    console.print(table)


def keep(folder: Path, history: History) -> None:
    """Leave everything that was read in the folder, as extended JSON."""
    facts = {name: getattr(history, name) for name in _KEPT}
    for name in _KEPT_VALUES:
        facts[name] = [asdict(value) for value in getattr(history, name)]
    (folder / "history.json").write_text(dumps(facts, indent=1), encoding="utf-8")


def _faults_of(history: History) -> Table:
    table = Table(title="Faults, and slots that came due during one or within 15 s after it")
    for name in ("fault", "struck", "failed", "slots run", "median late ms", "worst late ms"):
        table.add_column(name, justify="left" if name == "fault" else "right")
    for kind in sorted({struck.kind for struck in history.faults}):
        those = [struck for struck in history.faults if struck.kind == kind]
        late = _lateness_after(history, kind)
        table.add_row(
            kind,
            str(len(those)),
            str(sum(struck.failed is not None for struck in those)),
            *(str(len(late)), str(late[len(late) // 2] if late else 0), str(max(late, default=0))),
        )
    return table


def _lateness_after(history: History, kind: str) -> list[int]:
    """How late those slots started, of agents whose slots do not wait for the run before."""
    queueing = {a.agent_id for a in history.agents if a.schedule.get("overlap") == "queue_one"}
    spans = [(f.began, f.ended + _AFTERMATH) for f in history.faults if f.kind == kind]
    return sorted(
        row["lateness_ms"]
        for row in history.rows
        if has_run(row) and row["trigger"] == "schedule" and row["councilor_id"] not in queueing
        if any(began <= row["scheduled_for"] <= ended for began, ended in spans)
    )
