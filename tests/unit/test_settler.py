"""The settler and the runner on fakes: what becomes of a slot that came due."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.adapters.mongo.keys import key_of
from service.domain.councilor import DocumentKey
from service.domain.execution import Claim, Execution, Fire, Outcome, Reason, Status, Trigger
from service.domain.jobs import AgentDocument, Desired, Past
from service.domain.planning import Put, desired_job, plan
from service.domain.severity import Severity
from service.pace import Pace
from service.ports import Answer, Failure, Refused, Unavailable
from tests.contract.test_agents import councilor
from tests.fakes import (
    NOON,
    FakeClock,
    FakeConductor,
    FakeJobTable,
    FakeLedger,
)
from tests.side import HALF_HOUR, POLICY, Parts
from tests.steps import eventually, going, turned, turned_until

KEY = key_of(1)
LONG_AGO = NOON - timedelta(days=9_999)


class Side:
    """A settler and a runner that have been up since noon, and a councilor accepted at noon."""

    def __init__(self, **options: Any) -> None:
        self.jobs = FakeJobTable()
        self.clock, self.ledger, self.conductor = FakeClock(), FakeLedger(), FakeConductor()
        self.parts = Parts(self.jobs, self.clock, self.ledger, self.conductor, **options)
        self.agents, self.runner = self.parts.agents, self.parts.runner
        self.settler, self.faults = self.parts.settler, self.parts.faults

    def promote(self, agent_id: str = "scout", **schedule: object) -> None:
        fields = councilor(agent_id)
        fields["councilor_config"]["schedule"] |= schedule
        key = self.agents.change(1 if agent_id == "scout" else agent_id, fields)
        desired = desired_job(AgentDocument(key, fields), POLICY)
        assert isinstance(desired, Desired)
        (put,) = plan(desired, None, Past(accepted_at=NOON), NOON)
        assert isinstance(put, Put)
        self.jobs.put(put.job)

    def change(self, fields: dict[str, Any] | None) -> None:
        self.agents.change(1, fields)

    def come_due(self, slot: datetime, late: timedelta = timedelta(0)) -> None:
        self.clock.now = max(self.clock.now, slot + late)
        job = self.jobs.jobs["scout"]
        self.settler.fire(Fire(job.key, "scout", job.next_run_at or slot))

    def request(self, at: datetime) -> None:
        self.settler.fire(Fire(KEY, "scout", at, Trigger.MANUAL))

    def rows(self) -> list[tuple[str, Any, Any]]:
        """Slot, status and reason, oldest slot first."""
        return [
            (f"{row['scheduled_for']:%H:%M}", row["status"], row["reason"])
            for row in sorted(self.ledger.rows.values(), key=lambda row: row["scheduled_for"])
        ]

    async def settled(self, rows: int) -> None:
        async def is_settled() -> bool:
            return len(self.ledger.rows) >= rows and not self.settler._tasks

        await eventually(is_settled)


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with ended(Side()) as side:
        side.promote()
        yield side


@asynccontextmanager
async def ended(side: Side) -> AsyncIterator[Side]:
    yield side
    side.ledger.outage.is_on = side.agents.outage.is_on = False
    side.conductor.released.set()
    await side.settler.stop()
    await side.runner.drain(timedelta(seconds=5))
    assert side.faults == []


async def all_ended(side: Side) -> None:
    await turned_until(
        lambda: all(row["status"] != Status.RUNNING for row in side.ledger.rows.values())
    )
    await turned()


async def test_a_slot_becomes_a_completed_row(side: Side) -> None:
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    assert side.rows() == [("12:30", Status.COMPLETED, None)]
    (order,) = side.conductor.orders
    assert (order.execution_id, order.task.prompt) == ("exec_scout_1795437000000", "look around")
    assert side.ledger.counted == [("scout", Severity.SUCCESS)]
    assert side.jobs.jobs["scout"].next_run_at == NOON + 2 * HALF_HOUR


async def test_the_same_slot_runs_once(side: Side) -> None:
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    side.settler.fire(Fire(KEY, "scout", NOON + HALF_HOUR))
    await turned()
    assert len(side.conductor.orders) == 1


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        pytest.param(None, Reason.DELETED, id="deleted"),
        pytest.param({"agent_id": "scout"}, Reason.DEMOTED, id="demoted"),
        pytest.param(councilor("other"), Reason.DELETED, id="renamed"),
        pytest.param(councilor(value="0m"), Reason.INVALID, id="invalid"),
    ],
)
async def test_what_is_no_longer_desired_does_not_start_and_says_why(
    side: Side, now: dict[str, Any] | None, reason: Reason
) -> None:
    """The reconciler has not heard of it yet: the document is read again before the claim."""
    side.change(now)
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    assert side.rows() == [("12:30", Status.SKIPPED, reason)]
    assert side.conductor.orders == []


async def test_a_pause_that_the_timer_has_not_heard_of_holds(side: Side) -> None:
    paused = councilor()
    paused["councilor_config"]["schedule"]["enabled"] = False
    side.change(paused)
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    assert side.rows() == [("12:30", Status.SKIPPED, Reason.PAUSED)]


async def test_an_edit_never_fires_the_past(side: Side) -> None:
    side.change(councilor(value="45m"))
    side.come_due(NOON + HALF_HOUR)
    await turned()
    assert (side.rows(), side.conductor.orders) == ([], [])


async def test_the_prompt_is_read_when_the_run_starts(side: Side) -> None:
    edited = councilor()
    edited["councilor_config"]["task"]["prompt"] = "look twice"
    side.change(edited)
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    assert side.conductor.orders[0].task.prompt == "look twice"


async def test_an_overlap_is_skipped_and_recorded(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    side.come_due(NOON + 2 * HALF_HOUR)
    await side.settled(2)
    assert side.rows()[1] == ("13:00", Status.SKIPPED, Reason.OVERLAP)


async def test_one_slot_waits_and_those_behind_it_are_skipped() -> None:
    async with ended(Side()) as side:
        side.promote(overlap="queue_one")
        side.conductor.released.clear()
        side.come_due(NOON + HALF_HOUR)
        await side.settled(1)
        side.come_due(NOON + 2 * HALF_HOUR)
        await turned()
        side.come_due(NOON + 3 * HALF_HOUR)
        await turned()
        assert side.rows() == [("12:30", Status.RUNNING, None)]
        side.conductor.released.set()
        await side.settled(3)
        await all_ended(side)
        assert side.rows() == [
            ("12:30", Status.COMPLETED, None),
            ("13:00", Status.COMPLETED, None),
            ("13:30", Status.SKIPPED, Reason.OVERLAP),
        ]


async def test_a_slot_that_waits_has_its_row_though_the_schedule_is_edited() -> None:
    async with ended(Side()) as side:
        side.promote(overlap="queue_one")
        side.conductor.released.clear()
        side.come_due(NOON + HALF_HOUR)
        await side.settled(1)
        side.come_due(NOON + 2 * HALF_HOUR)
        await turned()
        side.promote(overlap="queue_one", value="45m")
        side.conductor.released.set()
        await side.settled(2)
        await all_ended(side)
        assert side.rows() == [
            ("12:30", Status.COMPLETED, None),
            ("13:00", Status.SKIPPED, Reason.OVERLAP),
        ]


async def test_slots_of_an_outage_become_one_row_and_the_latest_runs(side: Side) -> None:
    side.come_due(NOON + HALF_HOUR, late=5 * HALF_HOUR + timedelta(minutes=10))
    await side.settled(2)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.MISSED, Reason.OUTAGE),
        ("15:00", Status.COMPLETED, None),
    ]
    stretch = side.ledger.rows["exec_scout_1795437000000"]
    assert (stretch["slots_missed"], f"{stretch['last_slot']:%H:%M}") == (5, "14:30")
    assert side.ledger.rows["exec_scout_1795446000000"]["trigger"] == Trigger.CATCH_UP


async def test_slots_that_have_rows_are_not_recorded_again(side: Side) -> None:
    """After a crash the projection may be behind the ledger."""
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    job = side.jobs.jobs["scout"]
    side.jobs.put(replace(job, next_run_at=NOON + HALF_HOUR))
    side.come_due(NOON + HALF_HOUR, late=2 * HALF_HOUR + timedelta(minutes=1))
    await side.settled(3)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.COMPLETED, None),
        ("13:00", Status.MISSED, Reason.OUTAGE),
        ("13:30", Status.COMPLETED, None),
    ]


async def test_all_missed_slots_run_one_after_the_other_where_wanted() -> None:
    async with ended(Side()) as side:
        side.promote(catch_up="all")
        side.come_due(NOON + HALF_HOUR, late=2 * HALF_HOUR + timedelta(minutes=1))
        await side.settled(3)
        await all_ended(side)
        assert [row[:2] for row in side.rows()] == [
            ("12:30", Status.COMPLETED),
            ("13:00", Status.COMPLETED),
            ("13:30", Status.COMPLETED),
        ]


class Gate(Pace):
    """Lets nobody through until it is opened; knows how many wait."""

    def __init__(self) -> None:
        super().__init__(timedelta(0))
        self.opened = asyncio.Event()
        self.waiting = 0

    async def turn(self) -> None:
        self.waiting += 1
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1


async def test_turns_come_one_after_the_other_with_a_distance() -> None:
    pace, loop, times = Pace(timedelta(milliseconds=20)), asyncio.get_running_loop(), list[float]()
    began = loop.time()

    async def take() -> None:
        await pace.turn()
        times.append(loop.time())

    await asyncio.gather(*(take() for _ in range(4)))
    assert times == sorted(times)
    assert times[-1] - began >= 0.059


async def test_a_late_run_waits_for_its_turn_without_holding_a_place() -> None:
    gate = Gate()
    async with ended(Side(max_concurrent=1, pace=gate)) as side:
        side.promote()
        side.come_due(NOON + HALF_HOUR, late=timedelta(minutes=5))
        await turned_until(lambda: gate.waiting)
        assert side.rows() == []
        assert not side.runner.is_full
        gate.opened.set()
        await side.settled(1)
        await all_ended(side)
        assert side.rows() == [("12:30", Status.COMPLETED, None)]
        assert not side.runner.is_full


async def test_a_pause_while_a_late_run_waits_for_its_turn_holds() -> None:
    gate = Gate()
    async with ended(Side(pace=gate)) as side:
        side.promote()
        side.come_due(NOON + HALF_HOUR, late=timedelta(minutes=5))
        await turned_until(lambda: gate.waiting)
        paused = councilor()
        paused["councilor_config"]["schedule"]["enabled"] = False
        side.change(paused)
        gate.opened.set()
        await side.settled(1)
        assert side.rows() == [("12:30", Status.SKIPPED, Reason.PAUSED)]
        assert side.conductor.orders == []


async def test_a_slot_that_is_on_time_comes_before_a_late_one_whose_turn_has_not_come() -> None:
    """And what was missed before it is one stretch, whatever was decided at first."""
    gate = Gate()
    async with ended(Side(pace=gate)) as side:
        side.promote()
        almost = timedelta(milliseconds=5)
        side.come_due(NOON + HALF_HOUR, late=4 * HALF_HOUR - almost)
        await turned_until(lambda: gate.waiting)
        side.clock.advance(almost)
        await eventually(lambda: asyncio.sleep(0, len(side.ledger.rows) == 2))
        await all_ended(side)
        assert side.rows() == [
            ("12:30", Status.MISSED, Reason.OUTAGE),
            ("14:30", Status.COMPLETED, None),
        ]
        assert side.ledger.rows["exec_scout_1795437000000"]["slots_missed"] == 4


async def test_stopping_while_a_late_run_waits_leaves_its_slot_open() -> None:
    gate = Gate()
    async with ended(Side(pace=gate)) as side:
        side.promote()
        side.come_due(NOON + HALF_HOUR, late=timedelta(minutes=5))
        await turned_until(lambda: gate.waiting)
        await side.settler.stop()
        assert (side.rows(), gate.waiting, side.runner.is_full) == ([], 0, False)
        assert side.jobs.jobs["scout"].next_run_at == NOON + HALF_HOUR


def theirs(slot: datetime) -> Execution:
    """A run of another replica's."""
    return Execution(
        execution_id=f"exec_scout_{slot.timestamp():.0f}000",
        agent_id="scout",
        scheduled_for=slot,
        trigger=Trigger.SCHEDULE,
        spec_hash="",
        owner="replica-2",
        nonce="theirs",
        started_at=slot,
    )


