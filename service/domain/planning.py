"""What the documents want, and the steps from the jobs there are to the jobs there should be."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from service.domain.config import CatchUp, Overlap, Problem, instant_from
from service.domain.councilor import (
    Councilor,
    DocumentKey,
    InvalidCouncilor,
    NotCouncilor,
    Reading,
    SchedulePolicy,
    parse_councilor,
)
from service.domain.jobs import (
    Absence,
    AgentDocument,
    Desired,
    Job,
    JobSpec,
    JobState,
    Past,
    StoredJob,
)
from service.domain.schedule import Schedule, Timetable

_TICK = timedelta(microseconds=1)
_UNDECIDED = timedelta(seconds=2)
"""Longer than a change of a document takes to be seen, by far."""


class Change(StrEnum):
    """What became of a job; the value is the log event."""

    SCHEDULED = "job_scheduled"
    PAUSED = "job_paused"
    RESUMED = "job_resumed"
    REJECTED = "job_rejected"


@dataclass(frozen=True, slots=True)
class Put:
    """Set the job; `change` is None where only details differ that no one needs to be told."""

    job: Job
    change: Change | None


@dataclass(frozen=True, slots=True)
class Remove:
    """Take the job away."""

    agent_id: str


@dataclass(frozen=True, slots=True)
class Keep:
    """All is as it should be."""


Action = Put | Remove | Keep


def desired_job(document: AgentDocument, policy: SchedulePolicy) -> Desired | Absence:
    """What a document wants, whatever it holds."""
    if document.fields is None:
        return Absence(document.key, None, deleted=True)
    return desired_by(document.key, parse_councilor(document.fields, policy), document.damage)


def desired_by(key: DocumentKey, reading: Reading, damage: str | None) -> Desired | Absence:
    """What a document that was read as `reading` wants; nothing damaged is ever run."""
    match reading:
        case NotCouncilor(agent_id, run_requested_at):
            return Absence(key, agent_id, deleted=False, run_requested_at=run_requested_at)
        case Councilor() if damage is None:
            return Desired(
                key,
                reading.agent_id,
                reading.display_name,
                JobState.SCHEDULED if reading.enabled else JobState.PAUSED,
                reading.spec_hash,
                spec=_spec(reading),
                problem=reading.problem,
                run_requested_at=reading.run_requested_at,
            )
        case InvalidCouncilor() if damage is None:
            problem = reading.problem
        case _:
            hint = "write the document anew, with texts in UTF-8 and dates before the year 10000"
            problem = Problem("councilor_config", f"the document cannot be decoded: {damage}", hint)
    return Desired(
        key,
        reading.agent_id,
        reading.display_name,
        JobState.INVALID,
        reading.spec_hash,
        problem=problem,
        run_requested_at=reading.run_requested_at,
    )


def contested(desired: Desired) -> Desired:
    """The same document, invalid because another one has its `agent_id`."""
    problem = Problem(
        "agent_id",
        f'agent_id "{desired.agent_id}" belongs to another document, whose _id is smaller',
        "give each agent an agent_id of its own",
    )
    return replace(desired, state=JobState.INVALID, spec=None, problem=problem)


def past_of(
    status: object, stored: StoredJob | None, desired: Desired, *, are_jobs_lost: bool = False
) -> Past:
    """What the document's own status and the stored job say about the present spec.

    The document decides; the stored job stands in where a writer replaced the whole document. Only
    where all stored jobs are lost does the status say since when slots may be open: at any other
    time, one without a job is somebody's copy, or was demoted and put back.
    """
    accepted_at, since, skipped_slot = None, None, None
    if isinstance(status, Mapping):
        skipped_slot = instant_from(status.get("skipped_slot"))
    if skipped_slot is None and stored is not None:
        skipped_slot = stored.skipped_slot
    if isinstance(status, Mapping) and status.get("spec_hash") == desired.spec_hash:
        accepted_at = instant_from(status.get("accepted_at"))
        if are_jobs_lost and status.get("state") == JobState.SCHEDULED:
            since = instant_from(status.get("observed_at"))
    settled_before = stored.next_run_at if stored is not None else None
    if stored is not None and stored.spec_hash == desired.spec_hash:
        # It may be the acceptance that a crash kept from being replaced by the server's.
        accepted_at = accepted_at or stored.accepted_at
        return Past(accepted_at, stored.next_run_at, skipped_slot, settled_before)
    oldest_open = max(accepted_at, since) if accepted_at and since else None
    is_new_spec = accepted_at is None
    return Past(accepted_at, oldest_open, skipped_slot, settled_before, is_new_spec)


def job_left_for(
    desired: Desired, current: StoredJob | None, left_behind: StoredJob | None
) -> StoredJob | None:
    """The job that tells of the slots of the present spec: our own, or what somebody has stored.

    Others know more than a replica that has not seen how the document came to be as it is.
    """
    if current is None or left_behind is None or left_behind.spec_hash != desired.spec_hash:
        return current or left_behind
    knows = current.spec_hash == desired.spec_hash and current.next_run_at is not None
    return current if knows or left_behind.next_run_at is None else left_behind


def plan(
    desired: Desired | Absence,
    current: Job | None,
    past: Past,
    now: datetime,
    *,
    is_assumed: bool = False,
) -> tuple[Action, ...]:
    """The steps for one document; `current` is the job that this document has now.

    A desired job needs an acceptance: `past.accepted_at` must be set unless it is invalid, and
    may be a guess where that `is_assumed`. Planning again after the steps were taken gives Keep.
    """
    if isinstance(desired, Absence) or desired.agent_id is None:
        return (Remove(current.agent_id),) if current is not None else (Keep(),)
    removal: tuple[Action, ...] = ()
    if current is not None and current.agent_id != desired.agent_id:
        removal, current = (Remove(current.agent_id),), None
    job = _job(desired, current, past, now, is_assumed=is_assumed)
    if job == current and _text_of(job) == _text_of(current):
        return (Keep(),)
    return (*removal, Put(job, _change(current, job)))


def _job(
    desired: Desired, current: Job | None, past: Past, now: datetime, *, is_assumed: bool
) -> Job:
    job = Job(
        key=desired.key,
        agent_id=desired.agent_id or "",
        name=desired.name,
        state=desired.state,
        spec_hash=desired.spec_hash,
        spec=desired.spec,
        accepted_at=past.accepted_at,
        next_run_at=None,
        problem=desired.problem,
        is_assumed=is_assumed,
    )
    if job.timetable is not None:
        job = job.due_next(next_run_of(job.timetable, current, past, now))
    skipped_slot = skipped_slot_of(desired, past, job.next_run_at, now, is_live=current is not None)
    return job if skipped_slot is None else replace(job, skipped_slot=skipped_slot)


def skipped_slot_of(
    desired: Desired, past: Past, next_run_at: datetime | None, now: datetime, *, is_live: bool
) -> datetime | None:
    """The slot that `skip_next` takes out: the next one, as of when the flag was first seen.

    One that is over and settled stays: the flag has had its effect, until it is taken away. One
    that is no slot any more (a pause, an edit) gives way to the next. While a slot is due nobody
    can say whether the flag came before it, and whoever settles it decides; unless the job
    `is_live`, so that the flag is new, and the slot has been due for a while.
    """
    spec, said, settled = desired.spec, past.skipped_slot, past.settled_before
    # What was not settled when an earlier process ended may never have come to pass.
    is_over = said is not None and said <= now and (is_live or settled is None or said < settled)
    if spec is None or is_over:
        return said if is_over and (spec is None or spec.skip_next) else None
    if not spec.skip_next or next_run_at is None or past.accepted_at is None:
        return None
    timetable = spec.timetable(past.accepted_at)
    if said is not None and not past.is_new_spec and timetable.has(said):
        return said
    if next_run_at > now:
        return next_run_at
    return timetable.next_slot(now) if is_live and now - next_run_at > _UNDECIDED else None


def next_run_of(timetable: Timetable, current: Job | None, past: Past, now: datetime) -> datetime:
    """The next run of a scheduled job: a slot that is over, where nobody has settled it yet."""
    if current is not None and current.timetable == timetable and current.next_run_at is not None:
        return current.next_run_at  # includes a slot that is due and not settled yet
    if past.oldest_open is not None and past.oldest_open <= now:
        return timetable.next_slot(past.oldest_open - _TICK)  # may be over: an outage
    return timetable.next_slot(now)


def _change(current: Job | None, job: Job) -> Change | None:
    if job.state is JobState.INVALID:
        changed = current is None or current.problem != job.problem
        return Change.REJECTED if changed else None
    if job.state is JobState.PAUSED:
        was_paused = current is not None and current.state is JobState.PAUSED
        return None if was_paused else Change.PAUSED
    if current is not None and current.state is JobState.PAUSED:
        return Change.RESUMED if current.spec_hash == job.spec_hash else Change.SCHEDULED
    is_same = current is not None and current.timetable == job.timetable
    return None if is_same else Change.SCHEDULED


def _text_of(job: Job) -> str | None:
    """The schedule as it was written, which people see and nothing depends on."""
    return job.spec.schedule.text if job.spec is not None else None


def _spec(councilor: Councilor) -> JobSpec:
    return spec_of(
        councilor.schedule,
        councilor.spec_hash,
        councilor.delay,
        councilor.paused_until,
        councilor.catch_up,
        councilor.overlap,
        skip_next=councilor.skip_next,
    )


def spec_of(
    schedule: Schedule,
    spec_hash: str,
    delay: timedelta,
    paused_until: datetime | None,
    catch_up: CatchUp,
    overlap: Overlap,
    *,
    skip_next: bool = False,
) -> JobSpec:
    """A spec, the same object for equal ones, which many councilors have."""
    parts = (schedule, spec_hash, delay, paused_until, catch_up, overlap, skip_next)
    return _shared(schedule.text, *parts)


@lru_cache(maxsize=4_096)
def _shared(text: str, *parts: Any) -> JobSpec:  # schedules are equal whatever their texts
    return JobSpec(*parts)
