"""The collection `agents`: read, watch, and write verdicts; nothing of a user's is ever changed."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, cast

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from motor.motor_asyncio import AsyncIOMotorClientSession
from pymongo import ReadPreference, UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import DURABLE, Client, translated, translation_of
from service.adapters.mongo.keys import LENIENT, id_of, key_of
from service.adapters.mongo.verdicts import (
    JUDGED,
    guarded_filter,
    skipping_update,
    verdict_update,
)
from service.adapters.mongo.watch import OpenWatch, RawCollection, opened_stream
from service.domain.config import instant_from
from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument
from service.domain.verdict import Verdict
from service.ports import Unavailable

_STRICT: CodecOptions[Mapping[str, Any]] = CodecOptions(
    document_class=dict, tz_aware=True, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
# Raw, so that one document that cannot be decoded does not hide others (FAULTS 0.6).
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
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
    "stats",
)
_PROJECTION = dict.fromkeys(_FIELDS, 1)
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


class MongoAgents:
    """The port `Agents` on a real collection."""

    def __init__(self, client: Client, database: str, collection: str) -> None:
        self._client = client
        collected = client[database].get_collection(
            collection,
            codec_options=_RAW,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=DURABLE,
        )
        self._documents = cast("RawCollection", collected)  # Motor's stub forgets the codec
        self._seen: Timestamp | None = None

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[OpenWatch]:
        async with opened_stream(self._client, self._documents) as stream:
            self._saw(stream.since)
            yield OpenWatch(stream, self._list, self._saw)

    async def read(self, keys: Sequence[DocumentKey]) -> Sequence[AgentDocument]:
        found: dict[DocumentKey, AgentDocument] = {}
        with translated():
            async with await self._session() as session:
                wanted = {"_id": {"$in": [id_of(key) for key in keys]}}
                cursor = self._documents.find(wanted, _PROJECTION, session=session)
                async for raw in cursor:
                    document = _document_of(raw)
                    found[document.key] = document
        return [found.get(key, AgentDocument(key, None)) for key in keys]

    async def read_as_of(self, key: DocumentKey, instant: datetime) -> AgentDocument | None:
        # Cluster times count seconds, and the writes within one: this is before the first of them.
        at = Timestamp(int(instant.timestamp()), 0)
        try:
            reply = await self._documents.database.command(
                "find",
                self._documents.name,
                filter={"_id": id_of(key)},
                projection=_PROJECTION,
                readConcern={"level": "snapshot", "atClusterTime": at},
                codec_options=_RAW,
            )
        except OperationFailure as error:
            if error.code in _NOT_REMEMBERED:
                return None
            raise translation_of(error) from error
        except PyMongoError as error:
            raise translation_of(error) from error
        (raw,) = reply["cursor"]["firstBatch"] or (None,)
        return AgentDocument(key, None) if raw is None else _document_of(raw)

    async def find(self, agent_ids: Sequence[str] | None) -> Sequence[AgentDocument]:
        wanted: dict[str, Any] = {"$or": _PROMOTED}
        if agent_ids is not None:
            wanted = {"agent_id": {"$in": list(agent_ids)}}
        with translated():
            cursor = self._documents.find(wanted, _PROJECTION, batch_size=_BATCH)
            return [_document_of(raw) async for raw in cursor]

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, datetime]:
        if not verdicts:
            return {}
        await self._update_each(
            [
                UpdateOne(
                    guarded_filter(id_of(document.key), document.revision),
                    verdict_update(verdict, (document.fields or {}).get("councilor_status")),
                )
                for document, verdict in verdicts
            ]
        )
        judged = await self.read([document.key for document, _ in verdicts])
        return {
            document.key: accepted_at
            for document, (_, verdict) in zip(judged, verdicts, strict=True)
            if (accepted_at := _accepted_at(document, verdict)) is not None
        }

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

    async def _update_each(self, updates: Sequence[UpdateOne]) -> None:
        """Update what lets itself be updated: a validator of the user's may refuse a document."""
        try:
            await self._documents.bulk_write(updates, ordered=False)
        except BulkWriteError as error:
            if error.details.get("writeConcernErrors"):
                raise Unavailable("the majority has not acknowledged the verdicts") from error
        except PyMongoError as error:
            raise translation_of(error) from error

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

    async def ping(self) -> None:
        with translated():
            await self._client.admin.command("ping")

    async def _list(self) -> AsyncIterator[Sequence[AgentDocument]]:
        """Everything that concerns us, not older than what was seen (FAULTS 0.1)."""
        async with await self._session() as session:
            cursor = self._documents.find(
                _CONCERNS_US, _PROJECTION, batch_size=_BATCH, session=session
            )
            while batch := await cursor.to_list(_BATCH):
                yield [_document_of(raw) for raw in batch]

    async def _session(self) -> AsyncIOMotorClientSession:
        """A session whose reads are at least as new as every change seen (FAULTS 6b).

        After a failover, a majority read without it may be older than the change that caused it.
        """
        session = await self._client.start_session(causal_consistency=True)
        if self._seen is not None:
            session.advance_operation_time(self._seen)
        return session

    def _saw(self, time: Timestamp) -> None:
        if self._seen is None or time > self._seen:
            self._seen = time


def _document_of(raw: RawBSONDocument) -> AgentDocument:
    try:
        fields, damage = bson.decode(raw.raw, _STRICT), None
    except InvalidBSON as error:
        fields, damage = bson.decode(raw.raw, LENIENT), str(error)[:200]
    revision = {name: fields[name] for name in JUDGED if name in fields}
    if damage is None:
        # As raw bytes where it is a document: an equal one decodes and encodes to these, always.
        revision = {name: raw[name] for name in revision}
    return AgentDocument(key_of(fields["_id"]), fields, None if damage else revision, damage)


def _accepted_at(document: AgentDocument, verdict: Verdict) -> datetime | None:
    status = document.fields.get("councilor_status") if document.fields is not None else None
    if not isinstance(status, Mapping) or status.get("spec_hash") != verdict.spec_hash:
        return None
    return instant_from(status.get("accepted_at"))
