"""The collection `apscheduler_jobs`: plain documents that say when each councilor runs next."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteMany, ReadPreference, ReplaceOne

from service.adapters.mongo.client import DURABLE, Client, translated
from service.adapters.mongo.keys import LENIENT
from service.domain.config import instant_from
from service.domain.jobs import Job, StoredJob
from service.ports import Clock

_OURS = {"job_state.owner": {"$exists": True}}
_BULK = 1_000


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
        self._raw = client[database].get_collection(
            collection, codec_options=CodecOptions(document_class=RawBSONDocument)
        )
        self._owner = owner
        self._clock = clock

    async def load(self) -> Mapping[str, StoredJob]:
        stored: dict[str, StoredJob] = {}
        with translated():
            async for raw in self._raw.find(_OURS):
                job = _stored_job(bson.decode(raw.raw, LENIENT))
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
        with translated():
            found = self._jobs.find({**_OURS, "_id": {"$type": "string"}}, {"_id": 1})
            stored = {row["_id"] async for row in found}
            if strangers := stored - wanted:
                await self._jobs.delete_many({"_id": {"$in": list(strangers)}, **_OURS})
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
                "owner": self._owner,
                "updated_at": self._clock(),
            },
        }


def _stored_job(document: Mapping[str, Any]) -> StoredJob | None:
    """Read a document of our shape; anything else, pickled jobs say, is nobody's job."""
    agent_id, state = document.get("_id"), document.get("job_state")
    if not isinstance(agent_id, str) or not isinstance(state, Mapping):
        return None
    if not isinstance(state.get("spec_hash"), str) or not isinstance(state.get("state"), str):
        return None
    return StoredJob(
        agent_id=agent_id,
        spec_hash=state["spec_hash"],
        state=state["state"],
        accepted_at=instant_from(state.get("anchor")),
        next_run_at=instant_from(document.get("next_run_time")),
        skipped_slot=instant_from(state.get("skipped_slot")),
    )
