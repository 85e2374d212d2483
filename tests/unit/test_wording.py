"""Crons in plain English."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.cron import cron_from
from tests.fakes import NOON
from tests.unit.test_cron_slots import Wanted, cron_of

DAY, TICK = timedelta(days=1), timedelta(microseconds=1)
WORDS = {
    "0 9 * * 1": "Every Monday at 09:00",
    "0 9 13 * 5": "The 13th of every month, and every Friday, at 09:00",
    "@hourly": "Every hour",
    "@daily": "Every day at 00:00",
    "@weekly": "Every Sunday at 00:00",
    "@monthly": "The 1st of every month at 00:00",
    "@yearly": "The 1st of January at 00:00",
    "* * * * *": "Every minute",
    "*/15 * * * *": "Every 15 minutes",
    "5/15 * * * *": "Every 15 minutes from 00:05 to 23:50",
    "*/7 * * * *": "Every 7 minutes from minute 0 to 56 of every hour",
    "7 * * * *": "At 7 minutes past every hour",
    "1 * * * *": "At 1 minute past every hour",
    "0,20,30 * * * *": "At 0, 20 and 30 minutes past every hour",
    "* 2 * * *": "Every minute from 02:00 to 02:59",
    "30 9-17 * * *": "Every hour from 09:30 to 17:30",
    "0 */2 * * *": "Every 2 hours from 00:00 to 22:00",
    "*/30 */2 * * *": "Every 30 minutes of every 2nd hour from 00 to 22",
    "*/15 1,7,8 * * *": "Every 15 minutes of the hours 01, 07 and 08",
    "1-5 3 * * *": "Every day at 03:01, 03:02, 03:03, 03:04 and 03:05",
    "1-5 3,7,9 * * *": "Every minute from minute 1 to 5 of the hours 03, 07 and 09",
    "*/15 9-17 * * 1-5": "Every day from Monday to Friday, every 15 minutes from 09:00 to 17:45",
    "0,30 9 * * 6,0": "Every Saturday and Sunday at 09:00 and 09:30",
    "0 22-4 * * FRI-MON": (
        "Every day from Friday to Monday, at 00:00, 01:00, 02:00, 03:00, 04:00, 22:00 and 23:00"
    ),
    "0 0 1,15 * *": "The 1st and 15th of every month at 00:00",
    "0 0 1-7 * *": "The 1st to 7th of every month at 00:00",
    "0 0 */2 * *": "Every 2nd day from the 1st to the 31st of every month at 00:00",
    "0 0 22,23,31 * *": "The 22nd, 23rd and 31st of every month, at 00:00",
    "0 0 11,12 * *": "The 11th and 12th of every month at 00:00",
    "0 0 L * *": "The last day of every month at 00:00",
    "0 0 1,L * *": "The 1st and the last day of every month at 00:00",
    "0 0 LW * *": "The last day from Monday to Friday of every month at 00:00",
    "0 0 * * MON#1": "The first Monday of every month at 00:00",
    "0 0 * 3 5L": "The last Friday of March at 00:00",
    "0 0 * * 1,5L": "Every Monday, and the last Friday of every month, at 00:00",
    "0 9 * 7 *": "Every day in July at 09:00",
    "0 9 * NOV-JAN 1": "Every Monday from November to January at 09:00",
    "0 9 1 NOV-JAN *": "The 1st of every month from November to January at 09:00",
    "0 9 1 3,9 *": "The 1st of March and September at 09:00",
    "0 9 13 2 5": "The 13th of February, and every Friday in February, at 09:00",
    "0 0 */15 * MON": "Every Monday, if that is the 1st, 16th or 31st of the month, at 00:00",
    "0 0 1 2 */2": (
        "Every Tuesday, Thursday, Saturday and Sunday in February, "
        "if that is the 1st of the month, at 00:00"
    ),
    "0 9 1-7 * */1": "The 1st to 7th of every month at 09:00",
    "0 9 * * 0-7": "Every day at 09:00",
    "0 9 1-31 * 1": "Every day at 09:00",
    "0 9 13 * MON-SUN": "Every day at 09:00",
    "0 9 1-31 3 1-5": "Every day in March at 09:00",
    "0 9 */1 * 1": "Every Monday at 09:00",
    "0 9 13 * */1": "The 13th of every month at 09:00",
    "0 9 31 2 1": "Every Monday in February at 09:00",
    "0 9 */3 2 *": "Every 3rd day from the 1st to the 28th of February at 09:00",
    "0 9 * 3-5 FRI#1": "The first Friday of every month from March to May at 09:00",
}


@pytest.mark.parametrize(("text", "words"), WORDS.items(), ids=WORDS)
def test_cron_in_plain_english(text: str, words: str) -> None:
    assert cron_from(text, "Europe/Berlin").explanation == f"{words}, Europe/Berlin"


def test_every_cron_has_words() -> None:
    random = Random("words")
    for _ in range(2_000):
        cron = cron_of(Wanted(random, NOON), "UTC")
        words = cron.explanation if cron is not None else "None"
        assert words[0].isupper()
        assert ",," not in words
        assert "  " not in words


@settings(max_examples=200, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_day_is_called_every_day_exactly_where_it_is(random: Random) -> None:
    cron = cron_of(Wanted(random, NOON), "UTC")
    if cron is None:
        return
    slots, after = set[int](), NOON.replace(year=2024, month=1, day=1, hour=0)
    days = 366  # of a leap year
    while len(slots) < days and (after := cron.next_slot(after - TICK, after - DAY)).year == 2024:
        slots.add(after.timetuple().tm_yday)
        after = (after + DAY).replace(hour=0, minute=0)
    words = cron.explanation
    is_named = any(name in words for name in ("of ", "day ", " in ", " from ", "day,", "Every day"))
    if len(slots) == days:
        assert "Monday" not in words
        assert "th of" not in words
    else:
        assert is_named
