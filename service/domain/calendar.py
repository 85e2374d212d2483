"""The local times that five cron fields name, leaving time zones aside."""

import calendar
from bisect import bisect_left, bisect_right
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise, product

from cronsim import CronSim

LAST, LAST_WORKING_DAY = CronSim.LAST, CronSim.LAST_WEEKDAY
"""How cronsim writes `L` (also as the second part of a weekday's pair) and `LW`."""
_DAY = timedelta(days=1)
_MINUTES_A_DAY = 24 * 60
MONTH_LENGTHS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""By the number of the month, in leap years."""
_YEARS_OF_ALL_SHAPES = range(2000, 2028)
"""Within 28 years each month begins on each day of the week, in leap years too."""


class Calendar:
    """The local times (whole minutes, as naive datetimes) that an expression names.

    Build it with `calendar_of`. Nothing here looks at one time after the other.
    """

    def __init__(self, expression: str) -> None:
        # cronsim reads the fields, in Debian's dialect; what follows from them is ours.
        self._fields = CronSim(expression, datetime(2000, 1, 1))  # noqa: DTZ001 local times
        minute, hour, *_ = expression.split()
        self.has_fixed_times = not minute.startswith("*") and not hour.startswith("*")
        """Debian's rule for clock changes: a wildcard or `*/n` follows real time instead."""
        self.dates = frozenset(self._fields.days)
        """Days of the month, LAST and LAST_WORKING_DAY among them."""
        self.weekdays = frozenset(self._fields.weekdays)
        """0 to 7, or pairs: the day, and which one of the month."""
        self.needs_both_days = self._fields.day_and
        self.minutes = tuple(sorted(self._fields.minutes))
        self.hours = tuple(sorted(self._fields.hours))
        self.months = tuple(sorted(self._fields.months))
        self._days: dict[tuple[int, int], tuple[int, ...]] = {}
        alike = {MONTH_LENGTHS[month]: month for month in self.months}.values()
        self.ever_comes = any(
            self._days_in(*month) for month in product(_YEARS_OF_ALL_SHAPES, alike)
        )
        """Tell whether there is such a day at all."""

    @property
    def names_every_day(self) -> bool:
        """Tell whether one of two day fields, of which either will do, names all days."""
        days = {day % 7 for day in self.weekdays if isinstance(day, int)}
        is_all = self.dates >= set(range(1, 32)) or len(days) == 7
        return is_all and not self.needs_both_days

    def first_from(self, wall: datetime) -> datetime:
        """The first of these local times that is not before `wall`."""
        day = self._first_day_from(wall.date())
        if day == wall.date():
            if (found := self._first_time_from(wall.hour, wall.minute)) is not None:
                return datetime.combine(day, found)
            day = self._first_day_from(day + _DAY)
        return datetime.combine(day, time(self.hours[0], self.minutes[0]))

    def last_until(self, wall: datetime) -> datetime:
        """The last of these local times that is not after `wall`."""
        day = self._last_day_until(wall.date())
        if day == wall.date():
            if (found := self._last_time_until(wall.hour, wall.minute)) is not None:
                return datetime.combine(day, found)
            day = self._last_day_until(day - _DAY)
        return datetime.combine(day, time(self.hours[-1], self.minutes[-1]))

    def count(self, start: datetime, end: datetime) -> int:
        """How many of these local times lie from `start` until just before `end`."""
        if start >= end:
            return 0
        days = self._count_days(start.date(), end.date())
        a_day = len(self.hours) * len(self.minutes)
        return days * a_day - self._count_in_day_before(start) + self._count_in_day_before(end)

    def shortest_gap(self) -> timedelta | None:
        """The smallest distance of two of these times; None where there is one in 28 years."""
        times = [hour * 60 + minute for hour in self.hours for minute in self.minutes]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        overnight = times[0] + _MINUTES_A_DAY - times[-1]
        if (not gaps or overnight < min(gaps)) and (days := self._shortest_day_gap()) is not None:
            gaps.append(overnight + (days - 1) * _MINUTES_A_DAY)
        return timedelta(minutes=min(gaps)) if gaps else None

    def _shortest_day_gap(self) -> int | None:
        gaps, previous = set[int](), None
        for year, month in product(_YEARS_OF_ALL_SHAPES, self.months):
            if days := self._days_in(year, month):
                gaps.update(later - earlier for earlier, later in pairwise(days))
                if previous is not None:
                    gaps.add((date(year, month, days[0]) - previous).days)
                previous = date(year, month, days[-1])
            if 1 in gaps:
                break
        return min(gaps, default=None)

    def _first_day_from(self, start: date) -> date:
        year, month, day = start.year, start.month, start.day
        while True:
            if month in self.months:
                days = self._days_in(year, month)
                if (place := bisect_left(days, day)) < len(days):
                    return date(year, month, days[place])
            year, month, day = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)

    def _last_day_until(self, end: date) -> date:
        year, month, day = end.year, end.month, end.day
        while True:
            if month in self.months:
                days = self._days_in(year, month)
                if (place := bisect_right(days, day)) > 0:
                    return date(year, month, days[place - 1])
            year, month, day = (year, month - 1, 31) if month > 1 else (year - 1, 12, 31)

    def _days_in(self, year: int, month: int) -> tuple[int, ...]:
        """Months of one length that begin with one day of the week have the same days."""
        shape = calendar.monthrange(year, month)
        days = self._days.get(shape)
        if days is None:
            month_days = (date(year, month, day) for day in range(1, shape[1] + 1))
            days = tuple(day.day for day in month_days if self._fields.match_day(day))
            self._days[shape] = days
        return days

    def _count_days(self, start: date, end: date) -> int:
        """The days from `start` until the one before `end`."""
        count = 0
        for year in range(start.year, end.year + 1):
            for month in self.months:
                if (start.year, start.month) <= (year, month) <= (end.year, end.month):
                    days = self._days_in(year, month)
                    first = start.day if (year, month) == (start.year, start.month) else 1
                    last = end.day if (year, month) == (end.year, end.month) else 32
                    count += bisect_left(days, last) - bisect_left(days, first)
        return count

    def _count_in_day_before(self, wall: datetime) -> int:
        if wall.month not in self.months or wall.day not in self._days_in(wall.year, wall.month):
            return 0
        count = bisect_left(self.hours, wall.hour) * len(self.minutes)
        if wall.hour in self.hours:
            is_within = wall.second > 0 or wall.microsecond > 0
            count += bisect_left(self.minutes, wall.minute + is_within)
        return count

    def _first_time_from(self, hour: int, minute: int) -> time | None:
        place = bisect_left(self.hours, hour)
        if place < len(self.hours) and self.hours[place] == hour:
            if (at := bisect_left(self.minutes, minute)) < len(self.minutes):
                return time(hour, self.minutes[at])
            place += 1
        return time(self.hours[place], self.minutes[0]) if place < len(self.hours) else None

    def _last_time_until(self, hour: int, minute: int) -> time | None:
        place = bisect_right(self.hours, hour) - 1
        if place >= 0 and self.hours[place] == hour:
            if (at := bisect_right(self.minutes, minute) - 1) >= 0:
                return time(hour, self.minutes[at])
            place -= 1
        return time(self.hours[place], self.minutes[-1]) if place >= 0 else None


@lru_cache(maxsize=4096)
def calendar_of(expression: str) -> Calendar:
    """The calendar of five fields in capitals; raises CronSimError where they mean nothing."""
    return Calendar(expression)
