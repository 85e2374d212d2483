"""However Conductor fails: a readable row, never a success, and the service goes on."""

from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from tests.flow.conftest import (
    Database,
    Start,
    TestConductor,
    config,
    free_port,
    rows_of,
)
from tests.steps import eventually

pytestmark = pytest.mark.mongo


async def ended_row(db: Database) -> dict[str, Any] | None:
    """The row of the first run that has ended; slots that overlapped it are left aside."""
    for row in await rows_of(db, "scout"):
        if row["started_at"] is not None and row["completed_at"] is not None:
            return row
    return None


async def insert(db: Database, prompt: str) -> None:
    agent = {"agent_id": "scout", "is_councilor": True}
    await db["agents"].insert_one({**agent, "councilor_config": config("1s", prompt)})


@pytest.mark.parametrize(
    ("prompt", "reason", "error"),
    [
        pytest.param("html", "conductor_rejected", "not JSON", id="answers HTML"),
        pytest.param("500", "conductor_rejected", "HTTP 500: it burns", id="answers 500"),
        pytest.param("status", "failed", "no such tool", id="HTTP 200, status error"),
        pytest.param("exit", "failed", "exit code 2: bad flag", id="HTTP 200, exit code"),
        pytest.param("close", "conductor_disconnected", "broke", id="closes the connection"),
        pytest.param("wait", "timeout", "no answer within 1 s", id="hangs past the timeout"),
    ],
)
async def test_a_failure_is_a_readable_error_and_no_success(
    start: Start, db: Database, prompt: str, reason: str, error: str
) -> None:
    service = await start(scheduler_run_timeout=timedelta(seconds=1))
    await insert(db, prompt)
    row = await eventually(lambda: ended_row(db))
    assert (row["status"], row["severity"], row["reason"]) == ("error", "error", reason)
    assert error in row["error"]
    assert row["attempts"][0]["error"] == row["error"]
    # A row is closed before it is counted.
    agent = await eventually(lambda: db["agents"].find_one({"stats": {"$exists": True}}))
    assert agent["stats"]["successful_executions"] == 0
    assert agent["stats"]["success_rate"] == 0.0
    assert (await service.get("/readyz"))[0] == 200


async def test_a_conductor_that_refuses_connections_is_unavailable(
    start: Start, db: Database
) -> None:
    await start(conductor_api_url=SecretStr(f"http://127.0.0.1:{free_port()}"))
    await insert(db, "look")
    row = await eventually(lambda: ended_row(db))
    assert (row["status"], row["reason"]) == ("error", "conductor_unavailable")


async def test_the_other_dialect_is_spoken_too(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start(conductor_api_mode="agents", conductor_cwd="/srv")
    await insert(db, "look")
    row = await eventually(lambda: ended_row(db))
    assert row["status"] == "completed"
    call = conductor.calls[0]
    assert call.path == "/agents/scout/execute"
    assert (call.body["user_input"], call.body["cwd"]) == ("look", "/srv")
    assert call.body["councilor_config"]["task"]["prompt"] == "look"
    assert len(call.body["task_id"]) == 24


async def test_no_more_runs_at_once_than_allowed_and_the_rest_wait_their_turn(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start(scheduler_max_concurrent_runs=2)
    agents = [
        {"agent_id": f"a{n}", "is_councilor": True, "councilor_config": config("1h", "wait")}
        for n in range(5)
    ]
    await db["agents"].insert_many(agents)
    await db["agents"].update_many({}, {"$currentDate": {"councilor_run_requested_at": True}})

    async def two_run() -> bool:
        return await db["councilor_executions"].count_documents({"status": "running"}) == 2

    await eventually(two_run)
    assert len(conductor.calls) <= 2
    conductor.released.set()

    async def all_ran() -> bool:
        return await db["councilor_executions"].count_documents({"status": "completed"}) == 5

    await eventually(all_ran)
    assert len(conductor.calls) == 5
