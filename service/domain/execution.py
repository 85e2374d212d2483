"""One slot's way through the ledger: what is due, what may start, and how it ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from service.domain.councilor import Councilor, DocumentKey, Task
from service.domain.severity import Severity

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

LONGEST_NAME = 200
"""Characters of a name that a ledger row carries."""
STALE_REQUEST = timedelta(hours=1)
"""A run-now request older than this when first seen never runs."""


class Trigger(StrEnum):
    """Why a run was started."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch_up"
    MANUAL = "manual"


class Status(StrEnum):
    """The state of a ledger row."""

    RUNNING = "running"
    COMPLETED = "completed"
    ERROR = "error"
    SKIPPED = "skipped"
    MISSED = "missed"


class Reason(StrEnum):
    """Why a slot did not run, or why a run failed."""

    OVERLAP = "overlap"
    PAUSED = "paused"
    DEMOTED = "demoted"
    DELETED = "deleted"
    INVALID = "invalid"
    SKIP_NEXT = "skip_next"
    OUTAGE = "outage"
    EDITED = "edited"
    STALE = "stale"
    CAPACITY = "capacity"
    INTERRUPTED = "interrupted"
    TIMEOUT = "timeout"
    FAILED = "failed"
    CONDUCTOR_UNAVAILABLE = "conductor_unavailable"
    CONDUCTOR_REJECTED = "conductor_rejected"
    CONDUCTOR_DISCONNECTED = "conductor_disconnected"
    INTERNAL = "internal_error"


FAILURE_REASONS = frozenset(
    {
        Reason.INTERRUPTED,
        Reason.TIMEOUT,
        Reason.FAILED,
        Reason.CONDUCTOR_UNAVAILABLE,
        Reason.CONDUCTOR_REJECTED,
        Reason.CONDUCTOR_DISCONNECTED,
        Reason.INTERNAL,
    }
)
"""Why runs fail."""
NOT_RUN_REASONS = frozenset(set(Reason) - FAILURE_REASONS | {Reason.CONDUCTOR_UNAVAILABLE})
"""Why slots do not run."""


@dataclass(frozen=True, slots=True)
class Fire:
    """A slot that has come due, or a run that was asked for."""

    key: DocumentKey
    agent_id: str
    due_at: datetime
    trigger: Trigger = Trigger.SCHEDULE

    @property
    def execution_id(self) -> str:
        return execution_id_of(self.agent_id, self.due_at, self.trigger)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Slots in a row that nobody ran, `first` and `last` included."""

    first: datetime
    last: datetime
    count: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of Conductor; `error` is None while it goes on, or where it was answered well."""

    started_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Execution:
    """A run that may start: its ledger row, before it has an end."""

    execution_id: str
    agent_id: str
    scheduled_for: datetime
    trigger: Trigger
    spec_hash: str
    owner: str
    nonce: str
    started_at: datetime
    attempts: tuple[Attempt, ...] = ()
    display_name: str = ""
    task_name: str = ""

    @property
    def lateness_ms(self) -> int:
        return milliseconds(self.started_at - self.scheduled_for)

    def begun(self, now: datetime) -> "Execution":
        """The same with its call beginning now; its start, too, unless it was called before."""
        *earlier, _ = self.attempts
        return Execution(
            self.execution_id,
            self.agent_id,
            self.scheduled_for,
            self.trigger,
            self.spec_hash,
            self.owner,
            self.nonce,
            self.started_at if earlier else now,
            (*earlier, Attempt(now, None)),
            self.display_name,
            self.task_name,
        )

    @property
    def is_surely_not_accepted(self) -> bool:
        """Tell whether every call that was made for it is known to have come to nothing."""
        return bool(self.attempts) and self.attempts[-1].error is not None


@dataclass(frozen=True, slots=True)
class NotRun:
    """A slot, or a stretch of them, that ends without a run."""

    agent_id: str
    scheduled_for: datetime
    trigger: Trigger
    status: Status
    reason: Reason
    spec_hash: str | None
    owner: str
    at: datetime
    stretch: Stretch | None = None
    nonce: str | None = None
    """Of the claim of this slot that the same replica may have made."""
    display_name: str = ""
    task_name: str = ""

    @property
    def execution_id(self) -> str:
        return execution_id_of(self.agent_id, self.scheduled_for, self.trigger)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `error` is readable exactly where `status` is error."""

    status: Status
    severity: Severity
    completed_at: datetime
    output: str | None
    error: str | None
    reason: Reason | None
    summary: str | None = None
    """The part of `error` that is ours: what Conductor says may quote the prompt."""
    attempts: tuple[Attempt, ...] = ()
    output_truncated: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What Conductor is asked to do."""

    execution_id: str
    agent_id: str
    agent_name: str
    task: Task
    scheduled_for: datetime
    cwd: str | None
    ai_provider: str | None
    timeout: timedelta
    ends_at: datetime
    """When the run has to be over, its repeated calls included."""
    retry_until: datetime
    """No call is repeated from then on: the next slot comes, or the time is over."""
    config: Mapping[str, object]

    @property
    def instance_id(self) -> str:
        return f"councilor_{self.agent_id}_{epoch_ms(self.scheduled_for)}"


def interrupted(execution: Execution, at: datetime, error: str) -> Outcome:
    """The end of a run whose replica is gone, or stops before Conductor has answered."""
    attempts = execution.attempts
    if attempts and attempts[-1].error is None:
        attempts = (*attempts[:-1], Attempt(attempts[-1].started_at, error))
    return Outcome(
        status=Status.ERROR,
        severity=Severity.ERROR,
        completed_at=at,
        output=None,
        error=error,
        summary=error,
        reason=Reason.INTERRUPTED,
        attempts=attempts,
    )


class Claim(StrEnum):
    """What became of an attempt to open a ledger row."""

    WON = "won"
    TAKEN = "taken"
    OVERLAPS = "overlaps"


def order_for(
    councilor: Councilor,
    config: object,
    execution: Execution,
    timeout: timedelta,
    next_slot: datetime | None,
) -> Order:
    """What Conductor is asked, from the document as it was read when the run started."""
    last = execution.attempts[-1].started_at if execution.attempts else execution.started_at
    ends_at = last + timeout  # a run that is taken over has all of its time again
    return Order(
        execution_id=execution.execution_id,
        agent_id=councilor.agent_id,
        agent_name=councilor.display_name,
        task=councilor.task,
        scheduled_for=execution.scheduled_for,
        cwd=councilor.cwd,
        ai_provider=councilor.ai_provider,
        timeout=timeout,
        ends_at=ends_at,
        retry_until=ends_at if next_slot is None else min(ends_at, next_slot),
        config=config if isinstance(config, Mapping) else {},
    )


def execution_id_of(agent_id: str, due_at: datetime, trigger: Trigger) -> str:
    """The identity of a slot's ledger row: one agent, one instant, one row."""
    suffix = "_manual" if trigger is Trigger.MANUAL else ""
    return f"exec_{agent_id}_{epoch_ms(due_at)}{suffix}"


def epoch_ms(instant: datetime) -> int:
    """Whole milliseconds since 1970, exact for instants that have no finer part."""
    return milliseconds(instant - _EPOCH)


def milliseconds(duration: timedelta) -> int:
    """A duration in whole milliseconds, rounded down."""
    return duration // _MILLISECOND
