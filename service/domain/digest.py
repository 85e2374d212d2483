"""When messages go out, how many notifications share one, and what they say."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from service.domain.execution import Status
from service.domain.interval import interval_text
from service.domain.notification import Notification, at_minute, line, worst_of
from service.domain.severity import Severity

_LISTED = 10
_SECOND = timedelta(seconds=1)
_QUIET = 0.5
"""What is left of a message that is half forgotten."""


class MessageKind(StrEnum):
    """What a message is about."""

    SINGLE = "single"
    DIGEST = "digest"
    RECOVERY = "recovery"


@dataclass(frozen=True, slots=True)
class Message:
    """What goes outside: `title` is one line, `body` plain text."""

    kind: MessageKind
    title: str
    body: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class WellAgain:
    """A councilor of whose error people were told, and whose next run was a success."""

    councilor_id: str
    display_name: str


@dataclass(frozen=True, slots=True)
class Return:
    """Conductor answers again after it was down; `runs` failed or were missed meanwhile."""

    after: timedelta
    runs: int


Item = Notification | WellAgain


@dataclass(frozen=True, slots=True)
class DigestPolicy:
    """How soon messages go out, and how much rarer they get while there is more and more."""

    collect_seconds: float = 2.0
    """For so long, what comes together is collected."""
    singles: int = 3
    """As many at once are still told one by one, where it was quiet before."""
    pauses_seconds: tuple[float, ...] = (5.0, 15.0, 60.0, 300.0, 600.0)
    """The pause after one message, after two that went out lately, and so on."""
    forgotten_seconds: float = 600.0
    """So long after it a message counts no more: one that is told so often never waits."""
    good_news_ahead: int = 2
    """Successes alone wait as if so many more messages had gone out."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How many messages went out lately; times are seconds of a clock that nobody sets.

    Each counts as one, and is forgotten little by little. So while more and more comes there are
    five messages in the first ten minutes, and one in each ten minutes after them.
    """

    load: float = 0.0
    """How many they were when the latest went out."""
    sent_at: float = -math.inf

    def after_sending(self, at: float, policy: DigestPolicy) -> "Rhythm":
        """The same once a message has gone out."""
        return Rhythm(self._load_at(at, policy) + 1, at)

    def due_at(self, first_at: float, policy: DigestPolicy, *, is_good: bool = False) -> float:
        """When to send what has been waiting since `first_at`; good news wait longer."""
        collected_at = first_at + policy.collect_seconds
        if self.load == 0:
            return collected_at
        place = math.ceil(self.load) - 1 + (policy.good_news_ahead if is_good else 0)
        pauses = policy.pauses_seconds
        return max(collected_at, self.sent_at + pauses[min(place, len(pauses) - 1)])

    def parcels(
        self, items: Sequence[Item], at: float, policy: DigestPolicy
    ) -> Sequence[Sequence[Item]]:
        """What goes into one message each: few go alone, where it was quiet before; else all."""
        was_quiet = self._load_at(at, policy) < _QUIET
        if was_quiet and len(items) <= policy.singles:
            return [[item] for item in items]
        return [items] if items else []

    def _load_at(self, at: float, policy: DigestPolicy) -> float:
        return max(0.0, self.load - (at - self.sent_at) / policy.forgotten_seconds)


def is_alarm(item: Item) -> bool:
    """Tell whether this is no good news."""
    return isinstance(item, Notification) and item.severity is not Severity.SUCCESS


def message_of(items: Sequence[Item], *, is_brief: bool = False) -> Message:
    """What is said of these, of which there is at least one; in brief, numbers and nothing else."""
    if len(items) > 1 or is_brief:
        return _digest(items, is_brief=is_brief)
    (item,) = items
    match item:
        case Notification():
            return Message(
                MessageKind.SINGLE,
                f"{item.display_name}: {_what(item)}",
                _body(item),
                item.severity,
            )
        case WellAgain():
            body = "Its latest run was a success."
            return Message(MessageKind.RECOVERY, _line(item), body, Severity.SUCCESS)


def return_message(back: Return, items: Sequence[Item], *, is_brief: bool = False) -> Message:
    """What is said when Conductor answers again, with what else there is to be told."""
    title = f"Conductor answers again, after {_shown(back.after)}"
    runs = "1 run" if back.runs == 1 else f"{back.runs:,} runs"
    body = f"{title}; {runs} failed or {'was' if back.runs == 1 else 'were'} missed meanwhile."
    if not items:
        return Message(MessageKind.RECOVERY, title, body, Severity.SUCCESS)
    title += f"; {_counts(items)}"
    body += f"\n\nNot told of before:\n{_listed(items, is_brief=is_brief)}"
    return Message(MessageKind.RECOVERY, title, body, _worst_of(items))


def _digest(items: Sequence[Item], *, is_brief: bool) -> Message:
    councilors = len({item.councilor_id for item in items})
    whose = "1 councilor" if councilors == 1 else f"{councilors:,} councilors"
    what = "1 notification" if len(items) == 1 else f"{len(items):,} notifications"
    title = f"{what} of {whose}: {_counts(items)}"
    body = _listed(items, is_brief=is_brief)
    return Message(MessageKind.DIGEST, title, body, _worst_of(items))


def _worst_of(items: Sequence[Item]) -> Severity:
    return worst_of({item.severity for item in items if isinstance(item, Notification)})


def _counts(items: Sequence[Item]) -> str:
    """How many of which severity, the worst first."""
    counts = Counter(item.severity for item in items if isinstance(item, Notification))
    named = [
        f"{counts[severity]:,} {severity.value}{'' if counts[severity] == 1 else ending}"
        for severity, ending in _PLURALS.items()
        if counts[severity]
    ]
    well = len(items) - counts.total()
    return ", ".join([*named, *([f"{well:,} well again"] if well else [])])


_PLURALS = {Severity.ERROR: "s", Severity.WARNING: "s", Severity.SUCCESS: "es"}


def _listed(items: Sequence[Item], *, is_brief: bool) -> str:
    """The counts by reason, then the first few, those that are alarming before the others."""
    kinds = Counter(_sort(item) for item in items if isinstance(item, Notification))
    counted = [f"{count:,} x {sort}" for sort, count in kinds.most_common()]
    if is_brief:
        return "\n".join(counted)
    first = sorted(items, key=lambda item: not is_alarm(item))[:_LISTED]
    lines = [f"- {_line(item)}" for item in first]
    if len(items) > _LISTED:
        lines.append(f"and {len(items) - _LISTED:,} more")
    return "\n".join([*counted, *([""] if counted else []), *lines])


def _line(item: Item) -> str:
    """One line about it."""
    if isinstance(item, WellAgain):
        return f"{item.display_name} is well again"
    said = line(item.message.split("\n", 1)[0])
    due = at_minute(item.scheduled_for)
    return f"{item.display_name}: {_what(item)} (due {due})" + (f": {said}" if said else "")


def _body(item: Notification) -> str:
    took = timedelta(milliseconds=item.duration_ms) if item.duration_ms is not None else None
    facts = [
        f"Task: {item.task_name}",
        f"Due: {at_minute(item.scheduled_for)}",
        *([f"Took: {_shown(took)}"] if took is not None else []),
        f"Execution: {item.notification_id}",
    ]
    return "\n".join([*([item.message, ""] if item.message else []), *facts])


def _what(item: Notification) -> str:
    """What has become of it, in a few words."""
    sort = _sort(item)
    return sort if item.slots == 1 else f"{item.slots:,} slots {sort}"


def _sort(item: Notification) -> str:
    """The same, equal for endings of one sort."""
    what = item.severity.value if item.status is Status.COMPLETED else _ENDINGS[item.status]
    reason = item.reason.value.replace("_", " ") if item.reason is not None else ""
    return f"{what} ({reason})" if reason and reason != what else what


_ENDINGS = {Status.MISSED: "missed", Status.SKIPPED: "skipped", Status.ERROR: "failed"}


def _shown(duration: timedelta) -> str:
    """A duration in words that are short: to the second, above an hour to the minute."""
    if duration < _SECOND:
        return "less than a second"
    unit = _SECOND if duration < timedelta(hours=1) else timedelta(minutes=1)
    return interval_text(duration // unit * unit)
