"""`python -m tests.bench.stock add|herd|change N`: APScheduler alone, as its users use it.

An AsyncIOScheduler with its memory store and cron jobs; one line of JSON says what was measured.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import median
from time import perf_counter

import orjson
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from service.app import wall_clock
from tests.bench.machine import rss_bytes
from tests.bench.watcher import Watcher

CHANGES = 300
_AHEAD_SECONDS = 3.0
_AHEAD_SECONDS_PER_JOB = 0.001
_HERD_SECONDS = 60.0


async def _nothing() -> None:
    pass


def _triggers(n: int) -> list[CronTrigger]:
    """Daily ones, hours from now."""
    random, now = Random(1), wall_clock()
    slots = [now + timedelta(hours=random.uniform(3, 20)) for _ in range(n)]
    return [CronTrigger(hour=at.hour, minute=at.minute, timezone=UTC) for at in slots]


async def add(n: int) -> dict[str, float]:
    """How long it takes to add the jobs of a memory store, and what memory each takes."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    scheduler.start()
    before = rss_bytes(os.getpid())
    triggers = _triggers(n)
    began = perf_counter()
    for number, trigger in enumerate(triggers):
        scheduler.add_job(_nothing, trigger, id=str(number))
    seconds = perf_counter() - began
    await asyncio.sleep(1)
    per_job = (rss_bytes(os.getpid()) - before) / n
    scheduler.shutdown(wait=False)
    return {"add_seconds": seconds, "bytes_per_job": per_job}


async def herd(n: int) -> dict[str, float]:
    """So many jobs due in the same instant: how long until the last has begun."""
    scheduler, begun = AsyncIOScheduler(timezone=UTC), list[datetime]()

    async def note() -> None:
        begun.append(wall_clock())

    scheduler.start()
    ahead = timedelta(seconds=_AHEAD_SECONDS + n * _AHEAD_SECONDS_PER_JOB)
    slot = (wall_clock() + ahead).replace(microsecond=0)
    trigger = CronTrigger(hour=slot.hour, minute=slot.minute, second=slot.second, timezone=UTC)
    for number in range(n):
        scheduler.add_job(note, trigger, id=str(number), misfire_grace_time=None)
    await asyncio.sleep((slot - wall_clock()).total_seconds() - 1)
    watcher = Watcher()
    watcher.start()
    until = slot + timedelta(seconds=_HERD_SECONDS)
    while len(begun) < n and wall_clock() < until:  # noqa: ASYNC110 nothing tells of the last
        await asyncio.sleep(0.05)
    scheduler.shutdown(wait=False)
    if len(begun) < n or min(begun) < slot:
        sys.exit(f"{len(begun)} of {n} jobs have begun at the slot")
    seconds = (max(begun) - slot).total_seconds()
    return {"last_start_seconds": seconds, **watcher.report()}


async def change(n: int) -> dict[str, float]:
    """What it costs to change one job among so many."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    scheduler.start()
    for number, trigger in enumerate(_triggers(n)):
        scheduler.add_job(_nothing, trigger, id=str(number))
    await asyncio.sleep(0.1)
    triggers, random = _triggers(CHANGES), Random(2)

    def change_one(number: int) -> None:
        scheduler.reschedule_job(str(random.randrange(n)), trigger=triggers[number])

    microseconds = await cost_of(change_one)
    scheduler.shutdown(wait=False)
    return {"microseconds": microseconds}


async def cost_of(change_one: Callable[[int], None]) -> float:
    """The median of many changes, each with the round of the loop that sets its timer."""
    costs: list[float] = []
    for number in range(CHANGES):
        began = perf_counter()
        change_one(number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        costs.append(perf_counter() - began)
    return median(costs) * 1_000_000


if __name__ == "__main__":
    measured = {"add": add, "herd": herd, "change": change}[sys.argv[1]]
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(measured(int(sys.argv[2])))))
