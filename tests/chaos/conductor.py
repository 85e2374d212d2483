"""A Conductor that journals every call, and that can be in every mood."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from random import Random

import orjson
from aiohttp import web

from service.app import wall_clock
from tests.chaos.history import Call

_HANG_SECONDS = 60.0


class Mood(StrEnum):
    """How calls are answered."""

    WELL = "well"
    BUSY = "503"
    TOO_MANY = "429"
    BROKEN = "500"
    FAILING = "error"
    HANGING = "hang"
    CLOSING = "close"
    SLOW = "slow"


_REFUSING = {Mood.BUSY, Mood.TOO_MANY}
_HTTP = {Mood.BUSY: 503, Mood.TOO_MANY: 429, Mood.BROKEN: 500}


class JournalingConductor:
    """Set `mood` and `is_hurried` at any time; `refuse` and `listen` close and open the port."""

    def __init__(self, seed: int) -> None:
        self.mood = Mood.WELL
        self.is_hurried = False
        """Answer within 0.1 s, so that nothing is on the way when the run ends."""
        self.port = 0
        self._seed = seed
        self._calls: list[Call] = []
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def calls(self) -> Sequence[Call]:
        """Every request that arrived so far, in order."""
        return tuple(self._calls)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Answer until the end of the context."""
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_post("/conductor/execute", self._execute)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True
        )
        await self._runner.setup()
        try:
            await self.listen()
            yield
        finally:
            await self._runner.cleanup()

    async def listen(self) -> None:
        """Accept connections, on the port of the first time."""
        if self._site is None:
            assert self._runner is not None
            site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
            await site.start()
            self._site, self.port = site, self.port or self._runner.addresses[0][1]

    async def refuse(self) -> None:
        """Refuse new connections; calls that have arrived go on."""
        if self._site is not None:
            site, self._site = self._site, None
            await site.stop()

    async def _health(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _execute(self, request: web.Request) -> web.StreamResponse:
        number, mood = len(self._calls), self.mood
        self._calls.append(_arrived(request, mood))
        try:
            asked = orjson.loads(await request.read())
            self._change(number, prompt=asked["prompt"])
            return await self._answered(request, mood, asked["prompt"])
        finally:
            self._change(number, ended=wall_clock())

    def _change(self, number: int, **changes: object) -> None:
        self._calls[number] = replace(self._calls[number], **changes)  # type: ignore[arg-type]

    async def _answered(self, request: web.Request, mood: Mood, prompt: str) -> web.StreamResponse:
        rng = Random(f"{self._seed} {request.headers['Idempotency-Key']}")
        if (status := _HTTP.get(mood)) is not None:
            headers = {"Retry-After": "1"} if mood in _REFUSING else {}
            return web.json_response(
                {"error": f"busy with {prompt}"}, status=status, headers=headers
            )
        await asyncio.sleep(self._seconds(rng, mood))
        match mood:
            case Mood.CLOSING:
                assert request.transport is not None
                request.transport.abort()
            case Mood.FAILING:
                return web.json_response({"status": "error", "error": f"cannot do: {prompt}"})
        severity = rng.choice(("success", "success", "warning", "error"))
        return web.json_response({"status": "completed", "result": f"SEVERITY: {severity}"})

    def _seconds(self, rng: Random, mood: Mood) -> float:
        if mood is Mood.HANGING:
            return _HANG_SECONDS
        if mood is Mood.SLOW:
            return rng.uniform(1.0, 4.0)
        if self.is_hurried:
            return rng.uniform(0.0, 0.1)
        most = rng.choice((0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4, 2.5))
        return rng.uniform(0.0, most)


def _arrived(request: web.Request, mood: Mood) -> Call:
    return Call(
        execution_id=request.headers["Idempotency-Key"],
        slot=datetime.fromisoformat(request.headers["X-Councilor-Scheduled-For"]).astimezone(UTC),
        arrived=wall_clock(),
        answer=mood.value,
        is_refused=mood in _REFUSING,
    )
