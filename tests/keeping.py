"""What outlives the loops of tests is kept by a thread with a loop of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

_T = TypeVar("_T")


@contextmanager
def kept(
    context: AbstractAsyncContextManager[_T], name: str
) -> Iterator[tuple[_T, asyncio.AbstractEventLoop]]:
    """Enter an asynchronous context and stay in it; answers what it gives, and its loop."""
    entered, faults = list[tuple[_T, asyncio.AbstractEventLoop]](), list[BaseException]()
    is_up, ends = threading.Event(), list[asyncio.Event]()

    async def keep() -> None:
        async with context as value:
            ends.append(asyncio.Event())
            entered.append((value, asyncio.get_running_loop()))
            is_up.set()
            await ends[0].wait()

    def run() -> None:
        try:
            asyncio.run(keep())
        except BaseException as fault:  # noqa: BLE001 raised again where it was asked for
            faults.append(fault)
            is_up.set()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    is_up.wait()
    try:
        if faults:
            raise faults[0]
        yield entered[0]
    finally:
        if entered:
            entered[0][1].call_soon_threadsafe(ends[0].set)
        thread.join()
