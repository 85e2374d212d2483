"""Slots that come due at the same time: looked at, claimed and begun together, and lost never."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.domain.execution import Claim, Execution, Fire, Reason, Status, Trigger
from service.domain.jobs import AgentDocument, Past
from service.domain.planning import Put, desired_job, plan
from service.ports import Refused, ServiceError, Unavailable
from tests.contract.test_agents import councilor
from tests.fakes import NOON
from tests.side import HALF_HOUR, POLICY
from tests.steps import eventually, turned, turned_until
from tests.unit.test_settler import Side, ended

MANY = [f"agent {number:03}" for number in range(300)]


def due(side: Side, agent_id: str) -> None:
    """Let an agent's next slot come due."""
    job = side.jobs.jobs[agent_id]
    assert job.next_run_at is not None
    side.clock.now = max(side.clock.now, job.next_run_at)
    side.settler.fire(Fire(job.key, agent_id, job.next_run_at))


def asked_together(side: Side) -> list[int]:
    """How many claims each write of the ledger holds, from now on."""
    sizes: list[int] = []
    open_all = side.ledger.open_all

    async def counted(executions: Sequence[Execution]) -> Sequence[Claim | ServiceError]:
        sizes.append(len(executions))
        return await open_all(executions)

    side.ledger.open_all = counted  # type: ignore[method-assign]
    return sizes


def is_over(side: Side, rows: int) -> bool:
    return len(side.ledger.rows) == rows and all(
        row["status"] != Status.RUNNING for row in side.ledger.rows.values()
    )


async def test_many_slots_take_few_commands_and_one_run_each() -> None:
    async with ended(Side(max_concurrent=400)) as side:
        for agent_id in MANY:
            side.promote(agent_id)
        sizes = asked_together(side)
        for agent_id in MANY:
            due(side, agent_id)
        await turned_until(lambda: is_over(side, len(MANY)))
        await turned()
        assert sum(sizes) == len(MANY)
        assert len(sizes) <= 3
        assert len({order.execution_id for order in side.conductor.orders}) == len(MANY)
        assert len(side.conductor.orders) == len(MANY)
        assert {side.jobs.jobs[name].next_run_at for name in MANY} == {NOON + 2 * HALF_HOUR}


async def test_more_slots_than_places_all_run_as_places_get_free() -> None:
    async with ended(Side(max_concurrent=7)) as side:
        side.conductor.released.clear()
        for agent_id in MANY:
            side.promote(agent_id)
            due(side, agent_id)
        await eventually(lambda: _is(len(side.conductor.orders) >= 7))
        await turned(500)
        assert len(side.conductor.orders) == 7
        side.conductor.released.set()
        await eventually(lambda: _is(is_over(side, len(MANY))))
        assert {row["status"] for row in side.ledger.rows.values()} == {Status.COMPLETED}


async def test_what_is_off_among_many_is_skipped_and_keeps_nobody_from_running() -> None:
    async with ended(Side()) as side:
        for agent_id in ("a", "b", "c", "d"):
            side.promote(agent_id)
        paused = councilor("b")
        paused["councilor_config"]["schedule"]["enabled"] = False
        side.agents.change("b", paused)
        side.agents.change("c", None)
        for agent_id in ("a", "b", "c", "d"):
            due(side, agent_id)
        await turned_until(lambda: is_over(side, 4))
        said = {row["councilor_id"]: row["reason"] for row in side.ledger.rows.values()}
        assert said == {"a": None, "b": Reason.PAUSED, "c": Reason.DELETED, "d": None}


