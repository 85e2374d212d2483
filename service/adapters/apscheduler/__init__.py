"""The job table on APScheduler 3.11, which keeps the time and nothing else.

No other module imports apscheduler. What is leaned on beyond its documented interface, and pinned
by tests/unit/test_apscheduler.py:
- `AsyncIOScheduler.wakeup` calls `_process_jobs`, which is replaced here, and gives the seconds
  that it answers to `_start_timer`, which arms `_timeout` on `_eventloop` after `_stop_timer`;
- a `Job` is nothing but its `__slots__`, which `SlotJob` sets without the constructor's checks;
- the scheduler hands due jobs to `submit_job` of an executor.
"""

from service.adapters.apscheduler.store import HeapJobStore, SlotJob, SlotTrigger
from service.adapters.apscheduler.table import TimedJobs
from service.adapters.apscheduler.timers import LONGEST_SLEEP, SlotExecutor, SlotScheduler

__all__ = [
    "LONGEST_SLEEP",
    "HeapJobStore",
    "SlotExecutor",
    "SlotJob",
    "SlotScheduler",
    "SlotTrigger",
    "TimedJobs",
]
