"""Crons in plain English: "Every Monday at 09:00"."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from service.domain.calendar import (
    LAST,
    LAST_WORKING_DAY,
    MONTH_LENGTHS,
    Calendar,
    calendar_of,
)

_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_MONTHS = (
    *("", "January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_NTH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}
_SPECIAL_DATES = {LAST: "last day", LAST_WORKING_DAY: "last day from Monday to Friday"}
_MOST_TIMES_LISTED = 6


@lru_cache(maxsize=4096)
def cron_in_words(expression: str) -> str:
    """What five valid cron fields mean, without the zone."""
    calendar = calendar_of(expression)
    days, clock = _days(calendar), _clock(calendar)
    if clock is not None:
        text = f"{days}, {clock}" if "," in days else f"{days} {clock}"
    else:
        often = _often(calendar)
        text = often if days == "every day" else f"{days}, {often}"
    return text[0].upper() + text[1:]


def _days(calendar: Calendar) -> str:
    dates, weekdays = _dates(calendar), _weekdays(calendar)
    is_every_day = dates is None or weekdays is None  # where either of them will do
    if calendar.needs_both_days:
        is_every_day = dates is None and weekdays is None
    if is_every_day:
        return " ".join(filter(None, ("every day", _in_months(calendar))))
    if dates is not None and weekdays is not None and calendar.needs_both_days:
        numbers = [ordinal(day) for day in sorted(calendar.dates) if day > 0]
        special = [text for day, text in _SPECIAL_DATES.items() if day in calendar.dates]
        return f"{weekdays}, if that is the {_joined([*numbers, *special], 'or')} of the month"
    return ", and ".join(filter(None, (dates, weekdays)))


def _dates(calendar: Calendar) -> str | None:
    """Which days of the month; None where all of them."""
    longest = max(MONTH_LENGTHS[month] for month in calendar.months)
    numbers = [day for day in sorted(calendar.dates) if 0 < day <= longest]
    if len(numbers) == longest:
        return None
    special = [f"the {text}" for day, text in _SPECIAL_DATES.items() if day in calendar.dates]
    dates = [_numbered(numbers)] if numbers else []
    if not dates and not special:
        return ""  # the 31st of February: the weekdays alone
    return f"{_joined([*dates, *special])} {_of_months(calendar)}"


def _numbered(numbers: Sequence[int]) -> str:
    step = _step(numbers)
    first, last = ordinal(numbers[0]), ordinal(numbers[-1])
    if step == 1 and len(numbers) > 2:
        return f"the {first} to {last}"
    if step is not None and len(numbers) > 3:
        return f"every {ordinal(step)} day from the {first} to the {last}"
    return f"the {_joined([ordinal(day) for day in numbers])}"


def _weekdays(calendar: Calendar) -> str | None:
    """Which days of the week; None where all of them."""
    plain = sorted({day % 7 for day in calendar.weekdays if isinstance(day, int)})
    if len(plain) == 7:
        return None
    parts = [f"{_every_weekday(plain)} {_in_months(calendar)}".rstrip()] if plain else []
    if pairs := sorted(day for day in calendar.weekdays if isinstance(day, tuple)):
        named = [f"the {_NTH[nth]} {_WEEKDAYS[day % 7]}" for day, nth in pairs]
        parts.append(f"{_joined(named)} {_of_months(calendar)}")
    return ", and ".join(parts)


def _every_weekday(days: Sequence[int]) -> str:
    ends = _ends_of_ring(days, 7)
    if ends is not None and len(days) > 2:
        return f"every day from {_WEEKDAYS[ends[0]]} to {_WEEKDAYS[ends[1]]}"
    monday_first = sorted(days, key=lambda day: (day - 1) % 7)
    return f"every {_joined([_WEEKDAYS[day] for day in monday_first])}"


def _in_months(calendar: Calendar) -> str:
    """Which months; nothing where all of them."""
    months = calendar.months
    if len(months) == 12:
        return ""
    ends = _ends_of_ring([month - 1 for month in months], 12)
    if ends is not None and len(months) > 2:
        return f"from {_MONTHS[ends[0] + 1]} to {_MONTHS[ends[1] + 1]}"
    return f"in {_joined([_MONTHS[month] for month in months])}"


def _of_months(calendar: Calendar) -> str:
    months = _in_months(calendar)
    if months.startswith("in "):
        return f"of {months.removeprefix('in ')}"
    return f"of every month {months}".rstrip()


def _clock(calendar: Calendar) -> str | None:
    """The times of a day, where they are few."""
    hours, minutes = calendar.hours, calendar.minutes
    if len(hours) * len(minutes) > _MOST_TIMES_LISTED:
        return None
    return f"at {_joined([_time(hour, minute) for hour in hours for minute in minutes])}"


def _often(calendar: Calendar) -> str:
    """The times of a day, where they are many."""
    hours, minutes = calendar.hours, calendar.minutes
    step = _step(hours) if len(hours) > 1 else 1
    first, last = _time(hours[0], minutes[0]), _time(hours[-1], minutes[-1])
    if len(minutes) == 1:
        if len(hours) == 24:
            return _once_an_hour(minutes[0])
        if step is not None:
            return f"every {'hour' if step == 1 else f'{step} hours'} from {first} to {last}"
        return f"at {_joined([_time(hour, minutes[0]) for hour in hours])}"
    spacing = _step(minutes)
    is_even = spacing is not None and spacing * len(minutes) == 60
    if not is_even or (step != 1 and minutes[0] > 0):
        return _minutes_past(minutes, _hours_listed(hours))
    every = "every minute" if spacing == 1 else f"every {spacing} minutes"
    if step != 1:
        return f"{every} of {_hours_listed(hours)}"
    return every if len(hours) == 24 and minutes[0] == 0 else f"{every} from {first} to {last}"


def _once_an_hour(minute: int) -> str:
    if minute == 0:
        return "every hour"
    return f"at {minute} minute{'s' if minute > 1 else ''} past every hour"


def _minutes_past(minutes: Sequence[int], hours: str) -> str:
    step = _step(minutes)
    if step is not None and len(minutes) > 3:
        every = "every minute" if step == 1 else f"every {step} minutes"
        return f"{every} from minute {minutes[0]} to {minutes[-1]} of {hours}"
    return f"at {_joined([str(minute) for minute in minutes])} minutes past {hours}"


def _hours_listed(hours: Sequence[int]) -> str:
    step = _step(hours)
    if len(hours) == 24:
        return "every hour"
    if len(hours) > 3 and step is not None:
        every = "the hours" if step == 1 else f"every {ordinal(step)} hour"
        return f"{every} from {hours[0]:02} to {hours[-1]:02}"
    word = "hours" if len(hours) > 1 else "hour"
    return f"the {word} {_joined([f'{hour:02}' for hour in hours])}"


def _step(numbers: Sequence[int]) -> int | None:
    """The distance of evenly spaced numbers."""
    steps = {later - earlier for earlier, later in pairwise(numbers)}
    return steps.pop() if len(steps) == 1 else None


def _ends_of_ring(places: Sequence[int], size: int) -> tuple[int, int] | None:
    """The first and the last of places in a row, which may go on from the last to the first."""
    here = set(places)
    firsts = [place for place in here if (place - 1) % size not in here]
    lasts = [place for place in here if (place + 1) % size not in here]
    return (firsts[0], lasts[0]) if len(firsts) == 1 else None


def _time(hour: int, minute: int) -> str:
    return f"{hour:02}:{minute:02}"


def ordinal(number: int) -> str:
    """`1st`, `2nd`, `11th` and so on."""
    ending = "th" if 10 < number < 14 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _joined(texts: Sequence[str], word: str = "and") -> str:
    head, last = texts[:-1], texts[-1]
    return f"{', '.join(head)} {word} {last}" if head else last
