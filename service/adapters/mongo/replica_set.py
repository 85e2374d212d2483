"""Make a lone mongod a replica set of one; for the embedded server and the tests."""

import asyncio
from typing import Any

import stamina
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure

from service.adapters.mongo.client import translated
from service.ports import Unavailable

_POLL_SECONDS = 0.02
_NOT_YET_INITIALIZED = 94


async def initiate(port: int) -> None:
    """Return when 127.0.0.1:port is the writable primary of a replica set of its own.

    Data that was left by a replica set on another port is taken over.
    """
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        "127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=10_000
    )
    try:
        # After a restart on another port, mongod asks the old address whether that is itself, and
        # answers "not yet initialized", then "already initialized", then hangs up (seen: 30 s).
        async for attempt in stamina.retry_context(
            on=Unavailable, attempts=None, timeout=60, wait_initial=0.1, wait_max=1
        ):
            with attempt, translated():
                await _configure(client, f"127.0.0.1:{port}")
        with translated():
            # Polled: an election ends without an event that a direct connection could wait for.
            while not (await client.admin.command("hello"))["isWritablePrimary"]:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        client.close()


async def _configure(client: AsyncIOMotorClient[dict[str, Any]], host: str) -> None:
    try:
        config = (await client.admin.command("replSetGetConfig"))["config"]
    except OperationFailure as error:
        if error.code != _NOT_YET_INITIALIZED:
            raise
        members = [{"_id": 0, "host": host}]
        await client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        return
    if [member["host"] for member in config["members"]] != [host]:
        config["members"] = [{**config["members"][0], "host": host}]
        config["version"] += 1
        await client.admin.command("replSetReconfig", config, force=True)
