"""One stream for each process, read by nobody who gives up in between."""

import ast
import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import service
from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.client import connected
from service.adapters.mongo.keys import key_of
from service.ports import Watch
from tests.faults.keeper import Cluster
from tests.faults.steps import councilor, promote, relists
from tests.flow.conftest import Database, Start
from tests.steps import eventually

SERVICE_DIRECTORY = Path(service.__file__).parent
READS = {"next_events", "changes"}
BOUNDS = {"wait_for", "timeout", "timeout_at", "wait"}


def name_of(call: ast.Call) -> str:
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def calls_in(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def bounded_reads(source: str) -> Iterator[int]:
    """The lines where a read of the stream stands inside of something that cancels it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call() if name_of(node) in BOUNDS:
                inside: list[ast.AST] = [*node.args]
            case ast.AsyncWith(items=items) if any(
                name_of(call) in BOUNDS for item in items for call in calls_in(item.context_expr)
            ):
                inside = [*node.body]
            case _:
                continue
        if any(name_of(call) in READS for part in inside for call in calls_in(part)):
            yield node.lineno


@pytest.mark.parametrize(
    "source",
    [
        "async def f(s):\n    await asyncio.wait_for(s.next_events(), 1)",
        "async def f(s):\n    async with asyncio.timeout(1):\n        await s.next_events()",
        "async def f(w):\n    await wait_for(w.changes(), timeout=1)",
    ],
)
def test_the_check_finds_a_read_that_is_bounded_from_outside(source: str) -> None:
    assert list(bounded_reads(source))


def test_no_read_of_the_stream_is_bounded_from_outside() -> None:
    """T18: cancelling it loses the event that its thread has taken already."""
    found = {
        f"{path.name}:{line}"
        for path in SERVICE_DIRECTORY.rglob("*.py")
        for line in bounded_reads(path.read_text())
    }
    assert found == set()


async def keys_seen(watch: Watch, key: bytes) -> bool:
    """Tell whether a document is listed, or told of by the stream within a few reads."""
    listed = [document.key async for batch in watch.documents() for document in batch]
    if key in listed:
        return True
    changes = [change for _ in range(2) for change in await watch.changes()]
    return key in {change.key for change in changes}


@pytest.mark.mongo
async def test_a_watch_that_was_cancelled_loses_nothing(
    cluster: Cluster, db: Database, database: str
) -> None:
    """T18: a read that is given up may take an event with it; the next entry lists it."""
    async with connected(cluster.url) as client:
        agents = MongoAgents(client, database, "agents")
        async with agents.watch() as watch:
            reading = asyncio.create_task(watch.changes())
            await eventually(lambda: streams_of(cluster, database), saying="the read is under way")
            reading.cancel()
            await asyncio.wait([reading])
            await db["agents"].insert_one({"_id": "taken", **councilor("scout")})
        async with agents.watch() as watch:
            assert await keys_seen(watch, key_of("taken"))


async def streams_of(cluster: Cluster, database: str) -> list[dict[str, Any]]:
    """The change streams on a database's agents that are open at the primary, read or idle."""
    primary = await cluster.primary()
    pipeline = [
        {"$currentOp": {"allUsers": True, "idleCursors": True}},
        {"$match": {"ns": f"{database}.agents"}},
        {"$match": {"cursor.originatingCommand.pipeline.0.$changeStream": {"$exists": True}}},
    ]
    answer = await primary.command("aggregate", 1, pipeline=pipeline, cursor={}, seconds=5)
    streams: list[dict[str, Any]] = answer["cursor"]["firstBatch"]
    return streams


@pytest.mark.mongo
async def test_a_service_has_one_stream_open(
    cluster: Cluster, start: Start, db: Database, database: str
) -> None:
    """T19: each stream parks a thread of the driver; one that is left is closed first."""
    service = await start(scheduler_resync_interval=timedelta(seconds=1))
    await promote(db, "scout")
    most = 0

    async def has_listed_anew() -> bool:
        nonlocal most
        most = max(
            most, len({of["cursor"]["cursorId"] for of in await streams_of(cluster, database)})
        )
        return (await relists(service)).get("resync", 0) >= 2

    await eventually(has_listed_anew)
    assert most == 1
