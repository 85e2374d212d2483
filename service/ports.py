"""What the use cases need from the outside, in terms of the domain, and the errors that cross."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from service.domain.councilor import DocumentKey
from service.domain.digest import Message
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    Fire,
    NotRun,
    Order,
    Outcome,
    Reason,
    Status,
)
from service.domain.jobs import AgentDocument, Job, JobState, Listed, StoredJob
from service.domain.notification import Delivery, Entry, Notification, Target
from service.domain.severity import Severity
from service.domain.verdict import Verdict


class ServiceError(Exception):
    """The base of all errors that this service raises on purpose."""


class Unavailable(ServiceError):
    """The other side did not answer, or not now: wait, then try again."""


class LookAgain(Unavailable):
    """Nothing is wrong: somebody else is at it, or it took too long to be relied upon."""


class WatchLost(ServiceError):
    """The change stream is gone: enter it again and list. `reason` is short, for a metric."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Misconfigured(ServiceError):
    """The other side will never do what is asked until a person changes something."""


class Refused(ServiceError):
    """The database refuses this one write, and always will."""


Clock = Callable[[], datetime]
"""The wall clock: aware, in UTC."""


class Changed(NamedTuple):
    """Something may have changed in this document of `agents`; `operation` says how."""

    key: DocumentKey
    operation: str


@dataclass(frozen=True, slots=True)
class Told:
    """A document after its verdict was written."""

    document: AgentDocument
    accepted_at: datetime
    """When its present spec was accepted, by the server's clock."""


class Watch(Protocol):
    """A change stream that is open, so that a listing made now misses nothing."""

    @property
    def position(self) -> datetime | None:
        """The whole second of cluster time before which `changes` has told of everything.

        None where nobody knows.
        """

    def documents(self) -> AsyncIterator[Sequence[Listed]]:
        """Every document that may concern us, in batches. Raises WatchLost."""

    async def changes(self) -> Sequence[Changed]:
        """The next changes, in order; empty after about a second without any. Raises WatchLost.

        Must not be cancelled and called again: a cancelled call may lose changes.
        """


class Agents(Protocol):
    """The collection `agents`."""

    def watch(self) -> AbstractAsyncContextManager[Watch]:
        """Open the change stream. Raises WatchLost, Unavailable, Misconfigured."""

    async def read(
        self, keys: Sequence[DocumentKey], *, with_stats: bool = False
    ) -> Sequence[AgentDocument]:
        """The documents as the majority has them, on the primary, one for each key.

        They are at least as new as any change that the watch has delivered. Raises Unavailable.
        """

    async def look(self, keys: Sequence[DocumentKey]) -> Sequence[AgentDocument]:
        """The same, with nothing in `councilor_status` but what slots are settled by."""

    async def as_of(
        self, asked: Sequence[tuple[AgentDocument, Sequence[datetime]]]
    ) -> Sequence[Sequence[AgentDocument | None]]:
        """Each document, as `look` has it, at its instants, whole seconds; None: not remembered.

        The server does for some minutes. The same object where it was the same, statistics aside.
        One query for each instant. Raises Unavailable.
        """

    async def find(self, agent_ids: Sequence[str] | None) -> Sequence[AgentDocument]:
        """The councilors with these ids, or all. Raises Unavailable."""

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, Told | None]:
        """Set `councilor_status` where the document still is what was judged.

        Answers with what each says now, and None for those that refuse it; documents that have
        changed meanwhile, or that are invalid and were never accepted, are left out. Raises
        Unavailable, Misconfigured.
        """

    async def leave_out(self, document: AgentDocument, slot: datetime) -> None:
        """Let `councilor_status` say that `skip_next` takes out this slot.

        Does nothing where the configuration has changed. Raises Unavailable, Refused.
        """

    async def clear_verdicts(self, keys: Sequence[DocumentKey]) -> None:
        """Remove `councilor_status` from documents that are no councilors. Raises Unavailable."""

    async def edit(
        self, agent_id: str, changes: Mapping[str, object], *, councilors_only: bool = False
    ) -> bool:
        """Do what any writer would: set fields (None unsets). False where there is no such agent.

        With `councilors_only`, one that is not promoted is no such agent. Raises Unavailable.
        """

    async def ping(self) -> None:
        """Return when the primary answers. Raises Unavailable."""


