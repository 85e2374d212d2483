"""Intervals and crons, and the slots that they stand for."""

from datetime import UTC, datetime, timedelta
from statistics import median
from time import thread_time
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.calendar import calendar_of
from service.domain.cron import Cron, cron_from
from service.domain.interval import Every, ScheduleError, every_from, interval_from, interval_text
from service.domain.schedule import Timetable, delay_within

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TICK, DAY = timedelta(microseconds=1), timedelta(days=1)
BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"

INTERVALS = {
    "seconds": ("90s", 90, "Every 1 minute and 30 seconds"),
    "minutes": ("30m", 1_800, "Every 30 minutes"),
    "sixty minutes are an hour": ("60m", 3_600, "Every hour"),
    "two units": ("1h30m", 5_400, "Every 1 hour and 30 minutes"),
    "a zero beside something": ("0h30m", 1_800, "Every 30 minutes"),
    "seven days are a week": ("7d", 604_800, "Every week"),
    "four units": ("1w2d3h5s", 788_405, "Every 1 week, 2 days, 3 hours and 5 seconds"),
    "ten years": ("3660d", 316_224_000, "Every 522 weeks and 6 days"),
}


@pytest.mark.parametrize(("text", "seconds", "words"), INTERVALS.values(), ids=INTERVALS)
def test_interval_text_means_a_period(text: str, seconds: int, words: str) -> None:
    every = every_from(text)
    assert every.period == every.shortest_gap == timedelta(seconds=seconds)
    assert (every.explanation, every.text, every.zone) == (words, text, None)


NO_INTERVALS = (
    *("", "0m", "0h0m", "-5m", "+5m", "30", "m", "1.5h", "1e3s", "30 m", " 30m", "30m ", "30m\n"),
    *("30M", "30min", "30m1h", "1m1m", "1h30", "1y", "P1D", "@daily", "* * * * *", "\x00", "🕐"),
    *("\u0663m", "\uff13\uff10m", "3661d", "999999999s", "1000000000s", "9" * 5_000 + "s"),
)


@pytest.mark.parametrize("text", NO_INTERVALS, ids=lambda text: ascii(text[:12]))
def test_interval_without_meaning_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        interval_from(text)
    assert refused.value.hint
    assert str(refused.value).isprintable()


SECONDS = st.integers(1, 3660 * 86_400)
PERIODS = st.integers(1, 400 * 86_400).map(lambda seconds: timedelta(seconds=seconds))
INSTANTS = st.integers(0, 15 * 365 * 86_400_000_000).map(lambda n: LONG_AGO + n * TICK)


@given(SECONDS)
def test_interval_text_reads_back(seconds: int) -> None:
    assert interval_from(interval_text(timedelta(seconds=seconds))).total_seconds() == seconds


@given(PERIODS, INSTANTS, st.integers(1, 1_000))
def test_slot_k_is_k_periods_after_acceptance(
    period: timedelta, accepted_at: datetime, k: int
) -> None:
    every, slot = Every(period, ""), accepted_at + k * period
    assert every.next_slot(slot - TICK, accepted_at) == slot
    assert every.next_slot(slot, accepted_at) == slot + period
    assert every.latest_slot(slot, accepted_at) == slot
    assert every.next_slot(accepted_at - k * DAY, accepted_at) == accepted_at + period
    assert every.latest_slot(accepted_at + period - TICK, accepted_at) is None


def slots_of(cron: Cron, after: datetime, count: int) -> list[datetime]:
    slots: list[datetime] = []
    while len(slots) < count:
        slots.append(cron.next_slot(slots[-1] if slots else after, LONG_AGO))
    return slots


def assert_slots(text: str, zone: str, after: datetime, expected: str) -> None:
    wanted = expected.split(", ")
    slots = slots_of(cron_from(text, zone), after, len(wanted))
    assert [f"{slot:%m-%d %H:%M}" for slot in slots] == wanted