async def test_late_slots_are_left_to_the_replica_that_runs_the_agent() -> None:
    """One of them may wait there for the end of that run: nothing was missed."""
    async with ended(Side(serving_since=LONG_AGO)) as side:
        side.promote(overlap="queue_one", catch_up="skip")
        first, second = NOON + HALF_HOUR, NOON + 2 * HALF_HOUR
        assert await side.ledger.open(theirs(first)) is Claim.WON
        side.come_due(second, late=timedelta(minutes=5))
        await turned()
        assert side.rows() == [("12:30", Status.RUNNING, None)]
        side.ledger.rows[theirs(first).execution_id]["status"] = Status.COMPLETED
        assert await side.ledger.open(theirs(second)) is Claim.WON
        side.ledger.rows[theirs(second).execution_id]["status"] = Status.COMPLETED
        await eventually(lambda: asyncio.sleep(0, not side.settler._tasks))
        assert [row[:2] for row in side.rows()] == [
            ("12:30", Status.COMPLETED),
            ("13:00", Status.COMPLETED),
        ]


async def test_a_slot_that_another_replica_was_there_for_was_not_missed() -> None:
    """A replica that joins starts it, where the other has not: on time is on time."""
    async with ended(Side(serving_since=LONG_AGO)) as side:
        side.promote(catch_up="skip")
        side.come_due(NOON + HALF_HOUR, late=timedelta(seconds=2))
        await side.settled(1)
        await all_ended(side)
        (row,) = side.ledger.rows.values()
        assert (row["trigger"], row["status"]) == (Trigger.SCHEDULE, Status.COMPLETED)


