"""What is written behind to `apscheduler_jobs`: late, again, and nothing else."""

import asyncio

from service.projection import Projection
from tests.contract.test_stored_jobs import job
from tests.fakes import FakeJobTable, FakeStoredJobs
from tests.steps import eventually, going, turned_until


async def test_what_cannot_be_stored_now_is_stored_later() -> None:
    stored, jobs = FakeStoredJobs(), FakeJobTable()
    failures: list[str] = []
    projection = Projection(stored, jobs, failures.append)
    jobs.put(job("a"))

    async def has_failed() -> bool:
        return bool(failures)

    stored.outage.is_on = True
    projection.mark("a")
    async with going(projection.project()):
        await eventually(has_failed)  # over the time in which changes are collected
        stored.outage.is_on = False
        await projection.flush()
    assert set(stored.jobs) == {"a"}


async def test_a_full_comparison_restores_what_is_lost_and_removes_strangers() -> None:
    stored, jobs = FakeStoredJobs(), FakeJobTable()
    projection = Projection(stored, jobs, lambda _: None)
    jobs.put(job("a"))
    await stored.save([job("stranger")], [])
    resynced = asyncio.Event()
    resynced.set()
    async with going(projection.compare_all(resynced)):
        await turned_until(lambda: not stored.jobs)
        await projection.flush()
    assert set(stored.jobs) == {"a"}
