"""Several replicas: work spreads, a dead one is stood in for, nothing runs twice."""

import signal
from collections import Counter
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from tests.flow.conftest import Database, Start, TestConductor, config, free_port, rows_of
from tests.flow.process import Launch, Replica, launch
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo


async def promote(db: Database, count: int, value: str = "1s", prompt: str = "look") -> list[str]:
    agents = [f"agent-{n}" for n in range(count)]
    await db["agents"].insert_many(
        [
            {"agent_id": agent_id, "is_councilor": True, "councilor_config": config(value, prompt)}
            for agent_id in agents
        ]
    )
    return agents


async def all_rows(db: Database) -> list[dict[str, Any]]:
    return [row async for row in db["councilor_executions"].find()]


async def owners_of_runs(db: Database) -> Counter[str]:
    return Counter(row["owner"] for row in await all_rows(db) if row["started_at"] is not None)


async def request_all(db: Database) -> None:
    await db["agents"].update_many({}, {"$currentDate": {"councilor_run_requested_at": True}})


async def test_agents_are_shared_out_and_each_slot_runs_once(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await know_each_other([await launch(CONDUCTOR_API_URL=conductor.url) for _ in range(3)])
    await promote(db, 40)

    async def all_have_run_thrice() -> bool:
        runs = Counter(row["councilor_id"] for row in await all_rows(db) if row["started_at"])
        return len(runs) == 40 and min(runs.values()) >= 3

    await eventually(all_have_run_thrice)
    assert len(await owners_of_runs(db)) == 3
    keys = Counter(call.headers["Idempotency-Key"] for call in conductor.calls)
    assert set(keys.values()) == {1}


async def first_for(replicas: list[Replica], db: Database, agent_id: str) -> Replica:
    """The replica that has started the latest slot of this agent, on time."""

    async def punctual_run() -> dict[str, Any] | None:
        row = (await rows_of(db, agent_id))[-1]
        return row if row["completed_at"] and row["lateness_ms"] < 500 else None

    row = await eventually(punctual_run)
    pid = row["owner"].split("-")[-2]
    (replica,) = (replica for replica in replicas if str(replica.process.pid) == pid)
    return replica


async def know_each_other(replicas: list[Replica]) -> None:
    async with aiohttp.ClientSession() as http:
        for replica in replicas:
            port = (await replica.saw("scheduler_started"))["http_port"]
            await replica.saw("resync_finished")

            async def knows_all(port: int = port) -> bool:
                async with http.get(f"http://127.0.0.1:{port}/metrics") as response:
                    return f"councilor_members {len(replicas)}.0\n" in await response.text()

            await eventually(knows_all)


async def test_the_slot_of_a_dead_replica_is_started_within_two_seconds(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    """Long before its heartbeat runs out: who comes next waits for a second."""
    settings = {"CONDUCTOR_API_URL": conductor.url, "SCHEDULER_REPLICA_TTL": "9s"}
    replicas = [await launch(**settings) for _ in range(2)]
    await know_each_other(replicas)
    await promote(db, 1, value="3s")
    await eventually(lambda: rows_of(db, "agent-0"))
    replica = await first_for(replicas, db, "agent-0")
    replica.kill()
    await replica.ended()
    before = len(await rows_of(db, "agent-0"))

    async def has_run_again() -> dict[str, Any] | None:
        rows = (await rows_of(db, "agent-0"))[before:]
        return next((row for row in rows if row["started_at"] is not None), None)

    row = await eventually(has_run_again)
    assert 900 <= row["lateness_ms"] < 2_000


async def test_work_goes_to_others_when_a_replica_has_no_place(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    settings = {"CONDUCTOR_API_URL": conductor.url, "SCHEDULER_MAX_CONCURRENT_RUNS": "2"}
    for _ in range(2):
        await (await launch(**settings)).saw("resync_finished")
    await promote(db, 4, value="1h", prompt="wait")
    await request_all(db)

    async def all_run() -> bool:
        return await db["councilor_executions"].count_documents({"status": "running"}) == 4

    await eventually(all_run)
    assert sorted((await owners_of_runs(db)).values()) == [2, 2]


async def waits_for_conductor(db: Database) -> bool:
    """The last call of the run is known to have come to nothing."""
    rows = await rows_of(db, "agent-0")
    return bool(rows) and rows[0]["attempts"][-1]["error"] is not None


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_a_run_that_conductor_never_heard_of_goes_on_in_another_replica(
    launch: Launch, db: Database, conductor: TestConductor, ending: signal.Signals
) -> None:
    """Ended while it waited for Conductor: the same execution, the next attempt."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    first = await launch(CONDUCTOR_API_URL=nowhere, SCHEDULER_DRAIN_TIMEOUT="1s")
    await first.saw("resync_finished")
    await promote(db, 1, value="1h")
    await request_all(db)
    await first.saw("conductor_unavailable")
    second = await launch(CONDUCTOR_API_URL=conductor.url)
    await know_each_other([first, second])
    await eventually(lambda: waits_for_conductor(db))
    first.process.send_signal(ending)
    await first.ended()
    await second.saw("run_taken_over", within=40)
    await second.saw("run_finished")
    (row,) = await rows_of(db, "agent-0")
    assert (row["status"], row["trigger"]) == ("completed", "manual")
    *refused, answered = row["attempts"]
    assert all("cannot connect" in attempt["error"] for attempt in refused)
    assert answered["error"] is None
    agent = await eventually(lambda: db["agents"].find_one({"stats.total_executions": 1}))
    assert agent["stats"]["successful_executions"] == 1
    assert len(conductor.calls) == 1


async def test_a_rolling_restart_loses_and_repeats_nothing(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    replicas = [await launch(CONDUCTOR_API_URL=conductor.url) for _ in range(3)]
    for replica in replicas:
        await replica.saw("resync_finished")
    agents = await promote(db, 20, value="3s")
    for replica in replicas:
        count = len(conductor.calls)

        async def goes_on(count: int = count) -> bool:
            return len(conductor.calls) > count + 20

        await eventually(goes_on)
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.ended() == 0
        await (await launch(CONDUCTOR_API_URL=conductor.url)).saw("resync_finished")
    for agent_id in agents:
        rows = await rows_of(db, agent_id)
        assert {row["reason"] for row in rows} <= {None}
        slots = [row["scheduled_for"] for row in rows]
        assert are_contiguous(slots)
    keys = Counter(call.headers["Idempotency-Key"] for call in conductor.calls)
    assert set(keys.values()) == {1}


def are_contiguous(slots: list[datetime]) -> bool:
    gaps = {later - earlier for earlier, later in pairwise(slots)}
    return gaps == {timedelta(seconds=3)}


async def test_an_hour_without_conductor_holds_starts_back_and_is_told(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    port = free_port()
    service = await start(conductor_api_url=SecretStr(f"http://127.0.0.1:{port}"))
    await promote(db, 3)

    async def is_held_back() -> bool:
        return await service.metric("councilor_conductor_up") == 0

    await eventually(is_held_back)
    status, told = await service.get("/readyz")
    assert (status, told["status"]) == (200, "degraded")
    assert f"cannot connect to http://127.0.0.1:{port}" in told["checks"]["conductor"]["error"]
    claimed = {row["execution_id"] for row in await all_rows(db)}

    async def all_have_run() -> bool:
        rows = [row for row in await all_rows(db) if row["status"] == "completed"]
        return len({row["councilor_id"] for row in rows}) == 3

    async with conductor.listening(port):
        await eventually(all_have_run, within=30)
    rows = await all_rows(db)
    burned = {row["execution_id"] for row in rows if row["status"] == "error"}
    assert burned <= claimed
