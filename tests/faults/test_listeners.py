"""Who listens to `/events` while the database breaks: nothing is lost without a word."""

import asyncio

import pytest

from service.app import wall_clock
from tests.faults.keeper import Cluster
from tests.faults.steps import have_jobs, promote
from tests.flow.conftest import Database, Start
from tests.sse import Heard, listening

pytestmark = pytest.mark.mongo


async def run_now(db: Database, agent_id: str) -> None:
    requested = {"councilor_run_requested_at": wall_clock()}
    await db["agents"].update_one({"agent_id": agent_id}, {"$set": requested})


def completed(heard: Heard) -> list[str]:
    return [str(event["execution_id"]) for event in heard.of("councilor_completed")]


@pytest.mark.parametrize("breaks", ["step_down", "cut", "kill"])
async def test_a_listener_hears_every_run_through_an_election(
    cluster: Cluster, start: Start, db: Database, breaks: str
) -> None:
    """Each once, although the stream is another afterwards."""
    service = await start()
    await promote(db, "scout")
    await have_jobs(db, "scout")
    async with listening(service.http, service.base_url) as heard:
        await run_now(db, "scout")
        await heard.until("councilor_completed", within=30)
        match breaks:
            case "step_down":
                await cluster.step_down()
            case "cut":
                assert await cluster.cut() >= 2
            case _:
                await cluster.kill(await cluster.primary())
        await run_now(db, "scout")
        await heard.until("councilor_completed", count=2, within=60)
        assert len(set(completed(heard))) == len(completed(heard)) == 2
        assert heard.of("events_lost") == []


async def test_a_database_that_is_dropped_is_said_to_be_lost_and_gone_on_with(
    cluster: Cluster, start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, "scout")
    await have_jobs(db, "scout")
    async with listening(service.http, service.base_url) as heard:
        await db.client.drop_database(db.name)
        await heard.until("events_lost", within=30)
        await promote(db, "other")
        await have_jobs(db, "other")
        async with asyncio.timeout(60):
            while not heard.of("councilor_completed"):
                await run_now(db, "other")
                await asyncio.sleep(0.2)  # the stream is entered anew meanwhile
