"""A job store for APScheduler: lean jobs by due time in a heap."""

import heapq
from datetime import datetime
from typing import Any

from apscheduler.job import Job as TimerJob
from apscheduler.jobstores.base import BaseJobStore, ConflictingIdError, JobLookupError
from apscheduler.triggers.base import BaseTrigger

from service.domain.schedule import Timetable

_MOST_DUE_AT_ONCE = 200
"""Due jobs in one answer of `get_due_jobs`, which APScheduler's own scheduler would ask."""
_NO_ARGUMENTS: dict[str, Any] = {}

_Entry = tuple[float, int, str]


class SlotTrigger(BaseTrigger):
    """The slots of a timetable. Missed ones are jumped over: the runner settles them."""

    __slots__ = ("_timetable",)

    def __init__(self, timetable: Timetable) -> None:
        self._timetable = timetable

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        after = now if previous_fire_time is None else max(previous_fire_time, now)
        return self._timetable.next_slot(after)


def slot() -> None:
    """Stand for what a timer does; the executor never calls it."""


class SlotJob(TimerJob):
    """A timer. APScheduler's constructor checks for 9 µs what is the same for all of them."""

    def __init__(
        self, scheduler: object, job_id: str, trigger: BaseTrigger, next_run_time: datetime
    ) -> None:
        self._scheduler = scheduler
        self._jobstore_alias = "default"
        self.id = job_id
        self.name = "slot"
        self.trigger = trigger
        self.executor = "default"
        self.func, self.func_ref = slot, f"{__name__}:slot"
        self.args, self.kwargs = (), _NO_ARGUMENTS
        self.misfire_grace_time, self.coalesce, self.max_instances = None, True, 1
        self.next_run_time = next_run_time


class HeapJobStore(BaseJobStore):
    """Jobs by due time in a heap; entries that were replaced or removed are dropped when met.

    Adding, updating and removing cost O(log n), amortized: once more than half of the entries no
    longer count, the heap is made anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, tuple[TimerJob, int]] = {}
        self._heap: list[_Entry] = []
        self._entries = 0

    def lookup_job(self, job_id: str) -> TimerJob | None:
        found = self._jobs.get(job_id)
        return found[0] if found is not None else None

    def get_due_jobs(self, now: datetime) -> list[TimerJob]:
        due: list[TimerJob] = []
        popped: list[_Entry] = []
        until = now.timestamp()
        while (entry := self._first()) and entry[0] <= until and len(due) < _MOST_DUE_AT_ONCE:
            popped.append(heapq.heappop(self._heap))
            due.append(self._jobs[entry[2]][0])
        # They stay due until the scheduler updates or removes them.
        for entry in popped:
            heapq.heappush(self._heap, entry)
        return due

    def pop_due_job(self, now: datetime) -> TimerJob | None:
        """Take the first job that is due out of the order; it has to be put back."""
        entry = self._first()
        if entry is None or entry[0] > now.timestamp():
            return None
        heapq.heappop(self._heap)
        return self._jobs[entry[2]][0]

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
        self.put_job(job)

    def update_job(self, job: TimerJob) -> None:
        if job.id not in self._jobs:
            raise JobLookupError(job.id)
        self.put_job(job)

    def put_job(self, job: TimerJob) -> None:
        """Add or replace a job."""
        self._entries += 1
        self._jobs[job.id] = (job, self._entries)
        if job.next_run_time is not None:
            heapq.heappush(self._heap, (job.next_run_time.timestamp(), self._entries, job.id))
        self._tidy()

    def remove_job(self, job_id: str) -> None:
        if self._jobs.pop(job_id, None) is None:
            raise JobLookupError(job_id)
        self._tidy()

    def remove_all_jobs(self) -> None:
        self._jobs.clear()
        self._heap.clear()

    def shutdown(self) -> None:
        """Keep the jobs: their next runs are still to be written to `apscheduler_jobs`."""

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._jobs) + _MOST_DUE_AT_ONCE:
            self._heap = [entry for entry in self._heap if self._counts(entry)]
            heapq.heapify(self._heap)

    def _counts(self, entry: _Entry) -> bool:
        found = self._jobs.get(entry[2])
        return found is not None and found[1] == entry[1]

    def _first(self) -> _Entry | None:
        """The entry that is due next, after those that no longer count have been dropped."""
        while self._heap:
            if self._counts(self._heap[0]):
                return self._heap[0]
            heapq.heappop(self._heap)
        return None


def _due_order(job: TimerJob) -> tuple[bool, float, str]:
    if job.next_run_time is None:
        return (True, 0.0, job.id)
    return (False, job.next_run_time.timestamp(), job.id)
