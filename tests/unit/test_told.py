"""What the settler, the runner and the mending tell people: an ending each, and nothing else."""

import re
from datetime import timedelta
from typing import Any

import pytest

from service.domain.execution import Attempt, Fire, Reason
from service.domain.notification import Notification
from service.ports import Answer, Failure
from tests.contract.test_agents import councilor
from tests.fakes import NOON
from tests.side import HALF_HOUR
from tests.steps import going, turned_until
from tests.unit.test_mending import Survivor
from tests.unit.test_settler import Side, ended

MINUTE = timedelta(minutes=1)
SLOT = NOON + HALF_HOUR


async def told(side: Side, count: int) -> list[Notification]:
    """What was told, once so much of it is written."""
    async with going(side.parts.notifier.deliver()):
        await turned_until(lambda: len(side.parts.stored.documents) >= count)
        await side.parts.notifier.drain(timedelta(seconds=5))
    documents = [document["told"] for document in side.parts.stored.documents.values()]
    assert len(documents) == count
    return documents


async def test_a_run_that_failed_is_told_and_its_row_and_its_place_do_not_wait_for_it() -> None:
    async with ended(Side()) as side:
        side.promote()
        side.parts.stored.outage.is_on = True
        side.conductor.answer = Answer(None, Failure(Reason.FAILED, "status error", "you asked"))
        side.come_due(SLOT)
        await side.settled(1)
        await turned_until(lambda: not side.runner.executions)
        assert side.rows() == [("12:30", "error", Reason.FAILED)]
        side.parts.stored.outage.is_on = False
        (notification,) = await told(side, 1)
    assert notification.notification_id == "exec_scout_1795437000000"
    assert (notification.message, notification.reason) == ("status error", Reason.FAILED)


async def test_a_run_that_went_well_is_not_told() -> None:
    async with ended(Side()) as side:
        side.promote()
        side.come_due(SLOT)
        await side.settled(1)
        await turned_until(lambda: not side.runner.executions)
        assert await told(side, 0) == []


async def test_a_stretch_of_missed_slots_is_told_once() -> None:
    async with ended(Side(serving_since=NOON + timedelta(hours=5))) as side:
        side.promote(catch_up="skip")
        side.come_due(SLOT, late=timedelta(hours=2, minutes=10))
        await side.settled(1)
        (notification,) = await told(side, 1)
    assert (notification.slots, notification.reason) == (5, Reason.OUTAGE)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        pytest.param({"is_councilor": False}, 0, id="demoted"),
        pytest.param(None, 0, id="deleted"),
        pytest.param({"schedule.enabled": False}, 0, id="paused"),
        pytest.param({"schedule.value": "nonsense"}, 1, id="invalid"),
    ],
)
async def test_what_the_user_asked_for_himself_is_not_told(
    change: dict[str, Any] | None, count: int
) -> None:
    async with ended(Side()) as side:
        side.promote()
        side.change(_changed(change))
        side.come_due(SLOT)
        await side.settled(1)
        notifications = await told(side, count)
    assert [each.reason for each in notifications] == [Reason.INVALID] * count


async def test_what_was_missed_of_an_agent_that_is_demoted_by_now_is_not_told() -> None:
    async with ended(Side()) as side:
        side.promote()
        job = side.jobs.jobs["scout"]
        side.change({"agent_id": "scout", "is_councilor": False})
        case = await side.parts.cases.look(Fire(job.key, "scout", SLOT))
        await side.parts.cases.miss(case, SLOT, Reason.OUTAGE)
        assert side.rows() == [("12:30", "missed", Reason.OUTAGE)]
        assert await told(side, 0) == []


def _changed(change: dict[str, Any] | None) -> dict[str, Any] | None:
    if change is None:
        return None
    fields = councilor("scout")
    for path, value in change.items():
        if path.startswith("schedule."):
            fields["councilor_config"]["schedule"][path.split(".")[1]] = value
        else:
            fields[path] = value
    return fields


async def test_a_run_of_a_dead_replica_is_told_by_the_survivor() -> None:
    survivor = Survivor()
    survivor.side.promote()
    async with ended(survivor.side):
        row = await survivor.finds(attempts=(Attempt(SLOT, None),))
        assert row["reason"] == Reason.INTERRUPTED
        (notification,) = await told(survivor.side, 1)
    assert notification.reason is Reason.INTERRUPTED
    assert re.match("the replica that ran it is gone", notification.message)
