"""Leaves a slot to the replicas that go first, then looks whether one of them took it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from service.batching import Batcher, BatchPolicy
from service.domain.catch_up import PUNCTUAL
from service.domain.execution import Fire
from service.ports import Clock, Ledger

_HEAD_START = timedelta(seconds=1)
"""What each replica that goes first has of it: what a dead one costs."""


class Standby:
    """Where `rank` of an agent is r, this replica waits for r seconds after its slot."""

    def __init__(
        self,
        ledger: Ledger,
        rank: Callable[[str], int],
        clock: Clock,
        *,
        batches: BatchPolicy | None = None,
    ) -> None:
        self._ledger = ledger
        self._rank = rank
        self._clock = clock
        self._looks = Batcher(self._are_taken, policy=batches)

    def goes_first(self, agent_id: str) -> bool:
        """Tell whether this replica need not wait for another."""
        return self._rank(agent_id) == 0

    async def turn(self, agent_id: str, slot: datetime, *, is_first: bool = True) -> bool:
        """Wait until it is this replica's turn; tells whether others had theirs before.

        After an outage, when slots are long overdue, turns are counted from now; once, and not for
        each of the slots that follow the first.
        """
        rank = self._rank(agent_id)
        if rank == 0:
            return False
        now = self._clock()
        since = min(slot, now) if now - slot < PUNCTUAL or not is_first else now
        await asyncio.sleep(max(0.0, (since + rank * _HEAD_START - now).total_seconds()))
        return True

    async def is_taken(self, fire: Fire) -> bool:
        """Tell whether the slot has a row; those who ask at the same time ask in one query.

        Raises Unavailable.
        """
        return await self._looks.ask(fire.execution_id)

    async def _are_taken(self, execution_ids: Sequence[str]) -> Sequence[bool]:
        known = await self._ledger.known(execution_ids)
        return [execution_id in known for execution_id in execution_ids]
