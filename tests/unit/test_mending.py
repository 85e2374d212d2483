"""What crashes leave: runs that nobody is at are closed, or gone on with where none has begun."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from service.clock import ComparedClock
from service.domain.execution import Attempt, Execution, Reason, Status, Trigger, execution_id_of
from service.mending import Mending
from service.ports import Answer, Failure
from service.replicas import Membership
from tests.contract.test_ledger import run_of
from tests.fakes import NOON, FakeReplicas
from tests.side import HALF_HOUR
from tests.steps import going, turned, turned_until
from tests.unit.test_settler import Side

MINUTE = timedelta(minutes=1)
SLOT = NOON + HALF_HOUR
REFUSED = (Attempt(SLOT, "cannot connect"),)
OPEN = (Attempt(SLOT, None),)


class Survivor:
    """A replica that looks after the runs of dead ones, and its side."""

    def __init__(self, **options: Any) -> None:
        self.side, self.seconds = Side(**options), 0
        self.side.clock.now = SLOT + MINUTE
        parts = self.side.parts
        self.replicas = FakeReplicas(self.side.clock)
        self.membership = Membership(
            self.replicas,
            ComparedClock(self.side.clock, lambda: 0.0),
            parts.telemetry,
            replica_id="replica-1",
            facts={},
            ttl=timedelta(seconds=10),
            elapsed_seconds=lambda: self.seconds,
        )
        self.mending = Mending(
            self.side.ledger,
            self.replicas,
            self.membership,
            self.side.jobs,
            parts.cases,
            parts.runner,
            parts.breaker,
            parts.notifier,
            parts.telemetry,
            self.side.clock,
            is_synced=lambda: True,
            every=timedelta(0),
            grace=MINUTE,
        )

    async def looks(self) -> None:
        for self.seconds in (0, 4, 8, 12):
            await self.membership.join()
        async with going(self.mending.mend()):
            await turned()

    async def finds(self, **changes: Any) -> dict[str, Any]:
        """What becomes of the row of a run of half past twelve."""
        trigger = changes.setdefault("trigger", Trigger.SCHEDULE)
        orphan = run_of(
            **{
                "execution_id": execution_id_of("scout", SLOT, trigger),
                "scheduled_for": SLOT,
                "started_at": SLOT,
                "owner": "dead",
                **changes,
            }
        )
        await self.side.ledger.open(orphan)
        await self.looks()
        return self.side.ledger.rows[orphan.execution_id]


@pytest.fixture
async def survivor() -> AsyncIterator[Survivor]:
    survivor = Survivor()
    survivor.side.promote()
    yield survivor
    survivor.side.conductor.released.set()
    await survivor.side.runner.drain(timedelta(seconds=5))


@pytest.mark.parametrize("owner", ["dead", "replica-1", "alive"])
async def test_only_runs_that_nobody_is_at_are_interrupted(survivor: Survivor, owner: str) -> None:
    await survivor.replicas.heartbeat("alive", {}, timedelta(hours=1))
    survivor.side.runner.executions.add(execution_id_of("scout", SLOT, Trigger.SCHEDULE))
    row = await survivor.finds(owner=owner, attempts=OPEN)
    assert (row.get("reason") == Reason.INTERRUPTED) is (owner == "dead")


async def test_a_row_of_our_own_that_nothing_is_at_is_closed(survivor: Survivor) -> None:
    row = await survivor.finds(owner="replica-1", attempts=OPEN, started_at=NOON)
    assert (row["status"], row["reason"]) == (Status.ERROR, Reason.INTERRUPTED)


async def test_a_claim_of_our_own_may_take_a_moment_to_be_known(survivor: Survivor) -> None:
    row = await survivor.finds(owner="replica-1", attempts=OPEN, started_at=SLOT + MINUTE)
    assert row["status"] == Status.RUNNING


async def test_a_step_that_fails_keeps_no_other_from_being_taken(survivor: Survivor) -> None:
    await survivor.side.ledger.open(run_of(owner="dead"))
    for survivor.seconds in (0, 4, 8, 12):
        await survivor.membership.join()
    survivor.replicas.outage.is_on = True
    async with going(survivor.mending.mend()):
        await turned()
        survivor.replicas.outage.is_on = False
        await turned()
    assert [row["status"] for row in survivor.side.ledger.rows.values()] == [Status.ERROR]


async def test_a_call_that_may_have_been_accepted_is_not_made_again(survivor: Survivor) -> None:
    row = await survivor.finds(attempts=(*REFUSED, *OPEN))
    assert (row["status"], row["reason"]) == (Status.ERROR, Reason.INTERRUPTED)
    assert [attempt.error for attempt in row["attempts"]] == ["cannot connect", row["error"]]
    assert survivor.side.conductor.orders == []


async def test_a_run_that_conductor_never_heard_of_goes_on_elsewhere(survivor: Survivor) -> None:
    row = await survivor.finds(attempts=REFUSED)
    await turned_until(lambda: row["status"] != Status.RUNNING)
    assert (row["status"], row["owner"]) == (Status.COMPLETED, "replica-1")
    assert [attempt.error for attempt in row["attempts"]] == ["cannot connect", None]
    assert len(survivor.side.conductor.orders) == 1
    assert survivor.side.ledger.counted == [("scout", row["severity"])]


async def test_a_run_that_was_asked_for_goes_on_too(survivor: Survivor) -> None:
    row = await survivor.finds(attempts=REFUSED, trigger=Trigger.MANUAL)
    await turned_until(lambda: row["status"] != Status.RUNNING)
    assert row["status"] == Status.COMPLETED


async def test_a_run_is_given_up_where_the_document_wants_it_no_more(survivor: Survivor) -> None:
    survivor.side.promote(enabled=False)
    row = await survivor.finds(attempts=REFUSED)
    assert row["reason"] == Reason.INTERRUPTED
    assert survivor.side.conductor.orders == []


@pytest.mark.parametrize(
    ("catch_up", "late", "goes_on"),
    [
        pytest.param("skip", timedelta(seconds=10), True, id="skip: still punctual"),
        pytest.param("skip", MINUTE, False, id="skip: too late"),
        pytest.param("once", 20 * MINUTE, True, id="once: the latest slot"),
        pytest.param("once", 31 * MINUTE, False, id="once: there is a later slot"),
        pytest.param("all", 31 * MINUTE, True, id="all: each slot runs"),
    ],
)
async def test_it_goes_on_within_the_catch_up_rule(
    survivor: Survivor, catch_up: str, late: timedelta, goes_on: bool
) -> None:
    survivor.side.promote(catch_up=catch_up)
    survivor.side.clock.now = SLOT + late
    row = await survivor.finds(attempts=REFUSED)
    await turned_until(lambda: row["status"] != Status.RUNNING)
    assert (row["status"] == Status.COMPLETED) is goes_on


async def test_it_waits_while_conductor_is_down(survivor: Survivor) -> None:
    trouble = Failure(Reason.CONDUCTOR_UNAVAILABLE, "cannot connect", is_down=True)
    down = Answer(None, trouble)
    for _ in range(3):
        survivor.side.parts.breaker.saw(down)
    row = await survivor.finds(attempts=REFUSED)
    assert (row["status"], row["owner"]) == (Status.RUNNING, "dead")


async def test_a_zombie_finds_that_its_run_is_somebody_elses(survivor: Survivor) -> None:
    """The dead replica only slept: what it puts on record, or records, is refused."""
    zombie = run_of(owner="dead", attempts=REFUSED)
    await survivor.side.ledger.open(zombie)
    ours: Execution = run_of(owner="replica-1", nonce="ours", attempts=(*REFUSED, *OPEN))
    assert await survivor.side.ledger.take_over(zombie, ours)
    assert not await survivor.side.ledger.note_attempts(zombie, (*REFUSED, *OPEN))
    assert not await survivor.side.ledger.take_over(zombie, ours)
