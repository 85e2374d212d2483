"""Time zones as stretches of time in which the clocks do not change."""

import zoneinfo
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_SECOND, _DAY = timedelta(seconds=1), timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Span:
    """From `start` until just before `end` the clocks of a zone are at `offset` from UTC.

    `before` is the offset that held just before `start`: the same where the clocks did not change.
    """

    start: datetime
    end: datetime
    offset: timedelta
    before: timedelta

    @property
    def is_after_gap(self) -> bool:
        """Tell whether the clocks went forward at `start`."""
        return self.offset > self.before

    @property
    def is_after_overlap(self) -> bool:
        """Tell whether the clocks went back at `start`."""
        return self.offset < self.before

    @property
    def first_new_wall(self) -> datetime:
        """The first local time of this span that was not there already before `start`."""
        return local(self.start, max(self.offset, self.before))


@lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """The IANA zone names that this installation knows (tzdata comes with the package).

    `localtime` is the host's own zone, under a name that some hosts have.
    """
    return frozenset(zoneinfo.available_timezones() - {"localtime", "Factory"})


def zone_meant_by(text: str) -> str | None:
    """The known zone that `berlin` or `europe/berlin` stands for, say, if there is one."""
    return _zones_by_other_names().get(text.strip().replace(" ", "_").lower())


@lru_cache(maxsize=1)
def _zones_by_other_names() -> dict[str, str]:
    """Areas before legacy names, and the shorter first: `Berlin` is in Europe."""
    zones = sorted(known_zones(), key=lambda zone: ("/" not in zone, len(zone), zone))
    names = {zone.lower(): zone for zone in zones}
    for zone in zones:
        names.setdefault(zone.split("/")[-1].lower(), zone)
    return names


def span_at(zone: str, instant: datetime) -> Span:
    """The span of a known zone that an instant lies in; spans end with the year, too."""
    spans = _spans(zone, instant.astimezone(UTC).year)
    return next(span for span in reversed(spans) if span.start <= instant)


def local(instant: datetime, offset: timedelta) -> datetime:
    """What clocks at this offset show, as a naive datetime."""
    return instant.replace(tzinfo=None) + offset


def instant_of(wall: datetime, offset: timedelta) -> datetime:
    """When clocks at this offset show `wall`."""
    return (wall - offset).replace(tzinfo=UTC)


@lru_cache(maxsize=8192)
def _spans(zone: str, year: int) -> tuple[Span, ...]:
    """A zone's year in UTC, cut where its clocks change (at most once a day)."""
    tz, until = ZoneInfo(zone), datetime(year + 1, 1, 1, tzinfo=UTC)
    start = day = datetime(year, 1, 1, tzinfo=UTC)
    before, offset = _offset(tz, start - _SECOND), _offset(tz, start)
    spans: list[Span] = []
    while day < until:
        day, previous = day + _DAY, day
        if _offset(tz, day) != offset:
            change = _change_between(tz, previous, day)
            if change < until:
                spans.append(Span(start, change, offset, before))
                start, before, offset = change, offset, _offset(tz, change)
    return (*spans, Span(start, until, offset, before))


def _change_between(tz: ZoneInfo, same: datetime, other: datetime) -> datetime:
    """The first second at which the offset is no longer what it is at `same`."""
    offset = _offset(tz, same)
    while other - same > _SECOND:
        middle = same + (other - same) // (2 * _SECOND) * _SECOND
        if _offset(tz, middle) == offset:
            same = middle
        else:
            other = middle
    return other


def _offset(tz: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(tz).utcoffset()
    assert offset is not None
    return offset
