"""What a document wants and what there is: councilors as jobs."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

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
    `revision` stands for the document exactly as it was read: a verdict is written only where its
    configuration is still the same, and equal revisions are equal documents, statistics aside.
    """

    key: DocumentKey
    fields: Mapping[str, object] | None
    revision: object = None
    damage: str | None = None
    digest: bytes | None = None
    """Equal ones are equal documents, statistics aside, judged by the same rules."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of a listing that nobody has looked into; for `digest` see AgentDocument."""

    key: DocumentKey
    digest: bytes
    read: Callable[[], AgentDocument]


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
    digest: bytes | None = field(default=None, compare=False)
    """The document's, where it says all there is to say: an equal one need not be judged again."""
    proof: bytes | None = field(default=None, compare=False)
    """A digest of what follows from the document, and of that document's."""

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
            self.digest,
            self.proof,
        )

    def known_by(self, digest: bytes) -> "Job":
        """The same job, of a document that has this digest."""
        whole = whole_of(self, digest)
        return self if whole is None else replace(self, digest=digest, proof=whole.proof)


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as an earlier process left it in `apscheduler_jobs`."""

    agent_id: str
    spec_hash: str
    state: str
    accepted_at: datetime | None
    next_run_at: datetime | None
    skipped_slot: datetime | None = None
    whole: "WholeJob | None" = None


class WholeJob(NamedTuple):
    """What else there is to a job that was stored, where its document need not be read for it.

    `digest` is the document's when it was judged; `proof` shows that nobody has touched the rest.
    """

    name: str
    kind: str
    value: str
    timezone: str | None
    delay_ms: int
    catch_up: str
    overlap: str
    digest: bytes
    proof: bytes

    def proof_with(
        self, agent_id: str, spec_hash: str, state: str, accepted_at: datetime | None
    ) -> bytes:
        """A digest of all that follows from the document, keyed by that document's."""
        said = (
            *(agent_id, spec_hash, state, str(accepted_at and accepted_at.timestamp())),
            *(self.name, self.kind, self.value, self.timezone or ""),
            *(str(self.delay_ms), self.catch_up, self.overlap),
        )
        text = "\0".join(said).encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=12, key=self.digest).digest()


def stored_of(job: Job) -> StoredJob:
    """What a job of this process says of its slots, as if an earlier one had left it."""
    return StoredJob(
        job.agent_id,
        job.spec_hash,
        job.state,
        job.accepted_at,
        job.next_run_at,
        job.skipped_slot,
    )


def whole_of(job: Job, digest: bytes | None = None) -> WholeJob | None:
    """All that makes a job what it is, where its document is known by a digest."""
    digest, spec = digest or job.digest, job.spec
    if digest is None or spec is None:
        return None
    schedule, delay_ms = spec.schedule, spec.delay // timedelta(milliseconds=1)
    policies = (spec.catch_up.value, spec.overlap.value)
    parts = (job.name, schedule.kind, schedule.text, schedule.zone, delay_ms, *policies)
    whole = WholeJob(*parts, digest, job.proof or b"")
    if digest == job.digest:
        return whole
    proof = whole.proof_with(job.agent_id, job.spec_hash, job.state.value, job.accepted_at)
    return whole._replace(proof=proof)


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

    def accepted(self, accepted_at: datetime) -> "Past":
        """The same past, with an acceptance of the present spec."""
        settled = (self.skipped_slot, self.settled_before, self.is_new_spec)
        return Past(accepted_at, self.oldest_open, *settled)