async def test_a_run_that_was_asked_for_runs_once_even_while_paused(side: Side) -> None:
    paused = councilor()
    paused["councilor_config"]["schedule"]["enabled"] = False
    side.change(paused)
    side.request(NOON)
    await side.settled(1)
    await all_ended(side)
    side.request(NOON)
    await turned()
    (row,) = side.ledger.rows.values()
    assert (row["execution_id"], row["trigger"]) == (
        "exec_scout_1795435200000_manual",
        Trigger.MANUAL,
    )
    assert len(side.conductor.orders) == 1


@pytest.mark.parametrize(
    ("age", "fields", "ending"),
    [
        pytest.param(61, councilor(), (Status.MISSED, Reason.STALE), id="too old"),
        pytest.param(0, {"agent_id": "scout"}, (Status.SKIPPED, Reason.DEMOTED), id="demoted"),
        pytest.param(0, councilor(value="0m"), (Status.SKIPPED, Reason.INVALID), id="invalid"),
    ],
)
async def test_a_request_that_cannot_run_is_recorded(
    side: Side, age: int, fields: dict[str, Any], ending: tuple[Status, Reason]
) -> None:
    side.change(fields)
    side.request(NOON - timedelta(minutes=age))
    await side.settled(1)
    assert [row[1:] for row in side.rows()] == [ending]
    assert side.conductor.orders == []


