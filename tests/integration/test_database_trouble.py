"""What a user is told of a database that cannot be used, and what happens when it comes back."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from service.adapters.embedded import embedded_mongod, find_mongod
from service.adapters.mongo.replica_set import initiate
from tests.flow.conftest import free_port
from tests.flow.process import launch, process_of
from tests.steps import eventually

__all__ = ["launch"]
pytestmark = pytest.mark.mongo


@asynccontextmanager
async def standalone(folder: Path) -> AsyncIterator[int]:
    """A mongod that is no replica set."""
    port = free_port()
    arguments = ["--port", str(port), "--dbpath", str(folder), "--bind_ip", "127.0.0.1"]
    process = await asyncio.create_subprocess_exec(
        str(find_mongod(os.environ)), *arguments, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("options", ["", "?replicaSet=rs0"])
async def test_a_standalone_server_is_refused_with_what_to_do(tmp_path: Path, options: str) -> None:
    async with standalone(tmp_path) as port:
        url = f"mongodb://127.0.0.1:{port}/{options}"
        async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
            assert await replica.ended(within=30) == 2
            assert replica.process.stderr is not None
            (line,) = (await replica.process.stderr.read()).decode().splitlines()
    assert "MONGODB_URL" in line
    assert "--replSet" in line


async def test_a_wrong_password_is_told_without_the_password(replica_set_url: str) -> None:
    host = replica_set_url.split("://")[1].rsplit("@", maxsplit=1)[-1]
    url = f"mongodb://somebody:hunter2@{host}"
    async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
        assert await replica.ended() == 2
        assert replica.process.stderr is not None
        said = (await replica.process.stderr.read()).decode()
    assert "MONGODB_URL: MongoDB refuses the user name or the password" in said
    assert "authSource=" in said
    assert "hunter2" not in said + str(replica.events)


async def test_a_database_that_comes_up_later_is_waited_for(tmp_path: Path) -> None:
    environ = {**os.environ}
    async with embedded_mongod(data_dir=tmp_path, environ=environ, initiate=initiate) as mongod:
        url = mongod.url
    port = free_port()
    settings = {"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": str(port)}
    mongod_port = url.split(":")[-1].split("/")[0]
    async with process_of(settings) as replica, aiohttp.ClientSession() as http:
        await replica.saw("scheduler_started")

        async def status_of(path: str) -> int:
            async with http.get(f"http://127.0.0.1:{port}{path}") as response:
                return response.status

        assert await status_of("/livez") == 200
        assert await status_of("/readyz") == 503
        await replica.saw("database_unavailable")
        arguments = ["--replSet", "rs0", "--port", mongod_port, "--bind_ip", "127.0.0.1"]
        process = await asyncio.create_subprocess_exec(
            str(find_mongod(os.environ)),
            *arguments,
            "--dbpath",
            str(tmp_path / "db"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            await replica.saw("resync_finished", within=40)

            async def is_ready() -> bool:
                return await status_of("/readyz") == 200

            await eventually(is_ready)
        finally:
            process.kill()
            await process.wait()


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        pytest.param({}, "MONGODB_URL", id="missing"),
        pytest.param({"MONGODB_URL": "localhost:27017"}, "MONGODB_URL", id="no address"),
        pytest.param({"MONGODB_URL": "mongodb://u:pa@ss@h:x/"}, "MONGODB_URL", id="malformed"),
    ],
)
async def test_a_wrong_address_is_one_line_and_exit_code_2(
    environ: dict[str, str], variable: str
) -> None:
    async with process_of(environ) as replica:
        assert await replica.ended() == 2
        assert replica.process.stderr is not None
        (line,) = (await replica.process.stderr.read()).decode().splitlines()
    assert line.startswith(f"councilor-scheduler: {variable}: ")
    assert "pa@ss" not in line
