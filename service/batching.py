"""Requests that come at the same time, sent as one: a group commit, and its counterpart for reads.

MongoDB takes ten commands of a hundred operations in the time of forty commands of one.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST, _HEAVIEST = 200, 4_000_000
_AT_ONCE = 4
"""Batches on the way: a slow one holds back none behind it, and many more would be slower."""
_ANSWERED_AT_ONCE = 10
"""Callers that are woken before the event loop may turn to something else."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How long batches collect what is asked for."""

    at_least_seconds: float = 0.001
    distance_seconds: float = 0.005
    """From one batch to the next, and as much again for each that is still on the way: the busier
    it is, the more travel together. A command costs some 500 µs of processor time, however little
    it has to say."""


class Batcher(Generic[Item, Answer]):
    """`ask` for many, each with an answer of its own.

    `send` is given some items and answers for each, in their order; an exception among the answers
    is raised where that item was asked for, one that `send` raises for all of them. Nobody is
    answered before `send` has returned. `most` is how many go together; with one, this is but a
    queue, of which `at_once` are on the way. A caller that is cancelled takes its item back, as
    long as that has not been sent.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int = _MOST,
        at_once: int = _AT_ONCE,
        policy: BatchPolicy | None = None,
        weight: Callable[[Item], int] = lambda _: 0,
    ) -> None:
        self._send = send
        self._most = most
        self._at_once = at_once
        self._policy = policy or BatchPolicy()
        self._weight = weight
        self._waiting: deque[tuple[Item, asyncio.Future[Answer] | None]] = deque()
        self._collecting: asyncio.TimerHandle | None = None
        self._on_the_way: set[asyncio.Task[None]] = set()
        self._started_at = -math.inf

    async def ask(self, item: Item) -> Answer:
        """The answer for this item. Raises what `send` has for it."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._put(item, answer)
        try:
            return await answer
        finally:
            del answer, item  # what is raised leads here: with them it would be a cycle

    def tell(self, item: Item) -> None:
        """Have this item sent, too; nobody waits for its answer."""
        self._put(item, None)

    async def stop(self) -> None:
        """Send nothing more: what waits is dropped, what is on the way is cancelled."""
        if self._collecting is not None:
            self._collecting.cancel()
        self._waiting.clear()
        for task in self._on_the_way:
            task.cancel()
        await asyncio.gather(*self._on_the_way, return_exceptions=True)

    def _put(self, item: Item, answer: "asyncio.Future[Answer] | None") -> None:
        self._waiting.append((item, answer))
        if len(self._waiting) >= self._most:
            self._start()
        elif self._collecting is None:
            self._collect(asyncio.get_running_loop())

    def _collect(self, loop: asyncio.AbstractEventLoop) -> None:
        distance = self._policy.distance_seconds * (1 + len(self._on_the_way))
        at = max(loop.time() + self._policy.at_least_seconds, self._started_at + distance)
        self._collecting = loop.call_at(at, self._start)

    def _start(self) -> None:
        """Send what waits, as far as there is room on the way."""
        if self._collecting is not None:
            self._collecting.cancel()
            self._collecting = None
        while self._waiting and len(self._on_the_way) < self._at_once:
            if batch := self._batch():
                task = asyncio.create_task(self._see_through(batch), name="send a batch")
                self._on_the_way.add(task)
                task.add_done_callback(self._arrived)
                self._started_at = asyncio.get_running_loop().time()

    def _batch(self) -> "list[tuple[Item, asyncio.Future[Answer] | None]]":
        batch: list[tuple[Item, asyncio.Future[Answer] | None]] = []
        weight = 0
        while self._waiting and len(batch) < self._most and weight < _HEAVIEST:
            item, answer = self._waiting.popleft()
            if answer is None or not answer.done():  # else its caller was cancelled
                batch.append((item, answer))
                weight += self._weight(item)
        return batch

    def _arrived(self, task: "asyncio.Task[None]") -> None:
        self._on_the_way.discard(task)
        if len(self._waiting) >= self._most:
            self._start()
        elif self._waiting and self._collecting is None:
            self._collect(asyncio.get_running_loop())

    async def _see_through(
        self, batch: "Sequence[tuple[Item, asyncio.Future[Answer] | None]]"
    ) -> None:
        futures = [future for _, future in batch]
        answered: list[tuple[asyncio.Future[Answer] | None, Answer | Exception]]
        try:
            answers = await self._send([item for item, _ in batch])
            answered = list(zip(futures, answers, strict=True))
        except Exception as error:  # noqa: BLE001 raised where it was asked
            answered = [(future, _like(error)) for future in futures]
        for place, (future, answer) in enumerate(answered):
            if place % _ANSWERED_AT_ONCE == _ANSWERED_AT_ONCE - 1:
                await asyncio.sleep(0)
            if future is None or future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _like(error: Exception) -> Exception:
    """One for each: an exception that is raised in many places collects all their tracebacks."""
    try:
        return copy(error)
    except Exception:  # noqa: BLE001 one that cannot be copied
        return error
