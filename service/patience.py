"""Steps on a database that may not answer: taken again until it does."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import stamina

from service.ports import LookAgain, Misconfigured, Unavailable
from service.telemetry import Telemetry

_T = TypeVar("_T")

# Rights that were taken away may come back; a run that has been claimed waits for its record.
PASSING = (Unavailable, Misconfigured)
_FIRST_SECONDS, _LONGEST_SECONDS = 0.1, 1.0
"""Each try waits for a primary by itself: after an election no second is to be lost."""


class Patience:
    """Takes steps again and again while the database does not answer."""

    def __init__(self, telemetry: Telemetry, *, longest_seconds: float = _LONGEST_SECONDS) -> None:
        self._telemetry = telemetry
        self._longest_seconds = longest_seconds

    async def retried(
        self, step: Callable[[], Awaitable[_T]], is_over: Callable[[], bool] = lambda: False
    ) -> _T:
        """What `step` answers, however long that takes.

        Raises Unavailable or Misconfigured only once `is_over`, and what else the step raises.
        """
        try:
            return await self._told(step)  # nearly always; the loop costs a fifth of a run
        except PASSING:
            if is_over():
                raise
        await asyncio.sleep(random.uniform(0, min(_FIRST_SECONDS, self._longest_seconds)))
        async for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, PASSING) and not is_over(),
            attempts=None,
            timeout=None,
            wait_initial=min(_FIRST_SECONDS, self._longest_seconds),
            wait_max=self._longest_seconds,
        ):
            with attempt:
                result = await self._told(step)
        return result

    async def _told(self, step: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await step()
        except LookAgain:
            raise
        except PASSING as error:
            self._telemetry.database_failed(error)
            raise
