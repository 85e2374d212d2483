"""The loop answers a few sockets a round, and never forgets one."""

import asyncio
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from importlib.util import find_spec

import pytest

from service.loop import measure_lateness, run_loop
from tests.steps import going

if sys.platform != "linux":
    pytest.skip("other systems have the loop of the standard library", allow_module_level=True)

from service.loop import FewAtOnce


async def test_a_timer_that_had_to_wait_is_told_of() -> None:
    told, is_enough = list[float](), asyncio.Event()

    def tell(seconds: float) -> None:
        told.append(seconds)
        if len(told) == 1:  # block the loop for longer than until the next look
            asyncio.get_running_loop().call_soon(time.sleep, 0.2)
        else:
            is_enough.set()

    async with going(measure_lateness(tell, every_seconds=0.01)):
        await is_enough.wait()
    assert 0 <= told[0] < told[1]
    assert told[1] >= 0.15


@pytest.fixture
def selector() -> Iterator[FewAtOnce]:
    with FewAtOnce(3) as few:
        yield few


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(10)]
        for one, other in made:
            stack.enter_context(one)
            stack.enter_context(other)
        yield made


def registered(
    selector: FewAtOnce, pairs: list[tuple[socket.socket, socket.socket]]
) -> list[socket.socket]:
    """The ends to be read, of pairs whose other end has been written to."""
    for one, other in pairs:
        selector.register(one, selectors.EVENT_READ)
        other.send(b"x")
    return [one for one, _ in pairs]


def test_each_socket_has_its_turn_though_others_are_ready_again(
    selector: FewAtOnce, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    waiting = registered(selector, pairs)
    seen = []
    for _ in range(4):
        answered = selector.select(0)
        assert 0 < len(answered) <= 3
        # None is read: all of them stay ready, the first as well as the last.
        seen += [key.fileobj for key, events in answered if events == selectors.EVENT_READ]
    assert set(seen) == set(waiting)


def test_it_says_what_a_socket_is_ready_for(
    selector: FewAtOnce, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    (one, other), *_ = pairs
    both = selectors.EVENT_READ | selectors.EVENT_WRITE
    selector.register(one, both, "data")
    assert [events for _, events in selector.select(0)] == [selectors.EVENT_WRITE]
    other.send(b"x")
    ((key, events),) = selector.select(0)
    assert (key.fileobj, key.data, events) == (one, "data", both)
    selector.modify(one, selectors.EVENT_READ)
    other.close()  # a hang-up is there to be read
    assert [events for _, events in selector.select(0)] == [selectors.EVENT_READ]
    selector.unregister(one)
    assert selector.select(0) == []


def test_it_waits_as_long_as_it_is_told(selector: FewAtOnce) -> None:
    loop = asyncio.new_event_loop()
    try:
        for seconds in (0.0, 0.0001, 0.02):
            began = loop.time()
            assert selector.select(seconds) == []
            assert loop.time() - began >= seconds
    finally:
        loop.close()
    assert selector.select(-1.0) == [], "a time that has passed"


def test_a_socket_that_was_closed_underneath_is_forgotten(
    selector: FewAtOnce, pairs: list[tuple[socket.socket, socket.socket]]
) -> None:
    (one, _), (two, other), *_ = pairs
    selector.register(one, selectors.EVENT_READ)
    os.dup2(two.fileno(), one.fileno())  # another file now, which nobody has registered
    with pytest.raises(OSError, match="No such file"):
        selector.modify(one, selectors.EVENT_WRITE)
    assert not selector.get_map()
    selector.register(one, selectors.EVENT_READ, "anew")
    other.send(b"x")
    assert [key.data for key, _ in selector.select(0)] == ["anew"]


def test_closed_it_gives_its_descriptors_back() -> None:
    first = FewAtOnce()
    number = first.fileno()
    first.close()
    again = FewAtOnce()
    assert again.fileno() == number
    again.close()


def test_many_answers_at_once_keep_no_timer_waiting() -> None:
    order: list[str] = []

    def answered(one: socket.socket) -> None:
        one.recv(1)
        order.append("answer")
        if order.count("answer") == 200:
            asyncio.get_running_loop().stop()

    with ExitStack() as stack:
        loop = stack.enter_context(closing(asyncio.SelectorEventLoop(FewAtOnce())))
        for _ in range(200):
            one, other = socket.socketpair()
            stack.enter_context(one)
            stack.enter_context(other)
            other.send(b"x")
            loop.add_reader(one, answered, one)
        loop.call_later(0, order.append, "timer")
        loop.run_forever()
    assert order.index("timer") < 100


def test_what_is_raised_in_it_comes_out() -> None:
    async def fail() -> None:
        raise LookupError("this")

    with pytest.raises(LookupError, match="this"):
        run_loop(fail())


def test_uvloop_is_taken_where_it_is() -> None:
    async def running() -> None:
        loops.append(asyncio.get_running_loop())

    loops: list[asyncio.AbstractEventLoop] = []
    run_loop(running())
    is_uvloop = type(loops[0]).__module__.startswith("uvloop")
    assert is_uvloop == (find_spec("uvloop") is not None)
