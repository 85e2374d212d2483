"""The stand-in Conductor, asked as the service asks: by its own client, in both dialects."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import orjson
import pytest

from service.adapters.conductor import Dialect, connected
from service.demo.conductor import CannotStandIn, standing_in
from service.demo.repertoire import reply_for
from service.domain.councilor import Task
from service.domain.execution import Order, Reason
from service.domain.severity import Severity, severity_of
from service.ports import Answer

AT_ONCE = 0.0
SLOT = datetime(2026, 11, 23, 9, tzinfo=UTC)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with standing_in("127.0.0.1", pace=AT_ONCE) as url:
        yield url


def order(prompt: str, execution_id: str = "exec_scout_1") -> Order:
    return Order(
        execution_id=execution_id,
        agent_id="scout",
        agent_name="Scout",
        task=Task("Scout", prompt, (), "checklist"),
        scheduled_for=SLOT,
        cwd=None,
        ai_provider=None,
        timeout=timedelta(seconds=10),
        ends_at=SLOT + timedelta(seconds=10),
        retry_until=SLOT + timedelta(seconds=10),
        config={},
    )


async def answers(url: str, dialect: Dialect, *orders: Order) -> list[Answer]:
    async with connected(url, dialect, None) as conductor:
        return [await conductor.execute(order) for order in orders]


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize(
    ("prompt", "severity"),
    [("#success", Severity.SUCCESS), ("#slow", Severity.SUCCESS), ("#warn", Severity.WARNING)],
)
async def test_prompt_decides_severity(
    url: str, dialect: Dialect, prompt: str, severity: Severity
) -> None:
    (answer,) = await answers(url, dialect, order(prompt))

    assert answer.failure is None
    assert severity_of(answer.output or "") is severity


@pytest.mark.parametrize("dialect", Dialect)
async def test_failed_run_is_understood_as_one(url: str, dialect: Dialect) -> None:
    (answer,) = await answers(url, dialect, order("#fail"))

    assert answer.failure is not None
    assert answer.failure.reason is Reason.FAILED
    assert "asked to fail" in answer.failure.text


async def test_failed_run_comes_as_http_200(url: str) -> None:
    asked = {"agent_id": "scout", "input_text": "#fail"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/conductor/execute", json=asked) as response,
    ):
        assert response.status == 200
        assert (await response.json())["status"] == "error"


async def test_repeated_task_id_is_refused(url: str) -> None:
    first, second = await answers(url, Dialect.AGENTS, order("#success"), order("#success"))

    assert first.failure is None
    assert second.failure is not None
    assert second.failure.text.startswith("HTTP 409")


async def test_each_execution_is_counted(url: str) -> None:
    orders = [order("#success", name) for name in ("exec_a", "exec_b", "exec_b")]
    await answers(url, Dialect.CONDUCTOR, *orders)

    async with aiohttp.ClientSession() as session, session.get(f"{url}/calls") as response:
        assert await response.json() == {"calls": 3, "repeated": ["exec_b"]}


@pytest.mark.parametrize("body", [b"", b"[]", b'{"agent_id": "scout"}', b'{"prompt": "x"}'])
async def test_incomplete_request_is_refused(url: str, body: bytes) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/conductor/execute", data=body) as response,
    ):
        assert response.status == 422
        assert "detail" in await response.json()


async def test_health_is_ok(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/health") as response:
        assert await response.json() == {"status": "ok"}


async def test_taken_port_is_one_line(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(CannotStandIn, match="cannot listen on"):
        async with standing_in("127.0.0.1", port):
            pass


def test_answers_vary_and_repeat() -> None:
    """An agent's answers depend on nothing but the agent, its prompt and how often it asked."""
    told = [reply_for("scout", "Name the flaky tests.", call) for call in range(6)]

    assert told[:3] == told[3:]
    assert len({reply.text for reply in told}) == 3
    assert [reply.failure is not None for reply in told[:3]] == [False, True, False]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
async def test_process_ends_well_when_told(ending: signal.Signals) -> None:
    command = (sys.executable, "-m", "service.demo.conductor", "--port", "0")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=PIPE, stderr=DEVNULL, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    started = orjson.loads(await process.stdout.readline())

    process.send_signal(ending)
    await process.communicate()

    assert started["event"] == "stand_in_started"
    assert process.returncode == 0
