"""A document of `agents`, read: a councilor, an invalid councilor, or no councilor at all."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NewType

from service.domain.config import (
    CatchUp,
    Config,
    ConfigRejected,
    Overlap,
    Problem,
    ScheduleConfig,
    config_from,
    instant_from,
    schedule_config_from,
    shown,
)
from service.domain.cron import cron_from
from service.domain.interval import Every, ScheduleError, every_from, interval_from, interval_text
from service.domain.schedule import Schedule, delay_within

LONGEST_AGENT_ID = 1_000
"""It is a document's key, part of a path, and of a header, which servers cut at 8 KB."""

_KEPT = 4_096
"""Schedules that are known by their texts."""
_HASHED = ("type", "value", "timezone", "spread")
"""What of a schedule moves its slots."""

DocumentKey = NewType("DocumentKey", bytes)
"""A document's `_id`, encoded; keys compare as MongoDB orders ids of the common types."""


@dataclass(frozen=True, slots=True)
class SchedulePolicy:
    """What the service's settings say about schedules."""

    timezone: str = "UTC"
    min_interval: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Task:
    """What a run does."""

    name: str
    prompt: str
    context_files: tuple[str, ...]
    output_format: str


@dataclass(frozen=True, slots=True)
class Notifications:
    """Who is told of which severities."""

    on_success: bool = False
    on_warning: bool = True
    on_error: bool = True
    channels: tuple[str, ...] = ("panel",)


@dataclass(frozen=True, slots=True)
class Councilor:
    """A promoted agent whose configuration means something."""

    agent_id: str
    display_name: str
    schedule: Schedule
    delay: timedelta
    enabled: bool
    paused_until: datetime | None
    catch_up: CatchUp
    overlap: Overlap
    skip_next: bool
    spec_hash: str
    task: Task
    notifications: Notifications
    cwd: str | None
    ai_provider: str | None
    run_requested_at: datetime | None
    problem: Problem | None
    """What is wrong beside the configuration, and keeps nothing else from running."""


@dataclass(frozen=True, slots=True)
class InvalidCouncilor:
    """A promoted agent whose configuration cannot be run, and what its owner should mend."""

    agent_id: str | None
    display_name: str
    spec_hash: str
    problem: Problem
    run_requested_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NotCouncilor:
    """An agent that is not promoted; `agent_id` where the document has a usable one."""

    agent_id: str | None
    run_requested_at: datetime | None = None


Reading = Councilor | InvalidCouncilor | NotCouncilor


def parse_councilor(document: Mapping[str, object], policy: SchedulePolicy) -> Reading:
    """Read a document whatever it holds: never raises, and names the first thing to mend."""
    agent_id = _agent_id(document.get("agent_id"))
    requested_at = instant_from(document.get("councilor_run_requested_at"))
    promoted = document.get("is_councilor")
    if promoted is None or promoted is False:
        return NotCouncilor(agent_id, requested_at)
    name = _display_name(document, agent_id)
    try:
        _require_promotion(promoted, agent_id, document.get("agent_id"))
        config = config_from(document.get("councilor_config"))
        schedule = _schedule(config.schedule, policy)
        delay = _delay(config.schedule, schedule, agent_id or "")
    except ConfigRejected as rejected:
        return InvalidCouncilor(
            agent_id=agent_id,
            display_name=name,
            spec_hash=_hash_despite_problems(document.get("councilor_config"), policy),
            problem=rejected.problem,
            run_requested_at=requested_at,
        )
    return Councilor(
        agent_id=agent_id or "",
        display_name=name,
        schedule=schedule,
        delay=delay,
        enabled=config.schedule.enabled,
        paused_until=config.schedule.paused_until,
        catch_up=config.schedule.catch_up,
        overlap=config.schedule.overlap,
        skip_next=config.schedule.skip_next,
        spec_hash=_spec_hash(config.schedule, schedule),
        task=_task(config, name),
        notifications=_notifications(config),
        cwd=_text(document.get("cwd")),
        ai_provider=_text(document.get("ai_provider")),
        run_requested_at=requested_at,
        problem=_request_problem(document.get("councilor_run_requested_at"), requested_at),
    )


def _request_problem(value: object, requested_at: datetime | None) -> Problem | None:
    if value is None or requested_at is not None:
        return None
    return Problem(
        "councilor_run_requested_at",
        f"councilor_run_requested_at is {shown(value)}, no date that can be used: no run for it",
        "write the date of now, such as new Date() in mongosh",
    )


