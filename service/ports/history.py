"""The ledger as people read it, and as it is written."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from service.domain.execution import (
    Status,
)
from service.domain.severity import Severity
from service.ports.errors import ServiceError
from service.ports.ledger import LedgerRow


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

    async def prepare(self) -> None:
        """Have what makes `ended` cheap. Raises Misconfigured, too."""

    async def page(self, agent_id: str, query: HistoryQuery) -> Sequence[LedgerRow]:
        """An agent's rows, latest slot first, of `output` and `error` only the beginning.

        Raises UnknownRow.
        """

    async def row(self, agent_id: str, execution_id: str) -> LedgerRow | None:
        """One row of this agent's, whole."""

    async def slot_at(self, agent_id: str, instant: datetime) -> LedgerRow | None:
        """The latest row whose slot is not after this instant, without its output.

        Runs that somebody asked for are no slots.
        """

    async def request_at(
        self, agent_id: str, since: datetime, instant: datetime
    ) -> LedgerRow | None:
        """The latest run that was asked for in this time, both included, without its output."""

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
