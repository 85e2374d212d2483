"""What users of other schedulers suffer (DESIGN section 6), as cases that must not occur here."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.catch_up import MOST_CAUGHT_UP, due_slots
from service.domain.config import CatchUp, Overlap
from service.domain.cron import cron_from
from service.domain.execution import Trigger
from service.domain.interval import ScheduleError, every_from
from service.domain.jobs import JobSpec
from service.domain.schedule import Timetable, delay_within

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def slots(text: str, zone: str, after: datetime, count: int) -> list[datetime]:
    def each() -> Iterator[datetime]:
        slot = after
        for _ in range(count):
            slot = cron_from(text, zone).next_slot(slot, after - DAY)
            yield slot

    return list(each())


WEEKDAYS = {
    "APScheduler #286: 1 is Monday": ("0 9 * * 1", {0}),
    "APScheduler #286: 0 is Sunday": ("0 9 * * 0", {6}),
    "APScheduler #286: 7 is Sunday": ("0 9 * * 7", {6}),
    "1-5 is Monday to Friday": ("0 9 * * 1-5", {0, 1, 2, 3, 4}),
    "6,0 is the weekend": ("0 9 * * 6,0", {5, 6}),
}


@pytest.mark.parametrize(("text", "weekdays"), WEEKDAYS.values(), ids=WEEKDAYS)
def test_weekday_numbers_are_crons(text: str, weekdays: set[int]) -> None:
    assert {slot.weekday() for slot in slots(text, "UTC", MONDAY, 20)} == weekdays


def test_two_day_fields_are_either_or() -> None:
    """APScheduler #455 wants both: the 13th only where it is a Friday, once or twice a year."""
    found = slots("0 0 13 * 5", "UTC", MONDAY, 60)
    assert all(slot.day == 13 or slot.weekday() == 4 for slot in found)
    assert found[-1] - MONDAY < 366 * DAY


@pytest.mark.parametrize("text", ["0m", "0s", "-5m", "-1h"])
def test_interval_of_nothing_is_refused(text: str) -> None:
    """APScheduler makes one second of 0, and hangs on a negative one."""
    with pytest.raises(ScheduleError):
        every_from(text)


def test_daily_job_runs_once_at_fall_back() -> None:
    """Kubernetes #121594, croniter: twice."""
    found = slots("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), 2)
    assert [f"{slot:%d %H:%M}" for slot in found] == ["25 00:30", "26 01:30"]


def test_daily_job_in_the_gap_is_not_left_out() -> None:
    found = slots("30 2 * * *", "America/New_York", datetime(2026, 3, 7, 12, tzinfo=UTC), 2)
    assert [f"{slot:%d %H:%M}" for slot in found] == ["08 07:00", "09 06:30"]


def test_spread_does_not_drift() -> None:
    """APScheduler #291: a jitter adds up to 5,000 s in 1,000 runs."""
    delay = delay_within(timedelta(minutes=5), "agent")
    table, slot = Timetable(every_from("10m"), MONDAY, delay), MONDAY
    for _ in range(1_000):
        slot = table.next_slot(slot)
    assert slot == MONDAY + 1_000 * 10 * MINUTE + delay


def test_restart_does_not_reset_a_long_interval() -> None:
    """APScheduler #696, River #791: restarted every day, a weekly job never runs."""
    table = Timetable(every_from("1w"), MONDAY)
    for day in range(7):
        restarted_at = MONDAY + day * DAY + HOUR
        assert table.next_slot(restarted_at) == MONDAY + 7 * DAY


def decided(catch_up: CatchUp, late: timedelta, interval: str = "1m") -> tuple[int, int]:
    """How many slots start, and how many are missed, when all until now are settled at once."""
    table, now = Timetable(every_from(interval), MONDAY), MONDAY + late + MINUTE / 2
    spec = JobSpec(table.schedule, "", timedelta(), None, catch_up, Overlap.SKIP)
    decision = due_slots(spec, table, table.next_slot(MONDAY), now, serving_since=now)
    assert decision is not None
    return len(decision.starts), decision.missed.count if decision.missed else 0


def test_run_a_second_late_is_not_dropped() -> None:
    """APScheduler #292, #296: its grace time is one second, and it says so in one log line."""
    table = Timetable(every_from("1h"), MONDAY)
    spec = JobSpec(table.schedule, "", timedelta(), None, CatchUp.ONCE, Overlap.SKIP)
    due_at = MONDAY + HOUR
    late = due_slots(spec, table, due_at, due_at + 3.5 * timedelta(seconds=1), MONDAY)
    assert late is not None
    assert late.starts == ((due_at, Trigger.SCHEDULE),)


OUTAGES = {
    "Kubernetes #42649: more than 100 missed wedge it": (CatchUp.ONCE, 30 * DAY, (1, 43_199)),
    "skip": (CatchUp.SKIP, 30 * DAY, (0, 43_200)),
    "all, but not without end": (CatchUp.ALL, 30 * DAY, (MOST_CAUGHT_UP, 43_100)),
}


@pytest.mark.parametrize(("catch_up", "outage", "expected"), OUTAGES.values(), ids=OUTAGES)
def test_long_outage_neither_wedges_nor_floods(
    catch_up: CatchUp, outage: timedelta, expected: tuple[int, int]
) -> None:
    assert decided(catch_up, outage) == expected