DIALECT = {
    "1 is Monday": ("0 9 * * 1", "11-30 09:00, 12-07 09:00"),
    "0 is Sunday": ("0 9 * * 0", "11-29 09:00, 12-06 09:00"),
    "7 is Sunday too": ("0 9 * * 7", "11-29 09:00, 12-06 09:00"),
    "weekday names": ("0 9 * * tue,Thu", "11-24 09:00, 11-26 09:00"),
    "month names": ("0 0 1 jan,MAR *", "01-01 00:00, 03-01 00:00"),
    "a range": ("0 9 * * 1-5", "11-24 09:00, 11-25 09:00"),
    "a week wraps": ("0 9 * * FRI-MON", "11-27 09:00, 11-28 09:00, 11-29 09:00, 11-30 09:00"),
    "Saturday to 7": ("0 9 * * 6-7", "11-28 09:00, 11-29 09:00, 12-05 09:00"),
    "7 to Monday": ("0 9 * * 7-1", "11-29 09:00, 11-30 09:00, 12-06 09:00"),
    "a night wraps, in steps": ("0 22-4/3 * * *", "11-23 22:00, 11-24 01:00, 11-24 04:00"),
    "a month wraps": ("0 0 31-1 * *", "12-01 00:00, 12-31 00:00, 01-01 00:00"),
    "a year wraps": ("0 0 1 NOV-JAN *", "12-01 00:00, 01-01 00:00, 11-01 00:00"),
    "steps": ("*/20 * * * *", "11-23 12:20, 11-23 12:40, 11-23 13:00"),
    "a range of one, in steps": ("5-5/20 * * * *", "11-23 12:05, 11-23 13:05"),
    "a range of one name": ("0 0 * * WED-3/2", "11-25 00:00, 12-02 00:00"),
    "steps from a value": ("50/5 * * * *", "11-23 12:50, 11-23 12:55, 11-23 13:50"),
    "lists": ("1,31 9,17 * * *", "11-23 17:01, 11-23 17:31, 11-24 09:01"),
    "any blanks": ("  0\t9  * * 1 ", "11-30 09:00"),
    "last of the month": ("0 0 L * *", "11-30 00:00, 12-31 00:00"),
    "leap day": ("0 0 29 2 *", "02-29 00:00"),
    "hourly": ("@hourly", "11-23 13:00, 11-23 14:00"),
    "daily": ("@daily", "11-24 00:00, 11-25 00:00"),
    "midnight": ("@Midnight", "11-24 00:00, 11-25 00:00"),
    "weekly": ("@weekly", "11-29 00:00, 12-06 00:00"),
    "monthly": ("@monthly", "12-01 00:00, 01-01 00:00"),
    "yearly": ("@yearly", "01-01 00:00, 01-01 00:00"),
    "annually": ("@annually", "01-01 00:00, 01-01 00:00"),
    "two day fields are OR": ("0 0 13 * FRI", "11-27 00:00, 12-04 00:00, 12-11 00:00, 12-13 00:00"),
    "AND where the first is a star": ("0 0 */2 * MON", "12-07 00:00, 12-21 00:00"),
    "AND where the second is one": ("0 0 13 * */5", "12-13 00:00, 06-13 00:00"),
}


@pytest.mark.parametrize(("text", "expected"), DIALECT.values(), ids=DIALECT)
def test_cron_text_means_slots(text: str, expected: str) -> None:
    assert_slots(text, "UTC", MONDAY_NOON, expected)


NO_CRONS = (
    *("", " ", "* * * *", "0 0 * * * *", "0 0 0 * * * *", "@reboot", "@every 5m", "@", "30m"),
    *("60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *"),
    *("* * * * 8", "-1 * * * *", "*/0 * * * *", "1-60/5 * * * *", "1-5-7 * * * *", "1,,2 * * * *"),
    *("0 22-4/0 * * *", "0 22-4/00 * * *", "0 0 * * FRI-MON/000", "5-5/0 * * * *"),
    *("/5 * * * *", "5/ * * * *", "1.5 * * * *", "? * * * *", "* * * JANUARY *", "* * * * 5-1/0"),
    *("run this every single day", "0 9 * * M\u00c5N", "\u0660 \u0669 * * *", "\uff15 * * * *"),
    *("0 9 * * \u00b2", "0 9 * * \U0001f600", "0 9 * * \x00", "0 9 * *\ud800 *", "0" * 300 + " *"),
    *("0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "0 0 30-31 FEB *", "0" * 300 + " * * * *"),
)


@pytest.mark.parametrize("text", NO_CRONS, ids=lambda text: ascii(text[:24]))
def test_cron_without_meaning_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        cron_from(text, "UTC")
    assert refused.value.hint
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("text", ["0 0 LW * */6", "0 0 */31 * MON#2", "0 0 */30 2 MON#5"])
def test_cron_whose_days_never_meet_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError):
        cron_from(text, "UTC")


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 */30 2 MON#5"])
def test_impossible_date_is_refused_in_less_than_a_millisecond(text: str) -> None:
    taken: list[float] = []
    for _ in range(50):
        calendar_of.cache_clear()
        began = thread_time()
        with pytest.raises(ScheduleError, match="never come"):
            cron_from(text, "UTC")
        taken.append(thread_time() - began)
    assert median(taken) < 0.001


