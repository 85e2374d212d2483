"""Leaves a slot to the replicas that go first, then looks whether one of them took it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from service.domain.catch_up import PUNCTUAL
from service.domain.execution import Fire
from service.ports import Clock, Ledger

_HEAD_START = timedelta(seconds=1)
"""What each replica that goes first has of it: what a dead one costs."""
_COLLECT_SECONDS = 0.005
_MOST_AT_ONCE = 1_000


class Standby:
    """Where `rank` of an agent is r, this replica waits for r seconds after its slot."""

    def __init__(self, ledger: Ledger, rank: Callable[[str], int], clock: Clock) -> None:
        self._ledger = ledger
        self._rank = rank
        self._clock = clock
        self._asked: dict[str, asyncio.Future[bool]] = {}
        self._task: asyncio.Task[None] | None = None

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
        answer = self._asked.get(fire.execution_id)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._asked[fire.execution_id] = answer
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="look whether slots are taken")
        return await asyncio.shield(answer)

    async def stop(self) -> None:
        """Ask nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _look(self) -> None:
        while self._asked:
            await asyncio.sleep(_COLLECT_SECONDS)
            batch = dict(list(self._asked.items())[:_MOST_AT_ONCE])
            for execution_id in batch:
                del self._asked[execution_id]
            await self._answer(batch)

    async def _answer(self, batch: dict[str, "asyncio.Future[bool]"]) -> None:
        ids: Sequence[str] = list(batch)
        try:
            known = await self._ledger.known(ids)
        except Exception as error:  # noqa: BLE001 raised where it was asked
            for answer in batch.values():
                answer.set_exception(error)
                answer.exception()  # one that was cancelled does not ask for it
            return
        for execution_id, answer in batch.items():
            answer.set_result(execution_id in known)
