"""People are told: documents in `scheduler_notifications`, mails and webhooks that are real."""

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from tests.flow.conftest import Database, Start, TestConductor, config, free_port, rows_of
from tests.flow.process import Launch, launch
from tests.outside import MailServer, mail_server, silent_server, webhook
from tests.steps import eventually

pytestmark = pytest.mark.mongo
__all__ = ["launch"]

EMAIL: dict[str, Any] = {"channels": ["panel", "email"]}


async def promote(
    db: Database, agent_id: str = "scout", prompt: str = "status", value: str = "1h", **told: Any
) -> None:
    wanted = {**config(value, prompt), "notifications": told}
    await db["agents"].insert_one(
        {"agent_id": agent_id, "name": "Ada", "is_councilor": True, "councilor_config": wanted}
    )


async def run_now(db: Database) -> None:
    await db["agents"].update_many({}, {"$currentDate": {"councilor_run_requested_at": True}})


async def told(db: Database) -> list[dict[str, Any]]:
    return [each async for each in db["scheduler_notifications"].find().sort("created_at", 1)]


async def are_told(db: Database, count: int) -> list[dict[str, Any]]:
    """So many documents, once they are there."""

    async def are_there() -> list[dict[str, Any]] | None:
        documents = await told(db)
        return documents if len(documents) >= count else None

    documents: list[dict[str, Any]] = await eventually(are_there, saying=f"{count} documents")
    assert len(documents) == count
    return documents


async def have_ended(db: Database, count: int, within: float = 15) -> None:
    async def they_have() -> bool:
        ended = {"started_at": {"$ne": None}, "status": {"$ne": "running"}}
        return await db["councilor_executions"].count_documents(ended) >= count

    await eventually(they_have, within=within, saying=f"{count} runs")


async def has_mails(server: MailServer, count: int, within: float = 15) -> None:
    async def it_has() -> bool:
        return len(server.mails) >= count

    await eventually(it_has, within=within, saying=f"{count} mails")


async def test_a_failed_run_is_one_document_that_any_page_may_follow(
    start: Start, db: Database
) -> None:
    service = await start()
    await promote(db, channels=["toast", "panel"])
    async with db["scheduler_notifications"].watch() as changes:
        await run_now(db)
        async with asyncio.timeout(10):
            change = await changes.next()
    (row,) = await rows_of(db, "scout")
    (document,) = await are_told(db, 1)
    assert change["fullDocument"] == document
    assert document.pop("owner")
    created = document.pop("created_at")
    assert abs(created - row["completed_at"]) < timedelta(seconds=5)
    assert document == {
        "_id": row["execution_id"],
        "notification_id": row["execution_id"],
        "execution_id": row["execution_id"],
        "councilor_id": "scout",
        "display_name": "Ada",
        "task_name": "look around",
        "status": "error",
        "severity": "error",
        "reason": "failed",
        "title": "Ada: failed",
        "message": "status error",
        "scheduled_for": row["scheduled_for"],
        "completed_at": row["completed_at"],
        "duration_ms": row["duration_ms"],
        "slots": 1,
        "channels": ["toast", "panel"],
        "read": False,
        "delivery": None,
        "delivered_at": None,
        "attempts": 0,
    }
    name = 'councilor_notifications_total{channel="toast",result="written"}'
    assert await service.metric(name) == 1


@pytest.mark.parametrize("on_success", [True, False])
async def test_a_success_is_told_only_where_that_is_wanted(
    start: Start, db: Database, on_success: bool
) -> None:
    service = await start()
    await promote(db, prompt="look", on_success=on_success)
    await run_now(db)
    await have_ended(db, 1)
    await service.stop()  # what was to be written has been
    assert [each["title"] for each in await told(db)] == ["Ada: success"] * on_success


