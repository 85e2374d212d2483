"""Five-field crons in a time zone: Debian's dialect, as cronsim keeps its time."""

import re
import zoneinfo
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import pairwise
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from service.domain.interval import LONGEST_INTERVAL, ScheduleError, quoted

_TICK = timedelta(microseconds=1)
_ONE_DAY = timedelta(days=1)
_LONGEST_CRON_TEXT = 200

_MACROS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELD_VALUES = (range(60), range(24), range(1, 32), range(1, 13), range(7))
_FIELD_NAMES: tuple[tuple[str, ...], ...] = ((), (), (), ("", *_MONTHS), _WEEKDAYS)
_RANGE = re.compile(r"([A-Z0-9]+)-([A-Z0-9]+)(?:/([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """Five cron fields in a time zone, with Debian's rules as cronsim implements them.

    Build it with `cron_from`, which has looked at every field; `text` is what the user wrote.
    """

    expression: str
    zone: str
    text: str = field(compare=False)

    @property
    def kind(self) -> str:
        return "cron"

    @property
    def identity(self) -> str:
        """Equal for texts that mean the same slots, such as `@daily` and `0 0 * * *`."""
        return f"cron={self.expression} {self.zone}"

    @property
    def explanation(self) -> str:
        return f"{_cronsim(self.expression).explain()}, {self.zone}"

    @property
    def shortest_gap(self) -> timedelta:
        """The smallest distance of two slots, clock changes left aside."""
        return _shortest_gap(self.expression)

    def next_slot(self, after: datetime, accepted_at: datetime) -> datetime:
        after = max(after, accepted_at)
        ticks = CronSim(self.expression, after.astimezone(ZoneInfo(self.zone)))
        # Where clocks go back, cronsim counts in wall time and may offer an instant that is over.
        return next(slot for tick in ticks if (slot := tick.astimezone(UTC)) > after)

    def latest_slot(self, not_after: datetime, accepted_at: datetime) -> datetime | None:
        start = not_after.replace(microsecond=0) + timedelta(seconds=1)
        ticks = CronSim(self.expression, start.astimezone(ZoneInfo(self.zone)), reverse=True)
        slot = next(slot for tick in ticks if (slot := tick.astimezone(UTC)) <= not_after)
        # Backwards, a clock change may hide a slot that going forwards finds.
        while (later := self.next_slot(slot, accepted_at)) <= not_after:
            slot = later
        return slot if slot > accepted_at else None

    def count(self, first: datetime, last: datetime) -> int:
        zone, sim = ZoneInfo(self.zone), _cronsim(self.expression)
        a_day = len(sim.hours) * len(sim.minutes)
        total, slot = 0, first
        while slot <= last:
            midnight = _midnight_after(slot, zone)
            if midnight <= last and _is_whole_plain_day(slot, midnight, zone, sim):
                total += a_day
            else:
                total += self._count_one_by_one(slot, min(last, midnight - _TICK))
            slot = self.next_slot(midnight - _TICK, first)
        return total

    def _count_one_by_one(self, slot: datetime, last: datetime) -> int:
        count = 0
        while slot <= last:
            count, slot = count + 1, self.next_slot(slot, slot)
        return count


def cron_from(text: str, zone: str) -> Cron:
    """Read five cron fields or a macro such as `@daily`, for the IANA time zone `zone`.

    0 and 7 are Sunday; names, lists, steps and ranges that wrap (`FRI-MON`) are understood. Raises
    ScheduleError for anything else, for dates that never come (`0 0 30 2 *`), and for seconds.
    """
    if zone not in known_zones():
        raise ScheduleError(
            f"{quoted(zone)} is not a known time zone",
            'write an IANA name, such as "Europe/Berlin" or "UTC"',
            part="timezone",
        )
    source = " ".join(text.split()) if text.isascii() else text
    fields = _MACROS.get(source.lower(), source).upper().split()
    hint = 'write five fields, minute hour day month weekday: "0 9 * * 1" is Mondays at 9'
    if len(fields) != 5 or not text.isascii() or len(text) > _LONGEST_CRON_TEXT:
        found = f"{len(fields)} fields" if text.isascii() else "letters that cron does not know"
        if len(text) > _LONGEST_CRON_TEXT:
            found = f"{len(text):,} characters"
        raise ScheduleError(f"{quoted(text)} is not a cron expression: it has {found}", hint)
    try:
        expression = " ".join(map(_unwrapped, fields, _FIELD_VALUES, _FIELD_NAMES))
        _cronsim(expression)
    except CronSimError as error:
        if _is_understood([*fields[:3], "*", fields[4]]):
            message = f"{quoted(text)} names a date that never comes"
            hint = "name a day that the month has, such as the 28th"
        else:
            message = f"{quoted(text)} is not a cron expression: {str(error).lower()}"
        raise ScheduleError(message, hint) from error
    if not _ever_comes(expression):
        hint = "name days of the month and of the week that meet"
        raise ScheduleError(f"{quoted(text)} names days that never come", hint)
    return Cron(expression=expression, zone=zone, text=text)


def _is_understood(fields: list[str]) -> bool:
    try:
        _cronsim(" ".join(fields))
    except CronSimError:
        return False
    return True


@lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """The IANA zone names that this installation knows (tzdata comes with the package).

    `localtime` is the host's own zone, under a name that some hosts have.
    """
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


@lru_cache(maxsize=4096)
def _cronsim(expression: str) -> CronSim:
    return CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))


def _unwrapped(field: str, values: range, names: tuple[str, ...]) -> str:
    """Write ranges that wrap around (`FRI-MON`, `22-4/2`), which cronsim refuses, as lists."""
    return ",".join(_unwrapped_term(term, values, names) for term in field.split(","))


def _unwrapped_term(term: str, values: range, names: tuple[str, ...]) -> str:
    match = _RANGE.fullmatch(term)
    if match is None or match[3] == "0":
        return term
    start, end = (_number(end, names) for end in match.group(1, 2))
    last = 7 if names == _WEEKDAYS else values[-1]
    if start is None or end is None or start <= end or start > last or end not in values:
        return term
    wrapped = [*range(start, values.stop), *range(values.start, end + 1)]
    return ",".join(str(value) for value in wrapped[:: int(match[3] or 1)])


def _number(text: str, names: tuple[str, ...]) -> int | None:
    if text in names:
        return names.index(text)
    return int(text) if text.isdecimal() else None


@lru_cache(maxsize=4096)
def _ever_comes(expression: str) -> bool:
    """Tell whether two day fields that must both match ever do; cronsim looks for 50 years."""
    sim = _cronsim(expression)
    _, _, day, _, weekday = expression.split()
    if not sim.day_and or "*" in (day, weekday):
        return True
    return next(CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC)), None) is not None


@lru_cache(maxsize=4096)
def _shortest_gap(expression: str) -> timedelta:
    sim = _cronsim(expression)
    times = sorted(hour * 60 + minute for hour in sim.hours for minute in sim.minutes)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    overnight = times[0] + 24 * 60 - times[-1]
    if (not gaps or overnight < min(gaps)) and (days := _shortest_day_gap(expression)):
        gaps.append(overnight + (days - 1) * 24 * 60)
    return timedelta(minutes=min(gaps)) if gaps else LONGEST_INTERVAL


def _shortest_day_gap(expression: str) -> int | None:
    """The smallest distance, in days, of two days that the expression names (in eight years)."""
    sim, day = _cronsim(expression), date(2024, 1, 1)
    shortest, previous = None, None
    while day.year < 2032 and shortest != 1:
        if day.month in sim.months and sim.match_day(day):
            if previous is not None:
                gap = (day - previous).days
                shortest = gap if shortest is None else min(shortest, gap)
            previous = day
        day += _ONE_DAY
    return shortest


def _midnight_after(instant: datetime, zone: ZoneInfo) -> datetime:
    tomorrow = instant.astimezone(zone).date() + _ONE_DAY
    return datetime.combine(tomorrow, time(), tzinfo=zone).astimezone(UTC)


def _is_whole_plain_day(first: datetime, midnight: datetime, zone: ZoneInfo, sim: CronSim) -> bool:
    """Tell whether `first` is its local day's first slot and no clock changes on that day."""
    local = first.astimezone(zone)
    begin = datetime.combine(local.date(), time(), tzinfo=zone).astimezone(UTC)
    is_first = (local.hour, local.minute) == (min(sim.hours), min(sim.minutes))
    return is_first and midnight - begin == _ONE_DAY
