"""The update that writes `councilor_status`, and the filter that keeps it off changed documents."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from bson.raw_bson import RawBSONDocument

from service.adapters.mongo.documents import RAW
from service.domain.execution import milliseconds
from service.domain.interval import Every
from service.domain.jobs import JobSpec, JobState
from service.domain.verdict import REMEMBERED_STATES, SHOWN_RUNS, SKIPPED_FORMAT, Verdict, error_of

JUDGED = ("agent_id", "is_councilor", "councilor_config")


def guarded_filter(document_id: Any, revision: object) -> dict[str, Any]:
    """Match the document only where what was judged is still there, to the byte.

    Stronger than a hash, which the server could not compute. What could not be decoded cannot be
    sent back either: such a document is matched by its `_id`.
    """
    wanted: dict[str, Any] = {"_id": document_id}
    if not isinstance(revision, bytes):
        return wanted
    # Raw where it is a document: an equal one decodes and encodes to these bytes, always.
    read = RawBSONDocument(revision, RAW)
    for name in JUDGED:
        wanted[name] = {"$eq": read[name]} if name in read else {"$exists": False}
    return wanted


def verdict_update(verdict: Verdict, status_read: object) -> list[dict[str, Any]]:
    """Set the status. The first acceptance of a spec is the server's time, and is never moved.

    It is carried over from `carried_at` where the document has lost it. The slot that `skip_next`
    takes out stays where it is if somebody has settled on one since `status_read`.
    """
    left = {"$filter": {"input": "$$slots", "cond": {"$ne": ["$$this", "$$skipped_slot"]}}}
    status = {
        "state": _literal(verdict.state.value),
        "spec_hash": _literal(verdict.spec_hash),
        "accepted_at": "$$accepted_at",
        "error": _literal(error_of(verdict.problem)),
        "explanation": _explanation(verdict),
        "timezone": _literal(verdict.timezone),
        "next_runs": {"$slice": [left, SHOWN_RUNS]},
        "skipped_slot": {"$ifNull": ["$$skipped_slot", "$$REMOVE"]},
        "observed_at": "$$NOW",
        "history": _history(verdict),
    }
    # An expression takes the place of the old value, whatever type that had; a plain document
    # would be merged into it.
    replacement = _let(
        accepted_at=_accepted_at(verdict),
        then=_let(
            slots=_slots(verdict),
            then=_let(skipped_slot=_skipped_slot(verdict, status_read), then=status),
        ),
    )
    return [{"$set": {"councilor_status": replacement}}]


def skipping_update(slot: datetime) -> list[dict[str, Any]]:
    """Say that `skip_next` takes out this slot, beside whatever the status says."""
    is_document = {"$eq": [{"$type": "$councilor_status"}, "object"]}
    status = {"$cond": [is_document, "$councilor_status", {}]}
    return [{"$set": {"councilor_status": {"$mergeObjects": [status, {"skipped_slot": slot}]}}}]


def _skipped_slot(verdict: Verdict, status_read: object) -> Any:
    if verdict.spec is not None and not verdict.spec.skip_next:
        return None
    there = "$councilor_status.skipped_slot"
    read = status_read.get("skipped_slot") if isinstance(status_read, Mapping) else None
    is_another = [{"$eq": [{"$type": there}, "date"]}, {"$ne": [there, _literal(read)]}]
    wanted: Any = _literal(verdict.skipped_slot)
    if verdict.skips_first:
        wanted = {"$arrayElemAt": ["$$slots", 0]}
    return {"$cond": [{"$and": is_another}, there, wanted]}


def _history(verdict: Verdict) -> Any:
    """The states of late, each with the time since which it holds, the present one last."""
    there = "$councilor_status.history"
    state: dict[str, Any] = {"state": _literal(verdict.state.value), "since": "$$NOW"}
    if verdict.problem is not None:
        state["error"] = _literal(verdict.problem.message)
    longer = {"$slice": [{"$concatArrays": ["$$there", [state]]}, -REMEMBERED_STATES]}
    is_same = {
        "$and": [
            {"$eq": ["$$last.state", state["state"]]},
            {"$eq": [{"$ifNull": ["$$last.error", None]}, state.get("error")]},
        ]
    }
    is_ours = [{"$eq": [{"$type": "$councilor_status"}, "object"]}, {"$isArray": there}]
    return _let(
        there={"$cond": [{"$and": is_ours}, there, []]},
        then=_let(last={"$last": "$$there"}, then={"$cond": [is_same, "$$there", longer]}),
    )


def _explanation(verdict: Verdict) -> Any:
    if verdict.explanation is None:
        return None
    said = {"$dateToString": {"date": "$$skipped_slot", "format": SKIPPED_FORMAT}}
    is_to_come = {"$gt": ["$$skipped_slot", "$$NOW"]}  # nothing is less than any date
    return {"$concat": [_literal(verdict.explanation), {"$cond": [is_to_come, said, ""]}]}


def _accepted_at(verdict: Verdict) -> dict[str, Any]:
    accepted_before = [
        {"$eq": ["$councilor_status.spec_hash", _literal(verdict.spec_hash)]},
        {"$eq": [{"$type": "$councilor_status.accepted_at"}, "date"]},
    ]
    otherwise: Any = "$$NOW" if verdict.spec is not None else None
    if verdict.carried_at is not None:
        otherwise = _literal(verdict.carried_at)
    return {"$cond": [{"$and": accepted_before}, "$councilor_status.accepted_at", otherwise]}


def _slots(verdict: Verdict) -> dict[str, Any]:
    """The next slots, one more than are shown."""
    if verdict.state is not JobState.SCHEDULED or verdict.spec is None:
        return _literal([])
    if not isinstance(verdict.spec.schedule, Every):
        return {"$filter": {"input": verdict.upcoming, "cond": {"$gt": ["$$this", "$$NOW"]}}}
    return _interval_slots(verdict.spec, verdict.spec.schedule)


def _interval_slots(spec: JobSpec, schedule: Every) -> dict[str, Any]:
    """Slots are counted from an instant that only the server knows, so the server counts them."""
    period = milliseconds(schedule.period)
    origin = {"$add": ["$$accepted_at", milliseconds(spec.delay)]}
    after: Any = "$$NOW"
    if spec.paused_until is not None:
        after = {"$max": ["$$NOW", _literal(spec.paused_until - timedelta(milliseconds=1))]}
    past = {"$floor": {"$divide": [{"$subtract": [after, "$$origin"]}, period]}}
    first = {"$max": [{"$add": [past, 1]}, 1]}
    slot = {"$add": ["$$origin", {"$multiply": [{"$add": ["$$first", "$$this"]}, period]}]}
    slots = {"$map": {"input": list(range(SHOWN_RUNS + 1)), "in": slot}}
    return _let(origin=origin, then=_let(first=first, then=slots))


def _let(*, then: Any, **variables: Any) -> dict[str, Any]:
    return {"$let": {"vars": variables, "in": then}}


def _literal(value: Any) -> dict[str, Any]:
    """Keep a text that begins with `$` from being read as a path."""
    return {"$literal": value}
