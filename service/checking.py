"""Judges councilors without running them: the verdict, what it costs, what people get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.councilor import SchedulePolicy
from service.domain.cron import Cron
from service.domain.interval import Every
from service.domain.planning import Absence, AgentDocument, Desired, JobState, desired_job, past_of
from service.domain.schedule import Schedule, Timetable
from service.domain.verdict import error_of, upcoming_slots

_MANY_RUNS = 288
_YEAR = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is to be said about one document; `state` is `not_councilor` where nothing is."""

    agent_id: str | None
    state: str
    error: dict[str, str] | None
    explanation: str | None
    timezone: str | None
    next_runs: Sequence[datetime]
    runs_per_day: float | None
    warnings: Sequence[str]

    @property
    def is_invalid(self) -> bool:
        return self.state == JobState.INVALID


def finding_on(
    document: AgentDocument,
    policy: SchedulePolicy,
    run_timeout: timedelta,
    at: datetime,
    count: int,
) -> Finding:
    """Judge a document as of `at`; an interval without an anchor counts from there."""
    desired = desired_job(document, policy)
    if isinstance(desired, Absence):
        return Finding(desired.agent_id, "not_councilor", None, None, None, (), None, ())
    if desired.spec is None:
        error = error_of(desired.problem)
        return Finding(desired.agent_id, desired.state, error, None, None, (), None, ())
    spec = desired.spec
    accepted_at = _accepted_at(document, desired) or at
    timetable = spec.timetable(accepted_at)
    is_paused = desired.state is JobState.PAUSED
    runs_per_day = _runs_per_day(spec.schedule, at)
    return Finding(
        agent_id=desired.agent_id,
        state=desired.state,
        error=None,
        explanation=spec.schedule.explanation,
        timezone=spec.schedule.zone,
        next_runs=() if is_paused else upcoming_slots(timetable, at, count),
        runs_per_day=round(runs_per_day, 2),
        warnings=_warnings(spec.schedule, runs_per_day, run_timeout),
    )


def _accepted_at(document: AgentDocument, desired: Desired) -> datetime | None:
    status = document.fields.get("councilor_status") if document.fields is not None else None
    return past_of(status, None, desired).accepted_at


def _runs_per_day(schedule: Schedule, at: datetime) -> float:
    """The average of a year to come; of rarer schedules, of the time to the second run."""
    if isinstance(schedule, Every):
        return timedelta(days=1) / schedule.period
    timetable = Timetable(schedule, at - _YEAR)
    first = timetable.next_slot(at)
    last = timetable.latest_slot(at + _YEAR)
    if last is None or last <= first:
        return timedelta(days=1) / (timetable.next_slot(first) - first)
    return timetable.count(first, last) / 365


def _warnings(schedule: Schedule, runs_per_day: float, run_timeout: timedelta) -> list[str]:
    warnings: list[str] = []
    if runs_per_day > _MANY_RUNS:
        warnings.append(f"runs {runs_per_day:,.0f} times a day: each run costs what an agent costs")
    if schedule.shortest_gap < run_timeout:
        warnings.append(
            "a run may take longer than the time to the next one (SCHEDULER_RUN_TIMEOUT); "
            "slots that come due meanwhile are skipped or queued"
        )
    if isinstance(schedule, Cron):
        day, weekday = schedule.expression.split()[2], schedule.expression.split()[4]
        if not day.startswith("*") and not weekday.startswith("*"):
            warnings.append("both day fields are set: it runs on days that match either of them")
        if day == "31":
            warnings.append("the 31st: months that have none are left out")
    return warnings
