"""What to do about slots that have come due: start one, catch up on some, miss the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.config import CatchUp
from service.domain.execution import Stretch, Trigger
from service.domain.interval import Every
from service.domain.jobs import JobSpec
from service.domain.schedule import Timetable

_TICK = timedelta(microseconds=1)

MOST_CAUGHT_UP = 100
"""How many missed slots `catch_up: all` runs, the latest ones."""
PUNCTUAL = timedelta(seconds=15)
"""A slot that starts within this time of its instant was not missed, whatever held it up."""


@dataclass(frozen=True, slots=True)
class DueSlots:
    """What to do about the slots between one that came due and now: start some, miss the rest."""

    starts: tuple[tuple[datetime, Trigger], ...]
    missed: Stretch | None
    last: datetime
    """The latest slot that this settles."""
    skipped: datetime | None = None
    """The slot that `skip_next` takes out, where that is the first one."""

    @property
    def is_on_time(self) -> bool:
        """Tell whether this is one slot, started as it came due."""
        is_one = self.missed is None and len(self.starts) == 1
        return is_one and self.starts[0][1] is Trigger.SCHEDULE


def first_gap(
    timetable: Timetable, since: datetime, taken: Sequence[tuple[datetime, datetime]]
) -> tuple[datetime, datetime | None]:
    """The first slot from `since` on that has no row, and the first after it that has one.

    `taken` are the first and the last slot of each row, in order.
    """
    slot = timetable.next_slot(since - _TICK)
    for first, last in taken:
        if first > slot:
            return slot, first
        if last >= slot:
            slot = timetable.next_slot(last)
    return slot, None


def due_slots(
    spec: JobSpec,
    timetable: Timetable,
    due_at: datetime,
    now: datetime,
    serving_since: datetime,
    left_out: datetime | None = None,
    taken_from: datetime | None = None,
) -> DueSlots | None:
    """Decide on the slots from `due_at` to `now`; None where there is none, after an edit say.

    Slots that came due before `serving_since`, or long before `now`, count as missed, and the
    councilor's `catch_up` says which of them run. `left_out` is never among them: the slots before
    it are decided on first, then it is skipped. `taken_from` is a newer slot that has a row.
    Costs the same however many there are.
    """
    last = timetable.latest_slot(now)
    first = timetable.next_slot(due_at - _TICK)
    if last is None or first > last:
        return None
    ends = [taken_from] if taken_from is not None else []
    if left_out is not None and timetable.has(left_out):
        ends.append(left_out)
    if (end := min((end for end in ends if first <= end <= last), default=None)) is not None:
        return _until(end, spec, timetable, first)
    if last >= serving_since and now - last <= PUNCTUAL:
        start: tuple[tuple[datetime, Trigger], ...] = ((last, Trigger.SCHEDULE),)
        if first == last:
            return DueSlots(start, None, last)
        earlier = timetable.latest_slot(last - _TICK)
        assert earlier is not None  # `first` is one
        caught_up, missed = _caught_up(spec, timetable, first, earlier, None)
        return DueSlots((*caught_up, *start), missed, last)
    starts, missed = _caught_up(spec, timetable, first, last, now)
    return DueSlots(starts, missed, last)


def may_still_start(spec: JobSpec, timetable: Timetable, slot: datetime, now: datetime) -> bool:
    """Tell whether a slot that has been claimed, and not begun, may begin as late as now."""
    if not timetable.has(slot):
        return False
    match spec.catch_up:
        case CatchUp.ALL:
            return True
        case CatchUp.ONCE:
            is_latest = timetable.next_slot(slot) > now
            return is_latest and now - slot <= _recent(spec, timetable, slot)
        case CatchUp.SKIP:
            return now - slot <= PUNCTUAL


def _until(end: datetime, spec: JobSpec, timetable: Timetable, first: datetime) -> DueSlots:
    if first == end:
        return DueSlots((), None, end, skipped=end)
    earlier = timetable.latest_slot(end - _TICK)
    assert earlier is not None  # `first` is one
    starts, missed = _caught_up(spec, timetable, first, earlier, None)
    return DueSlots(starts, missed, earlier)


def _caught_up(
    spec: JobSpec, timetable: Timetable, first: datetime, last: datetime, now: datetime | None
) -> tuple[tuple[tuple[datetime, Trigger], ...], Stretch | None]:
    """Which of the missed slots to run; with `now` None a newer slot runs in their place."""
    match spec.catch_up:
        case CatchUp.ALL:
            slots = _latest_slots(timetable, first, last, MOST_CAUGHT_UP)
        case CatchUp.ONCE if now is not None and now - last <= _recent(spec, timetable, last):
            slots = [last]
        case _:
            slots = []
    starts = tuple((slot, Trigger.CATCH_UP) for slot in slots)
    if slots and slots[0] == first:
        return starts, None
    end = timetable.latest_slot(slots[0] - _TICK) if slots else last
    assert end is not None  # `first` is before it
    return starts, Stretch(first, end, timetable.count(first, end))


def _latest_slots(
    timetable: Timetable, first: datetime, last: datetime, most: int
) -> list[datetime]:
    slots = [last]
    while len(slots) < most:
        earlier = timetable.latest_slot(slots[-1] - _TICK)
        if earlier is None or earlier < first:
            break
        slots.append(earlier)
    return slots[::-1]


def _recent(spec: JobSpec, timetable: Timetable, slot: datetime) -> timedelta:
    """How late the latest missed slot may still start."""
    if isinstance(spec.schedule, Every):
        return min(spec.schedule.period, timedelta(hours=1))
    return min((timetable.next_slot(slot) - slot) / 2, timedelta(hours=12))
