"""The image's HEALTHCHECK asks the address that the service listens on, whichever that is."""

import asyncio
import json
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from aiohttp import web

from service.web.server import serving
from tests.flow.conftest import free_port

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


def command() -> list[str]:
    """What Docker runs, as it reads it: lines that go on, then JSON."""
    text = DOCKERFILE.read_text("utf-8").replace("\\\n", "")
    (said,) = (line for line in text.splitlines() if line.startswith("HEALTHCHECK "))
    words: list[str] = json.loads(said.partition(" CMD ")[2])
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


async def asked(port: int, **environ: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command(),
        env={"SCHEDULER_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:1", **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    said, _ = await process.communicate()
    return process.returncode, said.decode()


def app_that_says(status: int) -> web.Application:
    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"ok": status == 200}, status=status)

    app = web.Application()
    app.router.add_get("/readyz", answer)
    return app


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


EVERYWHERE = "0.0.0.0"  # noqa: S104 for as long as the test lasts


@pytest.mark.parametrize(
    "host", [EVERYWHERE, "127.0.0.1", "127.0.0.2", "localhost", "::", "::1", " :: "]
)
async def test_what_the_service_listens_on_is_asked(host: str) -> None:
    if ":" in host and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    async with serving(app_that_says(200), host.strip(), free_port()) as port:
        assert await asked(port, SCHEDULER_HTTP_HOST=host) == (0, '{"ok": true}\n')


@pytest.mark.parametrize("environ", [{}, {"SCHEDULER_HTTP_HOST": ""}, {"SCHEDULER_HTTP_HOST": " "}])
async def test_without_a_host_it_is_the_services_own_default(environ: dict[str, str]) -> None:
    async with serving(app_that_says(200), "127.0.0.1", free_port()) as port:
        assert await asked(port, **environ) == (0, '{"ok": true}\n')


async def test_a_replica_that_is_not_ready_is_unhealthy_and_says_why() -> None:
    async with serving(app_that_says(503), "127.0.0.1", free_port()) as port:
        assert await asked(port) == (1, '{"ok": false}\n')


async def test_nobody_there_is_unhealthy() -> None:
    code, _ = await asked(free_port())
    assert code == 1
