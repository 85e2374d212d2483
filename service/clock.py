"""The clock that slots are counted by: the machine's, held against the database's."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from service.ports import Clock

CORRECTED_FROM = timedelta(seconds=1)
"""A smaller offset than this is left alone: it is within what replicas and writers tolerate."""
REFUSED_FROM = timedelta(seconds=5)
"""Somebody's clock is wrong, and nobody here can tell whose: nothing is started by it."""
_SLOWEST_COMPARISON = timedelta(seconds=1)
_LARGEST_STEP = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ComparedClock:
    """A `Clock`: the machine's, corrected by the offset from the database's where that is large.

    `doubt` says why it must not be relied upon: it was never compared, it was stepped since, or
    it is off by more than a correction should bridge.
    """

    def __init__(self, wall: Clock, elapsed_seconds: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self._elapsed_seconds = elapsed_seconds
        self._correction = timedelta(0)
        self._base: timedelta | None = None
        self.offset = timedelta(0)
        """How far the database's clock is ahead of this machine's."""

    def __call__(self) -> datetime:
        return self._wall() + self._correction

    def compare(self, server: datetime, asked_at: datetime, answered_at: datetime) -> None:
        """Take note of what the database's clock said between two readings of ours.

        `asked_at` and `answered_at` are uncorrected; an answer that took long says little.
        """
        took = answered_at - asked_at
        if not timedelta(0) <= took <= _SLOWEST_COMPARISON:
            return
        self.offset = server - (asked_at + took / 2)
        self._correction = self.offset if abs(self.offset) > CORRECTED_FROM else timedelta(0)
        self._base = self._since_boot()

    @property
    def uncorrected(self) -> datetime:
        """What this machine's clock says."""
        return self._wall()

    @property
    def was_stepped(self) -> bool:
        """Tell whether the machine's clock was set, or the machine slept, since it was compared."""
        return self._base is None or abs(self._since_boot() - self._base) > _LARGEST_STEP

    @property
    def doubt(self) -> str | None:
        """Why nothing may be started by this clock; None where it may."""
        if self._base is None:
            return "this machine's clock was not compared with the database's yet"
        if self.was_stepped:
            return "this machine's clock was set, or the machine slept; it is compared anew"
        if abs(self.offset) > REFUSED_FROM:
            seconds = self.offset.total_seconds()
            return f"this machine's clock and the database's differ by {seconds:.1f} s"
        return None

    def _since_boot(self) -> timedelta:
        """The wall clock against one that is never set: constant while nobody steps it."""
        return self._wall() - _EPOCH - timedelta(seconds=self._elapsed_seconds())
