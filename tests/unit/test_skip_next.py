"""`skip_next`: which slot it takes out, what the verdict says of it, and that it does so once."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.domain.catch_up import DueSlots, due_slots
from service.domain.councilor import DocumentKey
from service.domain.execution import Claim, Reason, Status, Trigger
from service.domain.jobs import AgentDocument, Desired, Job, Past, stored_of
from service.domain.planning import Keep, Put, desired_job, past_of, plan
from service.domain.verdict import is_said, verdict_on
from tests.contract.test_agents import POLICY, councilor
from tests.fakes import NOON
from tests.steps import turned, turned_until
from tests.unit.test_settler import Side, all_ended, ended, theirs

ALMOST = timedelta(seconds=1)
HALF_HOUR, MINUTE, TICK = timedelta(minutes=30), timedelta(minutes=1), timedelta(microseconds=1)
FIRST, SECOND, THIRD, FOURTH = (NOON + n * HALF_HOUR for n in range(1, 5))


def desired_of(**schedule: object) -> Desired:
    fields = councilor()
    fields["councilor_config"]["schedule"] |= {"skip_next": True, **schedule}
    desired = desired_job(AgentDocument(DocumentKey(b"1"), fields), POLICY)
    assert isinstance(desired, Desired)
    return desired


def planned(
    now: datetime, said: datetime | None, current: Job | None = None, **schedule: object
) -> Job:
    """The job of a councilor accepted at noon, whose status says that a slot is taken out."""
    past = Past(accepted_at=NOON, skipped_slot=said)
    (action,) = plan(desired_of(**schedule), current, past, now)
    if isinstance(action, Keep):
        assert current is not None
        return current
    assert isinstance(action, Put)
    return action.job


OPEN = planned(NOON, None, skip_next=False)  # 12:30 comes due, and is not settled for a while
PINS: dict[str, Any] = {
    "the flag is new": ((NOON, None), FIRST),
    "between slots": ((SECOND + MINUTE, None), THIRD),
    "seen before": ((NOON, FIRST), FIRST),
    "it has had its effect": ((SECOND, FIRST), FIRST),
    "it has had its effect long ago": ((FOURTH, FIRST), FIRST),
    "no slot any more: the schedule was edited": ((NOON, FIRST + MINUTE), FIRST),
    "a slot is due: who settles it decides": ((FIRST + ALMOST, None, OPEN), None),
    "a slot has been due for a while": ((FIRST + MINUTE, None, OPEN), SECOND),
    "a slot was due when we started": ((FIRST + MINUTE, None), SECOND),
    "a slot is due, and is the one": ((FIRST + MINUTE, FIRST, OPEN), FIRST),
}


@pytest.mark.parametrize(("given", "expected"), PINS.values(), ids=PINS)
def test_the_slot_that_is_taken_out(given: Any, expected: datetime | None) -> None:
    assert planned(*given).skipped_slot == expected


@pytest.mark.parametrize(
    ("schedule", "said", "expected"),
    [
        pytest.param({"skip_next": False}, FIRST, None, id="the flag is gone"),
        pytest.param({"enabled": False}, None, None, id="a pause has no slots"),
        pytest.param({"enabled": False}, FIRST, FIRST, id="paused after it had its effect"),
        pytest.param({"enabled": False}, FOURTH, None, id="paused before it came"),
        pytest.param({"paused_until": "2026-11-23T15:10"}, FOURTH, None, id="paused until later"),
    ],
)
def test_pauses_and_the_slot_that_is_taken_out(
    schedule: dict[str, Any], said: datetime, expected: datetime | None
) -> None:
    job = planned(SECOND + MINUTE, said, **schedule)
    assert job.skipped_slot == (
        expected or (job.next_run_at if "paused_until" in schedule else None)
    )


def test_an_invalid_interlude_neither_arms_the_flag_again_nor_uses_it_up() -> None:
    assert planned(SECOND, FIRST, value="nonsense").skipped_slot == FIRST
    assert planned(NOON, FIRST, value="nonsense").skipped_slot is None


NEVER_CAME: dict[str, Any] = {
    "the schedule was edited": ({"value": "45m"}, SECOND + MINUTE),
    "a pause was written": ({"paused_until": "2026-11-23T12:45"}, SECOND),
}


@pytest.mark.parametrize(("change", "after"), NEVER_CAME.values(), ids=NEVER_CAME)
def test_a_slot_that_never_came_uses_no_flag_up(change: dict[str, Any], after: datetime) -> None:
    """12:30 was the one, and the service was down over it, with the document changed meanwhile."""
    left_behind = stored_of(planned(NOON, FIRST))
    assert left_behind.next_run_at == left_behind.skipped_slot == FIRST
    status = {"spec_hash": left_behind.spec_hash, "accepted_at": NOON, "skipped_slot": FIRST}
    desired, now = desired_of(**change), FIRST + 20 * MINUTE
    past = past_of(status, left_behind, desired)
    if past.accepted_at is None:
        past = replace(past, accepted_at=now)
    (action,) = plan(desired, None, past, now)
    assert isinstance(action, Put)
    assert action.job.skipped_slot == action.job.next_run_at
    assert action.job.next_run_at is not None
    assert action.job.next_run_at >= after


def test_a_slot_that_another_replica_skipped_uses_the_flag_up_though_ours_is_open() -> None:
    """It holds an older slot open, which waits in the other replica, and sees an edit."""
    assert OPEN.next_run_at == FIRST
    for change in ({"value": "45m"}, {"paused_until": "2026-11-23T15:10"}):
        desired = desired_of(**change)
        status = {"spec_hash": OPEN.spec_hash, "accepted_at": NOON, "skipped_slot": SECOND}
        past = past_of(status, stored_of(OPEN), desired)
        past = replace(past, accepted_at=past.accepted_at or THIRD)
        (action,) = plan(desired, OPEN, past, THIRD)
        assert isinstance(action, Put)
        assert action.job.skipped_slot == SECOND


def test_a_new_schedule_skips_its_own_first_slot() -> None:
    """14:00 was the one before the edit, and happens to be a slot of the new schedule too."""
    status = {"spec_hash": OPEN.spec_hash, "accepted_at": NOON, "skipped_slot": FOURTH}
    desired = desired_of(value="1h")
    past = replace(past_of(status, stored_of(OPEN), desired), accepted_at=NOON)
    (action,) = plan(desired, OPEN, past, NOON + MINUTE)
    assert isinstance(action, Put)
    assert action.job.skipped_slot == SECOND


def test_a_slot_that_was_skipped_before_an_edit_uses_the_flag_up() -> None:
    left_behind = stored_of(planned(FIRST + MINUTE, FIRST))
    status = {"spec_hash": left_behind.spec_hash, "accepted_at": NOON, "skipped_slot": FIRST}
    desired = desired_of(value="45m")
    past = replace(past_of(status, left_behind, desired), accepted_at=FIRST + 20 * MINUTE)
    (action,) = plan(desired, None, past, FIRST + 20 * MINUTE)
    assert isinstance(action, Put)
    assert action.job.skipped_slot == FIRST


def test_verdict_names_the_slot_and_leaves_it_out() -> None:
    desired, past = desired_of(type="cron", value="*/30 * * * *"), Past(accepted_at=NOON)
    verdict = verdict_on(desired, past, FIRST, NOON)
    assert FIRST in verdict.upcoming  # the server leaves it out, or keeps an earlier one
    status = {
        "state": "scheduled",
        "spec_hash": desired.spec_hash,
        "accepted_at": NOON,
        "observed_at": NOON,
        "error": None,
        "explanation": "Every 30 minutes, UTC, except 2026-11-23 12:30:00 UTC",
        "timezone": "UTC",
        "next_runs": [SECOND, THIRD],
        "skipped_slot": FIRST,
    }
    assert is_said(status, verdict)
    for change in ({"skipped_slot": SECOND}, {"next_runs": [FIRST]}, {"explanation": "Hourly"}):
        assert not is_said(status | change, verdict)
    gone = verdict_on(
        desired_of(type="cron", value="*/30 * * * *", skip_next=False), past, None, NOON
    )
    assert not is_said(status, gone)


def due(left_out: datetime | None, now: datetime, catch_up: str = "once") -> DueSlots | None:
    spec = desired_of(catch_up=catch_up).spec
    assert spec is not None
    return due_slots(spec, spec.timetable(NOON), FIRST, now, now, left_out)


OUTAGE_END = FOURTH + MINUTE
CAUGHT_UP: dict[str, Any] = {
    "the first of them": (FIRST, "once", ([], 0, FIRST)),
    "one in between: those before it first": (THIRD, "once", ([], 2, None)),
    "the latest: nothing is caught up on": (FOURTH, "once", ([], 3, None)),
    "those before it run where all do": (THIRD, "all", ([FIRST, SECOND], 0, None)),
    "one that has had its effect": (NOON, "once", ([FOURTH], 3, None)),
    "one that is still to come": (FOURTH + HALF_HOUR, "skip", ([], 4, None)),
    "one that is no slot": (FIRST + TICK, "once", ([FOURTH], 3, None)),
}


@pytest.mark.parametrize(("left_out", "catch_up", "expected"), CAUGHT_UP.values(), ids=CAUGHT_UP)
def test_an_outage_over_the_slot_that_is_taken_out(
    left_out: datetime, catch_up: str, expected: tuple[list[datetime], int, datetime | None]
) -> None:
    slots = due(left_out, OUTAGE_END, catch_up)
    assert slots is not None
    missed = slots.missed.count if slots.missed is not None else 0
    assert ([slot for slot, _ in slots.starts], missed, slots.skipped) == expected


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    async with ended(Side()) as side:
        yield side


def document_of(side: Side) -> dict[str, Any]:
    (fields,) = side.agents.collection.values()
    return fields


async def test_the_next_slot_is_skipped_and_the_one_after_it_runs(side: Side) -> None:
    side.promote(skip_next=True)
    document_of(side)["councilor_status"] = {"skipped_slot": FIRST}
    side.come_due(FIRST)
    await side.settled(1)
    side.come_due(SECOND)
    await side.settled(2)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.SKIPPED, Reason.SKIP_NEXT),
        ("13:00", Status.COMPLETED, None),
    ]


async def test_a_flag_that_is_seen_only_when_the_slot_is_due_skips_it_and_no_other(
    side: Side,
) -> None:
    """Acknowledged a moment before the slot: nobody has said yet which slot it takes out."""
    side.promote()
    document_of(side)["councilor_config"]["schedule"]["skip_next"] = True
    for slot in (FIRST, SECOND):
        side.come_due(slot)
        await side.settled(1)
    await side.settled(2)
    await all_ended(side)
    assert document_of(side)["councilor_status"] == {"skipped_slot": FIRST}
    assert side.rows() == [
        ("12:30", Status.SKIPPED, Reason.SKIP_NEXT),
        ("13:00", Status.COMPLETED, None),
    ]


async def test_a_flag_that_names_a_later_slot_lets_this_one_run(side: Side) -> None:
    side.promote(skip_next=True)
    document_of(side)["councilor_status"] = {"skipped_slot": SECOND}
    side.come_due(FIRST)
    await side.settled(1)
    await all_ended(side)
    assert side.rows() == [("12:30", Status.COMPLETED, None)]


async def test_slots_around_the_one_that_is_taken_out_have_their_rows_after_an_outage(
    side: Side,
) -> None:
    side.promote(skip_next=True)
    document_of(side)["councilor_status"] = {"skipped_slot": SECOND}
    side.come_due(FIRST, late=3 * HALF_HOUR + MINUTE)
    await side.settled(4)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.MISSED, Reason.OUTAGE),
        ("13:00", Status.SKIPPED, Reason.SKIP_NEXT),
        ("13:30", Status.MISSED, Reason.OUTAGE),
        ("14:00", Status.COMPLETED, None),
    ]
    assert side.ledger.rows["exec_scout_1795442400000"]["trigger"] == Trigger.CATCH_UP


async def test_what_was_missed_before_a_flag_is_settled_on_has_its_row(side: Side) -> None:
    """The flag was written during the outage: the run that would catch up is the next one."""
    side.promote()
    document_of(side)["councilor_config"]["schedule"]["skip_next"] = True
    side.come_due(FIRST, late=3 * HALF_HOUR + MINUTE)
    await side.settled(2)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.MISSED, Reason.OUTAGE),
        ("14:00", Status.SKIPPED, Reason.SKIP_NEXT),
    ]
    assert side.ledger.rows["exec_scout_1795437000000"]["slots_missed"] == 3
    assert side.conductor.orders == []


async def test_a_document_that_cannot_remember_has_its_slot_skipped_all_the_same(
    side: Side,
) -> None:
    """A validator of the user's that refuses `councilor_status`."""
    side.agents.refuses_status = True
    side.promote()
    document_of(side)["councilor_config"]["schedule"]["skip_next"] = True
    for number, slot in enumerate((FIRST, SECOND, THIRD), start=1):
        side.come_due(slot)
        await side.settled(number)
    await all_ended(side)
    assert [status for _, status, _ in side.rows()] == [
        Status.SKIPPED,
        Status.COMPLETED,
        Status.COMPLETED,
    ]


