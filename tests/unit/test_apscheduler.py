"""The job table: its store, its trigger, and what is leaned on in APScheduler."""

import asyncio
import inspect
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job as TimerJob
from apscheduler.jobstores.base import ConflictingIdError, JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.util import obj_to_ref
from structlog.testing import capture_logs

from service.adapters.apscheduler import (
    LONGEST_SLEEP,
    HeapJobStore,
    SlotExecutor,
    SlotJob,
    SlotScheduler,
    SlotTrigger,
    TimedJobs,
)
from service.app import wall_clock
from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.execution import Fire, Trigger
from service.domain.interval import Every, every_from
from service.domain.jobs import Job, JobSpec, JobState
from service.domain.schedule import Timetable
from tests.steps import eventually

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PAST, FUTURE = NOON.replace(year=2020), NOON.replace(year=2998)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HOURLY = Timetable(every_from("1h"), NOON)


def timer(job_id: str, at: datetime | None) -> TimerJob:
    fixed = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1, "name": "slot"}
    called = {"func": print, "args": (), "kwargs": {}, "executor": "default"}
    scheduler = AsyncIOScheduler(timezone=UTC)
    job = TimerJob(scheduler, id=job_id, trigger=SlotTrigger(HOURLY), **fixed, **called)
    job.next_run_time = at
    return job


def store_of(*jobs: TimerJob) -> HeapJobStore:
    store = HeapJobStore()
    for job in jobs:
        store.add_job(job)
    return store


def ids(jobs: Sequence[TimerJob]) -> list[str]:
    return [job.id for job in jobs]


LATER, SOON, PAUSED = timer("later", NOON + HOUR), timer("soon", NOON), timer("paused", None)


# What APScheduler's own suite expects of a job store.


def test_store_finds_and_lists_jobs_by_next_run_paused_last() -> None:
    store = store_of(PAUSED, LATER, SOON)
    assert store.lookup_job("soon") is SOON
    assert store.lookup_job("other") is None
    assert ids(store.get_all_jobs()) == ["soon", "later", "paused"]


def test_due_jobs_come_in_order_and_stay_due() -> None:
    store = store_of(LATER, PAUSED, SOON)
    assert store.get_due_jobs(NOON - MINUTE) == []
    assert ids(store.get_due_jobs(NOON)) == ["soon"]
    for _ in range(2):
        assert ids(store.get_due_jobs(NOON + HOUR)) == ["soon", "later"]


def test_due_jobs_are_handed_out_in_portions() -> None:
    store = store_of(*(timer(f"{n:03}", NOON + n * MINUTE) for n in range(250)))
    due = store.get_due_jobs(NOON + 10 * HOUR)
    assert ids(due) == [f"{n:03}" for n in range(200)]
    for job in due:
        store.remove_job(job.id)
    assert len(store.get_due_jobs(NOON + 10 * HOUR)) == 50


def test_next_run_time_is_the_earliest() -> None:
    assert store_of(PAUSED).get_next_run_time() is None
    assert store_of(LATER, PAUSED, SOON).get_next_run_time() == NOON


UPDATES = {
    "moved back": (NOON + 2 * HOUR, ["later", "soon"], NOON + HOUR),
    "moved forth": (NOON - HOUR, ["soon", "later"], NOON - HOUR),
    "paused": (None, ["later", "soon"], NOON + HOUR),
}


@pytest.mark.parametrize(("at", "order", "next_run_time"), UPDATES.values(), ids=UPDATES)
def test_update_replaces_the_job(
    at: datetime | None, order: list[str], next_run_time: datetime
) -> None:
    store, newer = store_of(LATER, SOON), timer("soon", at)
    store.update_job(newer)
    assert store.lookup_job("soon") is newer
    assert ids(store.get_all_jobs()) == order
    assert store.get_next_run_time() == next_run_time
    assert ids(store.get_due_jobs(NOON + 9 * HOUR)) == (["later"] if at is None else order)


