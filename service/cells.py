"""What stands in a table's cells: texts of users, words with colours, instants and distances."""

from datetime import datetime, timedelta

from rich.text import Text

from service.domain.interval import interval_text
from service.domain.printable import printable

_STYLES = {
    "success": "green",
    "completed": "green",
    "scheduled": "green",
    "running": "cyan",
    "warning": "yellow",
    "paused": "yellow",
    "skipped": "yellow",
    "missed": "yellow",
    "error": "red",
    "invalid": "red",
}
_LATE = timedelta(seconds=2)
"""What a slot may be over without anybody having to ask why."""


def text(value: object, style: str = "") -> Text:
    """What users wrote, without what would steer a terminal."""
    return Text("" if value is None else printable(str(value)), style)


def coloured(value: object) -> Text:
    """A word that has a colour of its own wherever it stands."""
    word = str(value) if value is not None else ""
    return text(word, _STYLES.get(word, ""))


def instant(value: object) -> str:
    """A date in UTC, to the second; empty where it is none."""
    return f"{value:%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else ""


def short_instant(value: object) -> str:
    """The same without the year."""
    return instant(value)[5:]


def duration(milliseconds: object) -> str:
    """A duration that is kept in milliseconds: `12.3 s`, `30m`."""
    if not isinstance(milliseconds, int):
        return ""
    if milliseconds < 100_000:
        return f"{milliseconds / 1000:.1f} s"
    return interval_text(timedelta(milliseconds=milliseconds))


def percent(rate: object) -> str:
    """A rate that is kept in percent; empty where there is none."""
    return f"{rate} %" if rate is not None else ""


def from_now(value: object, now: datetime) -> str:
    """How far an instant is away: `in 4m`, `3h ago`."""
    if not isinstance(value, datetime):
        return ""
    distance = value - now
    return f"{_amount(-distance)} ago" if distance < timedelta(0) else f"in {_amount(distance)}"


def next_run(value: object, now: datetime) -> Text:
    """When a run comes; one that should have come is `late`."""
    if not isinstance(value, datetime) or value > now:
        return Text(from_now(value, now))
    late = now - value
    return Text("now") if late < _LATE else Text(f"{_amount(late)} late", "yellow")


def _amount(distance: timedelta) -> str:
    whole = round(distance.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole >= 2 * size:
            return f"{whole // size}{unit}"
    return f"{whole}s"
