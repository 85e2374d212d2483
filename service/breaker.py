"""Holds starts back while Conductor is down, rather than burning slots on it."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

from service.domain.execution import Reason
from service.pace import Pace
from service.ports import Answer, Conductor
from service.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When to stop calling, and how often to ask whether Conductor is back."""

    failures: int = 3
    """As many calls in a row that found Conductor down open it."""
    first_seconds: float = 0.5
    longest_seconds: float = 10.0


class Breaker:
    """Run `probe` as a task. Calls that find Conductor down open it; its health half-opens it.

    Half-open, starts are let through one by one: the first that finds it down opens it again, the
    first that is answered closes it. An outage is over only then, since health may be fine where
    calls are not: `lost` is called, and told, when it begins, `answered` when it is over.
    """

    def __init__(
        self,
        conductor: Conductor,
        telemetry: Telemetry,
        *,
        lost: Callable[[], None] = lambda: None,
        answered: Callable[[], None] = lambda: None,
        pace: Pace | None = None,
        policy: BreakerPolicy | None = None,
    ) -> None:
        self._conductor = conductor
        self._telemetry = telemetry
        self._lost, self._answered = lost, answered
        self._policy = policy or BreakerPolicy()
        self._pace = pace or Pace()
        self._failures = 0
        self._is_half_open = False
        self._passable = asyncio.Event()
        self._passable.set()
        self._opened = asyncio.Event()
        self.trouble: str | None = None
        """What calls met, while it is open or half-open."""

    @property
    def is_open(self) -> bool:
        """Tell whether starts are held back now."""
        return not self._passable.is_set()

    @property
    def is_holding(self) -> bool:
        """Tell whether starts have to wait for `let_through`."""
        return self.is_open or self._is_half_open

    async def let_through(self) -> bool:
        """Wait until a start may call Conductor; tells whether it had to wait for that."""
        was_held = self.is_open
        must_queue = self.is_holding
        while must_queue:
            await self._passable.wait()
            await self._pace.turn()
            must_queue = self.is_open  # somebody before us in the line found it down again
        return was_held

    def saw(self, answer: Answer) -> None:
        """Take note of what a call met."""
        failure = answer.failure
        if failure is not None and failure.reason is Reason.TIMEOUT:
            return  # it was called long ago: that says nothing about now
        if failure is None or not failure.is_down:
            self._failures = 0
            self._close()
            return
        self._failures += 1
        if self._is_half_open or self._failures >= self._policy.failures:
            self._open(failure.summary)

    def _open(self, trouble: str) -> None:
        if self.trouble is None:
            self._telemetry.conductor_lost(trouble)
            self._lost()
        self.trouble = trouble
        self._is_half_open = False
        self._passable.clear()
        self._opened.set()

    def _close(self) -> None:
        if self.trouble is not None:
            self._telemetry.conductor_returned()
            self._answered()
        self.trouble = None
        self._is_half_open = False
        self._passable.set()
        self._opened.clear()

    async def probe(self) -> None:
        """While it is open, ask for Conductor's health, less and less often."""
        longest = self._policy.first_seconds
        while True:
            if self.trouble is None:
                longest = self._policy.first_seconds
            await self._opened.wait()
            # Full jitter: the replicas do not all ask at once.
            await asyncio.sleep(random.uniform(longest / 2, longest))
            longest = min(longest * 2, self._policy.longest_seconds)
            if self._opened.is_set() and await self._conductor.is_there() and self.is_open:
                self._opened.clear()
                self._is_half_open = True
                self._passable.set()