class JobTable(Protocol):
    """The jobs of this process, with their timers."""

    def put(self, job: Job, *, is_stored: bool = False) -> None:
        """Add or replace the job of this `agent_id`; `is_stored` where nobody need be told."""

    def remove(self, agent_id: str) -> None:
        """Take a job away, if it is there."""

    def of_agent(self, agent_id: str) -> Job | None:
        """The job of this agent. `next_run_at` includes a slot that is due and not settled."""

    def of_document(self, key: DocumentKey) -> Job | None:
        """The job that comes from this document."""

    def all(self) -> Sequence[Job]:
        """Every job, in no order."""

    def counts(self) -> Mapping[JobState, int]:
        """How many jobs there are in each state, at no cost."""

    def overdue(self, since: datetime) -> int:
        """How many agents have a slot from before `since` that is not settled, and may not wait.

        Those that may, by their documents, are left out: for the run before, or for their turn to
        catch up. A thousand is as many as are counted.
        """

    @property
    def is_behind(self) -> bool:
        """Tell whether slots have come due that `Fired` has not been told of yet."""

    def settle(self, agent_id: str, slot: datetime) -> None:
        """Say that every slot up to this one has its ledger row."""

    def request(self, fire: Fire) -> None:
        """Let a run that was asked for come due at once."""


class StoredJobs(Protocol):
    """The collection `apscheduler_jobs`: a projection of the job table, for people and restarts."""

    async def load(self) -> dict[str, StoredJob]:
        """The jobs that are stored, foreign documents left out. Raises Unavailable."""

    async def save(self, jobs: Sequence[Job], removed: Sequence[str]) -> None:
        """Store these jobs and remove those. Raises Unavailable."""

    async def keep_only(self, agent_ids: Collection[str]) -> Collection[str]:
        """Remove what is stored for anybody else; answers those that are not stored.

        Raises Unavailable.
        """


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row of the ledger as it is shown to people; `fields` as CONTRACT section 3 names them."""

    agent_id: str
    fields: Mapping[str, object]


_GIVEN_UP_WITHIN = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class TakenSlots:
    """What one row stands for: a slot, or a stretch of them."""

    first: datetime
    last: datetime
    provisional_since: datetime | None = None
    """Whoever has written it then may still give up the end of it, unless it has died."""

    def covers(self, slot: datetime) -> bool:
        """Tell whether another slot's row stands for this one, too."""
        return self.first < slot <= self.last

    def is_final(self, now: datetime) -> bool:
        """Tell whether nothing of it is given up any more."""
        since = self.provisional_since
        return since is None or now - since > _GIVEN_UP_WITHIN


