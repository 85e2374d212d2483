"""What all replicas write to the ledger and to the notifications, as it is written."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import Client, translated
from service.adapters.mongo.keys import LENIENT
from service.adapters.mongo.rows import shown_fields
from service.adapters.mongo.stream import Event, Stream, Watched
from service.adapters.mongo.watch import next_events, opened_stream
from service.ports import JournalEntry, LedgerEntry, Misconfigured, NotificationEntry, WatchLost

NOTIFICATIONS = "scheduler_notifications"
_SHOWN_BY_A_UI = {"fullDocument.channels": {"$in": ["panel", "toast"]}}
_STATUS = "updateDescription.updatedFields.status"
_LONG = ("output", "attempts")
_NAMES = ("councilor_id", "display_name", "task_name", "execution_id", "trigger", "scheduled_for")
_MORE = ("started_at", "lateness_ms", "slots_missed", "last_slot", "owner")


class MongoJournal:
    """The port `Journal` on real collections."""

    def __init__(self, client: Client, database: str, executions: str) -> None:
        self._client = client
        self._database = client[database]
        self._rows = self._database.get_collection(
            executions,
            codec_options=LENIENT,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )

    @asynccontextmanager
    async def follow(self, position: str | None = None) -> AsyncIterator["OpenJournal"]:
        async with AsyncExitStack() as stack:
            try:
                opened = opened_stream(self._client, self._watched(None), position)
                stream = await stack.enter_async_context(opened)
            except Misconfigured:
                # A stream of both collections is one of their database, and takes the right to
                # read all of it. Without that right, no notification is told of.
                opened = opened_stream(self._client, self._watched(self._rows.name), position)
                stream = await stack.enter_async_context(opened)
            yield OpenJournal(stream, self)

    def _watched(self, collection: str | None) -> Watched:
        return Watched(self._database, collection, self._pipeline)

    @property
    def _pipeline(self) -> list[dict[str, Any]]:
        """Rows that begin or end, and new notifications, without what is long."""
        begins = {"operationType": {"$in": ["insert", "replace"]}}
        of_ledger = {"ns.coll": self._rows.name}
        wanted = [
            {**begins, **of_ledger},
            {"operationType": "update", _STATUS: {"$exists": True}, **of_ledger},
            {"operationType": "insert", "ns.coll": NOTIFICATIONS, **_SHOWN_BY_A_UI},
            {"operationType": {"$in": ["dropDatabase", "invalidate"]}},
        ]
        parents = ("fullDocument", "updateDescription.updatedFields")
        long = [f"{parent}.{name}" for parent in parents for name in _LONG]
        return [{"$match": {"$or": wanted}}, {"$unset": long}]

    async def rows(self, ids: Sequence[Any]) -> Mapping[Any, Mapping[str, Any]]:
        """What the updates of these rows do not tell. Raises Unavailable."""
        if not ids:
            return {}
        fields = dict.fromkeys((*_NAMES, *_MORE), 1)
        with translated():
            return {row["_id"]: row async for row in self._rows.find({"_id": {"$in": ids}}, fields)}


class OpenJournal:
    """The port `OpenJournal` on an open stream."""

    def __init__(self, stream: Stream, journal: MongoJournal) -> None:
        self._stream = stream
        self._journal = journal

    @property
    def position(self) -> str | None:
        return self._stream.token

    async def entries(self) -> Sequence[JournalEntry]:
        while events := await next_events(self._stream):
            # Of rows that are gone by now there is nothing to tell, but of what came after them.
            if entries := await self._entries_of(events):
                return entries
        if not self._stream.is_alive:
            raise WatchLost("ended", "the change stream has ended")
        return ()

    async def _entries_of(self, events: Sequence[Event]) -> Sequence[JournalEntry]:
        updated = [event["documentKey"]["_id"] for event in events if _is_update(event)]
        # An id that is no text is another program's; it may not even be hashable.
        rows = await self._journal.rows([key for key in updated if isinstance(key, str)])
        entries = (_entry_of(event, rows) for event in events)
        return [entry for entry in entries if entry is not None]


def _is_update(event: Event) -> bool:
    return bool(event["operationType"] == "update")


def _entry_of(event: Event, rows: Mapping[Any, Mapping[str, Any]]) -> JournalEntry | None:
    position = event["_id"]["_data"]
    fields = event.get("fullDocument")
    if _is_update(event):
        key = event["documentKey"]["_id"]
        changed = event["updateDescription"]["updatedFields"]
        fields = {**rows[key], **changed} if isinstance(key, str) and key in rows else None
    if not isinstance(fields, Mapping) or not isinstance(fields.get("councilor_id"), str):
        return None
    if event["ns"]["coll"] == NOTIFICATIONS:
        return NotificationEntry(position, {k: v for k, v in fields.items() if k != "_id"})
    return LedgerEntry(position, shown_fields(fields))
