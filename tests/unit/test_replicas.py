"""Membership and projection on fakes: who is taken for dead, and what is written behind."""

import asyncio
from datetime import timedelta

import pytest

from service.domain.execution import Reason, Status
from service.projection import Projection
from service.replicas import Membership
from service.telemetry import Telemetry
from tests.contract.test_ledger import run_of
from tests.contract.test_stored_jobs import job
from tests.fakes import FakeClock, FakeJobTable, FakeLedger, FakeReplicas, FakeStoredJobs
from tests.steps import eventually, going, turned, turned_until


def membership(ledger: FakeLedger, replicas: FakeReplicas, ttl: timedelta) -> Membership:
    clock = FakeClock()
    return Membership(
        replicas,
        ledger,
        FakeJobTable(),
        Telemetry(),
        clock,
        replica_id="replica-1",
        facts={},
        ttl=ttl,
        executions={"exec_running"},
    )


async def test_a_row_of_our_own_that_nothing_is_at_is_closed_and_others_are_not() -> None:
    ledger = FakeLedger()
    await ledger.open(run_of("a", minutes=-1, owner="replica-1"))
    await ledger.open(run_of("b", minutes=-1, owner="replica-1", execution_id="exec_running"))
    member = membership(ledger, FakeReplicas(FakeClock()), timedelta(0))
    await member.join()
    async with going(member.mend()):
        await turned()
    statuses = {row["councilor_id"]: row["status"] for row in ledger.rows.values()}
    assert statuses == {"a": Status.ERROR, "b": Status.RUNNING}


@pytest.mark.parametrize("owner", ["dead", "replica-1", "alive"])
async def test_only_runs_of_the_dead_are_interrupted(owner: str) -> None:
    ledger, replicas = FakeLedger(), FakeReplicas(FakeClock())
    await replicas.heartbeat("alive", {}, timedelta(hours=1))
    await ledger.open(run_of(owner=owner))
    member = membership(ledger, replicas, timedelta(0))
    await member.join()
    async with going(member.mend()):
        await turned()
    (row,) = ledger.rows.values()
    is_interrupted = row["status"] == Status.ERROR and row["reason"] == Reason.INTERRUPTED
    assert is_interrupted is (owner == "dead")


async def test_after_an_outage_nobody_is_taken_for_dead_at_once() -> None:
    """All heartbeats have run out: who comes back first would end the others' live runs."""
    ledger, replicas = FakeLedger(), FakeReplicas(FakeClock())
    await ledger.open(run_of(owner="about to beat again"))
    member = membership(ledger, replicas, timedelta(hours=1))
    await member.join()
    async with going(member.mend()):
        await turned()
    assert [row["status"] for row in ledger.rows.values()] == [Status.RUNNING]


async def test_a_step_that_fails_keeps_no_other_from_being_taken() -> None:
    ledger, replicas = FakeLedger(), FakeReplicas(FakeClock())
    await ledger.open(run_of(owner="dead"))
    member = membership(ledger, replicas, timedelta(0))
    await member.join()
    replicas.outage.is_on = True
    async with going(member.mend()):
        await turned()
        replicas.outage.is_on = False
        await turned()
    assert [row["status"] for row in ledger.rows.values()] == [Status.ERROR]


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
