"""The service as a process of its own, so that it can be killed."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

Launch = Callable[..., Awaitable["Replica"]]


@dataclass
class Replica:
    """A running process; `events` are the log events it has told so far."""

    process: Process
    events: list[dict[str, Any]]
    heard: asyncio.Condition

    async def saw(self, event: str, count: int = 1, within: float = 20) -> dict[str, Any]:
        """Wait for the `count`-th event of this name."""

        def told() -> list[dict[str, Any]]:
            return [entry for entry in self.events if entry["event"] == event]

        try:
            async with asyncio.timeout(within), self.heard:
                await self.heard.wait_for(lambda: len(told()) >= count)
        except TimeoutError:
            pytest.fail(f"no {event} within {within} s: {self.events[-20:]}")
        return told()[count - 1]

    async def ended(self, within: float = 20) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()

    def kill(self) -> None:
        self.process.kill()


@asynccontextmanager
async def process_of(environ: Mapping[str, str]) -> AsyncIterator[Replica]:
    """`python -m service run` with these settings; killed at the end if it still runs."""
    names = ("PATH", "HOME", "SCHEDULER_SECRETS_DIR")
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        "run",
        env={**inherited, **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    replica = Replica(process, [], asyncio.Condition())
    reader = asyncio.create_task(_read(replica))
    try:
        yield replica
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reader


async def _read(replica: Replica) -> None:
    assert replica.process.stdout is not None
    async for line in replica.process.stdout:
        async with replica.heard:
            replica.events.append(orjson.loads(line))
            replica.heard.notify_all()


@pytest.fixture
async def launch(scheduler_url: str, database: str) -> AsyncIterator[Launch]:
    """Start replicas that share the test's database."""
    async with AsyncExitStack() as stack:

        async def launched(**environ: str) -> Replica:
            settings = {
                "MONGODB_URL": scheduler_url,
                "MONGODB_DATABASE": database,
                "SCHEDULER_MIN_INTERVAL": "1s",
                "SCHEDULER_HTTP_PORT": "0",
                "SCHEDULER_REPLICA_TTL": "2s",
                **environ,
            }
            return await stack.enter_async_context(process_of(settings))

        yield launched
