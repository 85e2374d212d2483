"""Retries only where they are safe, and a breaker that holds starts back while nobody is there."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from service.breaker import Breaker, BreakerPolicy
from service.domain.execution import Attempt, Execution, Reason, Status
from service.pace import Pace
from service.ports import Answer, Failure
from service.telemetry import Telemetry
from tests.fakes import NOON, FakeConductor
from tests.side import HALF_HOUR, NO_PACE
from tests.steps import eventually, going, turned, turned_until
from tests.unit.test_settler import Side, all_ended, ended

SLOT = NOON + HALF_HOUR
REFUSED = Answer(
    None,
    Failure(Reason.CONDUCTOR_UNAVAILABLE, "cannot connect", may_repeat=True, is_down=True),
)
BUSY = Answer(None, Failure(Reason.CONDUCTOR_UNAVAILABLE, "HTTP 429", may_repeat=True))
LOST = Answer(None, Failure(Reason.CONDUCTOR_DISCONNECTED, "broke", is_down=True))
FINE = Answer("all is well")


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with ended(Side()) as side:
        side.promote()
        yield side


async def ended_run(side: Side) -> tuple[object, object, list[str | None]]:
    """Status, reason and the errors of the attempts of the run at half past twelve."""
    side.come_due(SLOT)

    async def has_ended() -> bool:
        return any(row["status"] != Status.RUNNING for row in side.ledger.rows.values())

    await eventually(has_ended)
    (row,) = side.ledger.rows.values()
    return row["status"], row["reason"], [attempt.error for attempt in row["attempts"]]


async def test_a_call_that_nobody_heard_is_made_again_under_the_same_key(side: Side) -> None:
    side.conductor.answers = [REFUSED, BUSY, FINE]
    errors = ["cannot connect", "HTTP 429", None]
    assert await ended_run(side) == (Status.COMPLETED, None, errors)
    assert len({order.execution_id for order in side.conductor.orders}) == 1


async def test_a_call_that_may_have_been_accepted_is_made_once(side: Side) -> None:
    side.conductor.answers = [LOST]
    assert await ended_run(side) == (Status.ERROR, Reason.CONDUCTOR_DISCONNECTED, ["broke"])
    assert len(side.conductor.orders) == 1


async def test_a_failure_of_the_agent_is_a_result(side: Side) -> None:
    side.conductor.answers = [Answer("x", Failure(Reason.FAILED, "exit code 1"))]
    assert await ended_run(side) == (Status.ERROR, Reason.FAILED, ["exit code 1"])


async def test_no_call_is_made_after_the_next_slot_has_come(side: Side) -> None:
    side.conductor.answer = BUSY
    side.conductor.released.clear()
    side.come_due(SLOT)
    await turned_until(lambda: side.conductor.orders)
    side.clock.advance(HALF_HOUR)
    await side.settler.stop()
    side.conductor.released.set()
    await all_ended(side)
    assert len(side.conductor.orders) == 1
    assert side.rows() == [("12:30", Status.ERROR, Reason.CONDUCTOR_UNAVAILABLE)]


async def test_a_wish_to_be_left_alone_past_the_next_slot_ends_the_run(side: Side) -> None:
    assert BUSY.failure is not None
    side.conductor.answer = replace(BUSY, failure=replace(BUSY.failure, retry_after=HALF_HOUR))
    assert (await ended_run(side))[:2] == (Status.ERROR, Reason.CONDUCTOR_UNAVAILABLE)
    assert len(side.conductor.orders) == 1


async def test_a_wish_to_be_left_alone_is_respected(side: Side) -> None:
    assert BUSY.failure is not None
    later = replace(BUSY.failure, retry_after=timedelta(minutes=1))
    side.conductor.answers = [Answer(None, later), FINE]
    side.come_due(SLOT)
    await turned_until(lambda: side.conductor.orders)
    await turned(500)
    assert len(side.conductor.orders) == 1


async def test_each_failed_call_is_on_record_before_the_next(side: Side) -> None:
    """Whoever finds the row of a dead replica can tell whether it may go on with it."""
    side.conductor.answers = [REFUSED]
    assert await ended_run(side) == (Status.COMPLETED, None, ["cannot connect", None])
    assert side.ledger.noted == [["cannot connect"], ["cannot connect", None]]


async def test_a_run_that_was_taken_from_us_makes_no_further_call(side: Side) -> None:
    side.conductor.answers = [REFUSED]
    side.conductor.released.clear()
    side.come_due(SLOT)
    await turned_until(lambda: side.conductor.orders)
    (row,) = side.ledger.rows.values()
    row["owner"] = "replica-2"
    side.conductor.released.set()
    await turned_until(lambda: not side.runner.executions)
    assert len(side.conductor.orders) == 1
    assert row["status"] == Status.RUNNING


async def test_while_conductor_is_down_slots_are_held_back_unclaimed(side: Side) -> None:
    for _ in range(3):
        side.parts.breaker.saw(REFUSED)
    side.come_due(SLOT)
    await turned(500)
    assert (side.rows(), side.conductor.orders) == ([], [])
    assert side.jobs.jobs["scout"].next_run_at == SLOT
    async with going(side.parts.breaker.probe()):
        await eventually(lambda: completed(side))
    assert side.rows() == [("12:30", Status.COMPLETED, None)]


async def completed(side: Side) -> bool:
    return any(row["status"] == Status.COMPLETED for row in side.ledger.rows.values())


async def test_slots_of_an_hour_without_conductor_are_one_row_that_says_so(side: Side) -> None:
    for _ in range(3):
        side.parts.breaker.saw(REFUSED)
    side.come_due(SLOT)
    await turned()
    side.clock.now = SLOT + timedelta(hours=2, minutes=5)
    async with going(side.parts.breaker.probe()):
        await eventually(lambda: completed(side))
    assert side.rows() == [
        ("12:30", Status.MISSED, Reason.CONDUCTOR_UNAVAILABLE),
        ("14:30", Status.COMPLETED, None),
    ]
    missed = side.ledger.rows["exec_scout_1795437000000"]
    assert missed["slots_missed"] == 4


async def test_a_pause_while_a_slot_is_held_back_holds(side: Side) -> None:
    for _ in range(3):
        side.parts.breaker.saw(REFUSED)
    side.come_due(SLOT)
    await turned()
    fields = dict(next(iter(side.agents.collection.values())))
    schedule = {**fields["councilor_config"]["schedule"], "enabled": False}
    side.change(
        {**fields, "councilor_config": {**fields["councilor_config"], "schedule": schedule}}
    )
    side.parts.breaker.saw(FINE)
    await side.settled(1)
    assert side.rows() == [("12:30", Status.SKIPPED, Reason.PAUSED)]


def breaker_of(conductor: FakeConductor) -> Breaker:
    policy = BreakerPolicy(failures=3, first_seconds=0.005, longest_seconds=0.01)
    return Breaker(conductor, Telemetry(), pace=Pace(NO_PACE), policy=policy)


async def test_failures_in_a_row_open_it_and_an_answer_starts_the_row_anew() -> None:
    breaker = breaker_of(FakeConductor())
    for answer in (REFUSED, LOST, FINE, REFUSED, REFUSED):
        breaker.saw(answer)
    assert not breaker.is_open
    breaker.saw(BUSY)  # somebody is there
    breaker.saw(REFUSED)
    assert not breaker.is_open
    breaker.saw(REFUSED)
    breaker.saw(REFUSED)
    assert breaker.is_open


async def test_health_half_opens_it_and_the_first_call_decides() -> None:
    conductor = FakeConductor()
    conductor.is_well = False
    breaker = breaker_of(conductor)
    for _ in range(3):
        breaker.saw(REFUSED)

    async def was_asked_again() -> bool:
        return conductor.asked >= 2

    async def is_passable() -> bool:
        return not breaker.is_open

    async with going(breaker.probe()):
        await eventually(was_asked_again)
        assert breaker.is_open
        conductor.is_well = True
        await eventually(is_passable)
        assert breaker.trouble  # half-open: not over yet
        breaker.saw(REFUSED)  # its health is fine, and it is not
        assert breaker.is_open
        await eventually(is_passable)
        breaker.saw(FINE)
        assert not breaker.trouble
        asked = conductor.asked
        await turned(500)
        assert conductor.asked == asked


async def test_an_outage_is_over_when_a_call_is_answered_not_when_health_is() -> None:
    """Health may be fine where calls are not: nobody is told of an end that is none."""
    told: list[str] = []
    breaker = Breaker(
        FakeConductor(),
        TellingTelemetry(told),
        lost=lambda: told.append("lost"),
        answered=lambda: told.append("answered"),
        policy=BreakerPolicy(first_seconds=0.005, longest_seconds=0.01),
    )

    async def is_passable() -> bool:
        return not breaker.is_open

    for _ in range(3):
        breaker.saw(REFUSED)
    async with going(breaker.probe()):
        for _ in range(3):
            await eventually(is_passable)
            assert told == ["conductor_up 0", "lost"]
            breaker.saw(REFUSED)
        await eventually(is_passable)
        breaker.saw(FINE)
    breaker.saw(FINE)
    assert told == ["conductor_up 0", "lost", "conductor_up 1", "answered"]


class TellingTelemetry(Telemetry):
    """Keeps what is exported whenever something is told of Conductor."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def conductor_lost(self, trouble: str) -> None:
        super().conductor_lost(trouble)
        self._keep()

    def conductor_returned(self) -> None:
        super().conductor_returned()
        self._keep()

    def _keep(self) -> None:
        lines = self.exposition().decode().splitlines()
        (up,) = [line for line in lines if line.startswith("councilor_conductor_up ")]
        self._told.append(up.removeprefix("councilor_").removesuffix(".0"))


