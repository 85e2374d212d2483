"""What can be said for certain at the end of the demo, from the ledger and who else kept count."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

from service.adapters.mongo.writer import Row


@dataclass(slots=True)
class Window:
    """A time in which the writer wanted no run of an agent; open while `until` is None."""

    agent_id: str
    is_pause: bool
    since: datetime
    until: datetime | None = None

    def holds(self, slot: datetime) -> bool:
        """Tell whether a slot came due in it."""
        return self.since <= slot and (self.until is None or slot < self.until)


@dataclass(frozen=True, slots=True)
class Calls:
    """What the stand-in Conductor counted by itself."""

    total: int
    repeated: Sequence[str]


@dataclass(frozen=True, slots=True)
class Fact:
    """A figure and what it means; `holds` is None where nothing was promised."""

    figure: str
    meaning: str
    holds: bool | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the facts follow from."""

    rows: Sequence[Row]
    totals: Mapping[str, int]
    windows: Sequence[Window]
    calls: Calls
    reactions_ms: Sequence[float]


def facts_of(evidence: Evidence) -> list[Fact]:
    """The facts, in the order in which they are told."""
    starts = [row for row in evidence.rows if row.started_at is not None]
    return [
        _recorded(starts),
        *_skipped(evidence.rows),
        _twice(starts),
        _called(starts, evidence.calls),
        _overlaps(starts),
        *_unwanted(starts, evidence.windows),
        _counted(starts, evidence.totals),
        *_lateness(starts),
        *_reactions(evidence.reactions_ms),
    ]


def _recorded(starts: Sequence[Row]) -> Fact:
    severities = Counter(row.severity for row in starts)
    shares = [f"{severities[name]} {name}" for name in ("success", "warning", "error")]
    if open_rows := severities[None]:
        shares.append(f"{open_rows} still running")
    return Fact(str(len(starts)), f"runs recorded: {', '.join(shares)}", not open_rows)


def _skipped(rows: Sequence[Row]) -> list[Fact]:
    reasons = Counter(row.reason or "" for row in rows if row.started_at is None)
    if not reasons:
        return []
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    return [Fact(str(reasons.total()), f"slots without a run, each with its reason: {told}")]


def _twice(starts: Sequence[Row]) -> Fact:
    slots = Counter(
        (row.councilor_id, row.scheduled_for) for row in starts if row.trigger != "manual"
    )
    twice = sum(count > 1 for count in slots.values())
    return Fact(str(twice), f"slots run twice, of {len(slots)} that were due and ran", twice == 0)


def _called(starts: Sequence[Row], calls: Calls) -> Fact:
    meaning = f"calls counted by the Conductor, {len(calls.repeated)} of them repeated"
    return Fact(str(calls.total), meaning, not calls.repeated and calls.total == len(starts))


def _overlaps(starts: Sequence[Row]) -> Fact:
    by_agent: defaultdict[str, list[tuple[datetime, datetime | None]]] = defaultdict(list)
    for row in starts:
        assert row.started_at is not None
        by_agent[row.councilor_id].append((row.started_at, row.completed_at))
    overlaps = sum(
        end is None or begin < end
        for spans in by_agent.values()
        for (_, end), (begin, _) in pairwise(sorted(spans, key=lambda span: span[0]))
    )
    return Fact(str(overlaps), "runs begun before the agent's previous one ended", overlaps == 0)


def _unwanted(starts: Sequence[Row], windows: Sequence[Window]) -> list[Fact]:
    """Judged by the slots that came due; a run that was asked for runs in a pause too."""
    facts = []
    for is_pause, word in ((True, "pause"), (False, "demotion")):
        chosen = [window for window in windows if window.is_pause is is_pause]
        started = sum(
            row.trigger != "manual"
            and any(w.agent_id == row.councilor_id and w.holds(row.scheduled_for) for w in chosen)
            for row in starts
        )
        if chosen:
            many = "" if len(chosen) == 1 else "s"
            during = "during a pause" if is_pause else "after a demotion"
            meaning = f"runs started {during} ({len(chosen)} {word}{many})"
            facts.append(Fact(str(started), meaning, started == 0))
    return facts


def _counted(starts: Sequence[Row], totals: Mapping[str, int]) -> Fact:
    counted, recorded = sum(totals.values()), Counter(row.councilor_id for row in starts)
    is_same = all(totals.get(agent, 0) == count for agent, count in recorded.items())
    meaning = "runs counted in the agents' statistics, as the ledger has them"
    return Fact(str(counted), meaning, is_same and counted == len(starts))


def _lateness(starts: Sequence[Row]) -> list[Fact]:
    late = [row.lateness_ms for row in starts if row.trigger == "schedule"]
    return _spread(late, "from a slot to the start of its run")


def _reactions(reactions_ms: Sequence[float]) -> list[Fact]:
    return _spread(reactions_ms, f"from an update to its effect ({len(reactions_ms)} updates)")


def _spread(values: Sequence[float], meaning: str) -> list[Fact]:
    shown: Callable[[float], str] = "{:.0f} ms".format
    if not values:
        return []
    return [Fact(shown(median(values)), f"{meaning}, median; {shown(max(values))} at worst")]
