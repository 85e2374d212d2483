"""The ledger as runs need it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    NotRun,
    Outcome,
)
from service.ports.errors import ServiceError


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

        Where they were gone, with the collection say, rows expire again as they did.
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
