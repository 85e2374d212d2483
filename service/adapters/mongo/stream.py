"""A change stream, read in batches.

The driver's own hands out one event at a time, and takes a thread to do it: 85 µs each, which a
bulk import has to wait for. What it does beside that is small: go on from the last token after an
error that the specification calls resumable
(https://github.com/mongodb/specifications/blob/master/source/change-streams/change-streams.md).
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorClientSession, AsyncIOMotorDatabase
from pymongo.errors import (
    ConnectionFailure,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from service.adapters.mongo.client import Client, translated
from service.adapters.mongo.keys import LENIENT

Database = AsyncIOMotorDatabase[dict[str, Any]]
Event = Mapping[str, Any]

MAX_AWAIT_MS = 1_000
"""How long the server holds a read of a quiet stream."""
_MOST_AT_ONCE = 1_000
"""Events in one reply: decoding them holds the interpreter, and they are marked in one step."""
_RESUMES = 2
"""The first may still ask a server that is no primary any more."""
_IDLE_CONNECTIONS = 12
"""More than are left of a busy time; fewer than Motor has threads."""
_TRIAL_SECONDS = 0.1
_OPEN_ANEW = {43, 13}  # CursorNotFound, Unauthorized
_TIMED_TOKEN = re.compile("82[0-9A-Fa-f]{16}")
_RESUMABLE = "ResumableChangeStreamError"


@dataclass(frozen=True, slots=True)
class Watched:
    """What a stream tells of: one collection, or all of a database, and which events of it."""

    database: Database
    collection: str | None
    pipeline: Sequence[Mapping[str, Any]]


class Stream:
    """An open change stream; `since` is the time from which on it misses nothing.

    Build it with `opened`. Its reads raise PyMongoError, and must not be cancelled: a read that is
    given up may take events with it.
    """

    def __init__(
        self,
        watched: Watched,
        session: AsyncIOMotorClientSession,
        since: Timestamp,
        token: str | None,
        resumed: Callable[[str], None],
    ) -> None:
        self.since = since
        self.token = token
        """Where another stream may go on (a resume token); None where nobody knows it yet."""
        self._watched = watched
        self._session = session
        self._resumed = resumed
        # What carries the time `since` itself is in every majority read from here on.
        just_after = Timestamp(since.time, since.inc + 1)
        self._start: dict[str, Any] = {"startAtOperationTime": just_after}
        if token is not None:
            self._start = {"resumeAfter": {"_data": token}}
        self._cursor = 0
        self._waiting: Sequence[Event] = ()
        self._trials: set[asyncio.Task[None]] = set()

    @classmethod
    async def opened(
        cls,
        client: Client,
        watched: Watched,
        token: str | None,
        resumed: Callable[[str], None],
    ) -> "Stream":
        """Open a stream just after what the majority has now, before anything is listed.

        With a `token`, just after that, if the server still remembers it.

        One opened at "now" starts after the primary's last write, while a majority list shows an
        older state: what lies between is in neither (FAULTS 0.1). Raises Unavailable where nobody
        can say what the majority has.
        """
        with translated():
            since = await _majority_time(client)
            session = await client.start_session(causal_consistency=False)
        stream = cls(watched, session, since, token, resumed)
        await stream._open()
        return stream

    @property
    def is_alive(self) -> bool:
        """Tell whether there can be more: the server ends it where the collection is gone."""
        return bool(self._cursor)

    @property
    def position(self) -> datetime | None:
        """The whole second of cluster time before which everything was read, if that is known."""
        return time_of(self._start.get("resumeAfter"))

    async def next_events(self) -> Sequence[Event]:
        """What comes next, in order; empty after about a second without any event."""
        if not self._waiting and self._cursor:
            try:
                await self._read()
            except (ConnectionFailure, OperationFailure) as error:
                if not _is_resumable(error):
                    raise
                if isinstance(error, NetworkTimeout):
                    await self._try_other_connections()
                await self._resume()
                self._resumed(_code_of(error))
        events, self._waiting = self._waiting, ()
        return events

    @property
    def _cursors_name(self) -> str:
        """What the server calls the collection of a cursor; a whole database has a name of it."""
        return self._watched.collection or "$cmd.aggregate"

    async def close(self) -> None:
        """Free what the server keeps for it."""
        with suppress(PyMongoError):
            if self._cursor:
                await self._command({"killCursors": self._cursors_name, "cursors": [self._cursor]})
            await self._session.end_session()

    async def _open(self) -> None:
        stages = [{"$changeStream": self._start}, *self._watched.pipeline]
        reply = await self._command(
            {
                "aggregate": self._watched.collection or 1,
                "pipeline": stages,
                "cursor": {"batchSize": _MOST_AT_ONCE},
                "readConcern": {"level": "majority"},
            }
        )
        self._take(reply["cursor"], "firstBatch")

    async def _read(self) -> None:
        reply = await self._command(
            {
                "getMore": self._cursor,
                "collection": self._cursors_name,
                "batchSize": _MOST_AT_ONCE,
                "maxTimeMS": MAX_AWAIT_MS,
            }
        )
        self._take(reply["cursor"], "nextBatch")

    async def _resume(self) -> None:
        for left in reversed(range(_RESUMES)):
            try:
                await self._open()
            except ConnectionFailure:
                if not left:
                    raise
            else:
                return

    async def _try_other_connections(self) -> None:
        """Where one connection fell silent, others may have: have the idle ones answer, or not.

        Those that do not are in use until they end, and whoever needs one gets a new one.
        """
        for _ in range(_IDLE_CONNECTIONS):
            task = asyncio.create_task(self._ping(), name="try a connection")
            self._trials.add(task)
            task.add_done_callback(self._trials.discard)
        await asyncio.wait(list(self._trials), timeout=_TRIAL_SECONDS)

    async def _ping(self) -> None:
        with suppress(PyMongoError):
            await self._watched.database.command("ping")

    def _take(self, cursor: Mapping[str, Any], name: str) -> None:
        self._cursor = cursor["id"]
        self._waiting = cursor[name]
        token = cursor.get("postBatchResumeToken")
        if token is None and self._waiting:
            token = self._waiting[-1]["_id"]
        if token is not None:
            self._start = {"resumeAfter": token}
            self.token = token.get("_data")

    async def _command(self, command: dict[str, Any]) -> Mapping[str, Any]:
        reply: Mapping[str, Any] = await self._watched.database.command(
            command, codec_options=LENIENT, session=self._session
        )
        return reply


def time_of(token: Mapping[str, Any] | None) -> datetime | None:
    """The cluster time in a resume token, in whole seconds; None where it is of another form.

    Its first nine bytes are a key string's type, 0x82, and a timestamp, seconds first: what the
    server itself relies upon (https://jira.mongodb.org/browse/SERVER-133517).
    """
    data = token.get("_data") if token is not None else None
    if not isinstance(data, str) or _TIMED_TOKEN.match(data) is None:
        return None
    return datetime.fromtimestamp(int(data[2:10], 16), UTC)


def _code_of(error: ConnectionFailure | OperationFailure) -> str:
    """The server's code, also where the driver takes it for a broken connection."""
    if isinstance(error, OperationFailure):
        return str(error.code)
    details = error.details if isinstance(error, NotPrimaryError) else None
    code = details.get("code") if isinstance(details, Mapping) else None
    return str(code) if code else "network"


def _is_resumable(error: PyMongoError) -> bool:
    if isinstance(error, OperationFailure):
        # Refused, a cursor does not tell what right it lacks; whoever opens it anew is told.
        return error.code in _OPEN_ANEW or error.has_error_label(_RESUMABLE)
    return True  # the connection broke


async def _majority_time(client: Client) -> Timestamp:
    hello = await client.admin.command("hello")
    majority = hello.get("lastWrite", {}).get("majorityOpTime", {}).get("ts")
    # A mongos has no `lastWrite`; its operation time is that of the majority.
    time = majority or hello["operationTime"]
    assert isinstance(time, Timestamp)
    return time
