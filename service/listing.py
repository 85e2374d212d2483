"""Councilors as they are shown to people and programs: one item each, in pages."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from time import monotonic
from typing import Any, cast

from service.domain.config import instant_from
from service.domain.councilor import SchedulePolicy
from service.domain.jobs import Absence, AgentDocument, Desired, Job, JobState, StoredJob
from service.domain.planning import contested, desired_job, past_of, skipped_slot_of
from service.domain.severity import Severity
from service.domain.verdict import SHOWN_RUNS, error_of, explanation_of, upcoming_slots
from service.ports import Agents, Clock, History, HistoryQuery, LedgerRow

Item = dict[str, object]


class Sort(StrEnum):
    """The orders in which councilors are shown; with `-`, the other way round."""

    AGENT_ID = "agent_id"
    NAME = "name"
    NEXT_RUN_TIME = "next_run_time"
    AGENT_ID_REVERSED = "-agent_id"
    NAME_REVERSED = "-name"
    NEXT_RUN_TIME_REVERSED = "-next_run_time"


SORTS: tuple[str, ...] = tuple(Sort)
MOST_ITEMS = 500
MOST_RUNS = 60
"""Rows that each item of a list may show."""
MOST_BY_SEVERITY = 20_000
"""Councilors of which the ledger is asked for the latest run: half a second for 10,000."""
_RECENT = 20
_KNOWN_SECONDS = 5.0
_NEVER = -1.0
_Place = tuple[bool, Any, str]
"""Whether a job comes last, what it is sorted by, and its id."""


class UnknownCursor(ValueError):
    """The page asked for begins at no place of this order."""


class TooMany(ValueError):
    """More councilors than the ledger can be asked about at once."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which councilors to show: `limit` at most, after one, filtered, in an order."""

    limit: int = 100
    after: str | None = None
    state: JobState | None = None
    text: str = ""
    sort: str = "agent_id"
    severity: Severity | None = None
    """How the latest run ended."""
    runs: int = 0
    """How many of the latest rows each item shows."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some items of `total`; `next` is what to ask for as `after`, None at the end."""

    items: Sequence[Item]
    total: int
    next: str | None


class Listing:
    """Shows jobs with what their documents and the ledger say. Each method raises Unavailable."""

    def __init__(self, agents: Agents, history: History, clock: Clock) -> None:
        self._agents = agents
        self._history = history
        self._clock = clock
        self._severities: Mapping[str, object] = {}
        self._read_at = -_KNOWN_SECONDS
        self._one_reads = asyncio.Lock()

    async def page(self, jobs: Sequence[Job], query: Query) -> Page:
        """One page of these jobs. Raises UnknownCursor, TooMany."""
        if query.severity is not None:
            jobs = await self._ended_with(query.severity, jobs)
        # In a thread, where timers are kept meanwhile: of 100,000 jobs it takes a while.
        chosen = await asyncio.to_thread(chosen_of, jobs, query)
        start = _start_of(chosen, query) if query.after is not None else 0
        shown = chosen[start : start + query.limit]
        is_last = start + query.limit >= len(chosen)
        items = await self.items(shown, runs=query.runs)
        return Page(items, len(chosen), None if is_last else _cursor_at(shown[-1], query.sort))

    async def _ended_with(self, severity: Severity, jobs: Sequence[Job]) -> Sequence[Job]:
        """Those of which the latest run ended so; what was read may be some seconds old."""
        if len(jobs) > MOST_BY_SEVERITY:
            raise TooMany(len(jobs))
        async with self._one_reads:  # for all who ask meanwhile
            if monotonic() - self._read_at > _KNOWN_SECONDS:
                latest = await self._history.latest([job.agent_id for job in jobs])
                self._severities = {key: row.fields.get("severity") for key, row in latest.items()}
                self._read_at = monotonic()
        return [job for job in jobs if self._severities.get(job.agent_id) == severity]

    async def items(self, jobs: Sequence[Job], *, runs: int = 0) -> list[Item]:
        """These jobs, with the statistics of their documents and their latest `runs` rows."""
        if not jobs:
            return []
        ids = [job.agent_id for job in jobs]
        documents = await self._agents.read([job.key for job in jobs], with_stats=True)
        latest = await self._history.latest(ids)
        recent = await self._history.recent(ids, runs) if runs else {}
        now = self._clock()
        items = [
            item_of(job, document, latest.get(job.agent_id), now)
            for job, document in zip(jobs, documents, strict=True)
        ]
        if runs:
            for item, agent_id in zip(items, ids, strict=True):
                item["recent"] = [row.fields for row in recent.get(agent_id, ())]
        return items

    async def detail(self, job: Job, *, with_task: bool = False) -> Item:
        """One councilor: its item, verdict, next runs and recent executions.

        With `with_task`, the task too, prompt and all.
        """
        (document,) = await self._agents.read([job.key], with_stats=True)
        rows = await self._history.page(job.agent_id, HistoryQuery(_RECENT))
        latest = await self._history.latest([job.agent_id])
        now, timetable = self._clock(), job.timetable
        fields = document.fields or {}
        config = fields.get("councilor_config")
        task = config.get("task") if isinstance(config, Mapping) else None
        return {
            **item_of(job, document, latest.get(job.agent_id), now),
            "verdict": fields.get("councilor_status"),
            "next_runs": upcoming_slots(timetable, now, SHOWN_RUNS, job.skipped_slot)
            if timetable is not None
            else (),
            "executions": [row.fields for row in rows],
            **({"task": task} if with_task else {}),
        }


