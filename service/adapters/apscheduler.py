"""The job table on APScheduler 3.11, which keeps the time and nothing else.

What is leaned on beyond its documented interface, and pinned by tests/unit/test_apscheduler.py:
`AsyncIOScheduler.wakeup` calls `_process_jobs`, which is replaced here, and gives the seconds that
it answers to `_start_timer`; `Job._modify` sets attributes.
"""

import asyncio
import heapq
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job as TimerJob
from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from service.domain.councilor import DocumentKey
from service.domain.execution import Fire
from service.domain.jobs import Job
from service.domain.schedule import Timetable
from service.ports import Clock, Fired

log = structlog.get_logger()

LONGEST_SLEEP = timedelta(seconds=5)
"""Timers run on the monotonic clock: waking this often notices a suspended or stepped clock."""
_SHORTEST_SLEEP_SECONDS = 0.001
"""uvloop rounds less than half a millisecond to nothing, and would spin."""
_MOST_DUE_AT_ONCE = 200
"""Due jobs handed out before the loop may turn to something else."""


class SlotTrigger(BaseTrigger):
    """The slots of a timetable. Missed ones are jumped over: the runner settles them."""

    __slots__ = ("_timetable",)

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        after = now if previous_fire_time is None else max(previous_fire_time, now)
        return self._timetable.next_slot(after)


class HeapJobStore(BaseJobStore):
    """Jobs by due time in a heap; entries that were replaced or removed are dropped when met."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, tuple[TimerJob, int]] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._entries = 0

    def lookup_job(self, job_id: str) -> TimerJob | None:
        found = self._jobs.get(job_id)
        return found[0] if found is not None else None

    def get_due_jobs(self, now: datetime) -> list[TimerJob]:
        due: list[TimerJob] = []
        popped: list[tuple[float, int, str]] = []
        while (entry := self._first()) and entry[0] <= now.timestamp():
            if len(due) == _MOST_DUE_AT_ONCE:
                break
            popped.append(heapq.heappop(self._heap))
            due.append(self._jobs[entry[2]][0])
        # They stay due until the scheduler updates or removes them.
        for entry in popped:
            heapq.heappush(self._heap, entry)
        return due

    def get_next_run_time(self) -> datetime | None:
        entry = self._first()
        if entry is None:
            return None
        next_run_time: datetime = self._jobs[entry[2]][0].next_run_time
        return next_run_time

    def get_all_jobs(self) -> list[TimerJob]:
        jobs = [job for job, _ in self._jobs.values()]
        self._fix_paused_jobs_sorting(jobs)
        return sorted(jobs, key=_due_order)

    def add_job(self, job: TimerJob) -> None:
        if job.id in self._jobs:
            raise ConflictingIdError(job.id)
        self._enter(job)

    def update_job(self, job: TimerJob) -> None:
        if job.id not in self._jobs:
            raise JobLookupError(job.id)
        self._enter(job)

    def remove_job(self, job_id: str) -> None:
        if self._jobs.pop(job_id, None) is None:
            raise JobLookupError(job_id)

    def remove_all_jobs(self) -> None:
        self._jobs.clear()
        self._heap.clear()

    def shutdown(self) -> None:
        """Keep the jobs: their next runs are still to be written to `apscheduler_jobs`."""

    def _enter(self, job: TimerJob) -> None:
        self._entries += 1
        self._jobs[job.id] = (job, self._entries)
        if job.next_run_time is not None:
            heapq.heappush(self._heap, (job.next_run_time.timestamp(), self._entries, job.id))

    def _first(self) -> tuple[float, int, str] | None:
        """The entry that is due next, after those that no longer count have been dropped."""
        while self._heap:
            _, entry, job_id = self._heap[0]
            if job_id in self._jobs and self._jobs[job_id][1] == entry:
                return self._heap[0]
            heapq.heappop(self._heap)
        return None


def _due_order(job: TimerJob) -> tuple[bool, float, str]:
    if job.next_run_time is None:
        return (True, 0.0, job.id)
    return (False, job.next_run_time.timestamp(), job.id)


class SlotExecutor(BaseExecutor):
    """Hands over the due time, which APScheduler 3 keeps from the job's function."""

    def __init__(self, due: Callable[[str, datetime], None]) -> None:
        super().__init__()
        self._due = due

    def submit_job(self, job: TimerJob, run_times: Sequence[datetime]) -> None:
        self._due(job.id, run_times[0])

    def _do_submit_job(self, job: TimerJob, run_times: Sequence[datetime]) -> None:
        raise NotImplementedError  # `submit_job` keeps no count of instances: the ledger does


