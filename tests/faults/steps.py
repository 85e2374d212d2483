"""What the fault tests do and ask, again and again."""

import asyncio
from typing import Any

from pymongo import MongoClient

from tests.cluster import Node
from tests.flow.conftest import Database, Service, config
from tests.steps import eventually

_RELISTS = 'councilor_watch_relists_total{reason="'


async def promote(db: Database, *agent_ids: str, value: str = "1h", prompt: str = "look") -> None:
    """Insert councilors, as the gateway does."""
    await db["agents"].insert_many([councilor(agent_id, value, prompt) for agent_id in agent_ids])


async def promote_at(node: Node, database: str, *agent_ids: str) -> None:
    """Insert councilors at one member, past its proxy, acknowledged by itself alone."""

    def insert() -> None:
        url = f"mongodb://127.0.0.1:{node.port}/?directConnection=true&w=1"
        with MongoClient[dict[str, Any]](url) as client:
            client[database]["agents"].insert_many([councilor(agent_id) for agent_id in agent_ids])

    await asyncio.to_thread(insert)


def councilor(
    agent_id: str, value: str = "1h", prompt: str = "look", **fields: Any
) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "is_councilor": True,
        "councilor_config": config(value, prompt),
        **fields,
    }


async def have_jobs(db: Database, *agent_ids: str, within: float = 15) -> None:
    """Wait until these have a job, and nobody else: the documents are in effect."""

    async def are_equal() -> bool:
        found = {job["_id"] async for job in db["apscheduler_jobs"].find({}, {"_id": 1})}
        return found == set(agent_ids)

    await eventually(are_equal, within=within, saying=f"jobs of {agent_ids}")


async def relists(service: Service) -> dict[str, int]:
    """How often everything was listed, by reason; those that never were are left out."""
    _, text = await service.get("/metrics")
    lines = [line for line in text.splitlines() if line.startswith(_RELISTS)]
    counts = {
        line.removeprefix(_RELISTS).split('"')[0]: int(float(line.split()[-1])) for line in lines
    }
    return {reason: count for reason, count in counts.items() if count}


async def relisted(service: Service, reason: str, within: float = 15) -> None:
    """Wait until everything was listed for this reason."""

    async def is_counted() -> bool:
        return reason in await relists(service)

    await eventually(is_counted, within=within, saying=f"a relist for {reason}")