async def test_a_flag_outlives_a_writer_that_wipes_the_status(side: Side) -> None:
    """The settler settled on the slot; the status that said so is gone, the job remembers."""
    side.promote()
    document_of(side)["councilor_config"]["schedule"]["skip_next"] = True
    side.come_due(FIRST)
    await side.settled(1)
    del document_of(side)["councilor_status"]
    side.come_due(SECOND)
    await side.settled(2)
    await all_ended(side)
    assert [status for _, status, _ in side.rows()] == [Status.SKIPPED, Status.COMPLETED]


async def test_a_flag_that_comes_after_another_replica_began_takes_out_the_next_slot(
    side: Side,
) -> None:
    side.promote()
    execution = theirs(FIRST)
    assert await side.ledger.open(execution) is Claim.WON
    document_of(side)["councilor_config"]["schedule"]["skip_next"] = True
    side.come_due(FIRST)
    await turned_until(lambda: not side.settler._tasks)
    side.ledger.rows[execution.execution_id]["status"] = Status.COMPLETED
    side.come_due(SECOND)
    await side.settled(2)
    assert side.rows() == [
        ("12:30", Status.COMPLETED, None),
        ("13:00", Status.SKIPPED, Reason.SKIP_NEXT),
    ]


async def test_a_skipped_slot_that_comes_while_another_waits_says_why(side: Side) -> None:
    side.promote(overlap="queue_one", skip_next=True)
    document_of(side)["councilor_status"] = {"skipped_slot": THIRD}
    side.jobs.jobs["scout"] = replace(side.jobs.jobs["scout"], skipped_slot=THIRD)
    side.conductor.released.clear()
    side.come_due(FIRST)
    await side.settled(1)
    side.come_due(SECOND)
    await turned()
    side.come_due(THIRD)
    await turned()
    side.conductor.released.set()
    await side.settled(3)
    await all_ended(side)
    assert side.rows() == [
        ("12:30", Status.COMPLETED, None),
        ("13:00", Status.COMPLETED, None),
        ("13:30", Status.SKIPPED, Reason.SKIP_NEXT),
    ]


async def test_a_run_that_was_asked_for_is_not_skipped(side: Side) -> None:
    side.promote(skip_next=True)
    side.request(NOON)
    await side.settled(1)
    await all_ended(side)
    assert side.rows() == [("12:00", Status.COMPLETED, None)]
