"""Crons against a stepper of the tests' own, minute by minute, around every clock change."""

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.cron import Cron, cron_from
from service.domain.interval import ScheduleError
from service.domain.schedule import Timetable

ZONES = (
    *("UTC", "Europe/Berlin", "Europe/London", "Europe/Dublin", "Europe/Chisinau"),
    *("Atlantic/Azores", "America/New_York", "America/Chicago", "America/Los_Angeles"),
    *("America/St_Johns", "America/Havana", "America/Port-au-Prince", "America/Miquelon"),
    *("America/Nuuk", "America/Scoresbysund", "America/Asuncion", "America/Santiago"),
    *("Pacific/Easter", "Pacific/Auckland", "Pacific/Chatham", "Pacific/Norfolk"),
    *("Australia/Sydney", "Australia/Adelaide", "Australia/Lord_Howe", "Antarctica/Troll"),
    *("Africa/Cairo", "Africa/Casablanca", "Asia/Beirut", "Asia/Gaza", "Asia/Jerusalem"),
    *("Asia/Almaty", "Asia/Kathmandu", "Asia/Qostanay", "America/Sao_Paulo"),
)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
MINUTE, HOUR, TICK = timedelta(minutes=1), timedelta(hours=1), timedelta(microseconds=1)
AROUND = timedelta(hours=20)
CRONS_A_CHANGE = 3
MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