NEVER_SHOWN = {
    "*/30 2 25-31 3 */7": BERLIN,
    "*/15 2 8-14 3 */7": NEW_YORK,
    "* 1 28,29 3 */45": "Atlantic/Canary",
}


@pytest.mark.parametrize(("text", "zone"), NEVER_SHOWN.items(), ids=NEVER_SHOWN)
def test_times_that_are_in_a_gap_whenever_they_come_are_refused(text: str, zone: str) -> None:
    if zone == "Atlantic/Canary":
        assert cron_from(text, "UTC").ever_comes
    with pytest.raises(ScheduleError, match="never come in"):
        cron_from(text, zone)


HINTS = {
    "30 minutes": 'did you mean "30m"?',
    "1 H 30 Min": 'did you mean "1h30m"?',
    "2 weeks": 'did you mean "2w"?',
    "0 9 * * 1": "looks like a cron",
    "@daily": "looks like a cron",
    "30": "a whole number and a unit",
}
CRON_HINTS = {
    "30m": "this is an interval",
    "0 0 9 * * 1": "leave out the seconds",
    "@every 5m": "the names that are known are @hourly",
    "0 9": "write five fields",
}


@pytest.mark.parametrize(("text", "words"), HINTS.items(), ids=HINTS)
def test_hint_on_what_is_no_interval(text: str, words: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        interval_from(text)
    assert words in refused.value.hint


@pytest.mark.parametrize(("text", "words"), CRON_HINTS.items(), ids=CRON_HINTS)
def test_hint_on_what_is_no_cron(text: str, words: str) -> None:
    with pytest.raises(ScheduleError) as refused:
        cron_from(text, "UTC")
    assert words in refused.value.hint


WRONG_FIELDS = {"0 0 * 0 *": "bad month", "0 0 * JAN-13 *": "bad month", "0 0 32 * *": "bad day"}


@pytest.mark.parametrize(("text", "words"), WRONG_FIELDS.items(), ids=WRONG_FIELDS)
def test_the_field_that_is_wrong_is_named(text: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        cron_from(text, "UTC")


TOKENS = st.sampled_from([*"0123456789*/-,#LW", "MON", "SUN", "JAN", "DEC", "00", "59", "7", "*/"])


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.lists(TOKENS, min_size=1, max_size=5).map("".join), min_size=5, max_size=5))
def test_five_fields_of_anything_are_a_cron_or_refused(fields: list[str]) -> None:
    try:
        cron = cron_from(" ".join(fields), BERLIN)
    except ScheduleError:
        return
    slot = cron.next_slot(MONDAY_NOON, LONG_AGO)
    assert cron.latest_slot(slot, LONG_AGO) == slot
    assert cron.explanation


@pytest.mark.parametrize("zone", ["", "Mars/Base", "europe/berlin", "UTC+1", "../etc/passwd", "\0"])
def test_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(ScheduleError, match="time zone"):
        cron_from("0 9 * * *", zone)


def test_cron_says_what_it_is() -> None:
    cron = cron_from("@daily", BERLIN)
    assert (cron.kind, cron.text, cron.zone) == ("cron", "@daily", BERLIN)
    assert cron.identity == cron_from("0  0 * * *", BERLIN).identity
    assert cron.explanation == "Every day at 00:00, Europe/Berlin"


