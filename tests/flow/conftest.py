"""The whole service in this process, on a real replica set, with a Conductor of the test's own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from motor.motor_asyncio import AsyncIOMotorDatabase
from pydantic import SecretStr
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import Client
from service.app import Stop, serve
from service.settings import Settings
from tests.rights import grant, of_events
from tests.steps import eventually

Database = AsyncIOMotorDatabase[dict[str, Any]]


@dataclass
class Call:
    """What Conductor was asked."""

    body: Mapping[str, Any]
    headers: Mapping[str, str]
    path: str

    @property
    def agent_id(self) -> str:
        return str(self.body["agent_id"])


@dataclass
class TestConductor:
    """Answers by the first word of the prompt; `released` holds back those that say `wait`."""

    __test__ = False

    url: str = ""
    calls: list[Call] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.calls.append(Call(body, dict(request.headers), request.raw_path))
        self.called.set()
        match str(body.get("prompt", body.get("user_input"))).split()[0]:
            case "wait":
                await self.released.wait()
            case "hang":
                await asyncio.Event().wait()
            case "slow":
                await asyncio.sleep(0.7)  # what a run takes, not a wait for anything
            case "html":
                return web.Response(text="<h1>Bad gateway</h1>", content_type="text/html")
            case "500":
                return web.Response(status=500, text="it burns")
            case "status":
                return web.json_response({"status": "error", "error": "no such tool"})
            case "exit":
                said = {"status": "success", "returncode": 2, "stderr": "bad flag"}
                return web.json_response(said)
            case "close":
                assert request.transport is not None
                request.transport.abort()
        return web.json_response({"status": "completed", "result": "fine", "exit_code": 0})

    @asynccontextmanager
    async def listening(self, port: int | None = None) -> AsyncIterator[None]:
        """Be there, at `url`, for as long as the context lasts."""
        app = web.Application()
        app.router.add_post("/conductor/execute", self.answer)
        app.router.add_post("/agents/{agent_id}/execute", self.answer)
        async with TestServer(app, port=port) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield

    def prompts_of(self, agent_id: str) -> list[str]:
        return [call.body["prompt"] for call in self.calls if call.agent_id == agent_id]


@pytest.fixture
async def conductor() -> AsyncIterator[TestConductor]:
    conductor = TestConductor()
    async with conductor.listening():
        yield conductor
        conductor.released.set()


@dataclass
class Service:
    """A service that runs; `stop` ends it in good order."""

    base_url: str
    task: "asyncio.Task[None]"
    asked: Stop
    http: aiohttp.ClientSession

    async def stop(self) -> None:
        self.asked.ask()
        await self.task

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.http.get(f"{self.base_url}{path}") as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())

    async def is_ready(self) -> bool:
        if self.task.done():
            self.task.result()
        try:
            return (await self.get("/readyz"))[0] == 200
        except aiohttp.ClientConnectionError:
            return False

    async def metric(self, name: str) -> float:
        """The value of a metric, named with its labels as in the exposition."""
        _, text = await self.get("/metrics")
        (line,) = (line for line in text.splitlines() if line.startswith(f"{name} "))
        return float(line.split()[-1])


Start = Callable[..., Awaitable[Service]]


@pytest.fixture
async def start(
    scheduler_url: str, database: str, conductor: TestConductor
) -> AsyncIterator[Start]:
    """Start a service; those that still run at the end are stopped."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        running: list[Service] = []

        async def started(*, is_ready: bool = True, **chosen: Any) -> Service:
            settings = Settings(
                **{
                    "mongodb_url": SecretStr(scheduler_url),
                    "mongodb_database": database,
                    "conductor_api_url": SecretStr(conductor.url),
                    "scheduler_min_interval": timedelta(seconds=1),
                    "scheduler_http_port": free_port(),
                    "scheduler_drain_timeout": timedelta(seconds=5),
                    **chosen,
                }
            )
            asked = Stop()
            task = asyncio.create_task(serve(settings, asked), name="service under test")
            base_url = f"http://127.0.0.1:{settings.scheduler_http_port}"
            service = Service(base_url, task, asked, http)
            running.append(service)
            if is_ready:
                await eventually(service.is_ready, saying="ready")
            return service

        yield started
        conductor.released.set()
        for service in running:
            if not service.task.done():
                await service.stop()


@pytest.fixture
def may_read_all(replica_set_url: str, database: str, scheduler_url: str) -> None:
    """What `COUNCILOR_EVENTS=1` gives the service's user."""
    if scheduler_url != replica_set_url:
        grant(replica_set_url, database, of_events(database))


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def db(client: Client, database: str) -> Database:
    """The database of the service under test, for whoever plays the writer."""
    return client[database]


def config(value: str = "1s", prompt: str = "look", **schedule: object) -> dict[str, Any]:
    """A `councilor_config` as the gateway writes it."""
    return {
        "title": "Scout",
        "schedule": {"type": "interval", "value": value, "enabled": True, **schedule},
        "task": {"name": "look around", "prompt": prompt, "context_files": None},
        "notifications": {"channels": ["toast", "panel"], "on_error": True},
    }


async def rows_of(db: Database, agent_id: str) -> list[dict[str, Any]]:
    """The ledger of an agent, oldest slot first, as the majority has it and the service sees it."""
    ledger = db.get_collection("councilor_executions", read_concern=ReadConcern("majority"))
    rows = ledger.find({"councilor_id": agent_id})
    return [row async for row in rows.sort("scheduled_for", 1)]


async def job_of(db: Database, agent_id: str) -> dict[str, Any] | None:
    """What `apscheduler_jobs` says of an agent."""
    return await db["apscheduler_jobs"].find_one({"_id": agent_id})


async def next_run_of(db: Database, agent_id: str) -> datetime | None:
    """When an agent runs next, as `apscheduler_jobs` says; None while it does not."""
    job = await job_of(db, agent_id)
    return job["next_run_time"] if job is not None else None
