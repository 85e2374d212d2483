"""Comparisons on a real server: busy writers are no drift, a change that was not told is."""

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pytest

from service.adapters.mongo.stream import Event
from service.adapters.mongo.watch import OpenWatch
from service.ports import Changed
from tests.flow.conftest import Database, Service, Start, config
from tests.steps import eventually

pytestmark = pytest.mark.mongo
_AGENTS = 40
_COMPARED = 'councilor_watch_relists_total{reason="resync"}'


async def insert(db: Database, *agent_ids: str) -> None:
    agents = [
        {"agent_id": agent_id, "is_councilor": True, "councilor_config": config("1h")}
        for agent_id in agent_ids
    ]
    await db["agents"].insert_many(agents)


async def drift(service: Service) -> dict[str, float]:
    kinds = ("missing", "extra", "stale")
    name = 'councilor_resync_drift_total{{kind="{}"}}'
    return {kind: await service.metric(name.format(kind)) for kind in kinds}


async def compared(service: Service, db: Database, times: int) -> None:
    """Wait until all documents were compared so many times by plan, while others write, too.

    Where nobody does, the stream's position stands still, and nothing is sure.
    """

    async def is_counted() -> bool:
        await db["others"].insert_one({})
        return await service.metric(_COMPARED) >= times

    await eventually(is_counted, saying=f"{times} comparisons")


async def test_what_is_written_between_two_streams_is_no_drift(start: Start, db: Database) -> None:
    """Whoever writes all the time is overtaken by every comparison."""
    service = await start(scheduler_resync_interval=timedelta(milliseconds=300))
    await insert(db, *(f"scout-{number}" for number in range(_AGENTS)))
    written, agents = 0, db["agents"]
    while written <= 100 or await service.metric(_COMPARED) < 8:
        agent = {"agent_id": f"scout-{written % _AGENTS}"}
        match written // _AGENTS % 3:
            case 0:
                value = f"{written % 50 + 2}h"
                await agents.update_one(agent, {"$set": {"councilor_config": config(value)}})
            case 1:
                await agents.delete_one(agent)
            case _:
                await insert(db, agent["agent_id"])
        written += 1
    assert await drift(service) == {"missing": 0, "extra": 0, "stale": 0}


async def test_a_change_that_the_stream_has_left_out_is_found_and_told(
    start: Start, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_deaf = False
    changes_in = OpenWatch._changes_in

    def left_out(self: OpenWatch, events: Sequence[Event]) -> Iterator[Changed]:
        changes = list(changes_in(self, events))
        yield from () if is_deaf else changes

    monkeypatch.setattr(OpenWatch, "_changes_in", left_out)
    service = await start(scheduler_resync_interval=timedelta(seconds=3))
    await insert(db, "scout", "leaver")
    await compared(service, db, 1)
    is_deaf = True
    await db["agents"].update_one({"agent_id": "scout"}, {"$set": {"councilor_config": config()}})
    await db["agents"].delete_one({"agent_id": "leaver"})
    await insert(db, "comer")
    await compared(service, db, 2)
    assert await drift(service) == {"missing": 1, "extra": 1, "stale": 1}
    await compared(service, db, 3)
    assert await drift(service) == {"missing": 1, "extra": 1, "stale": 1}
