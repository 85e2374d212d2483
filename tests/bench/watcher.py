"""Sees slots come, and a loop stand still: a timer that should come each two milliseconds."""

import asyncio
from array import array

from service.app import wall_clock

_EVERY_SECONDS = 0.002
_BUCKET_SECONDS = 0.000_1
_BUCKETS = 2_000


class Watcher:
    """Started, it keeps the longest lag of its timer since the last `reset`.

    Its memory does not grow, whatever the time; it takes some 1% of a core.
    """

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._expected = 0.0
        self.reset()

    def start(self) -> None:
        """Watch the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._next()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def reset(self) -> None:
        """Forget what was seen so far."""
        self._longest = 0.0
        self._handed_over_at = 0.0
        self._buckets = array("Q", [0] * _BUCKETS)

    def handed_over(self) -> None:
        """Take note that a slot which had come due was handed over just now."""
        self._handed_over_at = wall_clock().timestamp()

    def report(self) -> dict[str, float]:
        """The longest lag, and the one that 99% of the timers did not exceed, up to 200 ms.

        `handed_over_at` is when the latest slot was handed over, in seconds since 1970.
        """
        return {
            "handed_over_at": self._handed_over_at,
            "longest_stall_ms": self._longest * 1_000,
            "loop_lag_p99_ms": min(self._p99(), self._longest) * 1_000,
        }

    def _p99(self) -> float:
        left = sum(self._buckets) * 0.01
        for bucket in reversed(range(_BUCKETS)):
            left -= self._buckets[bucket]
            if left < 0:
                return (bucket + 1) * _BUCKET_SECONDS
        return 0.0

    def _next(self) -> None:
        self._expected = self._loop.time() + _EVERY_SECONDS
        self._timer = self._loop.call_at(self._expected, self._tick)

    def _tick(self) -> None:
        lag = max(self._loop.time() - self._expected, 0.0)
        self._longest = max(self._longest, lag)
        self._buckets[min(int(lag / _BUCKET_SECONDS), _BUCKETS - 1)] += 1
        self._next()
