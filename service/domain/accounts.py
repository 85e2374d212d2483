"""What a row of the ledger says, in words for people."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum

from service.domain.execution import Reason, Status, Trigger

Row = Mapping[str, object]
"""A row of the ledger, as CONTRACT section 3 names its fields."""

_LONGEST_ERROR = 500
_FOR_EVER_MS = 10**12


class Fate(StrEnum):
    """What became of a slot."""

    RAN = "ran"
    FAILED = "failed"
    SKIPPED = "skipped"
    MISSED = "missed"
    RUNNING = "running"
    WAITING = "waiting"
    FUTURE = "future"
    PAUSED = "paused"
    INVALID = "invalid"
    NOT_PROMOTED = "not_promoted"
    UNKNOWN = "unknown"


def account_of(row: Row) -> tuple[Fate, str]:
    """What became of a slot that has this row, and how that went."""
    status = row.get("status")
    reason = str(row["reason"]) if row.get("reason") is not None else ""
    match status:
        case Status.COMPLETED:
            return Fate.RAN, f"It ran: {_run(row)}."
        case Status.ERROR:
            return Fate.FAILED, _failure(row, reason)
        case Status.RUNNING:
            since, owner = utc(row.get("started_at")), row.get("owner")
            return Fate.RUNNING, f"It is still running, since {since}, in {owner}."
        case Status.SKIPPED:
            return Fate.SKIPPED, f"It was skipped: {_NOT_RUN.get(reason, reason)}."
        case Status.MISSED:
            return Fate.MISSED, _missed(row, reason)
        case _:
            text = f'Its row was written by another program; it says "{status}".'
            return Fate.UNKNOWN, text


def _run(row: Row) -> str:
    took, late = row.get("duration_ms"), row.get("lateness_ms")
    parts = [f"started {utc(row.get('started_at'))}"]
    if isinstance(late, int):
        parts.append(f"{about(_ms(late))} after its slot")
    if isinstance(took, int):
        parts.append(f"took {about(_ms(took))}")
    if row.get("trigger") == Trigger.MANUAL:
        parts.append("since somebody asked for it")
    elif row.get("trigger") == Trigger.CATCH_UP:
        parts.append("to catch up on it")
    return f"{', '.join(parts)}; severity {row.get('severity')}"


def _failure(row: Row, reason: str) -> str:
    begin = (
        "It started and was interrupted" if reason == Reason.INTERRUPTED else "It ran and failed"
    )
    if reason in (Reason.CONDUCTOR_UNAVAILABLE, Reason.TIMEOUT):
        begin = "It started and failed"
    said = f": {str(row['error'])[:_LONGEST_ERROR]}" if row.get("error") else ""
    meaning = _FAILED.get(reason)
    return f"{begin}{f' ({meaning})' if meaning else ''}{said}. It {_run(row)}."


def _missed(row: Row, reason: str) -> str:
    count = row.get("slots_missed")
    others = ""
    if isinstance(count, int) and count > 1:
        span = f"{utc(row['scheduled_for'])} to {utc(row.get('last_slot'))}"
        others = f" One row stands for {count:,} slots, {span}."
    return f"It was missed: {_NOT_RUN.get(reason, reason)}.{others}"


_FAILED: Mapping[str, str] = {
    Reason.FAILED: "Conductor answered, and said so",
    Reason.TIMEOUT: "no answer within SCHEDULER_RUN_TIMEOUT",
    Reason.CONDUCTOR_UNAVAILABLE: "nobody was there, or only an overloaded gateway",
    Reason.CONDUCTOR_REJECTED: "Conductor did not take it",
    Reason.CONDUCTOR_DISCONNECTED: "the connection broke before the answer",
    Reason.INTERRUPTED: "the service stopped, or died, during the run",
}
_NOT_RUN: Mapping[str, str] = {
    Reason.OVERLAP: "the previous run was still running (overlap: skip)",
    Reason.SKIP_NEXT: "the document asked for it (skip_next)",
    Reason.PAUSED: "it was paused when the slot came due",
    Reason.DEMOTED: "the agent was no councilor any more when the slot came due",
    Reason.DELETED: "the agent was gone when the slot came due",
    Reason.INVALID: "its configuration was invalid when the slot came due",
    Reason.OUTAGE: "the scheduler was down, or could not reach MongoDB (an outage)",
    Reason.CAPACITY: "no place was free (SCHEDULER_MAX_CONCURRENT_RUNS)",
    Reason.CONDUCTOR_UNAVAILABLE: "Conductor was down, and when it was back this came too late",
    Reason.EDITED: "the schedule was changed between the slot and its start",
    Reason.STALE: "the request was more than an hour old when it was first seen",
}


def utc(value: object) -> str:
    """A date to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else "an unknown time"


def about(duration: timedelta) -> str:
    """A duration as people say it: 12 ms, 3.4 s, 5 min, 2 h 10 min, 3 days."""
    seconds = max(duration.total_seconds(), 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days"


def _ms(number: int) -> timedelta:
    """Another program may have written any number."""
    return timedelta(milliseconds=max(min(number, _FOR_EVER_MS), -_FOR_EVER_MS))