CLOCK_CHANGES = {
    "gap": ("30 2 * * *", BERLIN, "03-28 00:00", "03-28 01:30, 03-29 01:00, 03-30 00:30"),
    "gap, there": ("30 2 * * *", NEW_YORK, "03-08 00:00", "03-08 07:00, 03-09 06:30"),
    "two times, one instant": ("0 2,3 * * *", BERLIN, "03-29 00:00", "03-29 01:00, 03-30 00:00"),
    "steps in a gap": ("*/30 2 * * *", BERLIN, "03-28 02:00", "03-30 00:00, 03-30 00:30"),
    "overlap": ("30 2 * * *", BERLIN, "10-24 12:00", "10-25 00:30, 10-26 01:30"),
    "overlap, there": ("30 1 * * *", NEW_YORK, "10-31 12:00", "11-01 05:30, 11-02 06:30"),
    "asked in the repeated hour": ("30 2 * * *", BERLIN, "10-25 01:15", "10-26 01:30"),
    "steps in an overlap": (
        *("*/30 2 * * *", BERLIN, "10-24 12:00"),
        "10-25 00:00, 10-25 00:30, 10-25 01:00, 10-25 01:30, 10-26 01:00",
    ),
    "hourly in an overlap": ("30 * * * *", NEW_YORK, "11-01 05:00", "11-01 05:30, 11-01 06:30"),
    "hour steps over a gap": ("0 */2 * * *", BERLIN, "03-28 22:00", "03-28 23:00, 03-29 02:00"),
}
UNUSUAL_CHANGES = {
    "back by half an hour": ("30 * * * *", LORD_HOWE, "04-04 14:00", "04-04 14:30, 04-04 15:00"),
    "the hour after that": ("*/15 3 * * *", LORD_HOWE, "04-04 00:00", "04-04 16:30, 04-04 16:45"),
    "a day that begins in a gap": (
        *("*/30 1 * * SUN", "America/Havana", "03-07 12:00"),
        "03-08 05:00, 03-08 05:30",
    ),
}


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"), CLOCK_CHANGES.values(), ids=CLOCK_CHANGES
)
def test_clock_changes(text: str, zone: str, after: str, expected: str) -> None:
    assert_slots(text, zone, datetime.fromisoformat(f"2026-{after}:00Z"), expected)


@pytest.mark.parametrize(
    ("text", "zone", "after", "expected"), UNUSUAL_CHANGES.values(), ids=UNUSUAL_CHANGES
)
def test_unusual_clock_changes(text: str, zone: str, after: str, expected: str) -> None:
    assert_slots(text, zone, datetime.fromisoformat(f"2026-{after}:00Z"), expected)


MINUTES = st.sets(st.integers(0, 59), min_size=1, max_size=4)
HOURS = st.sets(st.integers(0, 5), min_size=1, max_size=3)
CHANGES = st.sampled_from(
    [
        *((BERLIN, datetime(2026, month, day, tzinfo=UTC)) for month, day in ((3, 29), (10, 25))),
        *((NEW_YORK, datetime(2026, month, day, tzinfo=UTC)) for month, day in ((3, 8), (11, 1))),
        ("Asia/Kolkata", datetime(2026, 5, 1, tzinfo=UTC)),
    ]
)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1, 7, 15, 20]), HOURS, CHANGES)
def test_steps_follow_real_time(step: int, hours: set[int], change: tuple[str, datetime]) -> None:
    """Every minute whose local time matches, and no other."""
    zone, day = change
    minutes = [day + timedelta(minutes=m) for m in range(-1440, 2 * 1440)]
    local = [(at, at.astimezone(ZoneInfo(zone))) for at in minutes]
    expected = [at for at, wall in local if wall.hour in hours and wall.minute % step == 0]
    cron = cron_from(f"*/{step} {','.join(map(str, hours))} * * *", zone)
    assert slots_of(cron, minutes[0] - TICK, len(expected)) == expected


@settings(max_examples=30, deadline=None)
@given(MINUTES, HOURS, CHANGES)
def test_fixed_times_run_once_a_day(
    minutes: set[int], hours: set[int], change: tuple[str, datetime]
) -> None:
    """Each local time of each date once: in the overlap the first time, in the gap at its end."""
    zone, day = change
    expected = set[datetime]()
    for hour, minute in ((hour, minute) for hour in hours for minute in minutes):
        for date in (day, day + DAY):
            wall = date.replace(hour=hour, minute=minute, tzinfo=ZoneInfo(zone))
            at = wall.astimezone(UTC)
            is_in_gap = at.astimezone(wall.tzinfo).hour != hour
            expected.add(at.replace(minute=0) if is_in_gap else at)
    cron = cron_from(f"{','.join(map(str, minutes))} {','.join(map(str, hours))} * * *", zone)
    midnight = day.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    assert slots_of(cron, midnight - TICK, len(expected)) == sorted(expected)


FIELDS = st.tuples(
    st.sampled_from(["*", "0", "30", "*/15", "7,37", "50-10/5"]),
    st.sampled_from(["*", "0", "2", "*/6", "1-3", "22-4"]),
    st.sampled_from(["*", "1", "13", "*/10", "L"]),
    st.sampled_from(["*", "*", "FEB", "NOV-MAR"]),
    st.sampled_from(["*", "*", "1", "FRI-MON", "SUN"]),
).map(" ".join)
ZONES = st.sampled_from(["UTC", BERLIN, NEW_YORK, "Asia/Kathmandu"])
SCHEDULES: Any = st.builds(cron_from, FIELDS, ZONES) | st.builds(Every, PERIODS, st.just(""))
OFFSETS = st.integers(-30 * 60, 30 * 60).map(lambda minutes: timedelta(minutes=minutes))
NEAR_CHANGES = st.builds(lambda change, offset: change[1] + offset, CHANGES, OFFSETS)


