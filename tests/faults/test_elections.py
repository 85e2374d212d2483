"""Primaries that step down, die, freeze or are alone: no change is lost, and the gap is bounded."""

from collections.abc import Sequence
from time import monotonic

import pytest

from tests.faults.keeper import Cluster
from tests.faults.steps import have_jobs, promote, promote_at, relisted, relists
from tests.flow.conftest import Database, Start

pytestmark = pytest.mark.mongo
FAIL_OVER_SECONDS = 15.0
"""Two socket timeouts (5 s each: the stream's read, then its resumption, which still goes to the
frozen member until a heartbeat has failed), a pause, an election. Half a minute without them."""


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
    frozen, since = await cluster.primary(), monotonic()
    frozen.freeze()
    await promote_at(await cluster.primary(), database, "after")
    left = FAIL_OVER_SECONDS - (monotonic() - since)
    await have_jobs(db, "before", "after", within=left)
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
