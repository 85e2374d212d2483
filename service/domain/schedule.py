"""Schedules and the slots they stand for.

A *slot* is an instant at which a councilor is due. Slots are aware datetimes in UTC, strictly
increasing, and depend on nothing but the document: every replica computes the same ones.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.cron import Cron
from service.domain.interval import Every

Schedule = Every | Cron
"""What can be asked for the next slot after an instant, the latest one, and how many lie between.

`accepted_at` is the instant at which it took effect: there are no slots before.
"""

_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Timetable:
    """The slots of one councilor: its schedule since `accepted_at`, each `delay` later.

    Slots before `not_before` do not exist.
    """

    schedule: Schedule
    accepted_at: datetime
    delay: timedelta = timedelta(0)
    not_before: datetime | None = None

    def next_slot(self, after: datetime) -> datetime:
        """The first slot strictly after `after`."""
        if self.not_before is not None and after < self.not_before:
            after = self.not_before - _TICK
        return self.schedule.next_slot(after - self.delay, self.accepted_at) + self.delay

    def latest_slot(self, not_after: datetime) -> datetime | None:
        """The last slot that is not after `not_after`, if there is one."""
        slot = self.schedule.latest_slot(not_after - self.delay, self.accepted_at)
        if slot is None or (self.not_before is not None and slot + self.delay < self.not_before):
            return None
        return slot + self.delay

    def has(self, instant: datetime) -> bool:
        """Tell whether an instant is a slot."""
        return self.latest_slot(instant) == instant

    def count(self, first: datetime, last: datetime) -> int:
        """How many slots lie between two slots, both included."""
        return self.schedule.count(first - self.delay, last - self.delay)


def delay_within(spread: timedelta, agent_id: str) -> timedelta:
    """A stable delay in `[0, spread)`, in whole milliseconds, the same on every replica."""
    milliseconds = int(spread.total_seconds() * 1000)
    if milliseconds == 0:
        return timedelta(0)
    digest = hashlib.sha256(agent_id.encode("utf-8", "surrogatepass")).digest()
    return timedelta(milliseconds=int.from_bytes(digest[:8]) % milliseconds)
