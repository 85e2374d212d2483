"""Server-sent events as a client reads them."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest


@dataclass
class Heard:
    """What was heard so far: (event, data, id)."""

    status: int
    headers: Mapping[str, str]
    events: list[tuple[str, dict[str, Any], str | None]] = field(default_factory=list)
    comments: int = 0
    news: asyncio.Condition = field(default_factory=asyncio.Condition)
    is_over: bool = False

    def of(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """The data of these events, where they have these fields."""
        return [
            data
            for event, data, _ in self.events
            if event == name and all(data.get(key) == value for key, value in fields.items())
        ]

    async def until(
        self, name: str, *, count: int = 1, within: float = 15, **fields: object
    ) -> list[dict[str, Any]]:
        """Wait until so many of these were heard."""
        try:
            async with asyncio.timeout(within), self.news:
                await self.news.wait_for(lambda: len(self.of(name, **fields)) >= count)
        except TimeoutError:
            pytest.fail(f"no {name} {fields} within {within} s: {self.events[-10:]}")
        return self.of(name, **fields)

    @property
    def last_id(self) -> str:
        """The id of the latest event that has one."""
        places = [place for _, _, place in self.events if place]
        return places[-1]


@asynccontextmanager
async def listening(
    http: aiohttp.ClientSession, base_url: str, last_id: str | None = None, **headers: str
) -> AsyncIterator[Heard]:
    """Listen to `/events` for as long as the context lasts."""
    if last_id is not None:
        headers["Last-Event-ID"] = last_id
    timeout = aiohttp.ClientTimeout(total=None)
    async with http.get(f"{base_url}/events", headers=headers, timeout=timeout) as response:
        heard = Heard(response.status, response.headers)
        reader = asyncio.create_task(_read(response, heard))
        try:
            yield heard
        finally:
            reader.cancel()
            await asyncio.wait([reader])


async def _read(response: aiohttp.ClientResponse, heard: Heard) -> None:
    event = dict[str, str]()
    async for line in response.content:
        text = line.decode().rstrip("\n")
        async with heard.news:
            if text.startswith(":"):
                heard.comments += 1
            elif text:
                name, _, value = text.partition(": ")
                event[name] = value
            elif "data" in event:
                heard.events.append((event["event"], orjson.loads(event["data"]), event.get("id")))
            if not text:
                event = {}
            heard.news.notify_all()
    async with heard.news:
        heard.is_over = True
        heard.news.notify_all()
