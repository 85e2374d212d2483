"""What the owner of a valid councilor may have got wrong: warnings, each in one sentence."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import get_close_matches

from service.domain.calendar import LAST, MONTH_LENGTHS, calendar_of
from service.domain.config import Config, NotificationsConfig, Overlap, ScheduleConfig, TaskConfig
from service.domain.cron import Cron
from service.domain.interval import Every, interval_text
from service.domain.jobs import JobSpec
from service.domain.wording import ordinal
from service.domain.zones import Span, local, span_at

MANY_RUNS = 288
"""Runs a day: one every five minutes."""
_YEAR = timedelta(days=365)
_DOCUMENT_FIELDS = ("agent_id", "is_councilor", "councilor_config", "councilor_run_requested_at")
_PARTS = {
    "schedule": tuple(ScheduleConfig.model_fields),
    "task": tuple(TaskConfig.model_fields),
    "notifications": tuple(NotificationsConfig.model_fields),
}


_PLACES = {
    field: f"councilor_config.{part}.{field}" for part, fields in _PARTS.items() for field in fields
}
"""Where fields belong that stand in another part."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a schedule is seen against: a run's longest time, and the year from `at` on."""

    run_timeout: timedelta
    at: datetime


def warnings_on(
    fields: Mapping[str, object], spec: JobSpec, runs_per_day: float, seen: Circumstances
) -> tuple[str, ...]:
    """Everything that is worth a second look."""
    return (
        *_cost(spec, runs_per_day, seen),
        *_spread(spec),
        *(_days(spec.schedule) if isinstance(spec.schedule, Cron) else ()),
        *(_clock_changes(spec.schedule, seen.at) if isinstance(spec.schedule, Cron) else ()),
        *_zone_of_interval(fields, spec),
        *misspelt(fields),
    )


def misspelt(fields: Mapping[str, object]) -> Iterator[str]:
    """Fields that are ignored, and look like one that is not."""
    yield from _misspelt("", fields, _DOCUMENT_FIELDS)
    config = fields.get("councilor_config")
    if isinstance(config, Mapping):
        yield from _misspelt("councilor_config.", config, tuple(Config.model_fields))
        for part, known in _PARTS.items():
            if isinstance(content := config.get(part), Mapping):
                yield from _misspelt(f"councilor_config.{part}.", content, known)


def _misspelt(path: str, content: Mapping[str, object], known: tuple[str, ...]) -> Iterator[str]:
    for name in content:
        if name in known or not isinstance(name, str):
            continue
        plain = name.lower().replace("-", "_")
        meant = [field for field in known if content.get(field) is None]
        if match := get_close_matches(plain, meant, n=1, cutoff=0.8):
            yield f"{path}{name[:60]} is no field that is read: did you mean {match[0]}?"
        elif path and (place := _PLACES.get(plain)) is not None:
            yield f"{path}{name[:60]} is no field that is read: did you mean {place}?"


def _cost(spec: JobSpec, runs_per_day: float, seen: Circumstances) -> Iterator[str]:
    if runs_per_day > MANY_RUNS:
        yield f"runs {runs_per_day:,.0f} times a day: each run costs what an agent costs"
    gap = spec.schedule.shortest_gap
    if gap < seen.run_timeout:
        fate = "waits" if spec.overlap is Overlap.QUEUE_ONE else "is skipped"
        yield (
            f"a run may take {interval_text(seen.run_timeout)} (SCHEDULER_RUN_TIMEOUT), the next "
            f"one comes after {interval_text(gap)}: a slot that comes during a run {fate}"
        )


def _spread(spec: JobSpec) -> Iterator[str]:
    gap = spec.schedule.shortest_gap
    if spec.delay >= gap and isinstance(spec.schedule, Cron):
        yield (
            f"spread delays it by {interval_text(spec.delay)}, longer than the shortest time "
            f"between two runs ({interval_text(gap)})"
        )


def _zone_of_interval(fields: Mapping[str, object], spec: JobSpec) -> Iterator[str]:
    config = fields.get("councilor_config")
    schedule = config.get("schedule") if isinstance(config, Mapping) else None
    zone = schedule.get("timezone") if isinstance(schedule, Mapping) else None
    if isinstance(spec.schedule, Every) and zone is not None:
        yield "timezone is for crons: an interval takes no notice of it"


def _days(cron: Cron) -> Iterator[str]:
    times = calendar_of(cron.expression)
    day, weekday = cron.expression.split()[2], cron.expression.split()[4]
    if "*" not in (day, weekday):
        both = "it runs on days that match either of them"
        if times.needs_both_days:
            both = "one begins with *, so it runs only on days that match both of them"
        elif times.names_every_day:
            both = "it runs on days that match either of them, which is every day"
        yield f"both day fields are set: {both}"
    if day.startswith("*") or LAST in times.dates or times.names_every_day:
        return
    for number in (29, 30, 31):
        is_meant = number in times.dates and number - 1 not in times.dates
        if is_meant and any(MONTH_LENGTHS[month] < number for month in times.months):
            yield f"the {ordinal(number)}: months that have none are left out (L is the last day)"
        elif is_meant and number == 29 and 2 in times.months:
            yield "the 29th: it does not run in February, but for leap years"


def _clock_changes(cron: Cron, at: datetime) -> Iterator[str]:
    """The next gap and the next overlap within a year that a slot falls into."""
    seen, span = set[bool](), span_at(cron.zone, at)
    while span.end < at + _YEAR:
        span = span_at(cron.zone, span.end)
        said = _clock_change(cron, span) if span.offset != span.before else None
        if said is not None and span.is_after_gap not in seen:
            seen.add(span.is_after_gap)
            yield said


def _clock_change(cron: Cron, span: Span) -> str | None:
    times, walls = calendar_of(cron.expression), [span.before, span.offset]
    first, end = (local(span.start, offset) for offset in sorted(walls))
    if times.count(first, end) == 0 or (not times.has_fixed_times and len(times.hours) == 24):
        return None
    wall = times.first_from(first)
    old, new = local(span.start, span.before), local(span.start, span.offset)
    change = f"clocks in {cron.zone} go from {old:%H:%M} to {new:%H:%M} on {new:%Y-%m-%d}"
    if span.is_after_gap:
        fate = f"it runs at {new:%H:%M}" if times.has_fixed_times else "nothing runs then"
        return f"{change}: {wall:%H:%M} is not there that day, {fate}"
    fate = "it runs the first time" if times.has_fixed_times else "it runs both times"
    return f"{change}: {wall:%H:%M} comes twice that day, {fate}"
