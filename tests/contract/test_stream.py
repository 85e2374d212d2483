"""The change stream on a real server: nothing is lost, nothing comes out of order."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from bson.raw_bson import RawBSONDocument
from pymongo.errors import OperationFailure

from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.client import Client
from service.adapters.mongo.keys import id_of
from service.adapters.mongo.replicas import MongoReplicas
from service.adapters.mongo.stream import time_of
from service.ports import Watch, WatchLost
from tests.contract.test_agents import councilor

pytestmark = pytest.mark.mongo
_NOT_PRIMARY, _HISTORY_LOST = 10_107, 286


@pytest.fixture
def resumed() -> list[str]:
    """The codes of errors after which the stream went on."""
    return []


@pytest.fixture
def agents(client: Client, database: str, resumed: list[str]) -> MongoAgents:
    return MongoAgents(client, database, "agents", resumed=resumed.append)


async def told(watch: Watch, count: int) -> list[tuple[object, str]]:
    """The ids and operations of so many changes."""
    seen = list[tuple[object, str]]()
    async with asyncio.timeout(30):
        while len(seen) < count:
            seen += [(id_of(change.key), change.operation) for change in await watch.changes()]
    return seen


async def test_more_changes_than_one_reply_has_arrive_all_and_in_order(
    agents: MongoAgents, client: Client, database: str
) -> None:
    documents, numbers = client[database]["agents"], range(1_700)
    async with agents.watch() as watch:
        await documents.insert_many([{"_id": n, **councilor(str(n))} for n in numbers])
        await documents.update_many({}, {"$set": {"is_councilor": False}})
        await documents.delete_one({"_id": 3})
        seen = await told(watch, 3_401)
        assert seen[:1_700] == [(n, "insert") for n in numbers]
        assert sorted(seen[1_700:-1], key=str) == sorted([(n, "update") for n in numbers], key=str)
        assert seen[-1] == (3, "delete")
        assert await watch.changes() == []


async def test_changes_come_in_batches_not_one_by_one(
    agents: MongoAgents, client: Client, database: str
) -> None:
    """An import is read in a few replies: each costs a thread of the driver's."""
    async with agents.watch() as watch:
        await client[database]["agents"].insert_many([{"_id": n} for n in range(600)])
        sizes = list[int]()
        async with asyncio.timeout(30):
            while sum(sizes) < 600:
                sizes.append(len(await watch.changes()))
        assert max(sizes) > 100


async def test_the_position_is_what_the_primary_has_written(
    agents: MongoAgents, client: Client, database: str
) -> None:
    """The time in a resume token is nowhere documented: this pins where it is."""
    documents = client[database]["agents"]
    replicas = MongoReplicas(client, database)
    async with agents.watch() as watch:
        await documents.insert_one({"_id": 1})
        written = (await replicas.server_state()).written_at
        assert written is not None
        assert await told(watch, 1) == [(1, "insert")]
        async with asyncio.timeout(30):
            while watch.position is None or watch.position < written:
                await watch.changes()
        now = (await replicas.server_state()).at
        assert abs(now - watch.position) < timedelta(seconds=15)  # idle servers write each 10 s


@pytest.mark.parametrize(
    "token", [None, {}, {"_data": 7}, {"_data": ""}, {"_data": "83" + "00" * 8}, {"_data": "82ff"}]
)
def test_a_token_of_another_form_has_no_time(token: Mapping[str, Any] | None) -> None:
    assert time_of(token) is None


async def failing(client: Client, database: str, times: int, **data: object) -> None:
    """Let reads of the stream fail. Skips where the server is none for tests."""
    ns = f"{database}.agents"
    mode: Mapping[str, Any] = {"times": times}
    said = {"failCommands": ["getMore"], "namespace": ns, **data}
    try:
        await client.admin.command("configureFailPoint", "failCommand", mode=mode, data=said)
    except OperationFailure as error:
        pytest.skip(f"this mongod has no fail points (enableTestCommands): {error}")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"errorCode": _NOT_PRIMARY}, id="an election"),
        pytest.param({"errorCode": 43}, id="the cursor is gone"),
        pytest.param({"closeConnection": True}, id="the connection broke"),
    ],
)
async def test_an_error_that_can_be_resumed_loses_nothing(
    agents: MongoAgents,
    client: Client,
    database: str,
    resumed: list[str],
    fault: dict[str, object],
) -> None:
    documents = client[database]["agents"]
    async with agents.watch() as watch:
        await documents.insert_one({"_id": 1})
        assert await told(watch, 1) == [(1, "insert")]
        await failing(client, database, 1, **fault)
        await documents.insert_many([{"_id": n} for n in range(2, 900)])
        assert await told(watch, 898) == [(n, "insert") for n in range(2, 900)]
    assert resumed == [str(fault.get("errorCode", "network"))]


async def test_an_error_that_cannot_be_resumed_loses_the_watch(
    agents: MongoAgents, client: Client, database: str
) -> None:
    await client[database]["agents"].insert_one({"_id": 1})
    async with agents.watch() as watch:
        await failing(client, database, 1, errorCode=_HISTORY_LOST)
        with pytest.raises(WatchLost) as lost:
            await told(watch, 1)
    assert lost.value.reason == str(_HISTORY_LOST)


async def test_what_came_before_a_drop_is_told_and_after_it_nothing(
    agents: MongoAgents, client: Client, database: str
) -> None:
    documents = client[database]["agents"]
    await documents.insert_one({"_id": 0})
    async with agents.watch() as watch:
        await documents.insert_one({"_id": 1})
        assert await told(watch, 1) == [(1, "insert")]
        await documents.drop()
        with pytest.raises(WatchLost, match="the collection is gone"):
            await told(watch, 1)
        with pytest.raises(WatchLost):
            await told(watch, 1)


async def test_an_id_that_is_no_utf8_stops_nothing(
    agents: MongoAgents, client: Client, database: str
) -> None:
    raw = RawBSONDocument(b"\x10\x00\x00\x00\x02_id\x00\x02\x00\x00\x00\xff\x00\x00")
    async with agents.watch() as watch:
        await client[database].command("insert", "agents", documents=[raw, {"_id": 2}])
        seen = await told(watch, 2)
    assert seen[1] == (2, "insert")
