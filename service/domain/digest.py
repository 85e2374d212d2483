"""When messages go out, how many notifications share one, and what they say."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from service.domain.execution import Status
from service.domain.interval import interval_text
from service.domain.notification import Notification, at_minute, line, worst_of
from service.domain.severity import Severity

_LISTED = 10
_SECOND = timedelta(seconds=1)


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
    pauses_seconds: tuple[float, ...] = (60.0, 300.0, 900.0, 1_800.0)
    """The pause after each message of a row; the last one again and again."""
    quiet_seconds: float = 900.0
    """So long without a notification ends the row."""


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often messages went out lately; times are seconds of a clock that nobody sets."""

    sent: int = 0
    sent_at: float = -math.inf
    arrived_at: float = -math.inf

    def after_arrival(self, at: float, policy: DigestPolicy) -> "Rhythm":
        """The same once a notification has come: after a quiet time, a new row begins."""
        was_quiet = at - self.arrived_at > policy.quiet_seconds
        return Rhythm(arrived_at=at) if was_quiet else replace(self, arrived_at=at)

    def after_sending(self, at: float) -> "Rhythm":
        """The same once messages have gone out."""
        return replace(self, sent=self.sent + 1, sent_at=at)

    def due_at(self, first_at: float, policy: DigestPolicy) -> float:
        """When to send what has been waiting since `first_at`."""
        collected_at = first_at + policy.collect_seconds
        if self.sent == 0:
            return collected_at
        pauses = policy.pauses_seconds
        return max(collected_at, self.sent_at + pauses[min(self.sent, len(pauses)) - 1])

    def parcels(self, items: Sequence[Item], policy: DigestPolicy) -> Sequence[Sequence[Item]]:
        """What goes into one message each: few go alone, where it was quiet before; else all."""
        if self.sent == 0 and len(items) <= policy.singles:
            return [[item] for item in items]
        return [items] if items else []


def message_of(items: Sequence[Item]) -> Message:
    """What is said of these, of which there is at least one."""
    if len(items) > 1:
        return _digest(items)
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


def return_message(back: Return, items: Sequence[Item]) -> Message:
    """What is said when Conductor answers again, with what else there is to be told."""
    title = f"Conductor answers again, after {_shown(back.after)}"
    runs = "1 run" if back.runs == 1 else f"{back.runs:,} runs"
    body = f"{title}; {runs} failed or {'was' if back.runs == 1 else 'were'} missed meanwhile."
    if not items:
        return Message(MessageKind.RECOVERY, title, body, Severity.SUCCESS)
    title += f"; {_counts(items)}"
    body += f"\n\nNot told of before:\n{_listed(items)}"
    return Message(MessageKind.RECOVERY, title, body, _worst_of(items))


def _digest(items: Sequence[Item]) -> Message:
    councilors = len({item.councilor_id for item in items})
    whose = "1 councilor" if councilors == 1 else f"{councilors:,} councilors"
    title = f"{len(items):,} notifications of {whose}: {_counts(items)}"
    return Message(MessageKind.DIGEST, title, _listed(items), _worst_of(items))


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


def _listed(items: Sequence[Item]) -> str:
    """The counts by reason, then the first few."""
    kinds = Counter(_sort(item) for item in items if isinstance(item, Notification))
    counted = [f"{count:,} x {sort}" for sort, count in kinds.most_common()]
    lines = [f"- {_line(item)}" for item in items[:_LISTED]]
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
