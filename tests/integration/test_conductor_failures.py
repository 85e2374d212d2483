"""What a failed call means for further ones, over real connections."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from service.adapters.conductor import Dialect, HttpConductor, connected
from service.ports import Failure
from tests.flow.conftest import free_port
from tests.integration.test_stand_in_conductor import order

AGENTS, CONDUCTOR = Dialect.AGENTS, Dialect.CONDUCTOR
DATE = {"Date": "Mon, 23 Nov 2026 12:00:00 GMT"}


async def answer(request: web.Request) -> web.StreamResponse:
    """What the prompt says: a status and headers, or `close`."""
    body = await request.json()
    words = str(body.get("prompt", body.get("user_input"))).split(";")
    if words[0] == "close":
        assert request.transport is not None
        request.transport.abort()
    headers = dict(word.split("=", 1) for word in words[1:])
    return web.Response(status=int(words[0]), text="no", headers=headers)


async def health(request: web.Request) -> web.Response:
    return web.Response(status=int(request.headers.get("X-Status", "200")))


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    app.router.add_get("/health", health)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def failure_of(url: str, dialect: Dialect, prompt: str) -> Failure:
    async with connected(url, dialect, None) as conductor:
        failure = (await conductor.execute(order(prompt))).failure
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("prompt", "by_conductor", "by_agents", "is_down"),
    [
        pytest.param("429", True, True, False, id="429: too many"),
        pytest.param("503;Retry-After=1", True, True, True, id="503 that asks to come again"),
        pytest.param("503", False, True, True, id="503 that does not"),
        pytest.param("502", False, True, True, id="502"),
        pytest.param("504", False, True, True, id="504"),
        pytest.param("500", False, False, False, id="500: the agent may have run"),
        pytest.param("400", False, False, False, id="400"),
        pytest.param("close", False, True, True, id="a connection that breaks"),
    ],
)
async def test_only_what_cannot_have_been_accepted_may_be_repeated(
    url: str, prompt: str, by_conductor: bool, by_agents: bool, is_down: bool
) -> None:
    """With `agents`, the server refuses a repeated task_id: more may be tried again there."""
    failures = [await failure_of(url, dialect, prompt) for dialect in (CONDUCTOR, AGENTS)]
    assert [failure.may_repeat for failure in failures] == [by_conductor, by_agents]
    assert {failure.is_down for failure in failures} == {is_down}


@pytest.mark.parametrize("dialect", Dialect)
async def test_where_nobody_listens_nothing_was_accepted(dialect: Dialect) -> None:
    failure = await failure_of(f"http://127.0.0.1:{free_port()}", dialect, "look")
    assert (failure.may_repeat, failure.is_down) == (True, True)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        pytest.param({"Retry-After": "7"}, 7, id="seconds"),
        pytest.param({"Retry-After": "Mon, 23 Nov 2026 12:02:00 GMT", **DATE}, 120, id="a date"),
        pytest.param({"Retry-After": "soon"}, None, id="neither"),
        pytest.param({}, None, id="nothing"),
    ],
)
async def test_a_wish_to_be_left_alone_is_read(
    url: str, headers: dict[str, str], seconds: int | None
) -> None:
    prompt = ";".join(["429", *(f"{name}={value}" for name, value in headers.items())])
    wish = (await failure_of(url, CONDUCTOR, prompt)).retry_after
    assert wish == (None if seconds is None else timedelta(seconds=seconds))


async def test_health_is_whether_somebody_answers(url: str) -> None:
    async with connected(url, CONDUCTOR, None) as conductor:
        assert await conductor.is_there()
        assert await is_there_with(conductor, "404")
        assert not await is_there_with(conductor, "503")
    async with connected(f"http://127.0.0.1:{free_port()}", CONDUCTOR, None) as conductor:
        assert not await conductor.is_there()


async def is_there_with(conductor: HttpConductor, status: str) -> bool:
    conductor._session.headers["X-Status"] = status
    return await conductor.is_there()
