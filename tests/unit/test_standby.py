"""Who goes first, and what the others do meanwhile; and replicas that must not start anything."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.domain.execution import (
    Claim,
    Execution,
    Fire,
    NotRun,
    Reason,
    Status,
    Trigger,
    interrupted,
)
from service.ports import Answer, Failure, Unavailable
from service.standby import Standby
from tests.contract.test_ledger import run_of
from tests.fakes import NOON, FakeClock, FakeLedger
from tests.side import HALF_HOUR
from tests.steps import eventually, turned, turned_until
from tests.unit.test_settler import KEY, Side, ended

SLOT = NOON + HALF_HOUR
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)


async def has_run(side: Side) -> bool:
    return side.rows() == [("12:30", Status.COMPLETED, None)]


async def test_who_goes_first_does_not_ask() -> None:
    assert await Standby(FakeLedger(), lambda _: 0, FakeClock()).turn("scout", SLOT) is False


@pytest.mark.parametrize(
    ("rank", "now", "wait"),
    [
        pytest.param(1, NOON, 1.0, id="second"),
        pytest.param(2, NOON, 2.0, id="third"),
        pytest.param(1, NOON + 0.4 * SECOND, 0.6, id="counted from the slot"),
        pytest.param(1, NOON + 5 * SECOND, 0.0, id="which is over"),
        pytest.param(1, NOON + 15 * SECOND, 1.0, id="counted from now after an outage"),
    ],
)
async def test_each_that_goes_first_has_a_second(
    rank: int, now: datetime, wait: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("service.standby.asyncio.sleep", sleep)
    clock = FakeClock()
    clock.now = now
    assert await Standby(FakeLedger(), lambda _: rank, clock).turn("scout", NOON) is True
    assert slept == [pytest.approx(wait)]


async def test_those_who_ask_at_the_same_time_ask_once() -> None:
    ledger = CountingLedger()
    await ledger.open(run_of("taken"))
    standby = Standby(ledger, lambda _: 1, FakeClock())
    asked = [Fire(KEY, agent_id, NOON) for agent_id in ("taken", "free", "taken")]
    answers = await asyncio.gather(*(standby.is_taken(fire) for fire in asked))
    assert answers == [True, False, True]
    assert ledger.looks == 1


class CountingLedger(FakeLedger):
    looks = 0

    async def known(self, execution_ids: Sequence[str]) -> frozenset[str]:
        self.looks += 1
        return await super().known(execution_ids)


async def test_a_slot_that_another_replica_took_costs_no_look_at_its_document() -> None:
    async with ended(Side(rank=lambda _: 1)) as side:
        side.promote()
        await side.ledger.open(run_of(minutes=30, owner="replica-2"))
        side.come_due(SLOT, late=1.5 * SECOND)

        async def is_settled() -> bool:
            return side.jobs.jobs["scout"].next_run_at == SLOT + HALF_HOUR

        await eventually(is_settled)
        assert side.agents.reads == []
        assert side.conductor.orders == []


async def test_the_slot_of_a_replica_that_does_not_come_is_taken() -> None:
    async with ended(Side(rank=lambda _: 1)) as side:
        side.promote()
        side.come_due(SLOT)
        await turned()
        assert side.rows() == []
        side.clock.advance(SECOND)

        await eventually(lambda: has_run(side))


async def test_a_replica_that_is_not_heard_claims_nothing_until_it_is() -> None:
    async with ended(Side(unfit="no heartbeat")) as side:
        side.promote()
        side.come_due(SLOT)
        await turned(500)
        assert (side.rows(), side.conductor.orders) == ([], [])
        side.parts.unfit = None

        await eventually(lambda: has_run(side))


async def test_a_claim_whose_answer_comes_after_the_last_heartbeat_is_taken_back() -> None:
    """Stopped between the claim and its answer: the others may take this replica for dead."""
    async with ended(Side()) as side:
        side.promote()
        side.ledger.opened = lambda: setattr(side.parts, "unfit", "it slept")
        side.come_due(SLOT)
        await turned_until(lambda: side.parts.unfit)
        await turned(500)
        assert side.conductor.orders == []
        side.ledger.opened = side.parts.unfit = None
        await eventually(lambda: has_run(side))
        assert len(side.conductor.orders) == 1


async def test_a_claim_that_took_long_is_taken_back_and_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that nobody sets, so neither a step nor a sleep of the machine hides it."""
    now = [0.0]
    monkeypatch.setattr("service.cases.monotonic", lambda: now[0])
    monkeypatch.setattr("service.claims.monotonic", lambda: now[0])
    async with ended(Side()) as side:
        side.promote()
        side.ledger.opened = lambda: now.__setitem__(0, now[0] + 2.5)
        side.come_due(SLOT)
        await turned_until(lambda: now[0])
        side.ledger.opened = None
        await eventually(lambda: has_run(side))
        assert len(side.agents.reads) == 2
        assert len(side.conductor.orders) == 1


