"""The port `JobTable`: what should run when, with a timer for each job that is scheduled."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import islice

from service.adapters.apscheduler.store import HeapJobStore
from service.adapters.apscheduler.timers import LONGEST_SLEEP, SlotExecutor, SlotScheduler
from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.execution import Fire
from service.domain.jobs import Job, JobState
from service.ports import Clock, Fired

_MOST_OVERDUE = 1_000
"""As many open slots as are looked at, those that have been open for longest first."""


class TimedJobs:
    """The jobs of this process. `changed` is called with the `agent_id` of every job that is
    another than before.
    """

    def __init__(
        self,
        changed: Callable[[str], None],
        clock: Clock,
        *,
        longest_sleep: timedelta = LONGEST_SLEEP,
    ) -> None:
        self._changed = changed
        self._jobs: dict[str, Job] = {}
        """As they are shown: `next_run_at` is the open slot, where there is one."""
        self._agents: dict[DocumentKey, str] = {}
        self._counts: Counter[JobState] = Counter()
        self._open: dict[str, None] = {}
        """The agents with a slot that is due and not settled yet, in the order of their first."""
        self._fired: Fired | None = None
        self._store = HeapJobStore()
        self._scheduler = SlotScheduler(
            self._store, SlotExecutor(self._due), clock, longest_sleep=longest_sleep
        )

    @asynccontextmanager
    async def firing(self, fired: Fired) -> AsyncIterator[None]:
        """Run the timers: `fired` is told of every slot that comes due, once."""
        self._fired = fired
        self._scheduler.start()
        try:
            yield
        finally:
            self._fired = None
            self._scheduler.shutdown(wait=False)
            await asyncio.sleep(0)  # APScheduler stops its timer in the loop's next round

    def put(self, job: Job, *, is_stored: bool = False) -> None:
        agent_id = job.agent_id
        current = self._jobs.get(agent_id)
        if current is not None and current.key != job.key:
            self._agents.pop(current.key, None)
        self._agents[job.key] = agent_id
        if current is not None:
            self._counts[current.state] -= 1
        self._counts[job.state] += 1
        timetable = job.timetable
        is_timed = agent_id in self._open or self._next_timer(agent_id) is not None
        if current is None or not is_timed or current.timetable != timetable:
            self._open.pop(agent_id, None)
            self._jobs[agent_id] = job
            if timetable is None or job.next_run_at is None:
                self._scheduler.clear_timer(agent_id)
            else:
                self._scheduler.set_timer(agent_id, timetable, job.next_run_at)
        else:
            self._jobs[agent_id] = job.due_next(current.next_run_at)
            if current.is_assumed and not job.is_assumed and agent_id in self._open:
                self._fire(agent_id)
        if not is_stored:
            self._changed(agent_id)

    def remove(self, agent_id: str) -> None:
        job = self._jobs.pop(agent_id, None)
        if job is not None:
            self._agents.pop(job.key, None)
            self._counts[job.state] -= 1
            self._open.pop(agent_id, None)
            self._scheduler.clear_timer(agent_id)
            self._changed(agent_id)

    def of_agent(self, agent_id: str) -> Job | None:
        return self._jobs.get(agent_id)

    def of_document(self, key: DocumentKey) -> Job | None:
        agent_id = self._agents.get(key)
        return self._jobs.get(agent_id) if agent_id is not None else None

    def all(self) -> Sequence[Job]:
        return list(self._jobs.values())

    def counts(self) -> Mapping[JobState, int]:
        return self._counts

    def overdue(self, since: datetime) -> int:
        waiting = (self._jobs[agent_id] for agent_id in islice(self._open, _MOST_OVERDUE))
        return sum(_is_overdue(job, since) for job in waiting)

    @property
    def is_behind(self) -> bool:
        return self._scheduler.is_behind

    def settle(self, agent_id: str, slot: datetime) -> None:
        job, timer = self._jobs.get(agent_id), self._next_timer(agent_id)
        if job is None or agent_id not in self._open:
            return
        if job.next_run_at is not None and job.next_run_at > slot:
            return
        later = job.timetable.next_slot(slot) if job.timetable is not None else None
        if later is None or timer is None or later >= timer:
            later = timer
            self._open.pop(agent_id, None)
        # Else it came due while the earlier one was settled.
        self._jobs[agent_id] = job.due_next(later)
        self._changed(agent_id)

    def request(self, fire: Fire) -> None:
        if self._fired is not None:
            self._fired(fire)

    def _due(self, agent_id: str, due_at: datetime) -> None:
        job = self._jobs.get(agent_id)
        if job is None:
            return
        if agent_id not in self._open:
            self._open[agent_id] = None
            if job.next_run_at != due_at:
                self._jobs[agent_id] = job.due_next(due_at)
        if not job.is_assumed:  # else its slots may still move; it fires when they do not
            self._fire(agent_id)

    def _fire(self, agent_id: str) -> None:
        job = self._jobs[agent_id]
        if self._fired is not None and job.next_run_at is not None:
            self._fired(Fire(job.key, agent_id, job.next_run_at))

    def _next_timer(self, agent_id: str) -> datetime | None:
        timer = self._store.lookup_job(agent_id)
        next_run_time: datetime | None = timer.next_run_time if timer is not None else None
        return next_run_time


def _is_overdue(job: Job, since: datetime) -> bool:
    if job.spec is None or job.next_run_at is None or job.next_run_at >= since:
        return False
    return job.spec.overlap is not Overlap.QUEUE_ONE and job.spec.catch_up is not CatchUp.ALL
