"""The update that counts a run in the statistics of its agent."""

from typing import Any

from service.domain.execution import Outcome
from service.domain.severity import Severity


def counted(outcome: Outcome) -> list[dict[str, Any]]:
    """Add one run to `stats`, computed by the server from what is there, so no update is lost.

    What is there may be nothing, of any type, or the predecessor's: where it kept no
    `successful_executions`, they follow from its total and its rate.
    """
    total = _count("$stats.total_executions")
    successes = {
        "$ifNull": [
            _number("$stats.successful_executions"),
            {"$round": {"$divide": [{"$multiply": [total, _rate()]}, 100]}},
        ]
    }
    success = 1 if outcome.severity is Severity.SUCCESS else 0
    stats = {
        "total_executions": "$$total",
        "successful_executions": "$$successes",
        "success_rate": {
            "$round": [
                {"$multiply": [{"$divide": [{"$toDouble": "$$successes"}, "$$total"]}, 100]},
                1,
            ]
        },
        "last_execution": outcome.completed_at,
    }
    kept = {"$cond": [{"$eq": [{"$type": "$stats"}, "object"]}, "$stats", {}]}
    sums = {
        "total": {"$toInt": {"$add": [total, 1]}},
        "successes": {"$toInt": {"$add": [successes, success]}},
    }
    return [{"$set": {"stats": {"$let": {"vars": sums, "in": {"$mergeObjects": [kept, stats]}}}}}]


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
