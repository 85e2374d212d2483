"""Primaries that step down, die, freeze or are alone: no change is lost, and the gap is bounded."""

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

import pytest

from service.app import wall_clock
from tests.faults.keeper import Cluster
from tests.faults.steps import have_jobs, promote, promote_at, relisted, relists
from tests.faults.test_double_fire import slots_of
from tests.flow.conftest import Database, Start
from tests.steps import eventually

pytestmark = pytest.mark.mongo
NOTICED_SECONDS = 8.0
"""How long a change may take that the majority has: a socket timeout (5 s) and an election. Before,
the member that is left may still read its oplog from the frozen one. Without the timeouts of the
client, 28 s and more after the freeze (FAULTS 5)."""


def names(prefix: str) -> Sequence[str]:
    return [f"{prefix}-{number}" for number in range(5)]


async def test_an_election_loses_no_change_and_lists_nothing(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T6: what is written before and after a step-down is in effect."""
    service = await start()
    await promote(db, *names("before"))
    await cluster.step_down()
    # A member that steps down lets a stream live on; load balancers and older servers do not.
    assert await cluster.cut() >= 2
    await promote(db, *names("after"))
    await have_jobs(db, *names("before"), *names("after"))
    assert await relists(service) == {"startup": 1}


async def test_the_death_of_the_primary_loses_no_change(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T7: the stream goes on at the next primary, where it was."""
    service = await start()
    await promote(db, *names("before"))
    await cluster.kill(await cluster.primary())
    await promote(db, *names("after"))
    await have_jobs(db, *names("before"), *names("after"))
    await cluster.restore()
    await promote(db, "late")
    await have_jobs(db, *names("before"), *names("after"), "late")
    assert await relists(service) == {"startup": 1}


async def test_a_frozen_primary_is_left_within_seconds(
    cluster: Cluster, start: Start, db: Database, database: str
) -> None:
    """T8: connections that are open and silent do not hold the service up for half a minute."""
    await start()
    await promote(db, "before")
    await have_jobs(db, "before")
    frozen = await cluster.primary()
    frozen.freeze()
    primary = await cluster.primary()
    await promote_at(primary, database, "after")
    written = (await primary.hello())["lastWrite"]["opTime"]["ts"]

    async def is_common() -> bool:
        return bool((await primary.hello())["lastWrite"]["majorityOpTime"]["ts"] >= written)

    await eventually(is_common, within=40, saying="the majority has it")
    await have_jobs(db, "before", "after", within=NOTICED_SECONDS)
    frozen.thaw()
    await promote(db, "late")
    await have_jobs(db, "before", "after", "late")


async def test_what_the_majority_does_not_have_yet_is_neither_done_nor_lost(
    cluster: Cluster, start: Start, db: Database, database: str
) -> None:
    """T9: a list that came too early for a write, and a stream opened after it, leave no gap."""
    service = await start()
    await promote(db, "known")
    await have_jobs(db, "known")
    for node in await cluster.secondaries():
        await node.fail_point("alwaysOn", name="rsSyncApplyStop", only=None)
    await promote_at(await cluster.primary(), database, "held")
    await cluster.fail({"times": 1}, "getMore", errorCode=286)
    await relisted(service, "286")
    assert await service.metric('councilor_jobs{state="scheduled"}') == 1
    for node in await cluster.secondaries():
        await node.fail_point("off", name="rsSyncApplyStop", only=None)
    await have_jobs(db, "known", "held")
    assert await relists(service) == {"startup": 1, "286": 1}


async def test_the_first_start_after_an_election_comes_within_two_seconds(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T7: the slots of the meantime are not lost, and nobody sleeps when there is a primary."""
    await start()
    await promote(db, "scout", value="1s")
    await eventually(lambda: db["councilor_executions"].find_one({"status": "completed"}))
    await cluster.kill(await cluster.primary())
    # A primary is one when the majority follows it: when it acknowledges this.
    await db["probes"].insert_one({})
    elected = wall_clock()
    row = await eventually(
        lambda: db["councilor_executions"].find_one(
            {"status": "completed", "started_at": {"$gt": elected - timedelta(seconds=1)}}
        )
    )
    assert row["started_at"] - elected < timedelta(seconds=2.5)  # loaded machines are slower
    rows = [row async for row in db["councilor_executions"].find().sort("scheduled_for", 1)]
    covered = set().union(*map(slots_of, rows))
    first, last = min(covered), max(covered)
    assert len(covered) == (last - first) / timedelta(seconds=1) + 1


async def test_a_majority_that_lags_makes_a_replica_unready_and_says_so(
    cluster: Cluster, start: Start, db: Database, database: str
) -> None:
    """T9: the stream is open and silent, and a primary answers: only the lag tells."""
    service = await start(scheduler_replica_ttl=timedelta(seconds=3))
    for node in await cluster.secondaries():
        await node.fail_point("alwaysOn", name="rsSyncApplyStop", only=None)
    primary = await cluster.primary()

    async def is_told() -> bool:
        await promote_at(primary, database, uuid4().hex)
        status, told = await service.get("/readyz")
        return status == 503 and bool({"majority", "heartbeat"} & told["failing"].keys())

    await eventually(is_told, within=20, saying="unready")
    for node in await cluster.secondaries():
        await node.fail_point("off", name="rsSyncApplyStop", only=None)
    await eventually(service.is_ready, saying="ready again")
