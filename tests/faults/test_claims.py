"""Two replicas, one slot, and a replica set that is torn in two: one start, ever."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest
from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from service.adapters.mongo.client import connected
from service.adapters.mongo.ledger import MongoLedger
from service.domain.execution import Claim, Execution
from service.ports import Unavailable
from tests.claiming import opened
from tests.cluster import Node
from tests.contract.test_ledger import run_of
from tests.faults.keeper import Cluster
from tests.faults.steps import promote
from tests.flow.conftest import Database, Start, TestConductor, rows_of
from tests.steps import eventually

pytestmark = pytest.mark.mongo


class WeakLedger(MongoLedger):
    """The same, but a row counts as soon as one member has it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._rows = self._rows.with_options(write_concern=WriteConcern(1))


@dataclass(frozen=True)
class Side:
    """One replica's ledger, and its weaker copy."""

    strong: MongoLedger
    weak: MongoLedger


@asynccontextmanager
async def side_of(url: str, database: str) -> AsyncIterator[Side]:
    async with connected(url) as client:
        names = (client, database, "executions", "agents")
        yield Side(MongoLedger(*names), WeakLedger(*names))


async def cut_off(cluster: Cluster) -> Node:
    """Let nothing that the primary writes reach the others, from here on."""
    primary = await cluster.primary()
    for node in await cluster.secondaries():
        await node.fail_point("alwaysOn", name="stopReplProducer", only=None)
    return primary


async def go_on_without(cluster: Cluster, old: Node) -> None:
    """Freeze the old primary and have another one elected, without what the old one wrote."""
    first, second = await cluster.secondaries()
    old.freeze()
    await first.fail_point("off", name="stopReplProducer", only=None)

    async def is_elected() -> bool:
        with suppress(PyMongoError):
            await first.command("replSetStepUp", 1, seconds=5)
        return bool((await first.hello()).get("isWritablePrimary"))

    await eventually(is_elected, saying="a new primary")
    await second.fail_point("off", name="stopReplProducer", only=None)


def claim_of(agent_id: str, replica: str) -> Execution:
    return replace(run_of(agent_id), owner=replica, nonce=f"nonce of {replica}")


async def test_of_two_claims_across_a_partition_one_is_acknowledged(
    cluster: Cluster, database: str
) -> None:
    """T10: with the majority one replica starts; one member's word would start both."""
    async with side_of(cluster.url, database) as a, side_of(cluster.url, database) as b:
        await a.strong.prepare(keep_for=None)
        old = await cut_off(cluster)
        assert await opened(a.weak, claim_of("weak", "a")) is Claim.WON
        with pytest.raises(Unavailable):
            await opened(a.strong, claim_of("strong", "a"))
        await go_on_without(cluster, old)
        assert await opened(b.weak, claim_of("weak", "b")) is Claim.WON
        assert await opened(b.strong, claim_of("strong", "b")) is Claim.WON
        old.thaw()
        await cluster.restore()
        assert await opened(a.strong, claim_of("strong", "a")) is Claim.TAKEN


LOST_ANSWERS = [
    pytest.param(
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
        id="applied, not acknowledged",
    ),
    pytest.param(
        {"writeConcernError": {"code": 11602, "errmsg": "operation was interrupted"}},
        id="applied, election meanwhile",
    ),
    pytest.param({"closeConnection": True}, id="connection closed"),
    pytest.param({"errorCode": 11602}, id="interrupted"),
]


@pytest.mark.parametrize("answer", LOST_ANSWERS)
async def test_a_claim_whose_answer_is_lost_starts_one_run(
    cluster: Cluster,
    start: Start,
    db: Database,
    conductor: TestConductor,
    answer: dict[str, Any],
) -> None:
    """T10: whether the row is there or not, the slot ends in one start, and soon."""
    await start()
    # The driver sends it again once: both answers are lost.
    lost = await cluster.fail({"times": 2}, "insert", **answer)
    await promote(db, "scout", value="2s")
    await lost.happens(2)
    await lost.ends()

    async def are_two_done() -> bool:
        rows = await rows_of(db, "scout")
        return [row["status"] for row in rows].count("completed") >= 2

    await eventually(are_two_done)
    rows = await rows_of(db, "scout")
    started = [row["execution_id"] for row in rows if row["status"] in {"running", "completed"}]
    called = [call.headers["Idempotency-Key"] for call in conductor.calls]
    assert len(called) == len(set(called))
    assert set(called) <= set(started)
    # While the first claim is in doubt, the next slot may come due: one of them does not run.
    assert {row["reason"] for row in rows} <= {None, "overlap", "outage"}
