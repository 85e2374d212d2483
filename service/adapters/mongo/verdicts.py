"""The update that writes `councilor_status`, and the filter that keeps it off changed documents."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from service.domain.execution import milliseconds
from service.domain.interval import Every
from service.domain.planning import JobSpec, JobState
from service.domain.verdict import SHOWN_RUNS, Verdict, error_of

_JUDGED = ("agent_id", "is_councilor", "councilor_config")


def guarded_filter(document_id: Any, revision: object) -> dict[str, Any]:
    """Match the document only where what was judged is still there, to the byte.

    Stronger than a hash, which the server could not compute. What could not be decoded cannot be
    sent back either: such a document is matched by its `_id`.
    """
    wanted: dict[str, Any] = {"_id": document_id}
    if not isinstance(revision, Mapping):
        return wanted
    for name in _JUDGED:
        there = name in revision
        wanted[name] = {"$eq": revision[name]} if there else {"$exists": False}
    return wanted


def verdict_update(verdict: Verdict) -> list[dict[str, Any]]:
    """Set the status. The first acceptance of a spec is the server's time, and is never moved.

    It is carried over from `carried_at` where the document has lost it.
    """
    status = {
        "state": _literal(verdict.state.value),
        "spec_hash": _literal(verdict.spec_hash),
        "accepted_at": "$$accepted_at",
        "error": _literal(error_of(verdict.problem)),
        "explanation": _literal(verdict.explanation),
        "timezone": _literal(verdict.timezone),
        "next_runs": _next_runs(verdict),
        "observed_at": "$$NOW",
    }
    # An expression takes the place of the old value, whatever type that had; a plain document
    # would be merged into it.
    replacement = {"$let": {"vars": {"accepted_at": _accepted_at(verdict)}, "in": status}}
    return [{"$set": {"councilor_status": replacement}}]


def _accepted_at(verdict: Verdict) -> dict[str, Any]:
    accepted_before = [
        {"$eq": ["$councilor_status.spec_hash", _literal(verdict.spec_hash)]},
        {"$eq": [{"$type": "$councilor_status.accepted_at"}, "date"]},
    ]
    otherwise: Any = "$$NOW" if verdict.spec is not None else None
    if verdict.carried_at is not None:
        otherwise = _literal(verdict.carried_at)
    return {"$cond": [{"$and": accepted_before}, "$councilor_status.accepted_at", otherwise]}


def _next_runs(verdict: Verdict) -> dict[str, Any]:
    if verdict.state is not JobState.SCHEDULED or verdict.spec is None:
        return _literal([])
    if not isinstance(verdict.spec.schedule, Every):
        later = {"$filter": {"input": verdict.upcoming, "cond": {"$gt": ["$$this", "$$NOW"]}}}
        return {"$slice": [later, SHOWN_RUNS]}
    return _next_interval_runs(verdict.spec, verdict.spec.schedule)


def _next_interval_runs(spec: JobSpec, schedule: Every) -> dict[str, Any]:
    """Slots are counted from an instant that only the server knows, so the server counts them."""
    period = milliseconds(schedule.period)
    origin = {"$add": ["$$accepted_at", milliseconds(spec.delay)]}
    after: Any = "$$NOW"
    if spec.paused_until is not None:
        after = {"$max": ["$$NOW", _literal(spec.paused_until - timedelta(milliseconds=1))]}
    past = {"$floor": {"$divide": [{"$subtract": [after, "$$origin"]}, period]}}
    first = {"$max": [{"$add": [past, 1]}, 1]}
    slot = {"$add": ["$$origin", {"$multiply": [{"$add": ["$$first", "$$this"]}, period]}]}
    slots = {"$map": {"input": list(range(SHOWN_RUNS)), "in": slot}}
    return {
        "$let": {
            "vars": {"origin": origin},
            "in": {"$let": {"vars": {"first": first}, "in": slots}},
        }
    }


def _literal(value: Any) -> dict[str, Any]:
    """Keep a text that begins with `$` from being read as a path."""
    return {"$literal": value}