def test_store_refuses_what_is_there_and_knows_what_is_not() -> None:
    store = store_of(SOON)
    with pytest.raises(ConflictingIdError):
        store.add_job(timer("soon", NOON + HOUR))
    with pytest.raises(JobLookupError):
        store.update_job(timer("other", NOON - HOUR))
    with pytest.raises(JobLookupError):
        store.remove_job("other")
    assert (store.get_all_jobs(), store.get_next_run_time()) == ([SOON], NOON)


def test_removed_jobs_are_gone() -> None:
    store = store_of(SOON, LATER)
    store.remove_job("soon")
    assert (store.get_all_jobs(), store.get_next_run_time()) == ([LATER], NOON + HOUR)
    store.add_job(timer("soon", NOON + 3 * HOUR))
    assert ids(store.get_due_jobs(NOON + 3 * HOUR)) == ["later", "soon"]
    store.remove_all_jobs()
    assert (store.get_all_jobs(), store.get_next_run_time()) == ([], None)


FIRE_TIMES = {
    "first": (None, NOON, NOON + HOUR),
    "on time": (NOON + HOUR, NOON + HOUR, NOON + 2 * HOUR),
    "missed four": (NOON + HOUR, NOON + 5 * HOUR + MINUTE, NOON + 6 * HOUR),
    "the clock was set back": (NOON + HOUR, NOON, NOON + 2 * HOUR),
}


@pytest.mark.parametrize(("previous", "now", "expected"), FIRE_TIMES.values(), ids=FIRE_TIMES)
def test_trigger_jumps_over_missed_slots(
    previous: datetime | None, now: datetime, expected: datetime
) -> None:
    assert SlotTrigger(HOURLY).get_next_fire_time(previous, now) == expected


# What the module leans on beyond APScheduler's documented interface.


def test_a_lean_job_is_what_apscheduler_would_have_made() -> None:
    lean = SlotJob(AsyncIOScheduler(timezone=UTC), "a", SlotTrigger(HOURLY), NOON)
    usual = timer("a", NOON)
    for name in set(TimerJob.__slots__) - {"__weakref__", "_scheduler", "_jobstore_alias"}:
        said, wanted = getattr(lean, name), getattr(usual, name)
        assert name in ("func", "func_ref", "trigger") or said == wanted, name
    assert lean.func_ref == obj_to_ref(lean.func)
    assert str(lean).startswith("slot (trigger: ")


LEANED_ON = {
    "_process_jobs": (BaseScheduler._process_jobs, ["self"]),
    "_start_timer": (AsyncIOScheduler._start_timer, ["self", "wait_seconds"]),
    "_stop_timer": (AsyncIOScheduler._stop_timer, ["self"]),
    "submit_job": (BaseExecutor.submit_job, ["self", "job", "run_times"]),
}


@pytest.mark.parametrize(("function", "parameters"), LEANED_ON.values(), ids=LEANED_ON)
def test_what_is_leaned_on_is_there(function: Any, parameters: list[str]) -> None:
    assert list(inspect.signature(function).parameters) == parameters


class Stuck(SlotTrigger):
    """A trigger with a fault."""

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        raise ZeroDivisionError


async def test_one_trigger_that_fails_stops_no_other_timer() -> None:
    told: list[tuple[str, datetime]] = []
    store, trigger = HeapJobStore(), SlotTrigger(HOURLY)
    executor = SlotExecutor(lambda job_id, due_at: told.append((job_id, due_at)))
    scheduler = SlotScheduler(store, executor, lambda: NOON, longest_sleep=LONGEST_SLEEP)
    scheduler.start(paused=True)
    for job_id, chosen in (("a", Stuck(HOURLY)), ("b", trigger)):
        scheduler.add_job(print, chosen, id=job_id, next_run_time=NOON, misfire_grace_time=None)
    with capture_logs() as logs:
        assert scheduler._process_jobs() == LONGEST_SLEEP.total_seconds()
    assert [(entry["event"], entry["agent_id"]) for entry in logs] == [("timer_failed", "a")]
    assert told == [("a", NOON), ("b", NOON)]
    assert [job.next_run_time for job in store.get_all_jobs()] == [NOON + HOUR, None]
    scheduler.shutdown(wait=False)
    await asyncio.sleep(0)


