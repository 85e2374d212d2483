"""What will run: how many starts a stretch of time will see, and how many runs at once."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil

from service.domain.cron import Cron
from service.domain.interval import Every
from service.domain.jobs import Job
from service.domain.schedule import Timetable

_MINUTE = timedelta(minutes=1)
_ACCEPTED = datetime(2000, 1, 1, tzinfo=UTC)
_MOST_STEPS = 50_000
"""Slots that are looked at: half a second's work at most. Of more, every n-th job stands for n."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load of a bucket of time that begins `at`: `at_once` is its busiest minute's runs."""

    at: datetime
    starts: int
    at_once: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Loads in order; `is_estimate` where not every job was looked at."""

    loads: Sequence[Load]
    is_estimate: bool


def forecast(
    jobs: Iterable[Job], since: datetime, minutes: int, bucket: int, run_time: timedelta
) -> Forecast:
    """The load of `minutes` from a full minute on, in buckets of so many; `run_time` is a guess.

    Crons of one minute start in its first second: they all are at once. The slots of intervals lie
    anywhere in their minute. Runs that take longer are still there in the minutes after.
    """
    kinds = _kinds_of(jobs)
    until = since + minutes * _MINUTE
    steps = sum(_slots_of(timetable, since, until) for timetable in kinds)
    nth = -(-steps // _MOST_STEPS) or 1
    together, spread = [0] * minutes, [0] * minutes
    for place, (timetable, count) in enumerate(kinds.items()):
        if place % nth == 0:
            starts = spread if isinstance(timetable.schedule, Every) else together
            _count(timetable, count * nth, since, until, starts)
    runs = _runs(together, spread, run_time)
    starts = [one + other for one, other in zip(together, spread, strict=True)]
    loads = [
        Load(
            since + first * _MINUTE,
            sum(starts[first : first + bucket]),
            max(runs[first : first + bucket]),
        )
        for first in range(0, minutes, bucket)
    ]
    return Forecast(loads, is_estimate=nth > 1)


def _kinds_of(jobs: Iterable[Job]) -> Mapping[Timetable, int]:
    """How many jobs have the same slots from now on: crons that are written alike do."""
    kinds: Counter[Timetable] = Counter()
    for job in jobs:
        timetable = job.timetable
        if timetable is not None:
            is_cron = isinstance(timetable.schedule, Cron)  # whose slots depend on no acceptance
            kinds[replace(timetable, accepted_at=_ACCEPTED) if is_cron else timetable] += 1
    return kinds


def _slots_of(timetable: Timetable, since: datetime, until: datetime) -> int:
    schedule = timetable.schedule
    gap = schedule.shortest_gap if isinstance(schedule, Every) else _MINUTE
    return max(1, int((until - since) / max(gap, _MINUTE)))


def _count(
    timetable: Timetable, weight: int, since: datetime, until: datetime, starts: list[int]
) -> None:
    slot = timetable.next_slot(since - timedelta(microseconds=1))
    schedule = timetable.schedule
    if isinstance(schedule, Every) and schedule.period < _MINUTE and slot < until:
        first = int((slot - since) / _MINUTE)
        for minute in range(first, len(starts)):  # more than one a minute
            starts[minute] += round(weight * (_MINUTE / schedule.period))
        return
    while slot < until:
        starts[int((slot - since) / _MINUTE)] += weight
        slot = timetable.next_slot(slot)


def _runs(together: Sequence[int], spread: Sequence[int], run_time: timedelta) -> list[int]:
    """How many runs there are at the busiest moment of each minute."""
    whole, part = divmod(run_time / _MINUTE, 1)
    lasting = int(whole)
    runs = []
    for minute, starts in enumerate(together):
        earlier = range(max(0, minute - lasting), minute)
        before = sum(together[one] + spread[one] for one in earlier)
        share = 1.0 if lasting else max(part, 1 / 60)
        runs.append(starts + ceil(spread[minute] * share) + before)
    return runs
