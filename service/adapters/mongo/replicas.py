"""The collection `scheduler_replicas`: who is alive, by the server's clock."""

from collections.abc import Mapping, Sequence
from datetime import timedelta

from pymongo import ReadPreference
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from service.adapters.mongo.client import Client, translated
from service.domain.execution import milliseconds


class MongoReplicas:
    """The port `Replicas` on a real collection."""

    def __init__(self, client: Client, database: str) -> None:
        self._replicas = client[database].get_collection(
            "scheduler_replicas",
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )

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
