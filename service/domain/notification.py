"""Who is told of which ending, where, and what a notification holds."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.domain.config import notifications_config_from
from service.domain.councilor import Councilor, Notifications
from service.domain.execution import Execution, NotRun, Outcome, Reason, Status, milliseconds
from service.domain.severity import Severity

LONGEST_MESSAGE = 500
_LONGEST_NAME = 120
_MOST_CHANNELS, _LONGEST_CHANNEL = 20, 50
_QUOTABLE = 20
"""A shorter prompt is a word or two, which any output may hold."""
_MOSTLY_TEXT = 2
"""How much longer than what is kept of it a text may be with what colours it."""
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_SURPRISES = {
    Status.MISSED: frozenset(Reason) - {Reason.EDITED},
    Status.SKIPPED: frozenset({Reason.OVERLAP, Reason.INVALID}),
}
"""Why slots do not run without their owner having asked for it."""


class Inside(StrEnum):
    """The channels that are documents; any other name is somewhere outside."""

    PANEL = "panel"
    TOAST = "toast"


class ChannelKind(StrEnum):
    """Channels as metrics count them."""

    PANEL = "panel"
    TOAST = "toast"
    EMAIL = "email"
    OTHER = "other"


class Delivery(StrEnum):
    """What has become of the message to the outside that a notification is part of."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Notification:
    """One ending that somebody is told of; `message` is in plain words, and never the prompt."""

    notification_id: str
    """The execution's: an ending is told once, whoever tries."""
    councilor_id: str
    display_name: str
    task_name: str
    status: Status
    severity: Severity
    reason: Reason | None
    message: str
    scheduled_for: datetime
    completed_at: datetime
    duration_ms: int | None
    channels: tuple[str, ...]
    slots: int = 1
    """More than one where it stands for a stretch of slots."""

    @property
    def outside(self) -> tuple[str, ...]:
        """The channels that are no documents."""
        return outside_of(self.channels)

    @property
    def is_of_conductor(self) -> bool:
        """Tell whether this comes from Conductor being down."""
        return self.reason in (Reason.CONDUCTOR_UNAVAILABLE, Reason.CONDUCTOR_DISCONNECTED)


@dataclass(frozen=True, slots=True)
class Audience:
    """Who is told of a councilor's endings, and what it is called before them."""

    display_name: str
    task_name: str
    told: Notifications


@dataclass(frozen=True, slots=True)
class Entry:
    """A notification as it is written: `delivery` is None where nothing goes outside."""

    notification: Notification
    created_at: datetime
    delivery: Delivery | None


@dataclass(frozen=True, slots=True)
class Target:
    """Somewhere outside, without what is secret about it; `host` is empty where it may be that."""

    place: int
    """Its place among all, from 1."""
    scheme: str
    host: str
    names: frozenset[str]
    is_mail: bool

    @property
    def text(self) -> str:
        """How it is called in logs."""
        return f"{self.scheme}://{self.host}"


def outside_of(channels: Iterable[str]) -> tuple[str, ...]:
    """The channels that are no documents."""
    return tuple(channel for channel in channels if channel not in set(Inside))


def kind_of(channel: str) -> ChannelKind:
    """The channel as metrics count it."""
    return ChannelKind(channel) if channel in set(ChannelKind) else ChannelKind.OTHER


def targets_of(channels: Iterable[str], targets: Sequence[Target]) -> tuple[Target, ...]:
    """Where outside channels lead: `email` to what sends mail, a service's name to that service.

    `email` leads to all targets where none sends mail, and any channel to a target that is the
    only one; else one that no target is made for leads nowhere.
    """
    wanted = {target for channel in outside_of(channels) for target in _led_to(channel, targets)}
    return tuple(target for target in targets if target in wanted)


def unknown_of(channels: Iterable[str], targets: Sequence[Target]) -> Sequence[str]:
    """The outside channels that lead nowhere although there are targets."""
    if not targets:
        return []
    return [channel for channel in outside_of(channels) if not _led_to(channel, targets)]


def _led_to(channel: str, targets: Sequence[Target]) -> Sequence[Target]:
    made_for_it = [target for target in targets if _serves(target, channel)]
    takes_any = channel == ChannelKind.EMAIL or len(targets) == 1
    return made_for_it or (targets if takes_any else [])


def _serves(target: Target, channel: str) -> bool:
    return target.is_mail if channel == ChannelKind.EMAIL else channel in target.names


def tells(notifications: Notifications, severity: Severity) -> bool:
    """Tell whether anybody is told of an ending of this severity."""
    match severity:
        case Severity.SUCCESS:
            return notifications.on_success
        case Severity.WARNING:
            return notifications.on_warning
        case Severity.ERROR:
            return notifications.on_error