class Ledger(Protocol):
    """The collection `councilor_executions`: one row a slot."""

    async def open_all(self, executions: Sequence[Execution]) -> Sequence["Claim | ServiceError"]:
        """Claim slots by inserting their rows, acknowledged by the majority.

        What became of each: Unavailable where it is unknown whether the row is there (ask again,
        with the same execution), or Refused.
        """

    async def note_attempts(self, execution: Execution, attempts: Sequence[Attempt]) -> bool:
        """Put calls on record while a run goes on, acknowledged by the majority.

        False where the row is not running, or not ours, any more. Raises Unavailable.
        """

    async def take_over(self, orphan: Execution, execution: Execution) -> bool:
        """Make the running row of a dead replica ours; False where it is not as it was found.

        Its attempts included: a replica that only slept may have begun another call.

        Raises Unavailable where it is unknown whose it is.
        """

    async def withdraw(self, execution: Execution) -> None:
        """Take back a claim of ours from which nothing was started: its slot has another row.

        Raises Unavailable.
        """

    async def record(self, not_run: NotRun) -> bool:
        """Insert a row that never ran; False where the slot has one.

        A row that stands for a stretch is provisional until `confirm`. What a try of the same
        replica has left, of which nobody knew whether it had arrived, becomes this row: a claim
        with the `nonce` of `not_run`, a provisional row, the same row of a slot.
        Raises Unavailable, Refused.
        """

    async def confirm(self, not_run: NotRun) -> None:
        """Make a provisional row final, with its stretch as it is now. Raises Unavailable."""

    async def discard(self, not_run: NotRun) -> None:
        """Remove a row whose slot is in a stretch of another row. Raises Unavailable."""

    async def close(
        self,
        execution: Execution,
        key: DocumentKey | None,
        outcome: Outcome,
        stats: object = None,
    ) -> bool:
        """End a running row, then count it in the agent's statistics.

        `stats` is what `Agents.look` has seen of those, None where that was nothing: if they are so
        still, to count costs less.
        False where the row is not running, or not ours, any more: then nothing was written. May be
        called again after Unavailable: nothing is counted twice.
        """

    async def count_forgotten(self, before: datetime) -> int:
        """Count the runs that ended before this and that a crash kept from being counted.

        Raises Unavailable.
        """

    async def restore_indexes(self) -> None:
        """Have the indexes that the promises rest on, whatever somebody has dropped.

        Raises Unavailable, Misconfigured.
        """

    async def running_owner(self, agent_id: str) -> str | None:
        """Who runs this agent just now, if anybody does. Raises Unavailable."""

    async def taken(self, agent_id: str, since: datetime) -> Sequence[TakenSlots]:
        """The slots from `since` on that need no row any more, in order, by rows.

        At most a thousand rows, the earliest. Runs that were asked for are no slots. Raises
        Unavailable.
        """

    async def covering(
        self, slots: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots]]:
        """For each slot of an agent, the rows of stretches that it is in, beyond their first.

        Raises Unavailable.
        """

    async def known(self, execution_ids: Sequence[str]) -> frozenset[str]:
        """Those of these executions that have a row. Raises Unavailable."""

    async def running_of_others(self, alive: Collection[str]) -> Sequence[Execution]:
        """The running rows whose owner is none of these. Raises Unavailable."""

    async def running_of(self, owner: str) -> Sequence[Execution]:
        """The running rows of this owner. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which of an agent's rows: `limit` at most, after one (an execution id), of a kind."""

    limit: int = 20
    after: str | None = None
    status: Status | None = None
    severity: Severity | None = None
    is_whole: bool = False
    """Whether long texts are shown to their ends."""


class UnknownRow(ServiceError):
    """The page asked for begins after a row that is not there."""


@dataclass(frozen=True, slots=True)
class EndedRuns:
    """How many rows of one kind were closed within a bucket of time that begins `at`."""

    at: datetime
    status: str
    severity: str
    count: int
    duration_ms: int
    """Of all of them together."""