def chosen_of(jobs: Sequence[Job], query: Query) -> list[Job]:
    """Those jobs that a query is about, in its order, whatever page of them it wants."""
    text = query.text.casefold()
    chosen = [
        job
        for job in jobs
        if (query.state is None or job.state is query.state)
        and (text in job.agent_id.casefold() or text in job.name.casefold())
    ]
    order = query.sort.removeprefix("-")
    chosen.sort(key=lambda job: _ORDERS[Sort(order)](job)[1:], reverse=query.sort != order)
    if order == Sort.NEXT_RUN_TIME:  # what has none comes last, either way
        chosen.sort(key=lambda job: job.next_run_at is None)
    return chosen


def _cursor_at(job: Job, sort: str) -> str:
    """Where the next page begins: a place in the order, whatever becomes of this job."""
    _, key, agent_id = _ORDERS[Sort(sort.removeprefix("-"))](job)
    return agent_id if key == "" else json.dumps([key, agent_id])


def _start_of(chosen: Sequence[Job], query: Query) -> int:
    """How many jobs come before the page. Raises UnknownCursor."""
    order = Sort(query.sort.removeprefix("-"))
    cursor = _place_of(query.after or "", order)
    is_reversed = query.sort != order

    def is_beyond(job: Job) -> bool:
        is_last, *key = _ORDERS[order](job)
        if is_last != cursor[0]:
            return is_last
        return key < list(cursor[1:]) if is_reversed else key > list(cursor[1:])

    return next((place for place, job in enumerate(chosen) if is_beyond(job)), len(chosen))


def _place_of(after: str, order: Sort) -> _Place:
    if order is Sort.AGENT_ID:
        return (False, "", after)
    try:
        key, agent_id = json.loads(after)
    except ValueError as error:
        raise UnknownCursor(after) from error
    is_key = isinstance(key, str) if order is Sort.NAME else _number(key) is not None
    if not is_key or not isinstance(agent_id, str):
        raise UnknownCursor(after)
    return (order is Sort.NEXT_RUN_TIME and key == _NEVER, key, agent_id)


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


def item_of(job: Job, document: AgentDocument, latest: LedgerRow | None, now: datetime) -> Item:
    """A councilor as `/jobs` shows it (CONTRACT section 8)."""
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
        "last_execution": instant_from(counted.get("last_execution")),
        "last_severity": latest.fields.get("severity") if latest is not None else None,
        "success_rate": _number(counted.get("success_rate")),
        "error": error_of(job.problem),
    }


def _number(said: object) -> float | int | None:
    """What somebody wrote there, where it is a number."""
    return said if isinstance(said, int | float) and not isinstance(said, bool) else None


def _by_next_run(job: Job) -> _Place:
    at = job.next_run_at
    return (at is None, at.timestamp() if at is not None else _NEVER, job.agent_id)


_ORDERS: Mapping[Sort, Callable[[Job], _Place]] = {
    Sort.AGENT_ID: lambda job: (False, "", job.agent_id),
    Sort.NAME: lambda job: (False, job.name.casefold(), job.agent_id),
    Sort.NEXT_RUN_TIME: _by_next_run,
}