def scheduler_of(store: HeapJobStore, executor: SlotExecutor) -> SlotScheduler:
    scheduler = SlotScheduler(store, executor, lambda: NOON, longest_sleep=LONGEST_SLEEP)
    scheduler.start(paused=True)
    for job_id in "abcde":
        scheduler.set_timer(job_id, HOURLY, NOON)
    return scheduler


async def test_many_due_jobs_are_handed_over_in_slices_of_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, ticks = list[str](), iter(range(1_000))
    monkeypatch.setattr(
        "service.adapters.apscheduler.timers.monotonic", lambda: next(ticks) * 0.002
    )
    scheduler = scheduler_of(HeapJobStore(), SlotExecutor(lambda job_id, _: told.append(job_id)))
    handed_over = list[int]()
    while not handed_over or scheduler.is_behind:
        wait = scheduler._process_jobs()
        assert wait is not None
        assert (wait <= 0) == scheduler.is_behind
        handed_over.append(len(told))
    assert told == list("abcde")
    assert handed_over == [2, 4, 5]
    scheduler.shutdown(wait=False)
    await asyncio.sleep(0)


async def test_a_job_that_goes_while_it_is_handed_over_stays_gone() -> None:
    store = HeapJobStore()
    others = {"a": "a", "b": "d", "c": "c"}
    scheduler = scheduler_of(
        store, SlotExecutor(lambda job_id, _: scheduler.clear_timer(others.get(job_id, "none")))
    )
    scheduler._process_jobs()
    left = {job.id: job.next_run_time for job in store.get_all_jobs()}
    assert left == {"b": NOON + HOUR, "e": NOON + HOUR}
    scheduler.shutdown(wait=False)
    await asyncio.sleep(0)


# The job table.


def job_of(anchor: datetime, *, key: bytes = b"1", every: Every | None = None) -> Job:
    schedule = every or every_from("1h")
    spec = JobSpec(schedule, "hash", timedelta(0), None, CatchUp.ONCE, Overlap.SKIP)
    next_run_at = anchor + schedule.period
    scheduled = JobState.SCHEDULED
    return Job(DocumentKey(key), "a", "Ada", scheduled, "hash", spec, anchor, next_run_at)


class Table:
    """A job table, what it told, and what fired."""

    def __init__(self) -> None:
        self.changed: list[str] = []
        self.fires: asyncio.Queue[Fire] = asyncio.Queue()
        self.jobs = TimedJobs(self.changed.append, wall_clock)

    def next_run_at(self) -> datetime | None:
        job = self.jobs.of_agent("a")
        return job.next_run_at if job is not None else None


async def test_table_holds_what_was_put_until_it_is_removed() -> None:
    table, job, moved = Table(), job_of(FUTURE), job_of(FUTURE + MINUTE)
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job)
        assert table.jobs.of_agent("a") == table.jobs.of_document(job.key) == job
        assert table.jobs.all() == [job]
        assert table.jobs.of_agent("b") is table.jobs.of_document(DocumentKey(b"2")) is None
        table.jobs.put(moved)
        assert table.next_run_at() == FUTURE + MINUTE + HOUR
        table.jobs.put(replace(moved, state=JobState.PAUSED, next_run_at=None))
        assert table.next_run_at() is None
        table.jobs.put(job)
        assert table.next_run_at() == FUTURE + HOUR
        table.jobs.remove("a")
        table.jobs.remove("a")
        assert (table.jobs.all(), table.jobs.of_document(job.key)) == ([], None)
    assert table.changed == ["a"] * 5


async def test_agent_that_moves_to_another_document_leaves_the_first() -> None:
    table, other = Table(), job_of(FUTURE, key=b"2")
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job_of(FUTURE))
        table.jobs.put(other)
        assert table.jobs.of_document(DocumentKey(b"1")) is None
        assert table.jobs.of_document(DocumentKey(b"2")) == other