async def test_a_request_older_than_the_ledger_remembers_is_left_alone(side: Side) -> None:
    """Its row has expired: it was answered when it was new."""
    side.request(NOON - timedelta(days=91))
    side.request(NOON - timedelta(days=89))
    await side.settled(1)
    assert [row["reason"] for row in side.ledger.rows.values()] == [Reason.STALE]


async def test_a_request_waits_for_the_end_of_the_run(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    side.request(side.clock())
    await turned()
    assert len(side.conductor.orders) == 1
    side.conductor.released.set()
    await turned_until(lambda: len(side.conductor.orders) == 2)


async def test_nothing_starts_while_the_database_is_away_and_the_slot_is_not_lost(
    side: Side,
) -> None:
    side.ledger.outage.is_on = True
    side.come_due(NOON + HALF_HOUR)
    await turned()
    assert side.conductor.orders == []
    side.ledger.outage.is_on = False
    async with asyncio.timeout(5):
        await side.conductor.called.wait()


async def test_no_more_runs_than_places_and_the_waiting_slot_is_not_claimed() -> None:
    async with ended(Side(max_concurrent=1)) as side:
        side.promote()
        side.promote("other")
        side.conductor.released.clear()
        side.come_due(NOON + HALF_HOUR)
        await turned()
        side.settler.fire(Fire(key_of("other"), "other", NOON + HALF_HOUR))
        await turned()
        assert len(side.ledger.rows) == 1
        side.conductor.released.set()
        await turned_until(lambda: len(side.conductor.orders) == 2)


@pytest.mark.parametrize(
    ("answer", "status", "severity", "reason"),
    [
        (Answer("fine"), Status.COMPLETED, Severity.SUCCESS, None),
        (Answer("SEVERITY: warning"), Status.COMPLETED, Severity.WARNING, None),
        (
            Answer("3 errors", Failure(Reason.FAILED, "it broke")),
            Status.ERROR,
            Severity.ERROR,
            Reason.FAILED,
        ),
        (RuntimeError("a fault of ours"), Status.ERROR, Severity.ERROR, Reason.INTERNAL),
    ],
)
async def test_every_ending_is_recorded_as_what_it_is(
    side: Side, answer: Answer | Exception, status: Status, severity: Severity, reason: Reason
) -> None:
    side.conductor.answer = answer
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    (row,) = side.ledger.rows.values()
    assert (row["status"], row["severity"], row["reason"]) == (status, severity, reason)


async def test_a_large_output_is_cut_between_characters(side: Side) -> None:
    side.conductor.answer = Answer("é" * 80)
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    (row,) = side.ledger.rows.values()
    assert row["output"] == "é" * 50


async def test_draining_lets_runs_end_and_starts_nothing(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await side.settler.stop()
    side.come_due(NOON + 2 * HALF_HOUR)
    draining = asyncio.create_task(side.runner.drain(timedelta(seconds=5)))
    await turned()
    side.conductor.released.set()
    await draining
    assert side.rows() == [("12:30", Status.COMPLETED, None)]


async def test_a_run_that_outlasts_the_drain_is_recorded_as_interrupted(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    with capture_logs() as logs:
        await side.runner.drain(timedelta(0))
    assert side.rows() == [("12:30", Status.ERROR, Reason.INTERRUPTED)]
    assert [log["event"] for log in logs] == ["drain_started", "run_failed"]


async def test_a_result_that_comes_too_late_is_refused(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    (row,) = side.ledger.rows.values()
    row["owner"] = "whoever closed it"
    with capture_logs() as logs:
        side.conductor.released.set()
        await turned()
    assert "run_result_refused" in [log["event"] for log in logs]
    assert side.ledger.counted == []


@pytest.mark.parametrize("is_ours", [True, False])
async def test_a_failure_is_told_where_it_was_recorded_and_nowhere_else(
    side: Side, is_ours: bool
) -> None:
    """Whoever closed the row of a replica that only slept has told how it ended."""
    side.conductor.answer = Answer(None, Failure(Reason.FAILED, "no such tool"))
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    (row,) = side.ledger.rows.values()
    if not is_ours:
        row["owner"] = "whoever closed it"
    async with going(side.parts.notifier.deliver()):
        side.conductor.released.set()
        await turned(500)
        assert [*side.parts.stored.documents] == ([row["execution_id"]] if is_ours else [])


async def test_a_result_outlives_a_hiccup_of_the_database_while_draining(side: Side) -> None:
    side.conductor.released.clear()
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await side.settler.stop()
    draining = asyncio.create_task(side.runner.drain(timedelta(seconds=5)))
    await turned()
    side.ledger.outage.is_on = True
    side.conductor.released.set()
    await turned()
    side.ledger.outage.is_on = False
    await draining
    assert side.rows() == [("12:30", Status.COMPLETED, None)]


async def test_a_claim_that_waits_for_the_database_starts_nothing_once_draining(
    side: Side,
) -> None:
    side.ledger.outage.is_on = True
    side.come_due(NOON + HALF_HOUR)
    await turned()
    await side.settler.stop()
    side.ledger.outage.is_on = False
    await side.runner.drain(timedelta(seconds=5))
    assert side.conductor.orders == []


async def test_after_an_outage_of_the_database_the_document_is_read_again(side: Side) -> None:
    """A pause or a deletion meanwhile counts, and so does the time that has gone by."""
    side.ledger.outage.is_on = True
    side.come_due(NOON + HALF_HOUR)
    await turned()
    side.change(None)
    side.ledger.outage.is_on = False

    async def recorded() -> bool:
        return bool(side.ledger.rows)

    await eventually(recorded)
    assert side.rows() == [("12:30", Status.SKIPPED, Reason.DELETED)]
    assert side.conductor.orders == []


async def test_a_claim_that_seemed_lost_is_known_again_and_runs_once(side: Side) -> None:
    opened = side.ledger.open

    async def open_and_say_nothing(execution: Execution) -> Claim:
        await opened(execution)
        side.ledger.open = opened  # type: ignore[method-assign]
        raise Unavailable("the answer was lost")

    side.ledger.open = open_and_say_nothing  # type: ignore[method-assign]
    side.come_due(NOON + HALF_HOUR)
    async with asyncio.timeout(5):
        await side.conductor.called.wait()
    await all_ended(side)
    assert side.rows() == [("12:30", Status.COMPLETED, None)]
    assert len(side.conductor.orders) == 1


async def test_a_claim_that_seemed_lost_does_not_stand_in_the_way_of_a_later_slot(
    side: Side,
) -> None:
    """When the database is back, the slot is one of several that were missed."""
    opened = side.ledger.open

    async def open_and_say_nothing(execution: Execution) -> Claim:
        await opened(execution)
        side.ledger.open = opened  # type: ignore[method-assign]
        side.clock.advance(2 * HALF_HOUR)
        raise Unavailable("the answer was lost")

    side.ledger.open = open_and_say_nothing  # type: ignore[method-assign]
    side.come_due(NOON + HALF_HOUR)
    async with asyncio.timeout(5):
        await side.conductor.called.wait()
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.MISSED, Reason.OUTAGE),
        ("13:30", Status.COMPLETED, None),
    ]


async def test_an_outcome_that_the_ledger_refuses_does_not_block_the_agent(side: Side) -> None:
    closed = side.ledger.close

    async def refuse_once(
        execution: Execution, key: DocumentKey | None, outcome: Outcome, stats: object = None
    ) -> bool:
        side.ledger.close = closed  # type: ignore[method-assign]
        raise Refused("by a validator")

    side.ledger.close = refuse_once  # type: ignore[method-assign]
    side.come_due(NOON + HALF_HOUR)
    await side.settled(1)
    await all_ended(side)
    assert side.rows() == [("12:30", Status.ERROR, Reason.INTERNAL)]


async def test_the_next_slot_may_be_won_while_the_run_before_is_still_being_counted(
    side: Side,
) -> None:
    """A row is closed before it is counted: from then on the agent is free."""
    closed, is_closed, may_go_on = side.ledger.close, asyncio.Event(), asyncio.Event()

    async def close_and_linger(
        execution: Execution, key: DocumentKey | None, outcome: Outcome, stats: object = None
    ) -> bool:
        side.ledger.close = closed  # type: ignore[method-assign]
        answer = await closed(execution, key, outcome, stats)
        is_closed.set()
        await may_go_on.wait()
        return answer

    side.ledger.close = close_and_linger  # type: ignore[method-assign]
    side.come_due(NOON + HALF_HOUR)
    await is_closed.wait()
    side.come_due(NOON + 2 * HALF_HOUR)
    await turned_until(lambda: len(side.conductor.orders) == 2)
    may_go_on.set()
    await all_ended(side)
    assert [row[:2] for row in side.rows()] == [
        ("12:30", Status.COMPLETED),
        ("13:00", Status.COMPLETED),
    ]


async def test_a_start_makes_room_for_the_next_as_soon_as_its_claim_is_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.runner._STARTS_AT_ONCE", 1)
    async with ended(Side()) as side:
        side.promote()
        for turn in (1, 2, 3):
            side.come_due(NOON + turn * HALF_HOUR)
            await side.settled(turn)
            await all_ended(side)
        assert [status for _, status, _ in side.rows()] == [Status.COMPLETED] * 3
        assert not side.runner._starts.locked()
