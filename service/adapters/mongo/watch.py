"""The watch on `agents`: a hint that something changed, never what (DESIGN decision 1)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

from bson.timestamp import Timestamp
from pymongo.errors import OperationFailure, PyMongoError

from service.adapters.mongo.client import Client, translation_of
from service.adapters.mongo.keys import key_of
from service.adapters.mongo.stream import Event, Stream, Watched
from service.domain.jobs import Listed
from service.ports import Changed, Misconfigured, WatchLost

_T = TypeVar("_T")

STALLED_SECONDS = 15.0
"""Longer than any election; a read that takes longer will never be answered."""
_CLOSE_SECONDS = 2.0
_unanswered: set["asyncio.Task[Any]"] = set()
"""Keeps what nobody waits for any more from being collected before it ends."""
_DOCUMENT_CHANGES = {"insert", "update", "replace", "delete"}
_ENDINGS = {"drop", "rename", "dropDatabase", "invalidate"}
_OUR_FIELDS = r"^(stats|councilor_status)(\.|$)"

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
_AT_ONCE = 200
"""Events that are looked into before the event loop may turn to something else."""


@asynccontextmanager
async def opened_stream(
    client: Client,
    watched: Watched,
    token: str | None = None,
    resumed: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Stream]:
    """An open stream, closed at the end. Raises WatchLost, Unavailable, Misconfigured.

    `resumed` is called with the code of each error after which it went on where it was.
    """
    try:
        stream = await Stream.opened(client, watched, token, resumed)
    except PyMongoError as error:
        raise _loss(error) from error
    try:
        yield stream
    finally:
        # A stream that is stuck in a read cannot be closed either: its thread is left behind, and
        # ends with its connection.
        await _answered(stream.close(), within=_CLOSE_SECONDS, name="close the change stream")


class OpenWatch:
    """The port `Watch` on an open stream."""

    def __init__(
        self,
        stream: Stream,
        documents: Callable[[], AsyncIterator[Sequence[Listed]]],
        saw: Callable[[Timestamp], None],
        *,
        stalled_seconds: float = STALLED_SECONDS,
    ) -> None:
        self._stream = stream
        self._documents = documents
        self._saw = saw
        self._stalled_seconds = stalled_seconds

    @property
    def position(self) -> datetime | None:
        return self._stream.position

    async def documents(self) -> AsyncIterator[Sequence[Listed]]:
        try:
            async for batch in self._documents():
                yield batch
        except PyMongoError as error:
            raise _loss(error) from error

    async def changes(self) -> Sequence[Changed]:
        events = await next_events(self._stream, self._stalled_seconds)
        changes: list[Changed] = []
        for start in range(0, len(events), _AT_ONCE):
            if start:
                await asyncio.sleep(0)
            changes += self._changes_in(events[start : start + _AT_ONCE])
        # A stream that has ended answers nothing for ever, without an error (FAULTS 0.3).
        if not events and not self._stream.is_alive:
            raise WatchLost("ended", "the change stream has ended")
        return changes

    def _changes_in(self, events: Sequence[Event]) -> Iterator[Changed]:
        for event in events:
            operation = event["operationType"]
            if isinstance(time := event.get("clusterTime"), Timestamp):
                self._saw(time)
            if operation in _ENDINGS:
                raise WatchLost(operation, f"the collection is gone: {operation}")
            # Newer servers may tell of more; drivers must not mind, nor do we.
            if operation in _DOCUMENT_CHANGES:
                yield Changed(key_of(event["documentKey"]["_id"]), operation)


async def next_events(stream: Stream, stalled_seconds: float = STALLED_SECONDS) -> Sequence[Event]:
    """Read a stream. Raises WatchLost, also where no answer comes, and Misconfigured.

    A read is never cancelled, and nothing is read after one that was given up: either would lose
    events (FAULTS 0.2). Whoever sees this error enters anew and lists.
    """
    name = "read the change stream"
    reading = await _answered(stream.next_events(), stalled_seconds, name)
    if not reading.done():
        raise WatchLost("stalled", f"no answer within {stalled_seconds:g} s")
    try:
        return reading.result()
    except PyMongoError as error:
        raise _loss(error) from error


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