class History(Protocol):
    """The collection `councilor_executions` as people read it. Each method raises Unavailable."""

    async def page(self, agent_id: str, query: HistoryQuery) -> Sequence[LedgerRow]:
        """An agent's rows, latest slot first, of `output` and `error` only the beginning.

        Raises UnknownRow.
        """

    async def row(self, agent_id: str, execution_id: str) -> LedgerRow | None:
        """One row of this agent's, whole."""

    async def slot_at(
        self, agent_id: str, instant: datetime, *, asked_for: bool = False
    ) -> LedgerRow | None:
        """The latest row whose slot is not after this instant, without its output.

        With `asked_for`, of the runs that somebody asked for; else of all others.
        """

    async def latest(self, agent_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        """The row of the latest start of each agent that ever started, in brief."""

    async def recent(
        self, agent_ids: Sequence[str], count: int
    ) -> Mapping[str, Sequence[LedgerRow]]:
        """The latest rows of each agent, latest slot first, in brief."""

    async def ended(
        self, since: datetime, before: datetime, bucket_seconds: int
    ) -> Sequence[EndedRuns]:
        """What ended in this time, in buckets; the latest 200,000 rows of it at most."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A row of the ledger that was begun, or has ended; `fields` without output and attempts."""

    position: str
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class NotificationEntry:
    """A notification that somebody shall see; `fields` as `scheduler_notifications` has them."""

    position: str
    fields: Mapping[str, object]


JournalEntry = LedgerEntry | NotificationEntry
"""`position` is where `Journal.follow` goes on after it, in any replica."""


class OpenJournal(Protocol):
    """A journal that is being followed."""

    @property
    def position(self) -> str | None:
        """Where to go on later; None where nobody knows."""

    async def entries(self) -> Sequence[JournalEntry]:
        """What was written next, by any replica; empty after about a second without anything.

        Must not be cancelled and called again. Raises WatchLost, Unavailable.
        """


class Journal(Protocol):
    """What all replicas write to the ledger and to the notifications, as it is written."""

    def follow(self, position: str | None = None) -> AbstractAsyncContextManager[OpenJournal]:
        """Follow it from now on, or from after a position that was known before.

        Raises WatchLost (also where that position is forgotten, or was none), Unavailable.
        """


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the primary says of itself: its clock, and how far the majority is behind its writes."""

    at: datetime
    majority_lag: timedelta
    written_at: datetime | None = None
    """The cluster time of its last write, where it tells, in whole seconds."""


class Replicas(Protocol):
    """The collection `scheduler_replicas`; all times are the server's."""

    async def server_state(self) -> ServerState:
        """Ask the primary how it is. Raises Unavailable."""

    async def heartbeat(self, replica_id: str, facts: Mapping[str, object], ttl: timedelta) -> None:
        """Say that this replica lives for another `ttl`. Raises Unavailable."""

    async def alive(self) -> Sequence[str]:
        """The replicas whose time has not run out. Raises Unavailable."""

    async def leave(self, replica_id: str) -> None:
        """Remove this replica's document. Raises Unavailable."""

    async def forget_dead(self) -> None:
        """Remove the documents of replicas that died a day ago or more. Raises Unavailable."""


class StoredNotifications(Protocol):
    """The collection `scheduler_notifications`: what people are told, and what is still to be sent.

    What is pending has an owner, who sends it; others may once that one is dead. So a message goes
    out at least once: again where its sender died, or lost the database, before that was marked.
    """

    async def add(self, entries: Sequence[Entry]) -> Sequence["bool | ServiceError"]:
        """Write these as ours. What became of each: False where somebody has told of that ending.

        Refused where the server refuses the document. May be called again with the same entries:
        what an earlier try has written is True. Raises Unavailable, Misconfigured.
        """

    async def settle(
        self, notification_ids: Sequence[str], delivery: Delivery, attempts: int, at: datetime
    ) -> None:
        """Mark what was pending and is ours as sent, or as failed. Raises Unavailable."""

    async def owners_of_pending(self) -> frozenset[str]:
        """Who has something to send. Raises Unavailable."""

    async def adopt(self, owners: Collection[str], most: int) -> Sequence[Notification]:
        """Make what these owners have left pending ours, oldest first; answers what now is.

        Of several that do so at once, one gets each. Raises Unavailable: then some may be ours.
        """


class Messenger(Protocol):
    """What takes messages outside."""

    @property
    def targets(self) -> Sequence[Target]:
        """Where it can send."""

    async def send(self, target: Target, message: Message) -> None:
        """Send this, once. Raises Unavailable where it did not arrive, or that is not known."""


class Conductor(Protocol):
    """What runs agents."""

    async def execute(self, order: Order) -> "Answer":
        """Have the task done, once. Raises nothing but CancelledError: endings are values."""

    async def is_there(self) -> bool:
        """Tell whether Conductor says that it is well. Raises nothing but CancelledError."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Conductor said. A run failed exactly where `failure` is set."""

    output: str | None
    failure: "Failure | None" = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed: `reason` for programs, the rest for people.

    `said` is Conductor's own text, which may quote what it was sent: it belongs in no log.
    """

    reason: Reason
    summary: str
    said: str = ""
    may_repeat: bool = False
    """Nothing was accepted, or a repeated call would be refused: it may be made again."""
    retry_after: timedelta | None = None
    """How long Conductor wants to be left alone."""
    is_down: bool = False
    """Nobody was there to answer, or only a gateway."""

    @property
    def text(self) -> str:
        """All that is known."""
        return f"{self.summary}: {self.said}" if self.said else self.summary


Fired = Callable[[Fire], None]
"""Called when a slot comes due; returns at once."""
