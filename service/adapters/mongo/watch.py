"""The change stream on `agents`: a hint that something changed, never what (DESIGN decision 1)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorChangeStream, AsyncIOMotorCollection
from pymongo.errors import OperationFailure, PyMongoError

from service.adapters.mongo.client import Client, translated, translation_of
from service.adapters.mongo.keys import LENIENT, key_of
from service.domain.jobs import AgentDocument
from service.ports import Dirty, Misconfigured, WatchLost

_T = TypeVar("_T")
RawCollection = AsyncIOMotorCollection[RawBSONDocument]

MAX_AWAIT_MS = 1_000
"""How long the server holds a read of a quiet stream."""
STALLED_SECONDS = 15.0
"""Longer than any election; a read that takes longer will never be answered."""
_CLOSE_SECONDS = 2.0
_unanswered: set["asyncio.Task[Any]"] = set()
"""Keeps what nobody waits for any more from being collected before it ends."""
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
        # A stream that is stuck in a read cannot be closed either: its thread is left behind, and
        # ends with its connection.
        await _answered(cursor.close(), within=_CLOSE_SECONDS, name="close the change stream")


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
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._stream = stream.cursor
        self._documents = documents
        self._saw = saw
        self._stalled_seconds = stalled_seconds

    async def documents(self) -> AsyncIterator[Sequence[AgentDocument]]:
        try:
            async for batch in self._documents():
                yield batch
        except PyMongoError as error:
            raise _loss(error) from error

    async def changes(self) -> Dirty:
        try:
            event = await self._next()
        except PyMongoError as error:
            raise _loss(error) from error
        if event is None:
            # A stream that has ended answers nothing for ever, without an error (FAULTS 0.3).
            if not self._stream.alive:  # type: ignore[truthy-function]  # a property, undeclared
                raise WatchLost("ended", "the change stream has ended")
            return Dirty(())
        return self._dirty(event)

    async def _next(self) -> Mapping[str, Any] | None:
        """Read the stream. Raises WatchLost where no answer comes.

        A read is never cancelled, and nothing is read after one that was given up: either would
        lose events (FAULTS 0.2). Whoever sees this error enters anew and lists.
        """
        name = "read the change stream"
        reading = await _answered(self._stream.try_next(), self._stalled_seconds, name)
        if not reading.done():
            raise WatchLost("stalled", f"no answer within {self._stalled_seconds:g} s")
        return reading.result()

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


async def _answered(answer: Awaitable[_T], within: float, name: str) -> "asyncio.Task[_T]":
    """Wait for an answer of the server; where none comes, it is left to itself, not cancelled."""

    async def wait() -> _T:
        return await answer

    task = asyncio.create_task(wait(), name=name)
    _unanswered.add(task)
    task.add_done_callback(_forget)
    await asyncio.wait([task], timeout=within)
    return task


def _forget(task: "asyncio.Task[Any]") -> None:
    _unanswered.discard(task)
    if not task.cancelled():
        task.exception()  # nobody may be there any more to ask for it


def _loss(error: PyMongoError) -> WatchLost | Misconfigured:
    translation = translation_of(error)
    if isinstance(translation, Misconfigured):
        return translation
    code = error.code if isinstance(error, OperationFailure) else None
    return WatchLost(str(code) if code else "network", str(translation))
