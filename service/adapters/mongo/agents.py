"""The collection `agents`: read, watch, and write verdicts; nothing of a user's is ever changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, ReadPreference, UpdateOne
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.bulks import meaning_of, write_all
from service.adapters.mongo.client import DURABLE, Client, translated, translation_of
from service.adapters.mongo.documents import RAW, document_of, documents_in, listed
from service.adapters.mongo.keys import id_of, key_in
from service.adapters.mongo.stats import SUMS
from service.adapters.mongo.stream import Watched
from service.adapters.mongo.verdicts import (
    guarded_filter,
    skipping_update,
    verdict_update,
)
from service.adapters.mongo.watch import PIPELINE, OpenWatch, opened_stream
from service.domain.config import instant_from
from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument, Listed
from service.domain.verdict import Verdict
from service.ports import Refused, Told

RawCollection = AsyncIOMotorCollection[RawBSONDocument]

_NOT_REMEMBERED = {72, 239, 246}
"""InvalidOptions (a time to come, while nothing is written), SnapshotTooOld (after five minutes),
SnapshotUnavailable (before the collection was there, or was changed as a whole); seen on 6.0."""
_FIELDS = (
    "agent_id",
    "name",
    "title",
    "customization.display_name",
    "is_councilor",
    "councilor_config",
    "councilor_run_requested_at",
    "councilor_status",
    "cwd",
    "ai_provider",
)
_PROJECTION = dict.fromkeys(_FIELDS, 1)
_SETTLED_BY = {
    **{name: 1 for name in _FIELDS if name != "councilor_status"},
    **dict.fromkeys(
        (
            f"councilor_status.{name}"
            for name in ("state", "spec_hash", "accepted_at", "skipped_slot", "observed_at")
        ),
        1,
    ),
}
"""What slots are settled by: of the status, what is written for people is left out."""
_RUN_BY = {**_SETTLED_BY, **{f"stats.{name}": 1 for name in SUMS}}
"""The same, and what the statistics are that the run will be counted in."""
_WITH_STATS = {**_PROJECTION, "stats": 1}
# Anything but null and false: what is neither is invalid, and told so. An array that holds one of
# them would be matched as if it were one.
_PROMOTED: list[dict[str, Any]] = [
    {"is_councilor": {"$nin": [None, False]}},
    {"is_councilor": {"$type": "array"}},
]
_CONCERNS_US: dict[str, Any] = {
    "$or": [
        *_PROMOTED,
        {"councilor_status": {"$exists": True}},
        {"councilor_run_requested_at": {"$exists": True}},
    ]
}
_BATCH = 500
_READ_AT_ONCE, _WRITTEN_AT_ONCE = 50, 20
"""Documents that are read, and verdicts that are prepared, before the event loop may turn to
something else."""

_LAST_CHARACTER = "\U0010ffff"
_TYPING_MS = 1_000
"""What somebody who types an id may be kept waiting."""


class MongoAgents:
    """The port `Agents` on a real collection. `seal` stands for whoever judges its documents.

    `resumed` is told the code of each error after which a watch went on where it was.
    """

    def __init__(
        self,
        client: Client,
        database: str,
        collection: str,
        *,
        seal: bytes = b"",
        resumed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._resumed = resumed
        self._seal = seal
        collected = client[database].get_collection(
            collection,
            codec_options=RAW,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=DURABLE,
        )
        self._database = client[database]
        self._documents = cast("RawCollection", collected)  # Motor's stub forgets the codec
        self._seen: Timestamp | None = None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[OpenWatch]:
        watched = Watched(self._database, self._documents.name, PIPELINE)
        async with opened_stream(self._client, watched, resumed=self._resumed) as stream:
            self._saw(stream.since)
            yield OpenWatch(stream, self._list, self._saw)

    async def read(
        self, keys: Sequence[DocumentKey], *, with_stats: bool = False
    ) -> Sequence[AgentDocument]:
        projection = _WITH_STATS if with_stats else _PROJECTION
        return await self._documents_of(keys, projection, self._seal)

    async def look(self, keys: Sequence[DocumentKey]) -> Sequence[AgentDocument]:
        documents = await self._documents_of(keys, _RUN_BY, None)
        damaged = [document.key for document in documents if document.damage]
        if not damaged:
            return documents
        # Perhaps in the statistics, which nothing that runs depends on.
        others = {one.key: one for one in await self._documents_of(damaged, _SETTLED_BY, None)}
        return [others.get(document.key, document) for document in documents]

    async def _documents_of(
        self, keys: Sequence[DocumentKey], projection: Mapping[str, int], seal: bytes | None
    ) -> Sequence[AgentDocument]:
        found: dict[DocumentKey, AgentDocument] = {}
        for place, raw in enumerate(await self._found(keys, projection)):
            if place % _READ_AT_ONCE == _READ_AT_ONCE - 1:
                await asyncio.sleep(0)
            document = document_of(raw, seal)
            found[document.key] = document
        return [found.get(key) or AgentDocument(key, None) for key in keys]

    async def _found(
        self, keys: Sequence[DocumentKey], projection: Mapping[str, int]
    ) -> Sequence[bytes]:
        """The documents that there are, not older than what was seen (FAULTS 6b).

        After a failover, a majority read may be older than the change that caused it.
        """
        concern = {} if self._seen is None else {"afterClusterTime": self._seen}
        with translated():
            return await self._commanded(keys, projection, {"level": "majority", **concern})

    async def _commanded(
        self,
        keys: Sequence[DocumentKey],
        projection: Mapping[str, int],
        read_concern: Mapping[str, Any],
    ) -> Sequence[bytes]:
        """One command: a cursor of the driver's takes three, with its session."""
        reply = await self._documents.database.command(
            "find",
            self._documents.name,
            filter={"_id": {"$in": [id_of(key) for key in keys]}},
            projection=projection,
            batchSize=len(keys) + 1,
            readConcern=read_concern,
            codec_options=RAW,
        )
        if reply["cursor"]["id"] and len(keys) > 1:  # more than 16 MB: in halves, then
            half = len(keys) // 2
            first = await self._commanded(keys[:half], projection, read_concern)
            return [*first, *await self._commanded(keys[half:], projection, read_concern)]
        return [document.raw for document in reply["cursor"]["firstBatch"]]

    async def as_of(
        self, asked: Sequence[tuple[AgentDocument, Sequence[datetime]]]
    ) -> Sequence[Sequence[AgentDocument | None]]:
        found: dict[datetime, Mapping[DocumentKey, bytes] | None] = {}
        for instant in {instant for _, instants in asked for instant in instants}:
            keys = [document.key for document, instants in asked if instant in instants]
            found[instant] = await self._all_as_of(keys, instant)
        return [
            [await self._past_of(document, instant, found[instant]) for instant in instants]
            for document, instants in asked
        ]

    async def _past_of(
        self,
        document: AgentDocument,
        instant: datetime,
        found: Mapping[DocumentKey, bytes] | None,
    ) -> AgentDocument | None:
        if found is None:
            return None
        raw = found.get(document.key)
        if raw is None:
            return AgentDocument(document.key, None)
        if raw == document.revision:
            return document
        past = document_of(raw)
        if past.damage is None:
            return past
        bare = await self._all_as_of([document.key], instant, _SETTLED_BY)
        return None if bare is None else document_of(bare[document.key])

    async def _all_as_of(
        self,
        keys: Sequence[DocumentKey],
        instant: datetime,
        projection: Mapping[str, int] = _RUN_BY,
    ) -> Mapping[DocumentKey, bytes] | None:
        """Those documents that were there; None where nobody remembers."""
        # Cluster times count seconds, and the writes within one: this is before the first of them.
        at = Timestamp(int(instant.timestamp()), 0)
        try:
            past = {"level": "snapshot", "atClusterTime": at}
            raws = await self._commanded(keys, projection, past)
        except OperationFailure as error:
            if error.code in _NOT_REMEMBERED:
                return None
            raise translation_of(error) from error
        except PyMongoError as error:
            raise translation_of(error) from error
        return {key_in(raw): raw for raw in raws}

    async def find(self, agent_ids: Sequence[str] | None) -> Sequence[AgentDocument]:
        wanted: dict[str, Any] = {"$or": _PROMOTED}
        if agent_ids is not None:
            wanted = {"agent_id": {"$in": list(agent_ids)}}
        with translated():
            cursor = self._documents.find(wanted, _WITH_STATS, batch_size=_BATCH)
            return [document_of(raw.raw) async for raw in cursor]

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, Told | None]:
        if not verdicts:
            return {}
        updates = []
        for place, (document, verdict) in enumerate(verdicts):
            if place % _WRITTEN_AT_ONCE == _WRITTEN_AT_ONCE - 1:
                await asyncio.sleep(0)
            status = (document.fields or {}).get("councilor_status")
            wanted = guarded_filter(id_of(document.key), document.revision)
            updates.append(UpdateOne(wanted, verdict_update(verdict, status)))
        refused = await self._update_each(updates)
        spec_hashes = {document.key: verdict.spec_hash for document, verdict in verdicts}
        told: dict[DocumentKey, Told | None] = {verdicts[place][0].key: None for place in refused}
        for raw in await self._found(list(spec_hashes), _PROJECTION):
            document = document_of(raw, self._seal)
            accepted_at = _accepted_at(document, spec_hashes[document.key])
            if accepted_at is not None:
                told[document.key] = Told(document, accepted_at)
        return told

    async def leave_out(self, document: AgentDocument, slot: datetime) -> None:
        wanted = guarded_filter(id_of(document.key), document.revision)
        with translated():
            await self._documents.update_one(wanted, skipping_update(slot))

    async def clear_verdicts(self, keys: Sequence[DocumentKey]) -> None:
        if not keys:
            return
        still_none = {"$or": [{"is_councilor": False}, {"is_councilor": None}]}
        clear = {"$unset": {"councilor_status": ""}}
        await self._update_each(
            [UpdateOne({"_id": id_of(key), **still_none}, clear) for key in keys]
        )

    async def _update_each(self, updates: Sequence[UpdateOne]) -> Sequence[int]:
        """Update what lets itself be updated: a validator of the user's may refuse a document.

        Answers the places of those that refuse.
        """
        written = await write_all(self._documents, updates)
        meanings = {
            place: meaning_of(failure) for place, failure in enumerate(written.failures) if failure
        }
        for meaning in meanings.values():
            if not isinstance(meaning, Refused):
                raise meaning
        return list(meanings)

    async def edit(
        self, agent_id: str, changes: Mapping[str, object], *, councilors_only: bool = False
    ) -> bool:
        update: dict[str, Any] = {"$currentDate": {"updated_at": True}}
        if values := {name: value for name, value in changes.items() if value is not None}:
            update["$set"] = values
        if unset := {name: "" for name, value in changes.items() if value is None}:
            update["$unset"] = unset
        wanted: dict[str, Any] = {"agent_id": agent_id}
        if councilors_only:
            wanted["$or"] = _PROMOTED
        with translated():
            result = await self._documents.update_one(wanted, update)
        return result.matched_count == 1

    async def ids(self, beginning: str, most: int) -> Sequence[str]:
        """The first `agent_id`s that begin so, promoted or not, for whoever types one.

        Raises Unavailable.
        """
        wanted = {"agent_id": {"$gte": beginning, "$lt": f"{beginning}{_LAST_CHARACTER}"}}
        with translated():
            found = self._documents.find(wanted, {"agent_id": 1, "_id": 0})
            first = found.sort("agent_id", ASCENDING).limit(most).max_time_ms(_TYPING_MS)
            return [raw["agent_id"] async for raw in first]

    async def ping(self) -> None:
        with translated():
            await self._client.admin.command("ping")

    async def _list(self) -> AsyncIterator[Sequence[Listed]]:
        """Everything that concerns us, not older than what was seen (FAULTS 0.1).

        The next batch is on its way while one is worked upon.
        """
        async with await self._client.start_session(causal_consistency=True) as session:
            if self._seen is not None:
                session.advance_operation_time(self._seen)
            found = self._documents.find_raw_batches(
                _CONCERNS_US, _PROJECTION, batch_size=_BATCH, session=session
            )
            cursor = cast("AsyncIterator[bytes]", found)  # Motor's stub says documents
            coming = _coming(cursor)
            try:
                while (batch := await asyncio.shield(coming)) is not None:
                    coming = _coming(cursor)
                    yield [listed(raw, self._seal) for raw in documents_in(batch)]
            finally:
                await asyncio.wait([coming])  # its session may not end before it does
                if not coming.cancelled():
                    coming.exception()

    def _saw(self, time: Timestamp) -> None:
        if self._seen is None or time > self._seen:
            self._seen = time


def _coming(batches: AsyncIterator[bytes]) -> "asyncio.Task[bytes | None]":
    """The next batch, on its way; None after the last."""

    async def read() -> bytes | None:
        return await anext(batches, None)

    return asyncio.create_task(read(), name="read the next batch")


def _accepted_at(document: AgentDocument, spec_hash: str) -> datetime | None:
    status = document.fields.get("councilor_status") if document.fields is not None else None
    if not isinstance(status, Mapping) or status.get("spec_hash") != spec_hash:
        return None
    return instant_from(status.get("accepted_at"))