class SlotScheduler(AsyncIOScheduler):
    """APScheduler on a clock of ours; every job in `store` has a `SlotTrigger`."""

    def __init__(
        self, store: HeapJobStore, executor: SlotExecutor, clock: Clock, *, longest_sleep: timedelta
    ) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._longest_seconds = longest_sleep.total_seconds()
        super().__init__(
            timezone=UTC, jobstores={"default": store}, executors={"default": executor}
        )

    def _process_jobs(self) -> float | None:
        """Hand over what is due and set the next timers; answers the seconds until the first.

        In place of APScheduler's own, which reads the machine's clock, asks each trigger twice, and
        stops all timers where one trigger fails.
        """
        now = self._clock()
        for job in self._store.get_due_jobs(now):
            due_at, later = job.next_run_time, None
            try:
                self._executor.submit_job(job, [due_at])
                later = job.trigger.get_next_fire_time(due_at, now)
            except Exception:  # set anew with the next full comparison
                log.exception("timer_failed", agent_id=job.id)
            job._modify(next_run_time=later)
            self._store.update_job(job)
        first = self._store.get_next_run_time()
        return None if first is None else (first - now).total_seconds()

    def _start_timer(self, wait_seconds: float | None) -> None:
        wait = self._longest_seconds if wait_seconds is None else wait_seconds
        super()._start_timer(max(_SHORTEST_SLEEP_SECONDS, min(wait, self._longest_seconds)))


class TimedJobs:
    """The port `JobTable`: what should run when, and an APScheduler timer for each scheduled job.

    `changed` is called with the `agent_id` of every job whose next run is another.
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
        self._agents: dict[DocumentKey, str] = {}
        self._open: dict[str, datetime] = {}
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

    def put(self, job: Job) -> None:
        current = self._jobs.get(job.agent_id)
        if current is not None and current.key != job.key:
            self._agents.pop(current.key, None)
        self._jobs[job.agent_id] = job
        self._agents[job.key] = job.agent_id
        is_idle = job.agent_id not in self._open and self._next_timer(job.agent_id) is None
        if current is None or current.timetable != job.timetable or is_idle:
            self._open.pop(job.agent_id, None)
            self._set_timer(job)
        self._changed(job.agent_id)

    def remove(self, agent_id: str) -> None:
        job = self._jobs.pop(agent_id, None)
        if job is not None:
            self._agents.pop(job.key, None)
            self._open.pop(agent_id, None)
            self._clear_timer(agent_id)
            self._changed(agent_id)

    def of_agent(self, agent_id: str) -> Job | None:
        job = self._jobs.get(agent_id)
        if job is None:
            return None
        return replace(job, next_run_at=self._open.get(agent_id) or self._next_timer(agent_id))

    def of_document(self, key: DocumentKey) -> Job | None:
        agent_id = self._agents.get(key)
        return self.of_agent(agent_id) if agent_id is not None else None

    def all(self) -> Sequence[Job]:
        return [job for agent_id in self._jobs if (job := self.of_agent(agent_id)) is not None]

    def settle(self, agent_id: str, slot: datetime) -> None:
        job, timer = self._jobs.get(agent_id), self._next_timer(agent_id)
        opened = self._open.get(agent_id)
        if job is None or opened is None or opened > slot:
            return
        later = job.timetable.next_slot(slot) if job.timetable is not None else None
        if later is not None and timer is not None and later < timer:
            self._open[agent_id] = later  # came due while the earlier one was settled
        else:
            del self._open[agent_id]
        self._changed(agent_id)

    def request(self, fire: Fire) -> None:
        if self._fired is not None:
            self._fired(fire)

    def _due(self, agent_id: str, due_at: datetime) -> None:
        job = self._jobs.get(agent_id)
        if job is None or self._fired is None:
            return
        opened = self._open.setdefault(agent_id, due_at)
        self._fired(Fire(job.key, agent_id, opened))

    def _set_timer(self, job: Job) -> None:
        timetable = job.timetable
        if timetable is None or job.next_run_at is None:
            self._clear_timer(job.agent_id)
            return
        self._scheduler.add_job(
            _slot,
            SlotTrigger(timetable),
            id=job.agent_id,
            name="slot",
            next_run_time=job.next_run_at,
            misfire_grace_time=None,
            replace_existing=True,
        )

    def _clear_timer(self, agent_id: str) -> None:
        with suppress(JobLookupError):
            self._scheduler.remove_job(agent_id)

    def _next_timer(self, agent_id: str) -> datetime | None:
        timer = self._store.lookup_job(agent_id)
        next_run_time: datetime | None = timer.next_run_time if timer is not None else None
        return next_run_time


def _slot() -> None:
    """Stand for what a timer does; the executor never calls it."""
