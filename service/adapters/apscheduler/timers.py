"""APScheduler on a clock of ours, with the work of a due job cut down to handing it over."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from time import monotonic

import structlog
from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job as TimerJob
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from service.adapters.apscheduler.store import HeapJobStore, SlotJob, SlotTrigger
from service.domain.schedule import Timetable
from service.ports import Clock

log = structlog.get_logger()

_SLICE_SECONDS = 0.005
"""Due jobs are handed over for so long before the loop may turn to something else."""
LONGEST_SLEEP = timedelta(seconds=5)
"""Timers run on the monotonic clock: waking this often notices a suspended or stepped clock."""
_SHORTEST_SLEEP_SECONDS = 0.001
"""uvloop rounds less than half a millisecond to nothing, and would spin."""


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
    """APScheduler on a clock of ours; every job in `store` has a `SlotTrigger`.

    Due jobs are handed over in slices of time, with a round of the event loop after each.
    """

    def __init__(
        self, store: HeapJobStore, executor: SlotExecutor, clock: Clock, *, longest_sleep: timedelta
    ) -> None:
        self._store = store
        self._executor = executor
        self._clock = clock
        self._longest_sleep = longest_sleep
        self.is_behind = False
        """While jobs are due that have not been handed over."""
        self._wakes_at: datetime | None = None
        """When the timer is armed for; None where it is not, or where a wake-up is on its way."""
        super().__init__(
            timezone=UTC, jobstores={"default": store}, executors={"default": executor}
        )

    def set_timer(self, job_id: str, timetable: Timetable, at: datetime) -> None:
        """Have the slots of this timetable come due, the first one at `at`.

        Cheaper than `add_job`, which wakes the scheduler for each of many.
        """
        self._store.put_job(SlotJob(self, job_id, SlotTrigger(timetable), at))
        if self._wakes_at is not None and at < self._wakes_at:
            self._wakes_at = None
            self.wakeup()

    def clear_timer(self, job_id: str) -> None:
        """Have none of them come due any more."""
        with suppress(JobLookupError):
            self._store.remove_job(job_id)

    def _process_jobs(self) -> float | None:
        """Hand over what is due and set the next timers; answers the seconds until the first.

        In place of APScheduler's own, which reads the machine's clock, asks each trigger twice, and
        stops all timers where one trigger fails.
        """
        now, started = self._clock(), monotonic()
        while monotonic() - started < _SLICE_SECONDS:
            job = self._store.pop_due_job(now)
            if job is None:
                break
            due_at, later = job.next_run_time, None
            try:
                self._executor.submit_job(job, [due_at])
                later = job.trigger.get_next_fire_time(due_at, now)
            except Exception:  # set anew with the next full comparison
                log.exception("timer_failed", agent_id=job.id)
            job.next_run_time = later
            if self._store.lookup_job(job.id) is job:
                self._store.put_job(job)
        first = self._store.get_next_run_time()
        self.is_behind = first is not None and first <= now
        self._wakes_at = min(first or now + self._longest_sleep, now + self._longest_sleep)
        return (self._wakes_at - now).total_seconds()

    def _start_timer(self, wait_seconds: float | None) -> None:
        if wait_seconds is not None and wait_seconds <= 0:
            self._stop_timer()
            self._timeout = self._eventloop.call_soon(self.wakeup)
        else:
            wait = self._longest_sleep.total_seconds() if wait_seconds is None else wait_seconds
            super()._start_timer(max(_SHORTEST_SLEEP_SECONDS, wait))
