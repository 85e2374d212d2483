"""`change`: what it costs to change one job among many, in the process itself."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

from service.adapters.apscheduler import TimedJobs
from service.app import wall_clock
from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.execution import Fire
from service.domain.interval import every_from
from service.domain.jobs import Job, JobSpec, JobState
from tests.bench.deployment import Deployment
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.instances import answer_of
from tests.bench.load import seconds_for
from tests.bench.stock import CHANGES, cost_of

_FEW = 1_000


def _job(number: int, hours: int, accepted_at: datetime) -> Job:
    spec = JobSpec(
        every_from(f"{hours}h"),
        spec_hash=f"{hours}h",
        delay=timedelta(0),
        paused_until=None,
        catch_up=CatchUp.ONCE,
        overlap=Overlap.SKIP,
    )
    return Job(
        DocumentKey(b"%06d" % number),
        f"agent-{number:06}",
        "Agent",
        JobState.SCHEDULED,
        spec.spec_hash,
        spec,
        accepted_at,
        next_run_at=spec.timetable(accepted_at).next_slot(accepted_at),
    )


async def _microseconds(n: int) -> float:
    jobs, now = TimedJobs(_ignore, wall_clock), wall_clock()

    others = [_job(number * 7_919 % n, 30 + number % 50, now) for number in range(CHANGES)]

    def change_one(number: int) -> None:
        jobs.put(others[number])

    async with jobs.firing(_refuse):
        for number in range(n):
            jobs.put(_job(number, 6 + number % 19, now))
        await asyncio.sleep(0.1)
        return await cost_of(change_one)


def _ignore(_agent_id: str) -> None:
    pass


def _refuse(fire: Fire) -> None:
    raise AssertionError(fire)


def _change(_: Deployment, n: int, options: Options) -> Iterator[Sample]:
    for _run in range(options.runs):
        ours, few = (asyncio.run(_microseconds(size)) for size in (n, _FEW))
        stock, stock_few = (
            answer_of("tests.bench.stock", "change", str(size), within=seconds_for(size))
            for size in (n, _FEW)
        )
        yield {
            "microseconds": ours,
            "ratio": ours / few,
            "stock_microseconds": stock["microseconds"],
            "stock_ratio": stock["microseconds"] / stock_few["microseconds"],
        }


CHANGE = Benchmark(
    "change",
    "the job table's `put` of another schedule, with the loop's round that sets the timer; stock: "
    "reschedule_job",
    (1_000, 100_000),
    (
        Row("microseconds", "one change among n", "µs", "O(log n)", "stock_microseconds"),
        Row("ratio", f"times one among {_FEW:,}", "", "O(log n)", "stock_ratio"),
    ),
    _change,
)
