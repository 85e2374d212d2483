"""The collection `apscheduler_jobs`: plain documents that say when each councilor runs next."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from pymongo import DeleteMany, ReadPreference, ReplaceOne

from service.adapters.mongo.client import DURABLE, Client, translated
from service.adapters.mongo.documents import documents_in
from service.adapters.mongo.keys import LENIENT
from service.domain.config import instant_from
from service.domain.jobs import Job, StoredJob, WholeJob, whole_of
from service.ports import Clock

_OURS = {"job_state.owner": {"$exists": True}}
_NEEDED = {"job_state.owner": 0, "job_state.updated_at": 0}
_BULK = 1_000
_NAIVE: CodecOptions[dict[str, Any]] = CodecOptions(document_class=dict)


class MongoStoredJobs:
    """The port `StoredJobs` on a real collection."""

    def __init__(
        self, client: Client, database: str, collection: str, *, owner: str, clock: Clock
    ) -> None:
        self._jobs = client[database].get_collection(
            collection,
            write_concern=DURABLE,
            read_preference=ReadPreference.PRIMARY,
        )
        self._owner = owner
        self._clock = clock

    async def load(self) -> dict[str, StoredJob]:
        stored: dict[str, StoredJob] = {}
        with translated():
            batches = self._jobs.find_raw_batches(_OURS, _NEEDED, batch_size=_BULK)
            async for batch in batches:
                for raw in documents_in(batch):
                    job = _stored_job(_decoded(raw))
                    if job is not None:
                        stored[job.agent_id] = job
        return stored

    async def save(self, jobs: Sequence[Job], removed: Sequence[str]) -> None:
        writes: list[Any] = [
            ReplaceOne({"_id": job.agent_id}, self._document(job), upsert=True) for job in jobs
        ]
        if removed:
            writes.append(DeleteMany({"_id": {"$in": list(removed)}}))
        for start in range(0, len(writes), _BULK):
            with translated():
                await self._jobs.bulk_write(writes[start : start + _BULK], ordered=False)

    async def keep_only(self, agent_ids: Collection[str]) -> Collection[str]:
        wanted = set(agent_ids)
        stored: set[str] = set()
        with translated():
            batches = self._jobs.find_raw_batches(
                {**_OURS, "_id": {"$type": "string"}}, {"_id": 1}, batch_size=_BULK
            )
            async for batch in batches:
                stored.update(_decoded(raw)["_id"] for raw in documents_in(batch))
            strangers = list(stored - wanted)
            for start in range(0, len(strangers), _BULK):
                gone = {"$in": strangers[start : start + _BULK]}
                await self._jobs.delete_many({"_id": gone, **_OURS})
        return wanted - stored

    def _document(self, job: Job) -> dict[str, Any]:
        schedule = job.spec.schedule if job.spec is not None else None
        return {
            "_id": job.agent_id,
            "next_run_time": job.next_run_at,
            "job_state": {
                "trigger": schedule.kind if schedule is not None else None,
                "value": schedule.text if schedule is not None else None,
                "timezone": schedule.zone if schedule is not None else None,
                "anchor": job.accepted_at,
                "spec_hash": job.spec_hash,
                "state": job.state.value,
                **({"skipped_slot": job.skipped_slot} if job.skipped_slot is not None else {}),
                **_restore(whole_of(job)),
                "owner": self._owner,
                "updated_at": self._clock(),
            },
        }


def _restore(whole: WholeJob | None) -> dict[str, Any]:
    """What the next start needs so as not to judge the document anew."""
    if whole is None:
        return {}
    names = ("name", "delay_ms", "catch_up", "overlap", "digest", "proof")
    return {"restore": {name: getattr(whole, name) for name in names}}


def _decoded(raw: bytes) -> Mapping[str, Any]:
    """A document, its dates naive and in UTC; aware ones take twice as long."""
    try:
        return bson.decode(raw, _NAIVE)
    except InvalidBSON:
        return bson.decode(raw, LENIENT)


def _stored_job(document: Mapping[str, Any]) -> StoredJob | None:
    """Read a document of our shape; anything else, pickled jobs say, is nobody's job."""
    agent_id, state = document.get("_id"), document.get("job_state")
    if type(agent_id) is not str or type(state) is not dict:
        return None
    if type(state.get("spec_hash")) is not str or type(state.get("state")) is not str:
        return None
    return StoredJob(
        agent_id,
        state["spec_hash"],
        state["state"],
        _instant(state.get("anchor")),
        _instant(document.get("next_run_time")),
        _instant(state.get("skipped_slot")),
        _whole_job(state),
    )


def _instant(value: object) -> datetime | None:
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    return instant_from(value)


def _whole_job(state: Mapping[str, Any]) -> WholeJob | None:
    restore = state.get("restore")
    if type(restore) is not dict:
        return None
    said = {
        "kind": state.get("trigger"),
        "value": state.get("value"),
        "timezone": state.get("timezone"),
        **restore,
    }
    if said.keys() != _TYPES.keys():
        return None
    if any(type(said[name]) not in types for name, types in _TYPES.items()):
        return None
    return WholeJob(**said)


_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "kind": (str,),
    "value": (str,),
    "timezone": (str, type(None)),
    "delay_ms": (int,),
    "catch_up": (str,),
    "overlap": (str,),
    "digest": (bytes,),
    "proof": (bytes,),
}
