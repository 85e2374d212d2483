"""Intervals such as `30m` and `1h30m`, and the slots they stand for, in closed form."""

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache

from service.domain.printable import printable

LONGEST_INTERVAL = timedelta(days=3660)

_UNITS = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_INTERVAL = re.compile("".join(rf"(?:([0-9]{{1,9}}){unit})?" for unit, _ in _UNITS))
_UNIT_WORDS = re.compile("weeks?|days?|hours?|hrs?|minutes?|mins?|seconds?|secs?")
INTERVAL_PATTERN = rf"^(?=.*[1-9]){_INTERVAL.pattern}$(?!\n)"
"""What every valid interval matches; it says nothing of ten years."""


class ScheduleError(ValueError):
    """A schedule that means nothing here; `hint` says how to mend it.

    `part` is the part of the schedule that is wrong: `value` or `timezone`.
    """

    def __init__(self, message: str, hint: str, part: str = "value") -> None:
        super().__init__(message)
        self.hint = hint
        self.part = part


def every_from(text: str) -> "Every":
    """The schedule of an interval text; raises ScheduleError as `interval_from` does."""
    return Every(period=interval_from(text), text=text)


@lru_cache(maxsize=4_096)
def interval_from(text: str) -> timedelta:
    """Read an interval such as `90s`, `30m`, `1h30m`, `2d`, `1w`: units once each, largest first.

    Raises ScheduleError for zero, for anything without a unit and for more than ten years.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None or not text:
        raise ScheduleError(f"{quoted(text)} is not an interval", _hint_on(text))
    counts = zip(match.groups(), _UNITS, strict=True)
    seconds = sum(int(count) * factor for count, (_, factor) in counts if count)
    if seconds == 0:
        raise ScheduleError(
            f"{quoted(text)} is no time at all", 'write at least one second, such as "30m"'
        )
    if seconds > LONGEST_INTERVAL.total_seconds():
        raise ScheduleError(f"{quoted(text)} is longer than ten years", "write a shorter interval")
    return timedelta(seconds=seconds)


def _hint_on(text: str) -> str:
    if text.startswith("@") or len(text.split()) == 5:
        return 'this looks like a cron: set type to "cron", or write an interval such as "30m"'
    plain = _UNIT_WORDS.sub(lambda word: word[0][0], text.lower()[:40]).replace(" ", "")
    if plain.isascii() and plain and _INTERVAL.fullmatch(plain):
        return f'did you mean "{plain}"?'
    return 'write a whole number and a unit, largest first: "90s", "30m", "1h30m", "2d", "1w"'


def interval_text(interval: timedelta) -> str:
    """The shortest text that `interval_from` reads as this interval (whole seconds)."""
    seconds = int(interval.total_seconds())
    parts: list[str] = []
    for unit, factor in _UNITS:
        count, seconds = divmod(seconds, factor)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


@dataclass(frozen=True, slots=True)
class Every:
    """An interval: slot k is `accepted_at + k * period`, k = 1, 2, …; `text` is as written."""

    period: timedelta
    text: str = field(compare=False)

    @property
    def kind(self) -> str:
        return "interval"

    @property
    def identity(self) -> str:
        """Equal for texts that mean the same slots, such as `60m` and `1h`."""
        return f"interval={interval_text(self.period)}"

    @property
    def zone(self) -> None:
        return None

    @property
    def explanation(self) -> str:
        words = {"w": "week", "d": "day", "h": "hour", "m": "minute", "s": "second"}
        parts = re.findall(r"(\d+)([a-z])", interval_text(self.period))
        if len(parts) == 1 and parts[0][0] == "1":
            return f"Every {words[parts[0][1]]}"
        counted = [f"{n} {words[unit]}{'s' if n != '1' else ''}" for n, unit in parts]
        head, last = counted[:-1], counted[-1]
        return f"Every {', '.join(head)} and {last}" if head else f"Every {last}"

    @property
    def shortest_gap(self) -> timedelta:
        return self.period

    def next_slot(self, after: datetime, accepted_at: datetime) -> datetime:
        return accepted_at + max(1, (after - accepted_at) // self.period + 1) * self.period

    def latest_slot(self, not_after: datetime, accepted_at: datetime) -> datetime | None:
        periods = (not_after - accepted_at) // self.period
        return accepted_at + periods * self.period if periods >= 1 else None

    def count(self, first: datetime, last: datetime) -> int:
        return (last - first) // self.period + 1


def quoted(text: str) -> str:
    """A text of a user's as a message shows it: short, and printable."""
    shown = text if len(text) <= 60 else f"{text[:57]}…"
    return f'"{printable(shown)}"'
