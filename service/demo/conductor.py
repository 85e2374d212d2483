"""A stand-in for Conductor that speaks both of its dialects and runs nothing.

Alone: `python -m service.demo.conductor --host 0.0.0.0 --port 8000`, until SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
import structlog
from aiohttp import web

from service.demo.repertoire import Reply, reply_for
from service.ports import ServiceError
from service.telemetry import configure_logging

log = structlog.get_logger()


_GRACE_SECONDS = 30.0
"""How long the process, once told to end, goes on with what it was asked for."""


class CannotStandIn(ServiceError):
    """The address that the stand-in should have is taken, or not ours."""


@dataclass(slots=True)
class _Memory:
    """What has been asked so far: it decides on the next answers, and is counted afterwards."""

    calls_of: Counter[str] = field(default_factory=Counter)
    executions: Counter[str] = field(default_factory=Counter)
    task_ids: set[str] = field(default_factory=set)

    def count(self, agent_id: str, execution_id: str) -> int:
        """Count a call; answers how many calls this agent had before."""
        self.executions[execution_id] += 1
        self.calls_of[agent_id] += 1
        return self.calls_of[agent_id] - 1


class StandIn:
    """The handlers. `pace` stretches the time that answers take; 0 answers at once."""

    def __init__(self, pace: float) -> None:
        self._pace = pace
        self._memory = _Memory()

    async def health(self, _request: web.Request) -> web.Response:
        """As Conductor answers it."""
        return _answer({"status": "ok"})

    async def calls(self, _request: web.Request) -> web.Response:
        """How many calls there were, and those executions that came more than once."""
        executions = self._memory.executions
        repeated = sorted(name for name, count in executions.items() if count > 1)
        return _answer({"calls": executions.total(), "repeated": repeated})

    async def execute(self, request: web.Request) -> web.Response:
        """`POST /conductor/execute`: a failed run is HTTP 200 with `status: error`."""
        asked = await _body(request)
        agent_id = _text(asked, "agent_id", "agent_name")
        reply = await self._reply(request, agent_id, _text(asked, "prompt", "input_text"))
        said = {"exit_code": 0, "duration": reply.seconds * self._pace, "agent_id": agent_id}
        if reply.failure is not None:
            return _answer({**said, "status": "error", "result": None, "error": reply.failure})
        return _answer({**said, "status": "completed", "result": reply.text})

    async def execute_agent(self, request: web.Request) -> web.Response:
        """`POST /agents/{agent_id}/execute`: a `task_id` is good for one call."""
        asked = await _body(request)
        agent_id, prompt = request.match_info["agent_id"], _text(asked, "user_input")
        task_id = _text(asked, "task_id")
        if task_id in self._memory.task_ids:
            return _answer({"detail": f"task {task_id} exists already"}, 409)
        self._memory.task_ids.add(task_id)
        reply = await self._reply(request, agent_id, prompt)
        failure = reply.failure
        said = {"stdout": reply.text, "stderr": failure or "", "returncode": 1 if failure else 0}
        return _answer({"status": "error" if failure else "success", "task_id": task_id, **said})

    async def _reply(self, request: web.Request, agent_id: str, prompt: str) -> Reply:
        execution_id = request.headers.get("Idempotency-Key", "")
        reply = reply_for(agent_id, prompt, self._memory.count(agent_id, execution_id))
        await asyncio.sleep(reply.seconds * self._pace)
        return reply


def application(pace: float = 1.0) -> web.Application:
    """The stand-in as an aiohttp application, with a memory of its own."""
    stand_in = StandIn(pace)
    app = web.Application()
    app.router.add_get("/health", stand_in.health)
    app.router.add_get("/calls", stand_in.calls)
    app.router.add_post("/conductor/execute", stand_in.execute)
    app.router.add_post("/agents/{agent_id}/execute", stand_in.execute_agent)
    return app


@asynccontextmanager
async def standing_in(
    host: str, port: int = 0, pace: float = 1.0, *, grace_seconds: float = 1.0
) -> AsyncIterator[str]:
    """Serve the stand-in until the end of the context; gives its base URL.

    Then it takes no more calls, and answers those that it has for as long as `grace_seconds`.
    Raises CannotStandIn.
    """
    runner = web.AppRunner(application(pace), access_log=None, shutdown_timeout=grace_seconds)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            said = error.strerror or error
            raise CannotStandIn(f"cannot listen on {host}:{port}: {said}") from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def _body(request: web.Request) -> Mapping[str, object]:
    try:
        asked = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise _refused(f"the body is not JSON: {error}") from error
    if not isinstance(asked, dict):
        raise _refused("the body is not a JSON object")
    return asked


def _text(asked: Mapping[str, object], *names: str) -> str:
    """The first of these fields that is a text with something in it."""
    for name in names:
        value = asked.get(name)
        if isinstance(value, str) and value:
            return value
    raise _refused(f"{names[0]}: field required")


def _refused(detail: str) -> web.HTTPUnprocessableEntity:
    text = orjson.dumps({"detail": detail}).decode()
    return web.HTTPUnprocessableEntity(text=text, content_type="application/json")


def _answer(content: Mapping[str, object], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(content), status=status, content_type="application/json")


async def _stand_in_until_told(host: str, port: int) -> None:
    told = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, told.set)
    async with standing_in(host, port, grace_seconds=_GRACE_SECONDS) as url:
        log.info("stand_in_started", url=url)
        await told.wait()
    log.info("stand_in_stopped")


def main() -> None:
    """Stand in for Conductor as a process of its own; ends with 0 where it is told to end."""
    parser = argparse.ArgumentParser(prog="python -m service.demo.conductor", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    chosen = parser.parse_args()
    configure_logging("auto", "info")
    try:
        asyncio.run(_stand_in_until_told(chosen.host, chosen.port))
    except CannotStandIn as error:
        sys.exit(f"stand-in conductor: {error}")


if __name__ == "__main__":
    main()