class Wanted:
    """An expression together with the sets that it was made from, so that nothing is parsed."""

    def __init__(self, random: Random, near: datetime) -> None:
        made = [
            field(random, 0, 59),
            field(random, 0, 23),
            field(random, 1, 31, mostly_all=True),
            field(random, 1, 12, MONTHS, mostly_all=True),
            field(random, 0, 6, DAYS, mostly_all=True),
        ]
        # Days of the change alone: the slots before and after these are months away.
        for place, value in ((2, near.day), (3, near.month), (4, near.isoweekday() % 7)):
            if random.random() < 0.3:
                made[place] = str(value), {value}
        self.texts = [text for text, _ in made]
        self.minutes, self.hours, self.days, self.months, self.weekdays = (s for _, s in made)
        self.text = " ".join(self.texts)
        self.is_fixed = self.texts[0][0] != "*" and self.texts[1][0] != "*"
        self.is_both = self.texts[2][0] == "*" or self.texts[4][0] == "*"

    def names(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours:
            return False
        on_day, on_weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        fits = (on_day and on_weekday) if self.is_both else (on_day or on_weekday)
        return wall.month in self.months and fits

    def slots(self, steps: list[tuple[datetime, datetime]]) -> list[datetime]:
        """Debian's rules, spelled out: `steps` are minutes and what the clocks show at each."""
        if not self.is_fixed:
            return [at for at, wall in steps if self.names(wall)]
        slots, shown = [], set[datetime]()
        for (_, before), (at, wall) in pairwise(steps):
            left_out = (wall - before) // MINUTE - 1
            walls = [wall, *(before + n * MINUTE for n in range(1, left_out + 1))]
            if any(self.names(each) and each not in shown for each in walls):
                slots.append(at)
            shown.add(wall)
        return slots


def field(
    random: Random, low: int, high: int, names: list[str] | None = None, *, mostly_all: bool = False
) -> tuple[str, set[int]]:
    """A cron field and the values that it stands for."""
    everything = set(range(low, high + 1))
    if random.random() < (0.75 if mostly_all else 0.2):
        return "*", everything
    terms = [term(random, low, high, names) for _ in range(random.choice([1, 1, 1, 2, 3]))]
    return ",".join(text for text, _ in terms), set[int]().union(*(values for _, values in terms))


def term(random: Random, low: int, high: int, names: list[str] | None) -> tuple[str, set[int]]:
    def shown(value: int) -> str:
        if names is not None and random.random() < 0.5:
            return random.choice([names[value - low], names[value - low].lower()])
        if names is DAYS and value == 0:
            return random.choice(["0", "7"])
        return f"{value:0{random.choice([1, 1, 2])}}"

    first, last, step = random.randint(low, high), random.randint(low, high), random.randint(1, 20)
    span = [low + (value - low) % (high + 1 - low) for value in range(first, first + high + 1)]
    ring = span[: span.index(last) + 1]
    match random.randrange(5):
        case 0 | 1:
            return shown(first), {first}
        case 2:
            return f"*/{step}", set(range(low, high + 1, step))
        case 3 if len(ring) > 1:
            return f"{shown(first)}-{shown(last)}", set(ring)
        case 4 if len(ring) > 1 and names is None:
            return f"{first}-{last}/{step}", set(ring[::step])
    return shown(last), {last}


@cache
def changes_of(zone: str) -> list[datetime]:
    """The hours, from 2024 to 2030, in which a zone's clocks change; else any hour."""
    tz, start = ZoneInfo(zone), datetime(2024, 1, 1, tzinfo=UTC)
    hours = (start.replace(year=2031) - start) // HOUR
    offsets = [(start + n * HOUR).astimezone(tz).utcoffset() for n in range(hours)]
    found = [start + n * HOUR for n, (a, b) in enumerate(pairwise(offsets)) if a != b]
    return found or [datetime(2026, 2, 28, 12, 0, tzinfo=UTC)]


@lru_cache(maxsize=8)
def steps_around(zone: str, change: datetime) -> list[tuple[datetime, datetime]]:
    tz, start = ZoneInfo(zone), change - AROUND
    minutes = [start + n * MINUTE for n in range(2 * AROUND // MINUTE)]
    return [(at, at.astimezone(tz).replace(tzinfo=None)) for at in minutes]


def slots_between(table: Timetable, start: datetime, end: datetime) -> Iterator[datetime]:
    slot = table.next_slot(start)
    while slot < end:
        yield slot
        slot = table.next_slot(slot)


def cron_of(wanted: Wanted, zone: str) -> Cron | None:
    """None where its days never come, such as the 31st of November."""
    try:
        return cron_from(wanted.text, zone)
    except ScheduleError as refused:
        if "never come" not in str(refused):
            raise
        return None


def assert_as_stepped(wanted: Wanted, zone: str, change: datetime, random: Random) -> None:
    """Slots, the latest slot and their number; also with a pause, and delayed."""
    steps = steps_around(zone, change)
    expected = wanted.slots(steps)
    cron, start, end = cron_of(wanted, zone), steps[0][0], steps[-1][0]
    if cron is None:
        assert expected == []
        return
    found = list(slots_between(Timetable(cron, LONG_AGO), start, end + TICK))
    assert found == [slot for slot in expected if slot > start]
    assert all(slot.tzinfo is UTC for slot in found)
    if found:
        assert cron.count(found[0], found[-1]) == len(found)
    pause_until = start + HOUR + random.random() * (end - start)
    delay = random.random() * 9 * MINUTE
    paused = Timetable(cron, LONG_AGO, delay, pause_until)
    assert list(slots_between(paused, start, end)) == [
        slot + delay for slot in found if pause_until <= slot + delay < end
    ]
    for _ in range(20):
        at = start + random.random() * (end - start)
        at = random.choice([at, *found[:1], *found[-1:], at.replace(second=0, microsecond=0)])
        later, earlier = found[bisect_right(found, at) :], found[: bisect_right(found, at)]
        if later:
            assert cron.next_slot(at, LONG_AGO) == later[0]
            assert cron.latest_slot(later[0], LONG_AGO) == later[0]
            assert cron.latest_slot(later[0] - TICK, at) is None  # nothing since `at`
        if earlier:
            assert cron.latest_slot(at, LONG_AGO) == earlier[-1]
            assert cron.count(earlier[-1], found[-1]) == len(later) + 1


@pytest.mark.parametrize("zone", ZONES)
def test_slots_are_those_of_a_stepper_around_every_change(zone: str) -> None:
    """Random crons; the same ones in every run, so that a failure can be looked at again."""
    random = Random(zone)
    for change in changes_of(zone):
        for _ in range(CRONS_A_CHANGE):
            wanted = Wanted(random, change.astimezone(ZoneInfo(zone)))
            try:
                assert_as_stepped(wanted, zone, change, random)
            except AssertionError as error:
                raise AssertionError(f"{wanted.text} in {zone} around {change}") from error


@settings(max_examples=150, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(ZONES), st.data())
def test_slots_are_those_of_a_stepper(random: Random, zone: str, data: st.DataObject) -> None:
    change = data.draw(st.sampled_from(changes_of(zone)))
    wanted = Wanted(random, change.astimezone(ZoneInfo(zone)))
    assert_as_stepped(wanted, zone, change, random)


REPEATED_HOURS = {
    "the next month that is named is months away": (
        *("*/15 2 * 3-10 *", "Europe/Berlin", "2027-10-31T00:45", "2027-10-31T01:00"),
    ),
    "the next such day is a year away": (
        *("*/20 1 25 10 *", "Europe/London", "2026-10-25T00:40", "2026-10-25T01:00"),
    ),
    "over there": ("*/30 1 1 11 *", "America/New_York", "2026-11-01T05:30", "2026-11-01T06:00"),
    "it begins at midnight": (
        *("30 * * * SUN", "America/Havana", "2026-11-01T04:30", "2026-11-01T05:30"),
    ),
    "it begins at midnight, west of here": (
        *("30 * * * SUN", "Atlantic/Azores", "2026-10-25T00:30", "2026-10-25T01:30"),
    ),
}


@pytest.mark.parametrize(
    ("text", "zone", "first", "second"), REPEATED_HOURS.values(), ids=REPEATED_HOURS
)
def test_slots_of_a_repeated_hour_are_all_there(
    text: str, zone: str, first: str, second: str
) -> None:
    cron = cron_from(text, zone)
    earlier, later = (datetime.fromisoformat(f"{at}:00Z") for at in (first, second))
    assert cron.next_slot(earlier, LONG_AGO) == later
    assert cron.latest_slot(later - TICK, LONG_AGO) == earlier
    assert cron.latest_slot(later + 10 * MINUTE, LONG_AGO) == later
    assert cron.count(earlier, later) == 2
