"""The collection `scheduler_replicas`: who is alive, by the server's clock."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from bson.codec_options import CodecOptions
from bson.timestamp import Timestamp
from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import DURABLE, Client, translated
from service.domain.execution import milliseconds
from service.ports import ServerState

REPLICAS = "scheduler_replicas"
_AWARE: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)


class MongoReplicas:
    """The port `Replicas` on a real collection."""

    def __init__(self, client: Client, database: str) -> None:
        self._client = client
        self._replicas = client[database].get_collection(
            REPLICAS,
            write_concern=DURABLE,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )

    async def server_state(self) -> ServerState:
        with translated():
            hello = await self._client.admin.command("hello", codec_options=_AWARE)
        last = hello.get("lastWrite", {})  # a mongos has none
        written, common = last.get("lastWriteDate"), last.get("majorityWriteDate")
        is_known = isinstance(written, datetime) and isinstance(common, datetime)
        lag = written - common if is_known else timedelta(0)
        time = last.get("opTime", {}).get("ts")
        written_at = time.as_datetime() if isinstance(time, Timestamp) else None
        return ServerState(hello["localTime"], lag, written_at)

    async def heartbeat(self, replica_id: str, facts: Mapping[str, object], ttl: timedelta) -> None:
        beat = {
            **{name: {"$literal": value} for name, value in facts.items()},
            "started_at": {"$ifNull": ["$started_at", "$$NOW"]},
            "heartbeat_at": "$$NOW",
            "expires_at": {"$add": ["$$NOW", milliseconds(ttl)]},
        }
        with translated():
            await self._replicas.update_one({"_id": replica_id}, [{"$set": beat}], upsert=True)

    async def alive(self) -> Sequence[str]:
        with translated():
            living = {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}
            return [replica["_id"] async for replica in self._replicas.find(living, {"_id": 1})]

    async def leave(self, replica_id: str) -> None:
        with translated():
            await self._replicas.delete_one({"_id": replica_id})

    async def forget_dead(self) -> None:
        long_dead = {"$lt": ["$expires_at", {"$subtract": ["$$NOW", 86_400_000]}]}
        with translated():
            await self._replicas.delete_many({"$expr": long_dead})
