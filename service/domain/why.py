"""What became of a slot, and why: the answer to "why did it (not) run?", in words for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.domain.accounts import Fate, Row, about, account_of, utc
from service.domain.config import instant_from
from service.domain.execution import Reason, Status
from service.domain.interval import interval_text
from service.domain.jobs import Job, JobState
from service.domain.schedule import Timetable

_SECOND = timedelta(seconds=1)
_NOTICED_WITHIN = timedelta(seconds=5)
"""A pause is noticed within milliseconds; while the database is away, a little later."""


@dataclass(frozen=True, slots=True)
class StateSince:
    """A state that a councilor was in from an instant on; `error` where it was invalid."""

    state: str
    since: datetime
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known about an agent around an instant.

    `row` is the latest row of a slot not after it, `request` the same of the runs that were asked
    for, `is_last` tells that no later slot has a row.
    """

    at: datetime
    now: datetime
    job: Job | None
    states: Sequence[StateSince]
    row: Row | None
    request: Row | None = None
    is_last: bool = False
    is_agent: bool = True
    kept_for: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """What became of `slot`; None where there is none. `row` is its row in the ledger, if any."""

    slot: datetime | None
    fate: Fate
    reason: str | None
    text: str
    row: Row | None = None


def states_in(status: object) -> list[StateSince]:
    """The states that `councilor_status.history` remembers, oldest first."""
    said = status.get("history") if isinstance(status, Mapping) else None
    states = []
    for entry in said if isinstance(said, list) else ():
        since = instant_from(entry.get("since")) if isinstance(entry, Mapping) else None
        if since is not None:
            error = entry.get("error")
            state = str(entry.get("state"))
            states.append(StateSince(state, since, error if isinstance(error, str) else None))
    return states


def why(known: Known) -> Why:
    """Explain the slot at or before an instant: by its row, where it has one."""
    timetable = _timetable_of(known.job)
    slot = timetable.latest_slot(known.at) if timetable is not None else None
    if known.request is not None and _is_askedabout(known.request, known, slot):
        return _of_row(known.request, known)
    job = known.job
    if job is None or timetable is None:
        return _without_timetable(known)
    if known.at > known.now and (slot is None or slot > known.now):
        return _to_come(known, job, timetable, slot)
    if slot is None:
        return _before_the_first(known, job, timetable)
    if known.row is not None and _last_of(known.row) >= slot:
        return _of_row(known.row, known)
    return _without_row(known, job, slot)


def _timetable_of(job: Job | None) -> Timetable | None:
    """All slots of the present schedule, those of a pause included."""
    if job is None or job.spec is None or job.accepted_at is None:
        return None
    return replace(job.spec.timetable(job.accepted_at), not_before=None)


def _is_askedabout(request: Row, known: Known, slot: datetime | None) -> bool:
    """Tell whether a run that was asked for is what happened last before the instant."""
    slots = [slot] if slot is not None and slot <= known.now else []
    if known.row is not None:
        slots.append(_last_of(known.row))
    return _isabout(request, known) and all(_last_of(request) >= earlier for earlier in slots)


def _without_timetable(known: Known) -> Why:
    """No schedule says which slots there were: what has a row had one."""
    row, job = known.row, known.job
    if row is not None and (_isabout(row, known) or not known.is_last):
        return _of_row(row, known)
    before = f" The last slot that has a row: {_of_row(row, known).text}" if row else ""
    if job is None:
        reason = "not_promoted" if row is None else "demoted" if known.is_agent else "deleted"
        said = "there is no such agent any more" if not known.is_agent else "it is no councilor"
        text = f"Nothing was due: {said}.{before}"
        return Why(None, Fate.NOT_PROMOTED, reason, text)
    earlier = [state for state in known.states if state.since <= known.at]
    state = earlier[-1] if earlier else None
    error = job.problem.message if job.problem is not None else None
    if state is not None and state is not known.states[-1]:
        error = state.error
    if state is None and known.states:
        since = known.states[0].since
        text = f"Not promoted yet at that time: it has been a councilor since {utc(since)}.{before}"
        return Why(None, Fate.NOT_PROMOTED, "not_promoted", text)
    if state is not None and state.state != JobState.INVALID:
        return Why(None, Fate.UNKNOWN, None, f"Its schedule at that time is not known.{before}")
    said = error or "it cannot be read"
    return Why(None, Fate.INVALID, "invalid", f"Its configuration was invalid: {said}.{before}")


def _to_come(known: Known, job: Job, timetable: Timetable, slot: datetime | None) -> Why:
    """The instant asked about lies in the future, or nothing is due between now and then."""
    if job.state is JobState.PAUSED:
        text = "It is paused: nothing comes due until it is resumed."
        return Why(slot, Fate.PAUSED, "paused", text)
    until = job.spec.paused_until if job.spec is not None else None
    coming = slot if slot is not None else timetable.next_slot(known.now)
    if until is not None and coming < until:
        text = f"It is paused until {utc(until)}: no slot before that starts."
        return Why(coming, Fate.PAUSED, "paused", text)
    if coming == job.skipped_slot:
        text = f"The slot {utc(coming)} lies in the future, and will be skipped: skip_next is set."
        return Why(coming, Fate.FUTURE, Reason.SKIP_NEXT, text)
    text = f"The slot {utc(coming)} lies in the future, in {about(coming - known.now)}."
    return Why(coming, Fate.FUTURE, None, text)