async def test_what_was_paused_when_its_slot_came_does_not_run_late_among_others() -> None:
    async with ended(Side()) as side:
        for agent_id in ("a", "b"):
            side.promote(agent_id)
        paused = councilor("b")
        paused["councilor_config"]["schedule"]["enabled"] = False
        side.clock.now = NOON + HALF_HOUR - timedelta(minutes=1)
        side.agents.change("b", paused)
        side.clock.now = NOON + HALF_HOUR + timedelta(seconds=1, milliseconds=500)
        side.agents.change("b", councilor("b"))
        side.clock.now = NOON + HALF_HOUR + timedelta(seconds=2)
        for agent_id in ("a", "b"):
            due(side, agent_id)
        await turned_until(lambda: is_over(side, 2))
        said = {row["councilor_id"]: row["reason"] for row in side.ledger.rows.values()}
        assert said == {"a": None, "b": Reason.PAUSED}


@pytest.mark.parametrize(
    ("slot", "pause", "is_off"),
    [
        pytest.param(0, (-60, 0.5), True, id="a pause over a slot on the second"),
        pytest.param(0, (0.3, 1.5), False, id="a pause after it"),
        pytest.param(0, (-60, -1), False, id="a pause before it"),
        pytest.param(0.4, (-60, 1.5), True, id="a pause over a slot between two seconds"),
        pytest.param(0.4, (-60, 0.2), True, id="one that ended in the same second, as it may be"),
        pytest.param(0.4, (0.2, 1.5), True, id="one that began in the same second"),
        pytest.param(0.4, (-60, -1), False, id="one before it"),
        pytest.param(0.4, (1.2, 1.8), False, id="one after it"),
    ],
)
@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_late_slot_is_held_against_the_seconds_around_it(
    slot: float, pause: tuple[float, float], is_off: bool, is_alone: bool
) -> None:
    """The document is on again when the slot is settled, two seconds late."""
    due_at = NOON + HALF_HOUR
    async with ended(Side()) as side:
        side.promote("a")
        off = councilor("a")
        off["councilor_config"]["schedule"]["enabled"] = False
        for seconds, document in zip(pause, (off, councilor("a")), strict=True):
            side.clock.now = due_at + timedelta(seconds=seconds)
            side.agents.change("a", document)
        side.clock.now = due_at + timedelta(seconds=2)
        at = due_at + timedelta(seconds=slot)
        case = await side.parts.cases.look(Fire(side.jobs.jobs["a"].key, "a", at))
        said = await side.parts.cases.was_off(case, at) if is_alone else None
        (said_together,) = await side.parts.cases.were_off([(case, at)])
        assert (said_together, said) == (is_off, is_off if is_alone else None)


async def test_a_claim_of_many_that_seemed_lost_or_is_refused_costs_no_other() -> None:
    async with ended(Side()) as side:
        for agent_id in ("a", "lost", "refused", "d"):
            side.promote(agent_id)
        opened, lost = side.ledger.open, set[str]()

        async def odd(execution: Execution) -> Claim:
            if execution.agent_id == "refused":
                raise Refused("by a validator")
            claim = await opened(execution)
            if execution.agent_id == "lost" and not lost:
                lost.add(execution.agent_id)
                raise Unavailable("the answer was lost")
            return claim

        side.ledger.open = odd  # type: ignore[method-assign]
        for agent_id in ("a", "lost", "refused", "d"):
            due(side, agent_id)
        await eventually(lambda: _is(is_over(side, 3) and not side.settler._tasks))
        assert sorted(order.agent_id for order in side.conductor.orders) == ["a", "d", "lost"]
        assert side.jobs.jobs["refused"].next_run_at == NOON + 2 * HALF_HOUR


async def _is(value: bool) -> bool:
    return value


async def test_what_cannot_be_read_together_is_tried_again_one_by_one() -> None:
    async with ended(Side()) as side:
        for agent_id in ("a", "b"):
            side.promote(agent_id)
            due(side, agent_id)
        side.agents.outage.is_on = True
        await turned()
        assert side.ledger.rows == {}
        side.agents.outage.is_on = False
        await eventually(lambda: _is(is_over(side, 2)))
        assert len(side.conductor.orders) == 2


