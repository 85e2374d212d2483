"""Councilors as they are shown to people and programs: one item each, in pages."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, cast

from service.domain.councilor import SchedulePolicy
from service.domain.jobs import Absence, AgentDocument, Desired, Job, JobState, StoredJob
from service.domain.planning import contested, desired_job, past_of, skipped_slot_of
from service.domain.verdict import SHOWN_RUNS, error_of, explanation_of, upcoming_slots
from service.ports import Agents, Ledger, LedgerRow

Item = dict[str, object]


class Sort(StrEnum):
    """The orders in which councilors are shown."""

    AGENT_ID = "agent_id"
    NAME = "name"
    NEXT_RUN_TIME = "next_run_time"


SORTS: tuple[str, ...] = tuple(Sort)
MOST_ITEMS = 500
_RECENT = 20


class UnknownCursor(ValueError):
    """The page asked for begins after a councilor that is not there."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which councilors to show: `limit` at most, after one, filtered, in an order."""

    limit: int = 100
    after: str | None = None
    state: JobState | None = None
    text: str = ""
    sort: str = "agent_id"


@dataclass(frozen=True, slots=True)
class Page:
    """Some items of `total`; `next` is what to ask for as `after`, None at the end."""

    items: Sequence[Item]
    total: int
    next: str | None


async def page_of(
    jobs: Sequence[Job], query: Query, agents: Agents, ledger: Ledger, now: datetime
) -> Page:
    """One page of these jobs, with what documents and ledger say. Raises Unavailable."""
    # In a thread, where timers are kept meanwhile: of 100,000 jobs it takes a while.
    chosen = await asyncio.to_thread(chosen_of, jobs, query)
    start = 0
    if query.after is not None:
        places = (place for place, job in enumerate(chosen) if job.agent_id == query.after)
        place = next(places, None)
        if place is None:
            raise UnknownCursor(query.after)
        start = place + 1
    shown = chosen[start : start + query.limit]
    is_last = start + query.limit >= len(chosen)
    items = await items_of(shown, agents, ledger, now)
    return Page(items, len(chosen), None if is_last or not shown else shown[-1].agent_id)


def chosen_of(jobs: Sequence[Job], query: Query) -> list[Job]:
    """All the jobs that a query asks for, in its order, whatever its page is."""
    text = query.text.casefold()
    chosen = [
        job
        for job in jobs
        if (query.state is None or job.state is query.state)
        and (text in job.agent_id.casefold() or text in job.name.casefold())
    ]
    chosen.sort(key=_ORDERS[Sort(query.sort)])
    return chosen


async def items_of(
    jobs: Sequence[Job], agents: Agents, ledger: Ledger, now: datetime
) -> list[Item]:
    """These jobs, with the statistics of their documents. Raises Unavailable."""
    if not jobs:
        return []
    documents = await agents.read([job.key for job in jobs], with_stats=True)
    latest = await ledger.latest([job.agent_id for job in jobs])
    return [
        _item(job, document, latest.get(job.agent_id), now)
        for job, document in zip(jobs, documents, strict=True)
    ]


async def detail_of(job: Job, agents: Agents, ledger: Ledger, now: datetime) -> Item:
    """One councilor: its item, verdict, next runs and recent executions. Raises Unavailable."""
    (document,) = await agents.read([job.key], with_stats=True)
    rows = await ledger.history(job.agent_id, _RECENT)
    latest = await ledger.latest([job.agent_id])
    timetable = job.timetable
    return {
        **_item(job, document, latest.get(job.agent_id), now),
        "verdict": (document.fields or {}).get("councilor_status"),
        "next_runs": upcoming_slots(timetable, now, SHOWN_RUNS, job.skipped_slot)
        if timetable is not None
        else (),
        "executions": [row.fields for row in rows],
    }


def jobs_of(
    documents: Sequence[AgentDocument],
    stored: Mapping[str, StoredJob],
    policy: SchedulePolicy,
    now: datetime,
) -> list[Job]:
    """The jobs as they follow from documents and `apscheduler_jobs`, where no service is asked.

    Of several documents with one `agent_id` the smallest `_id` has it, and the others are invalid.
    """
    taken: set[str] = set()
    jobs: list[Job] = []
    for document in sorted(documents, key=lambda document: document.key):
        desired = desired_job(document, policy)
        if isinstance(desired, Absence) or desired.agent_id is None:
            continue
        wanted = contested(desired) if desired.agent_id in taken else desired
        taken.add(desired.agent_id)
        jobs.append(_job_of(document, wanted, stored, now))
    return jobs


def _job_of(
    document: AgentDocument, desired: Desired, stored: Mapping[str, StoredJob], now: datetime
) -> Job:
    assert desired.agent_id is not None
    row = stored.get(desired.agent_id)
    past = past_of((document.fields or {}).get("councilor_status"), row, desired)
    next_run_at = row.next_run_at if row is not None and desired.spec is not None else None
    return Job(
        key=desired.key,
        agent_id=desired.agent_id,
        name=desired.name,
        state=desired.state,
        spec_hash=desired.spec_hash,
        spec=desired.spec,
        accepted_at=past.accepted_at,
        next_run_at=next_run_at,
        problem=desired.problem,
        skipped_slot=skipped_slot_of(desired, past, next_run_at, now, is_live=False),
    )


def _next_run_of(job: Job) -> datetime | None:
    """The next slot that runs: not the one that is skipped."""
    at, timetable = job.next_run_at, job.timetable
    if at is None or timetable is None or at != job.skipped_slot:
        return at
    return timetable.next_slot(at)


def _item(job: Job, document: AgentDocument, latest: LedgerRow | None, now: datetime) -> Item:
    schedule = job.spec.schedule if job.spec is not None else None
    stats = (document.fields or {}).get("stats")
    counted = cast("Mapping[str, Any]", stats) if isinstance(stats, Mapping) else {}
    return {
        "agent_id": job.agent_id,
        "name": job.name,
        "state": job.state.value,
        "schedule": f"{schedule.kind}={schedule.text}" if schedule is not None else None,
        "timezone": schedule.zone if schedule is not None else None,
        "explanation": explanation_of(job.spec, job.skipped_slot, now) if job.spec else None,
        "next_run_time": _next_run_of(job),
        "last_execution": counted.get("last_execution"),
        "last_severity": latest.fields.get("severity") if latest is not None else None,
        "success_rate": counted.get("success_rate"),
        "error": error_of(job.problem),
    }


def _by_next_run(job: Job) -> tuple[bool, float, str]:
    at = job.next_run_at
    return (at is None, at.timestamp() if at is not None else 0.0, job.agent_id)


_ORDERS = {
    Sort.AGENT_ID: lambda job: (job.agent_id,),
    Sort.NAME: lambda job: (job.name.casefold(), job.agent_id),
    Sort.NEXT_RUN_TIME: _by_next_run,
}