async def test_those_who_were_held_back_are_let_through_one_by_one() -> None:
    breaker = Breaker(FakeConductor(), Telemetry(), pace=Pace(timedelta(hours=1)))
    for _ in range(3):
        breaker.saw(REFUSED)
    through: list[bool] = []

    async def wait() -> None:
        through.append(await breaker.let_through())

    async with going(wait(), wait(), wait()):
        await turned()
        assert through == []
        breaker.saw(FINE)
        await turned()
        assert through == [True]
        assert await breaker.let_through() is False  # who comes now was not held back


async def test_a_call_from_before_that_times_out_says_nothing_about_now() -> None:
    breaker = breaker_of(FakeConductor())
    late = Answer(None, Failure(Reason.TIMEOUT, "no answer within 30 s"))
    for answer in (REFUSED, late, REFUSED, REFUSED):
        breaker.saw(answer)
    assert breaker.is_open
    breaker.saw(late)
    assert breaker.is_open


async def test_a_replica_that_slept_before_a_repeated_call_does_not_make_it(side: Side) -> None:
    side.conductor.answers = [REFUSED]
    noted = side.ledger.note_attempts

    async def note_and_sleep(execution: Execution, attempts: Sequence[Attempt]) -> bool:
        if attempts[-1].error is None:
            side.parts.unfit = "it slept"
        return await noted(execution, attempts)

    side.ledger.note_attempts = note_and_sleep  # type: ignore[method-assign]
    status, reason, errors = await ended_run(side)
    assert (status, reason) == (Status.ERROR, Reason.CONDUCTOR_UNAVAILABLE)
    assert errors == ["cannot connect"]
    assert len(side.conductor.orders) == 1


async def test_no_call_is_repeated_after_a_long_wait_for_the_database(side: Side) -> None:
    side.conductor.answers = [REFUSED]
    noted = side.ledger.note_attempts

    async def note_late(execution: Execution, attempts: Sequence[Attempt]) -> bool:
        if attempts[-1].error is None:
            side.clock.advance(2 * HALF_HOUR)
        return await noted(execution, attempts)

    side.ledger.note_attempts = note_late  # type: ignore[method-assign]
    await ended_first_run(side)
    first = [order for order in side.conductor.orders if order.scheduled_for == SLOT]
    assert len(first) == 1


async def ended_first_run(side: Side) -> None:
    side.come_due(SLOT)

    async def has_ended() -> bool:
        row = side.ledger.rows.get("exec_scout_1795437000000")
        return row is not None and row["status"] == Status.ERROR

    await eventually(has_ended)
