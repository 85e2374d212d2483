"""Slots that came due while the database was away, of an agent that was deleted meanwhile."""

import asyncio
from datetime import timedelta

import pytest

from service.app import wall_clock
from tests.faults.keeper import Cluster
from tests.faults.steps import promote
from tests.faults.test_double_fire import slots_of
from tests.flow.conftest import Database, Start, rows_of
from tests.steps import eventually

pytestmark = pytest.mark.mongo
SECOND = timedelta(seconds=1)


async def test_what_came_due_before_a_deletion_has_its_row(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """CONTRACT 3: every slot that comes due ends in one row; that it has gone says why."""
    service = await start()
    await promote(db, "scout", value="1s")
    await eventually(lambda: db["councilor_executions"].find_one({"status": "completed"}))
    away = await cluster.fail("alwaysOn", "find", "insert", errorCode=11602)
    since = wall_clock()
    await eventually(lambda: asyncio.sleep(0.1, wall_clock() - since > 3 * SECOND))
    await db["agents"].delete_many({})
    deleted = wall_clock()
    await away.ends()

    async def is_removed() -> bool:
        return await service.metric('councilor_jobs{state="scheduled"}') == 0

    async def is_all_told() -> bool:
        rows = await rows_of(db, "scout")
        return max(set().union(*map(slots_of, rows))) > deleted - SECOND

    await eventually(is_removed, saying="the job is gone")
    await eventually(is_all_told, within=5, saying="each slot before the deletion has a row")