async def test_a_slot_that_comes_due_as_the_settling_of_another_ends_is_not_lost() -> None:
    """The reviewer's finding: in the same round of the loop, before the task is done."""
    async with ended(Side(rank=lambda _: 1)) as side:
        side.promote()
        of_agent, done = side.jobs.of_agent, list[bool]()

        def next_one() -> None:
            side.clock.now = NOON + 2 * HALF_HOUR
            due(side, "scout")

        def looked(agent_id: str) -> Any:
            job = of_agent(agent_id)
            if not done and job is not None and job.next_run_at == NOON + 2 * HALF_HOUR:
                done.append(True)  # the last step of settling the first one
                asyncio.get_running_loop().call_soon(next_one)
            return job

        side.jobs.of_agent = looked  # type: ignore[method-assign]
        side.come_due(NOON + HALF_HOUR, late=timedelta(seconds=2))
        await eventually(lambda: _is(is_over(side, 2)))
        assert [slot for slot, _, _ in side.rows()] == ["12:30", "13:00"]


async def test_a_fault_while_a_slot_is_handed_over_does_not_shut_its_agent_out() -> None:
    faults = [RuntimeError("once")]

    def rank(_: str) -> int:
        if faults:
            raise faults.pop()
        return 0

    async with ended(Side(rank=rank)) as side:
        side.promote()
        with pytest.raises(RuntimeError):
            side.come_due(NOON + HALF_HOUR)
        side.come_due(NOON + HALF_HOUR)
        await turned_until(lambda: is_over(side, 1))


async def test_a_slot_that_was_won_needs_no_second_place_when_its_job_goes() -> None:
    async with ended(Side(max_concurrent=1)) as side:
        side.promote()
        side.conductor.released.clear()

        def gone() -> None:
            side.jobs.jobs.pop("scout")
            side.settler.job_changed("scout")

        side.ledger.opened = gone
        side.come_due(NOON + HALF_HOUR)
        await turned_until(lambda: len(side.conductor.orders) == 1)
        await turned()
        assert side.settler._schedules == {}, "a slot of a new schedule would not be settled"


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_slot_that_is_due_next_waits_while_its_acceptance_is_a_guess(rank: int) -> None:
    """It may still move; the job table hands it over as soon as it is known not to."""
    async with ended(Side(rank=lambda _: rank)) as side:
        side.promote()

        def edited() -> None:
            side.jobs.jobs["scout"] = replace(side.jobs.jobs["scout"], is_assumed=True)
            side.clock.now = NOON + 2 * HALF_HOUR

        side.ledger.opened = edited
        side.come_due(NOON + HALF_HOUR, late=timedelta(seconds=2 * rank))
        await turned_until(lambda: is_over(side, 1))
        await turned()
        assert [slot for slot, _, _ in side.rows()] == ["12:30"]
        assert side.settler._schedules == {}


@pytest.mark.parametrize("before", [0, 3, 9])
async def test_a_slot_whose_schedule_changes_while_it_waits_for_a_place_says_capacity(
    before: int,
) -> None:
    running = [f"running {number}" for number in range(4)]
    waiting = [f"waiting {number}" for number in range(before)]
    async with ended(Side(max_concurrent=4)) as side:
        side.conductor.released.clear()
        for agent_id in (*running, *waiting, "edited"):
            side.promote(agent_id)
            due(side, agent_id)
            await turned()
        side.clock.advance(timedelta(seconds=60))
        fields = councilor("edited", "45m")
        document = AgentDocument(side.agents.change("edited", fields), fields)
        (put,) = plan(
            desired_job(document, POLICY), None, Past(accepted_at=side.clock.now), side.clock.now
        )
        assert isinstance(put, Put)
        side.jobs.put(put.job)
        side.settler.job_changed("edited")
        side.conductor.released.set()
        await eventually(lambda: _is(is_over(side, 5 + before)))
        rows = [row for row in side.ledger.rows.values() if row["councilor_id"] == "edited"]
        assert [(row["status"], row["reason"]) for row in rows] == [
            (Status.MISSED, Reason.CAPACITY)
        ]


