"""Five-field crons in a time zone: their dialect, and their slots in closed form."""

import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from cronsim import CronSimError

from service.domain.calendar import calendar_of
from service.domain.interval import INTERVAL_PATTERN, LONGEST_INTERVAL, ScheduleError, quoted
from service.domain.wording import cron_in_words
from service.domain.zones import Span, instant_of, known_zones, local, span_at, zone_meant_by

_TICK = timedelta(microseconds=1)
_MINUTE = timedelta(minutes=1)
_FOR_EVER = datetime.max.replace(tzinfo=UTC)
_SOME_DAY, _A_LIFETIME = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=50 * 365)
_MOST_CHANGED = timedelta(days=2)
"""More than clocks are ever changed by."""
_LONGEST_CRON_TEXT = 200
_ANSWERS_KEPT = 8
"""Verdicts show the next runs: as many answers are asked for in turn."""

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
_FIELDS_HINT = 'write five fields, minute hour day month weekday: "0 9 * * 1" is Mondays at 9'
_ZONE_HINT = 'write an IANA name, such as "Europe/Berlin" or "UTC"'
_BLANKS = r"[\x09-\x0d\x1c-\x20]"
"""What separates fields: what Python calls blank, within ASCII."""
_FIELD = "[0-9A-Za-z*,/#-]+"
CRON_PATTERN = (
    f"^{_BLANKS}*(?:(?i:{'|'.join(_MACROS)})|{_FIELD}(?:{_BLANKS}+{_FIELD}){{4}}){_BLANKS}*$"
)
"""What every valid cron matches; it says nothing of the values in its fields."""
_RANGE = re.compile(r"([A-Z0-9]+)-([A-Z0-9]+)(?:/([0-9]+))?")


