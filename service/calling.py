"""Calls Conductor for a claimed run; repeatedly only where nothing can have been accepted."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from time import monotonic

from service.breaker import Breaker
from service.domain.execution import Attempt, Execution, Order
from service.patience import Patience
from service.ports import Answer, Clock, Conductor, Failure, Ledger, Unavailable
from service.telemetry import Telemetry

PROMPT_SECONDS = 2.0
"""What lets a call be made, and is acknowledged later than this, is not relied upon."""
_SHORTEST_CALL = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pause before a repeated call: anything up to a bound that doubles each time."""

    first: timedelta = timedelta(seconds=0.5)
    longest: timedelta = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Called:
    """What Conductor said in the end, and every call that it took."""

    answer: Answer
    attempts: tuple[Attempt, ...]


class Caller:
    """Each call of a run is on record before it is made, and its failure before the next.

    So whoever finds the row of a dead replica knows whether Conductor may have accepted the last
    call; and a replica that was taken for dead finds that the run is not its own any more.
    """

    def __init__(
        self,
        conductor: Conductor,
        ledger: Ledger,
        breaker: Breaker,
        patience: Patience,
        telemetry: Telemetry,
        clock: Clock,
        *,
        require_fit: Callable[[], None],
        policy: RetryPolicy | None = None,
    ) -> None:
        self._conductor = conductor
        self._ledger = ledger
        self._breaker = breaker
        self._patience = patience
        self._telemetry = telemetry
        self._clock = clock
        self._require_fit = require_fit
        self._policy = policy or RetryPolicy()

    async def call(self, execution: Execution, order: Order) -> Called | None:
        """Have the order done; None where the run turns out to be somebody else's by now.

        The last of `execution.attempts` is the call that its claim has put on record.
        """
        attempts = execution.attempts
        call = order  # of which the time has just begun
        while True:
            answer = await self._conductor.execute(call)
            self._breaker.saw(answer)
            failure = answer.failure
            attempts = _ended(attempts, failure.text if failure is not None else None)
            pause = self._pause(failure, order, len(attempts))
            if failure is None or pause is None:
                return Called(answer, attempts)
            self._telemetry.call_failed(execution, failure.summary)
            if not await self._is_noted(execution, attempts):
                return None
            if not await self._may_repeat(pause, order):
                return Called(answer, attempts)
            again = (*attempts, Attempt(self._clock(), None))
            asked = monotonic()
            if not await self._is_noted(execution, again):
                return None
            if not self._is_in_time(asked, order):
                return Called(answer, attempts)
            attempts, call = again, self._bounded(order)

    def _is_in_time(self, asked: float, order: Order) -> bool:
        """Tell whether a call that is on record may be made still: soon after, and in its time.

        Who was stopped in between may be taken for dead by now.
        """
        try:
            self._require_fit()
        except Unavailable:
            return False
        return monotonic() - asked <= PROMPT_SECONDS and self._clock() < order.retry_until

    def _bounded(self, order: Order) -> Order:
        """The order with what is left of its time."""
        left = order.ends_at - self._clock()
        return replace(order, timeout=max(_SHORTEST_CALL, min(order.timeout, left)))

    def _pause(self, failure: Failure | None, order: Order, calls: int) -> timedelta | None:
        """How long to wait before the next call; None where there must be none."""
        if failure is None or not failure.may_repeat:
            return None
        # Beyond some thirty doublings the bound is the longest pause anyway.
        bound = min(self._policy.longest, self._policy.first * 2 ** min(calls - 1, 30))
        pause = max(bound * random.random(), failure.retry_after or timedelta(0))
        return pause if self._clock() + pause < order.retry_until else None

    async def _may_repeat(self, pause: timedelta, order: Order) -> bool:
        """Wait, and while Conductor is down wait on; False where that takes too long."""
        left = order.retry_until - self._clock()
        try:
            async with asyncio.timeout(left.total_seconds()):
                await asyncio.sleep(pause.total_seconds())
                await self._breaker.let_through()
        except TimeoutError:
            return False
        return True

    async def _is_noted(self, execution: Execution, attempts: Sequence[Attempt]) -> bool:
        return await self._patience.retried(lambda: self._ledger.note_attempts(execution, attempts))


def _ended(attempts: tuple[Attempt, ...], error: str | None) -> tuple[Attempt, ...]:
    return attempts if error is None else (*attempts[:-1], replace(attempts[-1], error=error))
