"""The update that counts a run in the statistics of its agent."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.domain.severity import Severity

_REMEMBERED = 20
"""More runs than an agent can have while a crash keeps one from being counted."""


@dataclass(frozen=True, slots=True)
class CountedRun:
    """What the statistics need to know of a run that has ended."""

    execution_id: str
    severity: Severity
    completed_at: datetime


def counted(run: CountedRun) -> list[dict[str, Any]]:
    """Add a run to `stats`, computed by the server from what is there, so no update is lost.

    `stats.counted` remembers the latest runs: one that is there already changes nothing. So a
    crash between the ledger and the statistics is mended by asking again. What is there before may
    be nothing, of any type, or the predecessor's: where it kept no `successful_executions`, they
    follow from its total and its rate.
    """
    mark = hashlib.sha256(run.execution_id.encode()).hexdigest()[:8]
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
    sane = [{"$isNumber": path}, {"$gte": [path, 0]}, {"$lt": [path, 2**31 - 2]}]
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
