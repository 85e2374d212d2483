"""The change stream on `agents`: a hint that something changed, never what (DESIGN decision 1)."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorChangeStream, AsyncIOMotorCollection
from pymongo.errors import OperationFailure, PyMongoError

from service.adapters.mongo.client import Client, translated, translation_of
from service.adapters.mongo.keys import LENIENT, key_of
from service.domain.jobs import AgentDocument
from service.ports import Dirty, Misconfigured, WatchLost

RawCollection = AsyncIOMotorCollection[RawBSONDocument]

MAX_AWAIT_MS = 1_000
"""How long the server holds a read of a quiet stream."""
_OUR_FIELDS = r"^(stats|councilor_status)(\.|$)"
_DOCUMENT_CHANGES = {"insert", "update", "replace", "delete"}
_ENDINGS = {"drop", "rename", "dropDatabase", "invalidate"}

_TOUCHED: dict[str, Any] = {
    "$concatArrays": [
        {
            "$map": {
                "input": {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}},
                "in": "$$this.k",
            }
        },
        {"$ifNull": ["$updateDescription.removedFields", []]},
        {
            "$map": {
                "input": {"$ifNull": ["$updateDescription.truncatedArrays", []]},
                "in": "$$this.field",
            }
        },
    ]
}
_NOT_OURS = {"$not": [{"$regexMatch": {"input": "$$this", "regex": _OUR_FIELDS}}]}
PIPELINE: list[dict[str, Any]] = [
    {
        "$match": {
            "$or": [
                {"operationType": {"$ne": "update"}},
                {"$expr": {"$anyElementTrue": [{"$map": {"input": _TOUCHED, "in": _NOT_OURS}}]}},
            ]
        }
    },
    # `_id` is the resume token and has to stay (without it: error 280, FAULTS 1).
    {"$project": {"operationType": 1, "documentKey": 1, "clusterTime": 1, "ns": 1}},
]
"""Leaves out what this service writes itself, and of the rest everything but the key."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An open change stream, and the time since which it misses nothing."""

    cursor: AsyncIOMotorChangeStream[Mapping[str, Any]]
    since: Timestamp


@asynccontextmanager
async def opened_stream(client: Client, documents: RawCollection) -> AsyncIterator[Stream]:
    """Open the stream just after what the majority has now, before anything is listed.

    A stream opened at "now" starts after the primary's last write, while a majority list shows an
    older state: what lies between is in neither (FAULTS 0.1).
    """
    with translated():
        since = await _majority_time(client)
    # What carries the time `since` itself is in every majority read from here on.
    just_after = Timestamp(since.time, since.inc + 1)
    cursor = documents.watch(
        PIPELINE, start_at_operation_time=just_after, max_await_time_ms=MAX_AWAIT_MS
    )
    try:
        # Motor sends nothing before the first read or `async with` (FAULTS 1b).
        await cursor.__aenter__()
    except PyMongoError as error:
        raise _loss(error) from error
    try:
        yield Stream(cursor, since)
    finally:
        await cursor.close()


async def _majority_time(client: Client) -> Timestamp:
    hello = await client.admin.command("hello")
    majority = hello.get("lastWrite", {}).get("majorityOpTime", {}).get("ts")
    # A mongos has no `lastWrite`; its operation time is that of the majority.
    time = majority or hello["operationTime"]
    assert isinstance(time, Timestamp)
    return time


class OpenWatch:
    """The port `Watch` on an open stream."""

    def __init__(
        self,
        stream: Stream,
        documents: Callable[[], AsyncIterator[Sequence[AgentDocument]]],
        saw: Callable[[Timestamp], None],
    ) -> None:
        self._stream = stream.cursor
        self._documents = documents
        self._saw = saw

    async def documents(self) -> AsyncIterator[Sequence[AgentDocument]]:
        try:
            async for batch in self._documents():
                yield batch
        except PyMongoError as error:
            raise _loss(error) from error

    async def changes(self) -> Dirty:
        try:
            # Never cancelled, never timed out from outside: either loses events (FAULTS 0.2).
            event = await self._stream.try_next()
        except PyMongoError as error:
            raise _loss(error) from error
        if event is None:
            # A stream that has ended answers nothing for ever, without an error (FAULTS 0.3).
            if not self._stream.alive:  # type: ignore[truthy-function]  # a property, undeclared
                raise WatchLost("ended", "the change stream has ended")
            return Dirty(())
        return self._dirty(event)

    def _dirty(self, event: Mapping[str, Any]) -> Dirty:
        operation = event["operationType"]
        if isinstance(time := event.get("clusterTime"), Timestamp):
            self._saw(time)
        if operation in _ENDINGS:
            raise WatchLost(operation, f"the collection is gone: {operation}")
        if operation not in _DOCUMENT_CHANGES:
            return Dirty(())  # newer servers may tell of more; drivers must not mind, nor do we
        key = bson.decode(event["documentKey"].raw, LENIENT)
        return Dirty((key_of(key["_id"]),), operation)


def _loss(error: PyMongoError) -> WatchLost | Misconfigured:
    translation = translation_of(error)
    if isinstance(translation, Misconfigured):
        return translation
    code = error.code if isinstance(error, OperationFailure) else None
    return WatchLost(str(code) if code else "network", str(translation))
