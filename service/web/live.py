"""Server-sent events: what happens, as it happens (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

import asyncio
from collections.abc import Iterable
from functools import lru_cache

import orjson
from aiohttp import web

from service.events import Events
from service.listeners import Event, Listener
from service.web.queries import no_query
from service.web.server import SECURITY_HEADERS, plain

_HEARTBEAT_SECONDS = 10.0
_STUCK_SECONDS = 15.0
"""A client that takes nothing for so long is left."""
_MOST_CLIENTS = 200
_HEARTBEAT = b": still here\n\n"
_BEGIN = b"retry: 1000\n\n: welcome\n\n"
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


class Live:
    """The route `/events`."""

    def __init__(self, events: Events, *, heartbeat_seconds: float = _HEARTBEAT_SECONDS) -> None:
        self._events = events
        self._heartbeat_seconds = heartbeat_seconds

    def add_to(self, app: web.Application) -> None:
        """Register the route."""
        app.router.add_get("/events", self.events, allow_head=False)  # it would never end

    async def events(self, request: web.Request) -> web.StreamResponse:
        """What happens from now on, or from after `Last-Event-ID`, until one of the two leaves."""
        no_query(request.query)
        if self._events.listeners >= _MOST_CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_CLIENTS} clients listen already")
        last_id = request.headers.get("Last-Event-ID") or None
        response = web.StreamResponse(headers={**SECURITY_HEADERS, **_HEADERS})
        async with self._events.listening() as listener:
            try:
                await response.prepare(request)
                await _write(response, _BEGIN)
                if last_id is not None:
                    await self._events.catch_up(listener, last_id)
                await self._tell(response, listener)
            except (TimeoutError, ConnectionError):
                listener.end()
                if request.transport is not None:
                    request.transport.abort()  # what it has not taken is not kept for it
        return response

    async def _tell(self, response: web.StreamResponse, listener: Listener) -> None:
        while not listener.is_over:
            events = await listener.heard(self._heartbeat_seconds)
            if not listener.is_over:
                await _write(response, encoded(events) or _HEARTBEAT)


_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}


async def _write(response: web.StreamResponse, content: bytes) -> None:
    async with asyncio.timeout(_STUCK_SECONDS):
        await response.write(content)


def encoded(events: Iterable[Event]) -> bytes:
    """Events as they travel: JSON has no line breaks, so each has one line of data."""
    return b"".join(_encoded(event) for event in events)


@lru_cache(maxsize=4_096)  # once for all who hear it
def _encoded(event: Event) -> bytes:
    place = f"id: {event.id}\n" if event.id is not None else ""
    data = orjson.dumps(event.fields, default=plain, option=_OPTIONS)
    return f"{place}event: {event.name}\ndata: ".encode() + data + b"\n\n"
