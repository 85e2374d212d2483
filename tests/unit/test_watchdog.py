"""A read of the change stream that is never answered is given up, and never read past."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import pytest

from service.adapters.mongo.stream import Event, Stream
from service.adapters.mongo.watch import OpenWatch
from service.domain.jobs import Listed
from service.ports import WatchLost
from tests.steps import turned


class SilentStream:
    """A stream whose server has gone without a word."""

    is_alive = True

    def __init__(self) -> None:
        self.reads = 0
        self.answer: asyncio.Future[Sequence[Event]] = asyncio.get_running_loop().create_future()
        self.was_cancelled = False

    async def next_events(self) -> Sequence[Event]:
        self.reads += 1
        try:
            return await self.answer
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise


async def nothing() -> AsyncIterator[Sequence[Listed]]:
    for batch in list[Sequence[Listed]]():
        yield batch


def watch_on(stream: SilentStream) -> OpenWatch:
    return OpenWatch(cast("Stream", stream), nothing, lambda _: None, stalled_seconds=0.01)


async def test_a_read_without_an_answer_loses_the_watch_and_is_not_cancelled() -> None:
    """Cancelling it would lose the event that it may yet bring; so would a second read."""
    stream = SilentStream()
    with pytest.raises(WatchLost) as lost:
        await watch_on(stream).changes()
    assert lost.value.reason == "stalled"
    await turned()
    assert (stream.reads, stream.was_cancelled) == (1, False)
    stream.answer.set_result(())
    await turned()


async def test_an_error_that_comes_after_all_disturbs_nobody() -> None:
    stream = SilentStream()
    with pytest.raises(WatchLost):
        await watch_on(stream).changes()
    stream.answer.set_exception(OSError("the connection was reset"))
    await turned()


async def test_an_answer_in_time_is_an_answer() -> None:
    stream = SilentStream()
    stream.answer.set_result(())
    assert await watch_on(stream).changes() == []