@dataclass(frozen=True, slots=True)
class Cron:
    """Five cron fields in a time zone, by Debian's rules.

    A fixed time runs once a day: the first time where clocks go back, and at the end of the gap
    where they go forward over it. Where minute or hour begin with `*`, real time is followed:
    every instant at which the clocks show what the fields say, however often they do.

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
        return f"{cron_in_words(self.expression)}, {self.zone}"

    @property
    def shortest_gap(self) -> timedelta:
        """The smallest distance of two slots, clock changes left aside."""
        return _shortest_gap(self.expression)

    def next_slot(self, after: datetime, accepted_at: datetime) -> datetime:
        after = max(after, accepted_at)
        known = _answers_of(self.expression, self.zone)
        for since, slot in known:
            if since <= after < slot:
                return slot
        found = self._first_after(after, _FOR_EVER)
        assert found is not None  # `cron_from` has seen to that
        known.appendleft((after, found))
        return found

    @property
    def ever_comes(self) -> bool:
        """Tell whether clocks show these times at all; some are in a gap whenever they come."""
        is_safe = calendar_of(self.expression).has_fixed_times
        return is_safe or _comes_by_the_clock(self)

    def _first_after(self, after: datetime, until: datetime) -> datetime | None:
        times, span = calendar_of(self.expression), span_at(self.zone, after)
        while span.start < until:
            if span.start > after and self._runs_after_gap(span):
                return span.start
            first = self._first_wall(span)
            if span.start <= after:
                first = max(first, _minute_of(local(after, span.offset)) + _MINUTE)
            wall = times.first_from(first)
            if (slot := instant_of(wall, span.offset)) < span.end:
                return slot
            following = span_at(self.zone, span.end)
            # Nothing comes before `slot` but in the hour that is repeated next, if one is.
            is_far = not following.is_after_overlap and slot - _MOST_CHANGED > following.end
            span = span_at(self.zone, slot - _MOST_CHANGED) if is_far else following
        return None

    def latest_slot(self, not_after: datetime, accepted_at: datetime) -> datetime | None:
        times, span, end = calendar_of(self.expression), span_at(self.zone, not_after), not_after
        while (wall := times.last_until(local(end, span.offset))) < self._first_wall(span):
            if self._runs_after_gap(span):
                return span.start if span.start > accepted_at else None
            end = span.start - _TICK
            if not span.is_after_overlap:  # later local times than these were there before it
                end = min(end, instant_of(wall, span.offset) + _MOST_CHANGED)
            span = span_at(self.zone, end)
        slot = instant_of(wall, span.offset)
        return slot if slot > accepted_at else None

    def count(self, first: datetime, last: datetime) -> int:
        times, total, span = calendar_of(self.expression), 0, span_at(self.zone, first)
        while span.start <= last:
            start = max(self._first_wall(span), local(first, span.offset))
            end = local(min(span.end, last + _TICK), span.offset)
            total += times.count(start, end)
            if span.start >= first and self._runs_after_gap(span):
                total += times.first_from(self._first_wall(span)) != self._first_wall(span)
            span = span_at(self.zone, span.end)
        return total

    def _first_wall(self, span: Span) -> datetime:
        """The first local time of a span that counts: fixed ones not twice."""
        if calendar_of(self.expression).has_fixed_times:
            return span.first_new_wall
        return local(span.start, span.offset)

    def _runs_after_gap(self, span: Span) -> bool:
        """Tell whether fixed times were left out by the clocks just before this span."""
        times = calendar_of(self.expression)
        if not span.is_after_gap or not times.has_fixed_times:
            return False
        left_out = times.first_from(local(span.start, span.before))
        return left_out < local(span.start, span.offset)


def cron_from(text: str, zone: str) -> Cron:
    """Read five cron fields or a macro such as `@daily`, for the IANA time zone `zone`.

    0 and 7 are Sunday; names, lists, steps and ranges that wrap (`FRI-MON`) are understood. Raises
    ScheduleError for anything else, for dates that never come (`0 0 30 2 *`), and for seconds.
    """
    if zone not in known_zones():
        meant = zone_meant_by(zone)
        hint = f'did you mean "{meant}"?' if meant is not None else _ZONE_HINT
        raise ScheduleError(f"{quoted(zone)} is not a known time zone", hint, part="timezone")
    source = " ".join(text.split()) if text.isascii() else text
    fields = _MACROS.get(source.lower(), source).upper().split()
    hint = _FIELDS_HINT
    if len(fields) != 5 or not text.isascii() or len(text) > _LONGEST_CRON_TEXT:
        message = f"{quoted(text)} is not a cron expression: it has {_shape_of(text, fields)}"
        raise ScheduleError(message, _hint_on(text, fields))
    fields = [*map(_unwrapped, fields, _FIELD_VALUES, _FIELD_NAMES)]
    expression = " ".join(fields)
    try:
        calendar = calendar_of(expression)
    except CronSimError as error:
        is_about_days = "day-of-month" in str(error)
        if is_about_days and _is_understood([*fields[:3], "*", fields[4]]):
            message = f"{quoted(text)} names a date that never comes"
            hint = "name a day that the month has, such as the 28th"
        else:
            message = f"{quoted(text)} is not a cron expression: {str(error).lower()}"
        raise ScheduleError(message, hint) from error
    if not calendar.ever_comes:
        hint = "name days of the month and of the week that meet"
        raise ScheduleError(f"{quoted(text)} names days that never come", hint)
    cron = Cron(expression=expression, zone=zone, text=text)
    if not cron.ever_comes:
        hint = "name a time outside the hour that the clocks leave out"
        raise ScheduleError(f"{quoted(text)} names times that never come in {zone}", hint)
    return cron


def _shape_of(text: str, fields: list[str]) -> str:
    if len(text) > _LONGEST_CRON_TEXT:
        return f"{len(text):,} characters"
    if not text.isascii():
        return "letters that cron does not know"
    return f"{len(fields)} field{'s' if len(fields) != 1 else ''}"


def _hint_on(text: str, fields: list[str]) -> str:
    if text.startswith("@"):
        return f"the names that are known are {', '.join(_MACROS)}"
    if re.fullmatch(INTERVAL_PATTERN, text):
        return 'this is an interval: set type to "interval", or write five fields'
    if len(fields) == 6:
        return f"leave out the seconds, and years; {_FIELDS_HINT}"
    return _FIELDS_HINT


def _is_understood(fields: list[str]) -> bool:
    try:
        calendar_of(" ".join(fields))
    except CronSimError:
        return False
    return True


def _unwrapped(field: str, values: range, names: tuple[str, ...]) -> str:
    """Write ranges that wrap around (`FRI-MON`, `22-4/2`), which cronsim refuses, as lists."""
    return ",".join(_unwrapped_term(term, values, names) for term in field.split(","))


def _unwrapped_term(term: str, values: range, names: tuple[str, ...]) -> str:
    match = _RANGE.fullmatch(term)
    if match is None or (match[3] is not None and int(match[3]) == 0):
        return term
    start, end = (_number(end, names) for end in match.group(1, 2))
    last = 7 if names == _WEEKDAYS else values[-1]
    if start is not None and start == end and match[3] is not None:
        return str(start)  # cronsim reads `5-5/20` as `5/20`
    if start is None or end is None or start <= end or start > last or end not in values:
        return term
    wrapped = [*range(start, values.stop), *range(values.start, end + 1)]
    return ",".join(str(value) for value in wrapped[:: int(match[3] or 1)])


def _number(text: str, names: tuple[str, ...]) -> int | None:
    if text in names:
        return names.index(text)
    return int(text) if text.isdecimal() else None


@lru_cache(maxsize=4096)
def _answers_of(expression: str, zone: str) -> deque[tuple[datetime, datetime]]:
    """The latest answers, of all councilors with this cron: from when on each was the next slot."""
    return deque(maxlen=_ANSWERS_KEPT)


@lru_cache(maxsize=4096)
def _comes_by_the_clock(cron: Cron) -> bool:
    return cron._first_after(_SOME_DAY, _SOME_DAY + _A_LIFETIME) is not None


@lru_cache(maxsize=4096)
def _shortest_gap(expression: str) -> timedelta:
    return calendar_of(expression).shortest_gap() or LONGEST_INTERVAL


def _minute_of(wall: datetime) -> datetime:
    return wall.replace(second=0, microsecond=0)