def is_surprise(not_run: NotRun) -> bool:
    """Tell whether this slot did not run although nobody has asked for that."""
    return not_run.reason in _SURPRISES.get(not_run.status, ())


def audience_of(councilor: Councilor | None, name: str, document: Mapping[str, object]) -> Audience:
    """Who is told of an agent's endings; where its configuration is wrong, as far as it says."""
    if councilor is not None:
        return Audience(councilor.display_name, councilor.task.name, councilor.notifications)
    told = notifications_config_from(document.get("councilor_config"))
    channels = tuple(told.channels)
    return Audience(
        name, "", Notifications(told.on_success, told.on_warning, told.on_error, channels)
    )


def of_run(
    execution: Execution, outcome: Outcome, audience: Audience, prompt: str = ""
) -> Notification | None:
    """What is told of a run that has ended; None where nobody is."""
    told = audience.told
    channels = _channels(told) if tells(told, outcome.severity) else ()
    if not channels:
        return None
    said = outcome.summary or _without(prompt, outcome.output or "")
    return Notification(
        notification_id=execution.execution_id,
        councilor_id=execution.agent_id,
        display_name=line(audience.display_name),
        task_name=line(audience.task_name),
        status=outcome.status,
        severity=outcome.severity,
        reason=outcome.reason,
        message=plain(said, LONGEST_MESSAGE),
        scheduled_for=execution.scheduled_for,
        completed_at=outcome.completed_at,
        duration_ms=milliseconds(outcome.completed_at - execution.started_at),
        channels=channels,
    )


def of_slot(not_run: NotRun, audience: Audience) -> Notification | None:
    """What is told of a slot, or a stretch of them, that did not run; None where nobody is."""
    told = audience.told
    channels = _channels(told) if is_surprise(not_run) and told.on_warning else ()
    if not channels:
        return None
    return Notification(
        notification_id=not_run.execution_id,
        councilor_id=not_run.agent_id,
        display_name=line(audience.display_name),
        task_name=line(audience.task_name),
        status=not_run.status,
        severity=Severity.WARNING,
        reason=not_run.reason,
        message=_why(not_run),
        scheduled_for=not_run.scheduled_for,
        completed_at=not_run.at,
        duration_ms=None,
        channels=channels,
        slots=not_run.stretch.count if not_run.stretch is not None else 1,
    )


_WHY = {
    Reason.OVERLAP: "the previous run was still running",
    Reason.INVALID: "the configuration is wrong; councilor_status.error says what is",
    Reason.OUTAGE: "the scheduler was down",
    Reason.CAPACITY: "no place was free for it",
    Reason.CONDUCTOR_UNAVAILABLE: "Conductor was down",
    Reason.STALE: "it was asked for more than an hour before it was seen",
}


def _why(not_run: NotRun) -> str:
    why = _WHY.get(not_run.reason, not_run.reason.value)
    stretch = not_run.stretch
    if stretch is None or stretch.count == 1:
        return why
    return (
        f"{why}: {stretch.count:,} slots, {at_minute(stretch.first)} to {at_minute(stretch.last)}"
    )


def at_minute(instant: datetime) -> str:
    """An instant as people read it."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def line(text: str) -> str:
    """A text that may be part of a subject: one line, nothing but what is printed."""
    return " ".join(plain(text, _LONGEST_NAME).split())


def plain(text: str, longest: int) -> str:
    """The beginning of a text without what terminals, mails and browsers act upon."""
    looked_at = text[: longest * _MOSTLY_TEXT]
    kept = looked_at
    if not looked_at.isprintable():
        kept = _ANSI.sub("", looked_at).replace("\r\n", "\n").replace("\r", "\n")
        kept = "".join(c if c.isprintable() or c == "\n" else " " for c in kept)
    kept = kept.strip()
    is_whole = len(kept) <= longest and len(text) == len(looked_at)
    return kept if is_whole else f"{kept[:longest].rstrip()}…"


def _without(prompt: str, text: str) -> str:
    """An output may repeat what it was asked."""
    return text.replace(prompt, "[prompt]") if len(prompt) >= _QUOTABLE else text


def _channels(told: Notifications) -> tuple[str, ...]:
    """The channels, each once; those of nobody's making are left out."""
    named = (line(channel).lower() for channel in told.channels[: 10 * _MOST_CHANNELS])
    short = (channel for channel in named if 0 < len(channel) <= _LONGEST_CHANNEL)
    return tuple(dict.fromkeys(short))[:_MOST_CHANNELS]


def worst_of(severities: Collection[Severity]) -> Severity:
    """The most alarming of these; a success where there are none."""
    order = (Severity.ERROR, Severity.WARNING)
    return next((severity for severity in order if severity in severities), Severity.SUCCESS)
