"""The update that counts a run in the statistics of its agent."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from typing import Any

from service.adapters.mongo.bulks import entry_of
from service.domain.severity import Severity

_REMEMBERED = 20
"""More runs than an agent can have while a crash keeps one from being counted."""
_LARGEST = 2**31 - 2
_TENTH = Decimal("0.1")
SUMS = ("total_executions", "successful_executions", "last_execution", "counted")
"""The fields of `stats` that others follow from."""


@dataclass(frozen=True, slots=True)
class CountedRun:
    """What the statistics need to know of a run that has ended."""

    execution_id: str
    severity: Severity
    completed_at: datetime


@dataclass(frozen=True, slots=True)
class Sums:
    """What of the statistics is read, and what is set then."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]


def counted_in(stats: object, run: CountedRun) -> Sums | None:
    """Add a run to statistics that were read, for a third of what it costs the server to add it.

    Only where they are what this service writes, or nothing; None where the server has to look at
    what is there.
    """
    if stats is None:
        before: dict[str, Any] = {}
    elif isinstance(stats, Mapping) and _is_of_ours(stats):
        before = {name: stats[name] for name in SUMS}
    else:
        return None
    mark, marks = _mark_of(run), before.get("counted", [])
    if mark in marks:
        return Sums(before, before)
    total = before.get("total_executions", 0) + 1
    successes = before.get("successful_executions", 0) + (run.severity is Severity.SUCCESS)
    latest = before.get("last_execution")
    after = {
        "total_executions": total,
        "successful_executions": successes,
        "success_rate": rate_of(successes, total),
        "last_execution": max(latest, run.completed_at) if latest else run.completed_at,
        "counted": [mark, *marks][:_REMEMBERED],
    }
    return Sums(before, after)


def summed(agents: Sequence[tuple[Any, str, Sums]]) -> list[dict[str, Any]]:
    """Set the statistics of agents, by `_id` and `agent_id`, that are what they were before.

    A document that somebody else has counted in meanwhile, or that is another's, stays as it is.
    """
    entry = entry_of(
        [document_id for document_id, _, _ in agents],
        [
            {"before": {"agent_id": agent_id, **sums.before}, "after": sums.after}
            for _, agent_id, sums in agents
        ],
    )
    there = {"agent_id": "$agent_id", **{name: f"$stats.{name}" for name in SUMS}}
    added = {"$mergeObjects": ["$stats", "$$entry.after"]}
    stats = {"$cond": [{"$eq": [there, "$$entry.before"]}, added, "$stats"]}
    return [{"$set": {"stats": {"$let": {"vars": {"entry": entry}, "in": stats}}}}]


@lru_cache(maxsize=4_096)
def rate_of(successes: int, total: int) -> float:
    """In percent, with one decimal, rounded as the server rounds: half to even, in decimals."""
    return float(Decimal(repr(successes / total * 100)).quantize(_TENTH, ROUND_HALF_EVEN))


def _is_of_ours(stats: Mapping[str, Any]) -> bool:
    counts = (stats.get("total_executions"), stats.get("successful_executions"))
    marks = stats.get("counted")
    return (
        all(type(count) is int and 0 <= count < _LARGEST for count in counts)
        and isinstance(marks, list)
        and all(type(mark) is str for mark in marks)
        and isinstance(stats.get("last_execution"), datetime)
    )


def _mark_of(run: CountedRun) -> str:
    return hashlib.sha256(run.execution_id.encode()).hexdigest()[:8]


def counted(run: CountedRun) -> list[dict[str, Any]]:
    """Add a run to `stats`, computed by the server from what is there, so no update is lost.

    `stats.counted` remembers the latest runs: one that is there already changes nothing. So a
    crash between the ledger and the statistics is mended by asking again. What is there before may
    be nothing, of any type, or the predecessor's: where it kept no `successful_executions`, they
    follow from its total and its rate.
    """
    mark = _mark_of(run)
    success = 1 if run.severity is Severity.SUCCESS else 0
    stats = {
        **_FROM_SUMS,
        "last_execution": {"$max": ["$stats.last_execution", run.completed_at]},
        "counted": {"$slice": [{"$concatArrays": [[mark], _MARKS]}, _REMEMBERED]},
    }
    sums = {"total": _TOTAL, "successes": {"$toInt": {"$add": [_SUCCESSES, success]}}}
    new = {"$let": {"vars": sums, "in": {"$mergeObjects": [_KEPT, stats]}}}
    return [{"$set": {"stats": {"$cond": [{"$in": [mark, _MARKS]}, "$stats", new]}}}]


def _number(path: str) -> dict[str, Any]:
    """The whole number at a path, or null where there is none that could be a count."""
    sane = [{"$isNumber": path}, {"$gte": [path, 0]}, {"$lt": [path, _LARGEST]}]
    return {"$cond": [{"$and": sane}, {"$trunc": path}, None]}


def _count(path: str) -> dict[str, Any]:
    return {"$ifNull": [_number(path), 0]}


def _rate() -> dict[str, Any]:
    path = "$stats.success_rate"
    sane = [{"$isNumber": path}, {"$gte": [path, 0]}, {"$lte": [path, 100]}]
    return {"$cond": [{"$and": sane}, path, 0]}


_MARKS = {"$cond": [{"$isArray": "$stats.counted"}, "$stats.counted", []]}
_KEPT = {"$cond": [{"$eq": [{"$type": "$stats"}, "object"]}, "$stats", {}]}
_TOTAL = {"$toInt": {"$add": [_count("$stats.total_executions"), 1]}}
_SUCCESSES = {
    "$ifNull": [
        _number("$stats.successful_executions"),
        {"$round": {"$divide": [{"$multiply": [_count("$stats.total_executions"), _rate()]}, 100]}},
    ]
}
_FROM_SUMS = {
    "total_executions": "$$total",
    "successful_executions": "$$successes",
    "success_rate": {
        "$round": [
            {"$multiply": [{"$divide": [{"$toDouble": "$$successes"}, "$$total"]}, 100]},
            1,
        ]
    },
}
