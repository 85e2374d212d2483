"""Judges councilors without running them: the verdict, what it costs, what people get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.domain.advice import Circumstances, misspelt, warnings_on
from service.domain.councilor import SchedulePolicy
from service.domain.interval import Every
from service.domain.jobs import Absence, AgentDocument, Desired, JobState
from service.domain.planning import contested, desired_job, past_of, skipped_slot_of
from service.domain.schedule import Schedule, Timetable
from service.domain.verdict import error_of, explanation_of, upcoming_slots

_FOUR_YEARS = timedelta(days=4 * 365 + 1)


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


def findings_on(
    documents: Sequence[AgentDocument],
    policy: SchedulePolicy,
    seen: Circumstances,
    count: int,
    *,
    are_stored: bool,
) -> list[Finding]:
    """Judge documents as of `seen.at`; an interval without an anchor counts from there.

    Of several with one `agent_id` the smallest `_id` has it, where they are stored in a database;
    documents from files need not belong together, and are told of it.
    """
    first: dict[str, AgentDocument] = {}
    for document in sorted(documents, key=lambda document: document.key):
        agent_id = desired_job(document, policy).agent_id
        if agent_id is not None:
            first.setdefault(agent_id, document)
    findings: list[Finding] = []
    for document in documents:
        desired = desired_job(document, policy)
        is_second = desired.agent_id is not None and first[desired.agent_id] is not document
        if is_second and are_stored and isinstance(desired, Desired):
            desired = contested(desired)
        finding = _finding_on(document, desired, seen, count)
        if is_second and not are_stored:
            twice = "another document has this agent_id: only one of them would be scheduled"
            finding = replace(finding, warnings=(*finding.warnings, twice))
        findings.append(finding)
    return findings


def _finding_on(
    document: AgentDocument, desired: Desired | Absence, seen: Circumstances, count: int
) -> Finding:
    fields = document.fields or {}
    if isinstance(desired, Absence):
        doubts = tuple(misspelt(fields))
        return Finding(desired.agent_id, "not_councilor", None, None, None, (), None, doubts)
    error = error_of(desired.problem)
    if desired.spec is None:
        doubts = tuple(misspelt(fields))
        return Finding(desired.agent_id, desired.state, error, None, None, (), None, doubts)
    spec, past = desired.spec, past_of(fields.get("councilor_status"), None, desired)
    timetable = spec.timetable(past.accepted_at or seen.at)
    runs_per_day = _runs_per_day(spec.schedule, seen.at)
    runs: Sequence[datetime] = ()
    next_slot = timetable.next_slot(seen.at) if desired.state is not JobState.PAUSED else None
    as_if = replace(past, accepted_at=past.accepted_at or seen.at)
    skipped_slot = skipped_slot_of(desired, as_if, next_slot, seen.at, is_live=False)
    if next_slot is not None:
        runs = upcoming_slots(timetable, seen.at, count, skipped_slot)
    return Finding(
        agent_id=desired.agent_id,
        state=desired.state,
        error=error,
        explanation=explanation_of(spec, skipped_slot, seen.at),
        timezone=spec.schedule.zone,
        next_runs=runs,
        runs_per_day=round(runs_per_day, 4),
        warnings=warnings_on(fields, spec, runs_per_day, seen),
    )


def _runs_per_day(schedule: Schedule, at: datetime) -> float:
    """The average of four years to come; of rarer schedules, of the time to the second run."""
    if isinstance(schedule, Every):
        return timedelta(days=1) / schedule.period
    timetable = Timetable(schedule, at)
    first = timetable.next_slot(at)
    last = timetable.latest_slot(at + _FOUR_YEARS)
    if last is None or last <= first:
        last = timetable.next_slot(first)
    return (timetable.count(first, last) - 1) * timedelta(days=1) / (last - first)