async def test_a_slot_that_came_during_a_pause_does_not_start_after_it() -> None:
    """Frozen from before the pause until after it: the document says nothing of it any more."""
    async with ended(Side()) as side:
        side.promote()
        fields = dict(side.agents.collection[KEY])
        schedule = {**fields["councilor_config"]["schedule"], "enabled": False}
        config = {**fields["councilor_config"], "schedule": schedule}
        side.clock.now = SLOT - SECOND
        side.change({**fields, "councilor_config": config})
        side.clock.now = SLOT + SECOND
        side.change(fields)
        side.come_due(SLOT, late=5 * SECOND)
        await side.settled(1)
        assert side.rows() == [("12:30", Status.SKIPPED, Reason.PAUSED)]
        assert side.conductor.orders == []


async def test_a_stretch_in_which_somebody_claims_a_slot_meanwhile_is_decided_anew() -> None:
    async with ended(Side()) as side:
        side.promote(catch_up="skip")

        def claim_the_second_slot() -> None:
            side.ledger.recorded = None
            late = run_of(minutes=60, owner="replica-2")
            side.ledger.rows[late.execution_id] = {
                "execution_id": late.execution_id,
                "councilor_id": "scout",
                "scheduled_for": late.scheduled_for,
                "trigger": late.trigger,
                "status": Status.COMPLETED,
                "reason": None,
                "started_at": late.started_at,
            }

        side.ledger.recorded = claim_the_second_slot
        side.come_due(SLOT, late=3 * HALF_HOUR - MINUTE)

        async def is_settled() -> bool:
            return side.jobs.jobs["scout"].next_run_at == SLOT + 3 * HALF_HOUR

        await eventually(is_settled)
        missed, claimed = Status.MISSED, Status.COMPLETED
        assert [(slot, status) for slot, status, _ in side.rows()] == [
            ("12:30", missed),
            ("13:00", claimed),
            ("13:30", missed),
        ]
        assert all(row.get("slots_missed", 1) == 1 for row in side.ledger.rows.values())


async def test_a_late_claim_of_a_slot_that_was_recorded_as_missed_is_taken_back() -> None:
    async with ended(Side()) as side:
        side.promote(catch_up="all")

        def record_stretch() -> None:
            side.ledger.opened = None
            row: dict[str, Any] = {
                "trigger": Trigger.SCHEDULE,
                "status": Status.MISSED,
                "reason": Reason.OUTAGE,
            }
            row |= {"execution_id": "stretch", "councilor_id": "scout", "started_at": None}
            row |= {"scheduled_for": NOON, "last_slot": SLOT + HALF_HOUR}
            side.ledger.rows["stretch"] = row

        side.ledger.opened = record_stretch
        side.come_due(SLOT, late=MINUTE)

        async def is_settled() -> bool:
            return side.jobs.jobs["scout"].next_run_at == SLOT + HALF_HOUR

        await eventually(is_settled)
        assert side.conductor.orders == []
        assert side.rows() == [("12:00", Status.MISSED, Reason.OUTAGE)]


