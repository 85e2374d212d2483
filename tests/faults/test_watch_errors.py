"""What the change stream meets at one server: errors, lost connections, a server that is slow."""

from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest

from tests.faults.keeper import Cluster, Struck
from tests.faults.steps import have_jobs, promote, relisted, relists
from tests.flow.conftest import Database, Service, Start
from tests.steps import eventually

pytestmark = pytest.mark.mongo
ONCE = {"times": 1}
FROM_ANOTHER_CLUSTER_OR_TIME = (136, 237, 280, 286, 10334)


@pytest.fixture
async def cluster(alone: Cluster) -> AsyncIterator[Cluster]:
    yield alone
    await alone.restore()


async def test_an_error_that_can_be_resumed_costs_no_listing(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T1: the stream goes on where it was, without a gap."""
    service = await start()
    struck = await cluster.fail(ONCE, "getMore", errorCode=10107)
    await struck.happens()
    await promote(db, "scout")
    await have_jobs(db, "scout")
    assert await relists(service) == {"startup": 1}


@pytest.mark.parametrize("code", FROM_ANOTHER_CLUSTER_OR_TIME)
async def test_a_fatal_error_costs_one_listing_and_no_change(
    cluster: Cluster, start: Start, db: Database, code: int
) -> None:
    """T2: what the stream cannot tell any more is found by listing."""
    service = await start()
    errors = await cluster.fail("alwaysOn", "getMore", "aggregate", errorCode=code)
    await errors.happens(2)
    await promote(db, "scout")
    await errors.ends()
    await relisted(service, str(code))
    await promote(db, "guard")
    await have_jobs(db, "scout", "guard")
    assert await relists(service) == {"startup": 1, str(code): 1}


async def test_rights_that_are_refused_are_told_and_waited_for(
    cluster: Cluster,
    start: Start,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    told: list[MutableMapping[str, Any]],
) -> None:
    """T2, code 13: not ready while the stream is refused, alive, and back by itself."""
    # The pause after a refusal is drawn from half a minute: draw small ones.
    monkeypatch.setattr("random.uniform", lambda low, high: min(high, low + 0.2))
    service = await start()
    refusal = await cluster.fail("alwaysOn", "getMore", "aggregate", errorCode=13)
    await eventually(lambda: _is_unready(service), saying="not ready")
    await refusal.ends()
    await promote(db, "scout")
    await have_jobs(db, "scout")
    lost = [event for event in told if event["event"] == "watch_lost"]
    assert lost[0]["reason"] == "refused"
    assert "grant the user readWrite" in lost[0]["error"]
    assert "refused" in await relists(service)


async def _is_unready(service: Service) -> bool:
    status, said = await service.get("/readyz")
    return status == 503 and "change_stream" in said["failing"]


async def test_a_label_decides_about_resuming_not_only_the_code(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T3: the server itself marks HostUnreachable as resumable, inside of a read."""
    service = await start()
    node = await cluster.primary()
    # Strikes whoever reads on; on a lone member, that is nobody but the stream.
    inside = "failGetMoreAfterCursorCheckout"
    before = await node.fail_point(ONCE, name=inside, errorCode=6, closeConnection=False)
    await Struck(node, before, inside).happens()
    await promote(db, "scout")
    await have_jobs(db, "scout")
    assert await relists(service) == {"startup": 1}


async def test_connections_that_break_again_and_again_cost_one_listing(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T4: the read, the resumption and its retry all fail: then everything is listed."""
    service = await start()
    breaks = await cluster.fail("alwaysOn", "getMore", "aggregate", closeConnection=True)
    await breaks.happens(3)
    await promote(db, "scout")
    await breaks.ends()
    await have_jobs(db, "scout")
    reasons = await relists(service)
    assert set(reasons) <= {"startup", "network", "unavailable"}
    assert sum(reasons.values()) == 2


async def test_a_server_that_is_slow_once_costs_nothing(
    cluster: Cluster, start: Start, db: Database, replica_set_url: str
) -> None:
    """T5: a read that takes longer than the socket's timeout is resumed."""
    service = await start(mongodb_url=f"{replica_set_url}&socketTimeoutMS=1500")
    slow = await cluster.fail(ONCE, "getMore", blockConnection=True, blockTimeMS=3_000)
    await slow.happens()
    await promote(db, "scout")
    await have_jobs(db, "scout", within=2.8)
    assert await relists(service) == {"startup": 1}
