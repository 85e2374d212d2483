"""A suspended machine and a stepped clock: real timers and a settler, on a clock that is moved."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from random import Random
from typing import Any

import pytest

from service.adapters.apscheduler import LONGEST_SLEEP, TimedJobs
from service.domain.execution import Reason, Status
from service.domain.jobs import AgentDocument, Desired, Past
from service.domain.planning import Put, desired_job, plan
from tests.contract.test_agents import POLICY, councilor
from tests.fakes import NOON, FakeClock, FakeConductor, FakeLedger
from tests.side import Parts
from tests.steps import eventually

MINUTE, HOUR, SECOND = timedelta(minutes=1), timedelta(hours=1), timedelta(seconds=1)
TURN = timedelta(milliseconds=2)


class Machine:
    """One replica with a councilor that runs each minute since noon, by a clock of the test's."""

    def __init__(self, **schedule: object) -> None:
        self.clock = FakeClock()
        self.ledger, self.conductor = FakeLedger(), FakeConductor()
        self.jobs = TimedJobs(lambda agent_id: None, self.clock, longest_sleep=TURN)
        parts = Parts(self.jobs, self.clock, self.ledger, self.conductor)
        agents, self.runner = parts.agents, parts.runner
        self.settler, self.faults = parts.settler, parts.faults
        fields = councilor(value="1m")
        fields["councilor_config"]["schedule"] |= schedule
        desired = desired_job(AgentDocument(agents.change(1, fields), fields), POLICY)
        assert isinstance(desired, Desired)
        (put,) = plan(desired, None, Past(accepted_at=NOON), NOON)
        assert isinstance(put, Put)
        self.jobs.put(put.job)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Machine"]:
        async with self.jobs.firing(self.settler.fire):
            yield self
        await self.settler.stop()
        await self.runner.drain(timedelta(seconds=1))
        assert self.faults == []

    async def shows(self, clock: datetime) -> None:
        """Set the clock, and wait until all that is due by it has its row."""
        self.clock.now = clock
        await eventually(self._is_settled)

    async def _is_settled(self) -> bool:
        job = self.jobs.of_agent("scout")
        is_idle = not self.settler._tasks and not self.runner.executions
        return is_idle and job is not None and (job.next_run_at or NOON) > self.clock.now

    def slots(self) -> list[datetime]:
        """Every slot that has a row, each as often as it has one."""
        slots: list[datetime] = []
        for row in self.ledger.rows.values():
            slot = row.get("first_slot") or row["scheduled_for"]
            while slot <= (row.get("last_slot") or row["scheduled_for"]):
                slots.append(slot)
                slot += MINUTE
        return sorted(slots)

    def rows(self, status: Status) -> list[dict[str, Any]]:
        return [row for row in self.ledger.rows.values() if row["status"] == status]


def minutes_until(clock: datetime) -> list[datetime]:
    return [NOON + n * MINUTE for n in range(1, (clock - NOON) // MINUTE + 1)]


def test_a_timer_never_sleeps_longer_than_five_seconds() -> None:
    assert timedelta(seconds=5) >= LONGEST_SLEEP


@pytest.mark.parametrize("catch_up", ["once", "skip"])
async def test_a_machine_that_was_suspended_settles_its_night_in_one_row(catch_up: str) -> None:
    async with Machine(catch_up=catch_up).running() as machine:
        await machine.shows(NOON + MINUTE)
        waking = NOON + 8 * HOUR + 30 * SECOND
        await machine.shows(waking)
        assert machine.slots() == minutes_until(waking)
        (missed,) = machine.rows(Status.MISSED)
        assert missed["reason"] == Reason.OUTAGE
        assert len(machine.conductor.orders) == (2 if catch_up == "once" else 1)


async def test_a_suspended_machine_catches_up_on_no_more_than_a_hundred() -> None:
    async with Machine(catch_up="all").running() as machine:
        waking = NOON + 8 * HOUR + 30 * SECOND
        await machine.shows(waking)
        assert machine.slots() == minutes_until(waking)
        assert len(machine.conductor.orders) == 100


async def test_a_clock_that_is_set_back_repeats_nothing() -> None:
    async with Machine().running() as machine:
        for n in (1, 2, 3):
            await machine.shows(NOON + n * MINUTE)
        await machine.shows(NOON - 2 * HOUR)
        await machine.shows(NOON + 2 * MINUTE)
        assert len(machine.conductor.orders) == 3
        await machine.shows(NOON + 4 * MINUTE)
        assert machine.slots() == minutes_until(NOON + 4 * MINUTE)
        assert len(machine.conductor.orders) == 4


async def test_a_clock_that_was_wrong_for_a_while_neither_repeats_nor_floods() -> None:
    async with Machine().running() as machine:
        await machine.shows(NOON + MINUTE)
        await machine.shows(NOON + 3 * HOUR)
        await machine.shows(NOON + 2 * MINUTE)
        assert len(machine.conductor.orders) == 2
        await machine.shows(NOON + 3 * HOUR + MINUTE)
        assert machine.slots() == minutes_until(NOON + 3 * HOUR + MINUTE)
        assert len(machine.conductor.orders) == 3


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_clock_does_each_slot_has_one_row_and_a_step_starts_one_run(
    seed: int,
) -> None:
    random = Random(seed)
    async with Machine().running() as machine:
        latest = NOON
        for _ in range(60):
            step = random.choice([MINUTE, MINUTE, 20 * SECOND, -HOUR, 3 * HOUR, 90 * MINUTE])
            started = len(machine.conductor.orders)
            await machine.shows(machine.clock.now + step * random.random())
            latest = max(latest, machine.clock.now)
            assert len(machine.conductor.orders) - started <= 1
            assert machine.slots() == minutes_until(latest)