async def test_slots_missed_before_one_that_fell_into_a_pause_have_their_row() -> None:
    async with ended(Side()) as side:
        side.promote()
        fields = dict(side.agents.collection[KEY])
        schedule = {**fields["councilor_config"]["schedule"], "enabled": False}
        config = {**fields["councilor_config"], "schedule": schedule}
        side.clock.now = NOON + 115 * MINUTE
        side.change({**fields, "councilor_config": config})
        side.clock.now = NOON + 122 * MINUTE
        side.change(fields)
        side.come_due(SLOT, late=95 * MINUTE)
        await side.settled(2)
        assert side.rows() == [
            ("12:30", Status.MISSED, Reason.OUTAGE),
            ("14:00", Status.SKIPPED, Reason.PAUSED),
        ]
        assert side.ledger.rows["exec_scout_1795437000000"]["slots_missed"] == 3


async def test_a_clock_that_is_set_back_settles_nothing() -> None:
    async with ended(Side()) as side:
        side.promote()
        side.clock.now = SLOT - 2 * SECOND
        side.settler.fire(Fire(KEY, "scout", SLOT))
        await turned(500)
        assert side.rows() == []
        assert side.jobs.jobs["scout"].next_run_at == SLOT
        side.clock.now = SLOT
        await eventually(lambda: has_run(side))


async def test_a_stretch_whose_confirmation_failed_is_decided_on_again() -> None:
    async with ended(Side()) as side:
        side.promote(catch_up="skip")
        confirmed = side.ledger.confirm

        async def fail_once(not_run: NotRun) -> None:
            side.ledger.confirm = confirmed  # type: ignore[method-assign]
            raise Unavailable("an election")

        side.ledger.confirm = fail_once  # type: ignore[method-assign]
        side.come_due(SLOT, late=3 * HALF_HOUR - MINUTE)

        async def is_final() -> bool:
            return [row.get("provisional") for row in side.ledger.rows.values()] == [None]

        await eventually(is_final)


async def test_a_slot_that_was_held_back_has_its_row_though_its_schedule_is_edited() -> None:
    async with ended(Side()) as side:
        side.promote()
        trouble = Failure(Reason.CONDUCTOR_UNAVAILABLE, "cannot connect", is_down=True)
        for _ in range(3):
            side.parts.breaker.saw(Answer(None, trouble))
        side.come_due(SLOT)
        await turned()
        side.promote(value="7m")
        side.settler.job_changed("scout")
        side.clock.advance(MINUTE)
        side.parts.breaker.saw(Answer("well"))

        async def is_told() -> bool:
            return ("12:30", Status.MISSED, Reason.CONDUCTOR_UNAVAILABLE) in side.rows()

        await eventually(is_told)


async def test_a_run_that_goes_on_keeps_its_row_though_its_schedule_is_edited() -> None:
    async with ended(Side()) as side:
        side.promote()
        side.conductor.released.clear()
        opened = side.ledger.open

        async def open_and_edit(execution: Execution) -> Claim:
            claim = await opened(execution)
            side.promote(value="7m")
            side.settler.job_changed("scout")
            return claim

        side.ledger.open = open_and_edit  # type: ignore[method-assign]
        side.come_due(SLOT)
        await side.settled(1)
        assert side.rows() == [("12:30", Status.RUNNING, None)]
        side.conductor.released.set()
        await eventually(lambda: has_run(side))


async def test_a_slot_between_two_that_have_rows_gets_its_own() -> None:
    """Its replica died before it was settled, and the next one was on time again."""
    async with ended(Side()) as side:
        side.promote(catch_up="skip")
        for minutes in (30, 90):
            run = run_of(minutes=minutes, owner="replica-2")
            await side.ledger.open(run)
            await side.ledger.close(run, None, interrupted(run, SLOT, "gone"))
        side.come_due(SLOT, late=3 * HALF_HOUR - MINUTE)

        async def is_settled() -> bool:
            return side.jobs.jobs["scout"].next_run_at == SLOT + 3 * HALF_HOUR

        await eventually(is_settled)
        assert [(slot, reason) for slot, _, reason in side.rows()] == [
            ("12:30", Reason.INTERRUPTED),
            ("13:00", Reason.OUTAGE),
            ("13:30", Reason.INTERRUPTED),
        ]