@settings(max_examples=200, deadline=None)
@given(SCHEDULES, INSTANTS | NEAR_CHANGES)
def test_next_and_latest_slot_agree(schedule: Cron | Every, instant: datetime) -> None:
    slot = schedule.next_slot(instant, LONG_AGO - DAY)
    assert slot > instant
    assert slot.tzinfo is UTC
    assert schedule.latest_slot(slot, LONG_AGO - DAY) == slot
    assert schedule.next_slot(slot - TICK, LONG_AGO - DAY) == slot
    latest = schedule.latest_slot(instant, LONG_AGO - DAY)
    assert latest is None or latest <= instant < schedule.next_slot(latest, LONG_AGO - DAY)


@settings(max_examples=100, deadline=None)
@given(SCHEDULES, INSTANTS | NEAR_CHANGES, st.integers(1, 150))
def test_count_equals_enumeration(schedule: Cron | Every, instant: datetime, count: int) -> None:
    first = last = schedule.next_slot(instant, LONG_AGO)
    for _ in range(count - 1):
        last = schedule.next_slot(last, LONG_AGO)
    assert schedule.count(first, last) == count


GAPS = {
    "minutely": ("* * * * *", timedelta(minutes=1)),
    "over the hour": ("*/7 * * * *", timedelta(minutes=4)),
    "over midnight": ("0 0,23 * * *", timedelta(hours=1)),
    "one day of the week": ("0 0,23 * * 1", timedelta(hours=23)),
    "two days in a row": ("0 23,0 * * 1-2", timedelta(hours=1)),
    "weekly": ("0 9 * * 1", timedelta(days=7)),
    "monthly": ("0 0 1 * *", timedelta(days=28)),
    "leap days": ("0 0 29 2 *", timedelta(days=1461)),
}


@pytest.mark.parametrize(("text", "gap"), GAPS.values(), ids=GAPS)
def test_shortest_gap(text: str, gap: timedelta) -> None:
    assert cron_from(text, "UTC").shortest_gap == gap


@given(st.text(st.characters(codec="utf-8")), st.integers(1, 100_000))
def test_delay_is_stable_and_within_the_spread(agent_id: str, seconds: int) -> None:
    delay = delay_within(timedelta(seconds=seconds), agent_id)
    assert timedelta(0) <= delay < timedelta(seconds=seconds)
    assert delay == delay_within(timedelta(seconds=seconds), agent_id)


def test_delay_is_the_same_in_every_release() -> None:
    """Replicas of two versions run side by side during an update."""
    assert delay_within(timedelta(minutes=5), "agent_1") == timedelta(seconds=248.515)
    assert len({delay_within(timedelta(hours=1), f"agent_{n}") for n in range(200)}) > 190


def test_delay_never_adds_up() -> None:
    delay, hour = timedelta(minutes=7), timedelta(hours=1)
    table = Timetable(every_from("1h"), MONDAY_NOON, delay)
    slots = [MONDAY_NOON + k * hour + delay for k in range(1, 5)]
    assert [table.next_slot(slot - hour) for slot in slots] == slots
    assert [table.latest_slot(slot) for slot in slots] == slots
    assert table.count(slots[0], slots[-1]) == 4


def test_slots_before_not_before_do_not_exist() -> None:
    until = MONDAY_NOON + timedelta(hours=3)
    table = Timetable(every_from("1h"), MONDAY_NOON, not_before=until)
    assert table.next_slot(MONDAY_NOON) == table.latest_slot(until) == until
    assert table.latest_slot(until - TICK) is None
    assert table.next_slot(until) == until + timedelta(hours=1)


@pytest.mark.parametrize("schedule", [every_from("1h"), cron_from("@hourly", "UTC")])
def test_slots_before_acceptance_do_not_exist(schedule: Cron | Every) -> None:
    table = Timetable(schedule, MONDAY_NOON)
    assert table.next_slot(MONDAY_NOON - DAY) == MONDAY_NOON + timedelta(hours=1)
    assert table.latest_slot(MONDAY_NOON) is None
