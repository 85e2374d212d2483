"""The event loop: uvloop where it is installed, else asyncio's own, with short rounds."""

import asyncio
import math
import os
import select
import selectors
import sys
from collections.abc import Callable, Coroutine
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

_READ_AT_ONCE = 24
"""Sockets that are read before timers have their turn: each wakes a run that goes on at once."""


async def measure_lateness(tell: Callable[[float], None], *, every_seconds: float = 1.0) -> None:
    """Tell again and again how many seconds late a timer of this loop was, until cancelled."""
    while True:
        due = monotonic() + every_seconds
        await asyncio.sleep(every_seconds)
        tell(max(0.0, monotonic() - due))


def run_loop(work: Coroutine[Any, Any, None]) -> None:
    """Run this to its end in a loop of its own. Raises what it raises."""
    if find_spec("uvloop") is not None:
        import uvloop  # noqa: PLC0415 the extra `speed`: used where it is installed

        uvloop.run(work)
        return
    is_linux = sys.platform == "linux"
    with asyncio.Runner(loop_factory=_short_rounds if is_linux else None) as runner:
        runner.run(work)


def _short_rounds() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(FewAtOnce())


if sys.platform == "linux":

    class FewAtOnce(selectors.EpollSelector):
        """Answers a few of the sockets that are ready; the others come next, in turn.

        A loop does all that it was answered before it looks at its timers: of a thousand answers
        that have come at once, none could be kept. The kernel sees to the turns: what it has
        answered goes to the end of its list (epoll(7), level-triggered).
        """

        def __init__(self, most: int = _READ_AT_ONCE) -> None:
            super().__init__()
            self._most = most
            # What `get_map` has: asked for there, each answer takes four calls.
            self._keys: dict[int, selectors.SelectorKey] = {}
            # The same set of sockets, by a name that is not private to the standard library.
            self._ready = select.epoll.fromfd(os.dup(self.fileno()))

        def register(
            self, fileobj: "FileDescriptorLike", events: int, data: Any = None
        ) -> selectors.SelectorKey:
            """As `selectors.BaseSelector.register`."""
            return self._kept(super().register(fileobj, events, data))

        def modify(
            self, fileobj: "FileDescriptorLike", events: int, data: Any = None
        ) -> selectors.SelectorKey:
            """As `selectors.BaseSelector.modify`."""
            try:
                return self._kept(super().modify(fileobj, events, data))
            except Exception:  # it was closed, say, and is not registered any more
                self._keys = {key.fd: key for key in self.get_map().values()}
                raise

        def unregister(self, fileobj: "FileDescriptorLike") -> selectors.SelectorKey:
            """As `selectors.BaseSelector.unregister`."""
            key = super().unregister(fileobj)
            self._keys.pop(key.fd, None)
            return key

        def _kept(self, key: selectors.SelectorKey) -> selectors.SelectorKey:
            self._keys[key.fd] = key
            return key

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """As `selectors.BaseSelector.select`, with at most `most` answers."""
            ready = []
            # epoll counts in milliseconds: rounded up, so that no timer is looked at too early.
            wait = -1.0 if timeout is None else math.ceil(max(timeout, 0.0) * 1e3) * 1e-3
            for fd, seen in self._ready.poll(wait, self._most):
                events = selectors.EVENT_WRITE if seen & ~select.EPOLLIN else 0
                events |= selectors.EVENT_READ if seen & ~select.EPOLLOUT else 0
                if (key := self._keys.get(fd)) is not None:
                    ready.append((key, events & key.events))
            return ready

        def close(self) -> None:
            self._keys.clear()
            self._ready.close()
            super().close()