async def test_a_slot_that_overlaps_is_told_and_one_that_was_paused_is_not(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    await start()
    await promote(db, "busy", "wait", "1s")
    await are_told(db, 1)
    await db["agents"].update_one({}, {"$set": {"councilor_config.schedule.enabled": False}})
    conductor.released.set()
    await have_ended(db, 1)
    documents = await told(db)
    assert {(each["status"], each["reason"]) for each in documents} == {("skipped", "overlap")}


async def test_a_run_that_the_end_interrupts_is_told(start: Start, db: Database) -> None:
    service = await start(scheduler_drain_timeout=timedelta(seconds=1))
    await promote(db, prompt="hang", channels=["panel"])
    await run_now(db)

    async def is_running() -> bool:
        return await db["councilor_executions"].count_documents({"status": "running"}) == 1

    await eventually(is_running)
    await service.stop()
    (document,) = await told(db)
    assert (document["title"], document["reason"]) == ("Ada: failed (interrupted)", "interrupted")
    assert document["task_name"] == "look around"


async def test_a_mail_and_a_webhook_are_told_and_the_document_says_so(
    start: Start, db: Database
) -> None:
    async with mail_server() as server, webhook() as hook:
        urls = SecretStr(f"{server.url} json://{hook.base}/in")
        await start(scheduler_notify_urls=urls)
        await promote(db, channels=["email", "webhook"])
        await run_now(db)
        await has_mails(server, 1)

        async def is_sent() -> bool:
            return [each["delivery"] for each in await told(db)] == ["sent"]

        await eventually(is_sent)
    assert server.subjects == ["Ada: failed"]
    assert [said["title"] for said in hook.said] == ["Ada: failed"]
    (document,) = await told(db)
    assert document["delivered_at"] is not None
    assert document["attempts"] == 1


async def test_five_hundred_failures_are_a_handful_of_mails(start: Start, db: Database) -> None:
    async with mail_server() as server:
        service = await start(scheduler_notify_urls=SecretStr(server.url))
        failing = {**config("1h", "status"), "notifications": EMAIL}
        await db["agents"].insert_many(
            {"agent_id": f"a{n}", "is_councilor": True, "councilor_config": failing}
            for n in range(500)
        )
        await run_now(db)
        await have_ended(db, 500, within=40)
        await are_told(db, 500)
        await has_mails(server, 1)
        await service.stop()
    assert len(server.mails) <= 5  # a handful, however long a slow machine takes for them
    counts = [re.match(r"(\d+) notifications of ", subject) for subject in server.subjects]
    assert sum(int(count[1]) if count else 1 for count in counts) == 500
    assert {each["delivery"] for each in await told(db)} == {"sent"}


async def test_a_conductor_that_comes_back_is_one_message(
    start: Start, db: Database, conductor: TestConductor
) -> None:
    port = free_port()
    async with mail_server() as server:
        address = SecretStr(f"http://127.0.0.1:{port}")
        await start(scheduler_notify_urls=SecretStr(server.url), conductor_api_url=address)
        for n in range(5):
            await promote(db, f"a{n}", "look", "2s", **EMAIL)
        await has_mails(server, 1, within=30)
        # In a message of its own, or with others: as they happened to end.
        said = str(server.mails[0].get_payload())
        assert re.search("conductor unavailable|cannot connect to", said)
        async with conductor.listening(port):

            async def is_back() -> bool:
                return any(said.startswith("Conductor answers") for said in server.subjects)

            await eventually(is_back, within=30)
            first = len(await told(db))
            await have_ended(db, first + 10)
    back = [said for said in server.subjects if said.startswith("Conductor answers again, after")]
    assert len(back) == 1
    assert not [said for said in server.subjects if "well again" in said]


@pytest.mark.parametrize("trouble", ["hangs", "refuses"])
async def test_a_mail_server_in_trouble_delays_no_run(
    start: Start, db: Database, trouble: str
) -> None:
    async with silent_server() as port, mail_server() as server:
        server.refuses = True
        url = server.url.replace(str(server.port), str(port)) if trouble == "hangs" else server.url
        service = await start(scheduler_notify_urls=SecretStr(url), scheduler_max_concurrent_runs=2)
        for n in range(4):
            await promote(db, f"a{n}", "status", "1s", **EMAIL)
        await have_ended(db, 16)
        late = [row["lateness_ms"] async for row in db["councilor_executions"].find()]
        assert max(late) < 1_000
        async with asyncio.timeout(15):
            await service.stop()
        documents = await told(db)
    assert len(documents) >= 16
    assert {each["delivery"] for each in documents} == {"pending"}


async def test_what_a_killed_replica_had_pending_another_sends(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    async with silent_server() as port, mail_server() as server:
        hanging = server.url.replace(str(server.port), str(port))
        first = await launch(CONDUCTOR_API_URL=conductor.url, SCHEDULER_NOTIFY_URLS=hanging)
        await first.saw("resync_finished")
        for n in range(5):
            await promote(db, f"a{n}", "status", **EMAIL)
        await run_now(db)
        await are_told(db, 5)
        first.kill()
        await first.ended()
        urls = {"SCHEDULER_NOTIFY_URLS": server.url}
        others = [await launch(CONDUCTOR_API_URL=conductor.url, **urls) for _ in range(2)]
        await has_mails(server, 1, within=30)

        async def are_sent() -> bool:
            return {each["delivery"] for each in await told(db)} == {"sent"}

        await eventually(are_sent)
        took = [entry for other in others for entry in other.events]
    assert [said.split(":")[0] for said in server.subjects] == ["5 notifications of 5 councilors"]
    assert [each["count"] for each in took if each["event"] == "notifications_taken_over"] == [5]
    assert "127.0.0.1:" not in str([e for e in took if e["event"] == "notification_sent"])