def _agent_id(value: object) -> str | None:
    """The identity where it can serve as one; BSON's code is a text in Python, and none here."""
    is_usable = type(value) is str and 0 < len(value) <= LONGEST_AGENT_ID and _is_unicode(value)
    return str(value) if is_usable else None


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be encoded: JSON, unlike BSON, may hold half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_promotion(promoted: object, agent_id: str | None, value: object) -> None:
    if promoted is not True:
        raise ConfigRejected(
            "is_councilor",
            f"is_councilor is {shown(promoted)}, neither true nor false",
            "set it to true to promote the agent, or to false to demote it",
        )
    if agent_id is None:
        raise ConfigRejected(
            "agent_id",
            f"agent_id is {shown(value)}, so nothing can be scheduled under it",
            f"set it to a text of 1 to {LONGEST_AGENT_ID:,} characters that no other agent has",
        )


def _schedule(config: ScheduleConfig, policy: SchedulePolicy) -> Schedule:
    zone = config.timezone if config.timezone is not None else policy.timezone
    return _schedule_from(config.type, config.value, zone, policy.min_interval)


@lru_cache(maxsize=_KEPT)
def _schedule_from(kind: str, value: str, zone: str, min_interval: timedelta) -> Schedule:
    """The schedule, the same object for equal texts: many councilors have the same ones."""
    try:
        schedule: Schedule = every_from(value) if kind == "interval" else cron_from(value, zone)
    except ScheduleError as error:
        field = f"councilor_config.schedule.{error.part}"
        raise ConfigRejected(field, str(error), error.hint) from error
    # No cron is denser than once a minute, so most need no look at their gaps.
    if min_interval > timedelta(minutes=1) or isinstance(schedule, Every):
        _require_distance(schedule, min_interval)
    return schedule


def _require_distance(schedule: Schedule, min_interval: timedelta) -> None:
    if schedule.shortest_gap < min_interval:
        raise ConfigRejected(
            "councilor_config.schedule.value",
            f'"{schedule.text}" runs every {interval_text(schedule.shortest_gap)}, more often than '
            f"the {interval_text(min_interval)} that this service allows",
            f"leave at least {interval_text(min_interval)} between runs, "
            "or have SCHEDULER_MIN_INTERVAL lowered",
        )


def _delay(config: ScheduleConfig, schedule: Schedule, agent_id: str) -> timedelta:
    spread = _spread(config)
    if isinstance(schedule, Every):
        spread = min(spread, schedule.period)
    return delay_within(spread, agent_id)


def _spread(config: ScheduleConfig) -> timedelta:
    if config.spread is None:
        return timedelta(0)
    try:
        return interval_from(config.spread)
    except ScheduleError as error:
        field = "councilor_config.schedule.spread"
        raise ConfigRejected(field, str(error), error.hint) from error


def _task(config: Config, display_name: str) -> Task:
    task = config.task
    return Task(
        name=task.name or config.title or display_name,
        prompt=task.prompt,
        context_files=tuple(task.context_files),
        output_format=task.output_format,
    )


def _notifications(config: Config) -> Notifications:
    told = config.notifications
    return Notifications(told.on_success, told.on_warning, told.on_error, tuple(told.channels))


def _spec_hash(config: ScheduleConfig, schedule: Schedule) -> str:
    return _hash_of(schedule, _spread(config))


@lru_cache(maxsize=_KEPT)
def _hash_of(schedule: Schedule, spread: timedelta) -> str:
    return _hash(f"{schedule.identity} spread={interval_text(spread)}")


def _hash_despite_problems(config: object, policy: SchedulePolicy) -> str:
    """The hash of the schedule where that part is right: a broken prompt moves no due time."""
    schedule = config.get("schedule") if isinstance(config, Mapping) else None
    if not isinstance(schedule, Mapping):
        return _hash(shown(schedule))
    parts = {name: schedule.get(name) for name in _HASHED}
    try:
        judged = schedule_config_from({"schedule": parts})
        return _spec_hash(judged, _schedule(judged, policy))
    except ConfigRejected:
        return _hash(repr([shown(part) for part in parts.values()]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def _display_name(document: Mapping[str, object], agent_id: str | None) -> str:
    customization = document.get("customization")
    chosen = customization.get("display_name") if isinstance(customization, Mapping) else None
    config = document.get("councilor_config")
    titled = config.get("title") if isinstance(config, Mapping) else None
    candidates = (chosen, document.get("name"), document.get("title"), titled)
    return next((name for value in candidates if (name := _text(value))), agent_id or "")


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