async def test_due_slot_stays_the_next_run_until_it_is_settled() -> None:
    """A missed slot comes at once, with its own due time; the timer goes on to the next."""
    table, anchor = Table(), wall_clock() - 3 * HOUR - MINUTE
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job_of(anchor))
        fire = await asyncio.wait_for(table.fires.get(), 1)
        assert fire == Fire(DocumentKey(b"1"), "a", anchor + HOUR)
        table.jobs.put(replace(job_of(anchor), name="Bob"))
        assert table.next_run_at() == anchor + HOUR, "only details are others"
        for settled, expected in ((0, 1), (1, 2), (3, 4), (9, 4)):
            table.jobs.settle("a", anchor + settled * HOUR)
            assert table.next_run_at() == anchor + expected * HOUR
        table.jobs.settle("b", anchor)
    assert table.fires.empty()


async def test_a_slot_that_nobody_settles_is_overdue_unless_it_may_wait() -> None:
    table, anchor = Table(), wall_clock() - timedelta(hours=1, minutes=1)
    job = job_of(anchor)
    assert job.spec is not None
    may_wait = {
        "q": replace(job.spec, overlap=Overlap.QUEUE_ONE),
        "c": replace(job.spec, catch_up=CatchUp.ALL),
    }
    due_at = anchor + HOUR
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job)
        for agent_id, spec in may_wait.items():
            key = DocumentKey(agent_id.encode())
            table.jobs.put(replace(job, key=key, agent_id=agent_id, spec=spec))

        async def are_due() -> bool:
            return table.fires.qsize() == 3

        await eventually(are_due)
    assert table.jobs.overdue(due_at) == 0, "it is not older than that"
    assert table.jobs.overdue(due_at + MINUTE) == 1
    table.jobs.settle("a", due_at)
    assert table.jobs.overdue(due_at + MINUTE) == 0


async def test_edit_drops_the_open_slot() -> None:
    table = Table()
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job_of(wall_clock() - HOUR - MINUTE))
        await asyncio.wait_for(table.fires.get(), 1)
        table.jobs.put(job_of(FUTURE))
        assert table.next_run_at() == FUTURE + HOUR


async def test_timer_that_failed_is_set_anew_when_its_job_is_put() -> None:
    table, due = Table(), job_of(wall_clock() - HOUR - MINUTE)
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(due)
        timer = table.jobs._store.lookup_job("a")
        assert timer is not None
        assert due.timetable is not None
        assert due.next_run_at is not None
        timer.trigger = Stuck(due.timetable)
        with capture_logs():
            await asyncio.wait_for(table.fires.get(), 1)
        table.jobs.settle("a", due.next_run_at)
        assert table.next_run_at() is None
        table.jobs.put(job_of(FUTURE))
        assert table.next_run_at() == FUTURE + HOUR


async def test_a_job_whose_acceptance_is_a_guess_fires_once_it_is_known() -> None:
    """Its slots may still move; where they do, the one that was due is none."""
    table, guess = Table(), replace(job_of(wall_clock() - HOUR - MINUTE), is_assumed=True)
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(guess)

        async def is_due() -> bool:
            return "a" in table.jobs._open

        await eventually(is_due)
        assert table.fires.empty()
        table.jobs.put(replace(guess, is_assumed=False))
        assert table.fires.get_nowait().due_at == guess.next_run_at
        table.jobs.put(guess)
        table.jobs.put(job_of(FUTURE))
        assert table.fires.empty()
        assert table.next_run_at() == FUTURE + HOUR


async def test_timer_hands_over_every_slot_with_its_exact_due_time() -> None:
    table, anchor, period = Table(), wall_clock(), timedelta(milliseconds=200)
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job_of(anchor, every=Every(period, "")))
        for k in (1, 2, 3):
            fire = await asyncio.wait_for(table.fires.get(), 5)
            assert fire.due_at == anchor + k * period
            assert wall_clock() >= fire.due_at
            table.jobs.settle("a", fire.due_at)


async def test_request_fires_at_once_and_nothing_fires_after_the_end() -> None:
    table, request = Table(), Fire(DocumentKey(b"1"), "a", NOON, Trigger.MANUAL)
    async with table.jobs.firing(table.fires.put_nowait):
        table.jobs.put(job_of(FUTURE))
        table.jobs.request(request)
        assert table.fires.get_nowait() is request
    table.jobs.request(request)
    assert table.fires.empty()
    assert table.next_run_at() == FUTURE + HOUR, "is still to be written to apscheduler_jobs"
