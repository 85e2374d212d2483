"""How tests wait: for the loop to turn, or for the world outside to be as it should."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest


async def turned_until(holds: Callable[[], object], turns: int = 2_000) -> None:
    """Let the event loop turn until this holds; fail after so many turns."""
    for _ in range(turns):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never held")


async def turned(turns: int = 50) -> None:
    """Let everything happen that can happen without time going by."""
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def going(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run tasks for as long as the context lasts; a fault of theirs is raised at its end."""
    tasks = [asyncio.create_task(coroutine) for coroutine in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        endings = await asyncio.gather(*tasks, return_exceptions=True)
    for ending in endings:
        if isinstance(ending, Exception):
            raise ending


async def eventually(
    condition: Callable[[], Awaitable[Any]], within: float = 15, saying: str = ""
) -> Any:
    """Ask again and again until the answer is true, and give it; fail after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            while True:
                if answer := await condition():
                    return answer
                await asyncio.sleep(0.005)
    except TimeoutError:
        pytest.fail(f"not within {within} s: {saying or condition.__name__}")