def _before_the_first(known: Known, job: Job, timetable: Timetable) -> Why:
    """There was no slot yet under the present schedule; an earlier one may have left a row."""
    assert job.accepted_at is not None
    first = timetable.next_slot(job.accepted_at)
    state = _state_at(known, known.at)
    is_off = state is not None and state.state != JobState.SCHEDULED
    if state is not None and is_off and (known.row is None or _last_of(known.row) < state.since):
        return _of_state(state, None)
    if known.row is not None:
        found = _of_row(known.row, known)
        if _isabout(known.row, known):
            return found
        accepted = f"The present schedule was accepted at {utc(job.accepted_at)}"
        return replace(found, text=f"{found.text} {accepted}; its first slot is {utc(first)}.")
    if known.at < job.accepted_at:
        text = (
            "Not promoted yet at that time: its schedule was accepted at "
            f"{utc(job.accepted_at)}; its first slot is {utc(first)}."
        )
        return Why(None, Fate.NOT_PROMOTED, "not_promoted", text)
    if job.state is JobState.PAUSED:
        return _to_come(known, job, timetable, None)
    return _first_to_come(known, job, timetable, first)


def _first_to_come(known: Known, job: Job, timetable: Timetable, first: datetime) -> Why:
    """The first slot of the present schedule: it may be paused, or to be skipped, as any other."""
    coming = _to_come(known, job, timetable, first)
    if first > known.now and (coming.fate, coming.reason) != (Fate.FUTURE, None):
        return coming
    text = f"No slot has come yet: the first one, {utc(first)}, lies in the future."
    return Why(first, Fate.FUTURE, None, text)


def _without_row(known: Known, job: Job, slot: datetime) -> Why:
    """A slot of the past without a row: it came in a pause, or nobody has settled it yet."""
    if known.kept_for is not None and known.now - slot > known.kept_for:
        text = f"The ledger keeps rows for {interval_text(known.kept_for)}: this one is gone."
        return Why(slot, Fate.UNKNOWN, "expired", text)
    state = _state_at(known, slot)
    if state is not None and state.state != JobState.SCHEDULED:
        return _of_state(state, slot)
    until = job.spec.paused_until if job.spec is not None else None
    if until is not None and slot < until:
        text = f"It was paused at the time: no slot before {utc(until)} starts (paused_until)."
        return Why(slot, Fate.PAUSED, "paused", text)
    is_open = job.next_run_at is not None and job.next_run_at <= slot
    if job.state is JobState.SCHEDULED and is_open:
        text = (
            f"It came due {about(known.now - slot)} ago and has not started yet: it waits for a "
            "free place, for Conductor, or for the run before."
        )
        return Why(slot, Fate.WAITING, None, text)
    text = (
        "No row says what became of this slot, and nobody remembers: it was paused at the time, or "
        "not promoted, or somebody has removed the row."
    )
    return Why(slot, Fate.UNKNOWN, None, text)


def _of_state(state: StateSince, slot: datetime | None) -> Why:
    """Nothing was due: it was in this state."""
    since = f"since {utc(state.since)}"
    if state.state == JobState.INVALID:
        said = state.error or "it could not be read"
        text = f"Its configuration was invalid at the time, {since}: {said}."
        return Why(slot, Fate.INVALID, "invalid", text)
    text = f"It was paused at the time, {since}: a pause has no slots."
    return Why(slot, Fate.PAUSED, "paused", text)


def _state_at(known: Known, instant: datetime) -> StateSince | None:
    """The state at an instant; one that began right after it was in effect, and not seen yet."""
    states = [state for state in known.states if state.since <= instant]
    later = [state for state in known.states if state.since > instant]
    was_on = not states or states[-1].state == JobState.SCHEDULED
    if was_on and later and later[0].since - instant <= _NOTICED_WITHIN:
        return later[0] if states else None
    return states[-1] if states else None


def _isabout(row: Row, known: Known) -> bool:
    """Tell whether the instant asked about lies within this slot, to the second, or its run."""
    slot, ended = _last_of(row), row.get("completed_at")
    if row.get("status") == Status.RUNNING or not isinstance(ended, datetime):
        ended = known.now
    return known.at <= max(slot + _SECOND, ended if _has_run(row) else slot)


def _has_run(row: Row) -> bool:
    return isinstance(row.get("started_at"), datetime)


def _last_of(row: Row) -> datetime:
    """The last slot that a row stands for."""
    last, slot = row.get("last_slot"), row["scheduled_for"]
    assert isinstance(slot, datetime)
    return last if isinstance(last, datetime) else slot


def _of_row(row: Row, known: Known) -> Why:
    reason = row.get("reason")
    why_not = str(reason) if reason is not None else None
    first, last = row["scheduled_for"], _last_of(row)
    assert isinstance(first, datetime)
    slot = first
    timetable = _timetable_of(known.job)
    if first < last and timetable is not None:
        slot = max(timetable.latest_slot(min(known.at, last)) or first, first)
    fate, text = account_of(row)
    return Why(slot, fate, why_not, text, row)