async def test_a_slow_take_over_makes_no_claim_beside_it_begin_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("service.cases.monotonic", lambda: now[0])
    monkeypatch.setattr("service.claims.monotonic", lambda: now[0])
    async with ended(Side()) as side:
        for agent_id in ("a", "b"):
            side.promote(agent_id)
        side.clock.now = slot = NOON + HALF_HOUR
        cases = {}
        for agent_id in ("a", "b"):
            fire = Fire(side.jobs.jobs[agent_id].key, agent_id, slot)
            cases[agent_id] = await side.parts.cases.look(fire)
            await side.runner.take_place()
        ours = side.parts.cases.launch(cases["a"], slot, Trigger.SCHEDULE, None)
        theirs = side.parts.cases.launch(cases["b"], slot, Trigger.SCHEDULE, None).execution
        orphan = replace(theirs, owner="dead", nonce="of the dead")

        async def slowly(orphan: Execution, execution: Execution) -> bool:
            now[0] += 2.5
            return False

        side.ledger.take_over = slowly  # type: ignore[method-assign]
        resumed = side.parts.cases.resumption(cases["b"], orphan, None)
        claim, taken_over = await side.runner.start_all([ours, resumed])
        assert isinstance(claim, Unavailable)
        assert taken_over is Claim.TAKEN
        assert side.runner.claims.is_doubtful(ours.execution.execution_id)
        await turned()
        assert side.conductor.orders == []


def make_flaky(side: Side, chance: random.Random) -> None:
    """Let everything take its time, fail before it is done, or after."""
    parts: list[tuple[Any, str]] = [
        (side.ledger, name) for name in ("open", "close", "covering", "record")
    ]
    parts += [(side.agents, name) for name in ("look", "as_of")]
    for part, name in parts:
        done = getattr(part, name)

        async def flaky(*asked: Any, _done: Any = done) -> Any:
            await turned(chance.randrange(4))
            if chance.random() < 0.08:
                raise Unavailable("before it was done")
            answer = await _done(*asked)
            if chance.random() < 0.06:
                raise Unavailable("after it was done")
            return answer

        setattr(part, name, flaky)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_fails_every_slot_has_its_row_and_every_place_comes_back(seed: int) -> None:
    chance = random.Random(seed)
    names = MANY[:8]
    async with ended(Side(max_concurrent=3)) as side:
        for agent_id in names:
            side.promote(agent_id, overlap=chance.choice(["skip", "queue_one"]))
        make_flaky(side, chance)
        for half_hours in (1, 2, 3):
            side.clock.now = NOON + half_hours * HALF_HOUR
            for agent_id in names:
                if side.jobs.jobs[agent_id].next_run_at == side.clock.now:
                    due(side, agent_id)
                await turned(chance.choice([0, 0, 3]))
            await eventually(
                lambda: _is(not side.settler._schedules and not side.runner.executions)
            )
            assert await side.runner.take_places(10) == 3
            for _ in range(3):
                side.runner.give_place_back()
        assert is_over(side, 3 * len(names))
        ids = [order.execution_id for order in side.conductor.orders]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("seed", range(25))
async def test_stopped_at_any_time_nothing_is_begun_later_and_no_row_is_left_open(
    seed: int,
) -> None:
    chance = random.Random(seed)
    async with ended(Side(max_concurrent=3)) as side:
        make_flaky(side, chance)
        for agent_id in MANY[:8]:
            side.promote(agent_id)
            due(side, agent_id)
            await turned(chance.choice([0, 0, 3]))
        await turned(chance.randrange(60))
        await side.settler.stop()
        await side.runner.drain(timedelta(seconds=5))
        begun = len(side.conductor.orders)
        await turned()
        assert len(side.conductor.orders) == begun
        assert side.runner.executions == set()
