"""What a document wants and what there is: councilors as jobs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service.domain.config import CatchUp, Overlap, Problem
from service.domain.councilor import DocumentKey
from service.domain.schedule import Schedule, Timetable


class JobState(StrEnum):
    """The verdict on a councilor, and the state of its job."""

    SCHEDULED = "scheduled"
    PAUSED = "paused"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class AgentDocument:
    """A document of `agents`, read again on the primary.

    `fields` is None where it does not exist; `damage` says what in it could not be decoded.
    `revision` stands for the configuration exactly as it was read: a verdict is written only where
    it still holds.
    """

    key: DocumentKey
    fields: Mapping[str, object] | None
    revision: object = None
    damage: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """When a councilor runs, and nothing of what it does."""

    schedule: Schedule
    spec_hash: str
    delay: timedelta
    paused_until: datetime | None
    catch_up: CatchUp
    overlap: Overlap
    skip_next: bool = False

    def timetable(self, accepted_at: datetime) -> Timetable:
        """The slots since the instant at which this spec was accepted."""
        return Timetable(self.schedule, accepted_at, self.delay, self.paused_until)


@dataclass(frozen=True, slots=True)
class Desired:
    """What one document wants: a job in some state. `spec` is None exactly where it is invalid.

    `problem` says why it is, or what is wrong beside a schedule that runs all the same.
    """

    key: DocumentKey
    agent_id: str | None
    name: str
    state: JobState
    spec_hash: str
    spec: JobSpec | None = None
    problem: Problem | None = None
    run_requested_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Absence:
    """A document that wants no job: deleted, or not a councilor."""

    key: DocumentKey
    agent_id: str | None
    deleted: bool
    run_requested_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A councilor in the job table. `next_run_at` is None unless it is scheduled."""

    key: DocumentKey
    agent_id: str
    name: str
    state: JobState
    spec_hash: str
    spec: JobSpec | None
    accepted_at: datetime | None
    next_run_at: datetime | None
    problem: Problem | None = None
    skipped_slot: datetime | None = None
    """The slot that `skip_next` takes out, or took out when it came."""
    is_assumed: bool = False
    """Whether `accepted_at` is a guess, until the server has set it."""

    @property
    def timetable(self) -> Timetable | None:
        """The slots of a scheduled job; None while it is paused or invalid."""
        if self.state is not JobState.SCHEDULED or self.spec is None or self.accepted_at is None:
            return None
        return self.spec.timetable(self.accepted_at)

    def due_next(self, next_run_at: datetime | None) -> "Job":
        """The same job with another next run."""
        return Job(
            self.key,
            self.agent_id,
            self.name,
            self.state,
            self.spec_hash,
            self.spec,
            self.accepted_at,
            next_run_at,
            self.problem,
            self.skipped_slot,
            self.is_assumed,
        )


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as an earlier process left it in `apscheduler_jobs`."""

    agent_id: str
    spec_hash: str
    state: str
    accepted_at: datetime | None
    next_run_at: datetime | None
    skipped_slot: datetime | None = None


def stored_of(job: Job) -> StoredJob:
    """A job of this process, as if an earlier one had left it."""
    return StoredJob(
        job.agent_id,
        job.spec_hash,
        job.state,
        job.accepted_at,
        job.next_run_at,
        job.skipped_slot,
    )


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a councilor from before: its verdict and the job somebody left."""

    accepted_at: datetime | None = None
    """When the present spec was accepted, if it was."""
    oldest_open: datetime | None = None
    """The instant from which slots may be without a ledger row."""
    skipped_slot: datetime | None = None
    """The slot that `skip_next` takes out, or took out, as it was decided before."""
    settled_before: datetime | None = None
    """The instant before which all slots have their rows, whatever the schedule was."""
    is_new_spec: bool = False
    """Tell whether the schedule is another than the one that was decided for."""
