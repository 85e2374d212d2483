"""What is asked for at the same time, sent as one. Time jumps: nobody waits, nothing is luck."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from service.batching import Batcher
from service.ports import Unavailable, WatchLost
from tests.steps import turned

MOMENT = 1e-6
_ASKED, _DISTANCE = 0.001, 0.005


@pytest.fixture(autouse=True)
async def _time_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loop's time go by only where nothing else is to be done, to the next timer at once.

    What answers and never waits is thereby all at one instant, on any machine.
    """
    loop: Any = asyncio.get_running_loop()
    select, now = loop._selector.select, [1_000.0]

    def jumping(timeout: float | None) -> Any:
        if timeout:
            now[0] += timeout
        return select(timeout if timeout is None else 0)

    monkeypatch.setattr(loop, "time", lambda: now[0])
    monkeypatch.setattr(loop._selector, "select", jumping)


def time() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """Answers `a` with `a!`; keeps batches with something in `held` until it is let go."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.times: list[float] = []
        self.on_the_way = 0
        self.held: dict[str, asyncio.Event] = {}
        self.errors: dict[str, Exception] = {}
        self.breaks: Exception | None = None

    def hold(self, *items: str) -> None:
        self.held |= {item: asyncio.Event() for item in items}

    def let_go(self, item: str) -> None:
        self.held[item].set()

    async def send(self, items: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append("".join(items))
        self.times.append(time())
        self.on_the_way += 1
        for item in items:
            if item in self.held:
                await self.held[item].wait()
        self.on_the_way -= 1
        if self.breaks is not None:
            raise self.breaks
        return [self.errors.get(item, f"{item}!") for item in items]


@pytest.fixture
def server() -> Server:
    return Server()


def asking(batcher: Batcher[str, str], items: str) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(batcher.ask(item)) for item in items]


async def answers_of(tasks: Sequence[asyncio.Task[str]]) -> list[str | BaseException]:
    """What each has got; nobody may be left without an answer."""
    async with asyncio.timeout(3_600):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_asked_for_together_travels_together_and_gets_its_own_answers(
    server: Server,
) -> None:
    answers = await answers_of(asking(Batcher(server.send), "cab"))
    assert (server.batches, answers) == (["cab"], ["c!", "a!", "b!"])


async def test_an_exception_among_the_answers_is_its_askers_alone(server: Server) -> None:
    server.errors["b"] = KeyError("b")
    first, second, third = asking(Batcher(server.send), "abc")
    assert await answers_of([first, third]) == ["a!", "c!"]
    assert second.exception() is server.errors["b"]


async def test_a_batch_that_fails_fails_for_all_each_with_an_exception_of_its_own(
    server: Server,
) -> None:
    """One that is raised in many places collects the tracebacks of all of them."""
    server.breaks = OSError(5, "the line is down")
    said = await answers_of(asking(Batcher(server.send), "abc"))
    assert [(type(error), str(error)) for error in said] == [(OSError, str(server.breaks))] * 3
    assert len({id(error) for error in said}) == 3
    server.breaks = None
    assert await Batcher(server.send).ask("d") == "d!"


async def test_after_a_failure_the_next_batch_goes_as_usual(server: Server) -> None:
    batcher = Batcher(server.send, at_once=1)
    server.breaks = OSError("the line is down")
    await answers_of(asking(batcher, "ab"))
    server.breaks = None
    assert await answers_of(asking(batcher, "cd")) == ["c!", "d!"]


async def test_a_full_batch_goes_at_once_and_the_rest_later(server: Server) -> None:
    batcher, began = Batcher(server.send, most=3), time()
    tasks = asking(batcher, "abcde")
    assert await answers_of(tasks) == ["a!", "b!", "c!", "d!", "e!"]
    assert server.batches == ["abc", "de"]
    assert server.times[0] == began < server.times[1]


async def test_a_batch_that_fills_up_while_it_is_collected_does_not_wait(server: Server) -> None:
    batcher, began = Batcher(server.send, most=3), time()
    tasks = asking(batcher, "ab")
    await turned()
    assert server.batches == []
    tasks += asking(batcher, "c")
    await turned()
    assert (server.batches, time()) == (["abc"], began)
    tasks += asking(batcher, "d")
    await answers_of(tasks)
    later = server.times[1] - began
    assert later == pytest.approx(_DISTANCE, abs=MOMENT), "not by the timer of what has gone"


async def test_no_more_are_on_the_way_than_may_be(server: Server) -> None:
    server.hold(*"abcde")
    batcher = Batcher(server.send, most=1, at_once=2)
    tasks = asking(batcher, "abcde")
    await turned()
    for arrived, sent in (("b", "abc"), ("a", "abcd"), ("d", "abcde"), ("c", "abcde")):
        assert server.on_the_way == 2
        server.let_go(arrived)
        await turned()
        assert "".join(server.batches) == sent
    server.let_go("e")
    assert await answers_of(tasks) == ["a!", "b!", "c!", "d!", "e!"]


async def test_what_did_not_fit_on_the_way_goes_when_there_is_room(server: Server) -> None:
    """Fewer than a batch: nobody fills it up, and nobody else may come to ask."""
    server.hold("a")
    batcher = Batcher(server.send, at_once=1)
    slow = asking(batcher, "a")
    await asyncio.sleep(1)
    waiting = asking(batcher, "bc")
    await asyncio.sleep(1)
    assert server.batches == ["a"]
    server.let_go("a")
    assert await answers_of([*slow, *waiting]) == ["a!", "b!", "c!"]
    assert server.batches == ["a", "bc"]


async def test_a_slow_batch_holds_back_no_other(server: Server) -> None:
    server.hold("a")
    batcher = Batcher(server.send)
    (slow,) = asking(batcher, "a")
    await asyncio.sleep(1)
    assert await batcher.ask("b") == "b!"
    assert not slow.done()
    server.let_go("a")
    assert await slow == "a!"


async def test_a_caller_that_is_cancelled_takes_its_item_back(server: Server) -> None:
    batcher = Batcher(server.send)
    first, second, third = asking(batcher, "abc")
    await turned()
    second.cancel()
    assert await answers_of([first, third]) == ["a!", "c!"]
    assert server.batches == ["ac"]
    (alone,) = asking(batcher, "d")
    await turned()
    alone.cancel()
    await asyncio.sleep(1)
    assert server.batches == ["ac"], "nothing is not sent"
    assert await batcher.ask("e") == "e!"


@pytest.mark.parametrize("breaks", [None, OSError("the line is down")], ids=["answer", "error"])
async def test_a_caller_that_is_cancelled_on_the_way_harms_no_other(
    server: Server, breaks: Exception | None
) -> None:
    server.hold("a")
    server.breaks = breaks
    batcher = Batcher(server.send)
    first, second, third = asking(batcher, "abc")
    await asyncio.sleep(1)
    assert server.batches == ["abc"]
    second.cancel()
    await turned()
    server.let_go("a")
    said = await answers_of([first, second, third])
    assert isinstance(said[1], asyncio.CancelledError)
    assert [str(said[0]), str(said[2])] == (["a!", "c!"] if breaks is None else [str(breaks)] * 2)
    server.breaks = None
    assert await batcher.ask("d") == "d!"


async def test_with_one_at_most_each_goes_alone_and_in_order(server: Server) -> None:
    batcher = Batcher(server.send, most=1, at_once=8)
    began = time()
    assert await answers_of(asking(batcher, "abc")) == ["a!", "b!", "c!"]
    assert (server.batches, server.times) == (["a", "b", "c"], [began] * 3)


async def test_heavy_items_fill_a_batch(server: Server) -> None:
    """A command has 48 MB at most, and what is decoded at once holds the interpreter."""
    weights = {"a": 2_500_000, "b": 2_500_000, "c": 0, "d": 9_000_000, "e": 1}
    batcher = Batcher(server.send, weight=lambda item: weights[item])
    assert await answers_of(asking(batcher, "abcde")) == ["a!", "b!", "c!", "d!", "e!"]
    assert server.batches == ["ab", "cd", "e"]


async def test_nobody_is_answered_before_all_of_it_was_sent(server: Server) -> None:
    """A claim is nobody's before the majority has it."""
    server.hold("c")
    tasks = asking(Batcher(server.send), "abc")
    await asyncio.sleep(60)
    assert server.batches == ["abc"]
    assert [task.done() for task in tasks] == [False] * 3
    server.let_go("c")
    assert await answers_of(tasks) == ["a!", "b!", "c!"]


async def test_a_batch_is_collected_for_a_moment(server: Server) -> None:
    batcher, began = Batcher(server.send), time()
    await batcher.ask("a")
    assert server.times[0] - began == pytest.approx(_ASKED, abs=MOMENT)
    await asyncio.sleep(1)
    began = time()
    await batcher.ask("b")
    assert server.times[1] - began == pytest.approx(_ASKED, abs=MOMENT)


async def test_batches_keep_their_distance_the_more_are_on_the_way_the_longer(
    server: Server,
) -> None:
    batcher = Batcher(server.send)
    await batcher.ask("a")
    server.hold("b", "c")
    tasks = asking(batcher, "b")
    await asyncio.sleep(1.1 * _DISTANCE)
    tasks += asking(batcher, "c")
    await asyncio.sleep(2 * _DISTANCE)
    tasks += asking(batcher, "d")
    await asyncio.sleep(3 * _DISTANCE)
    sent_at = [sent - server.times[0] for sent in server.times]
    assert server.batches == ["a", "b", "c", "d"]
    expected = [0, _DISTANCE, 3 * _DISTANCE, 6 * _DISTANCE]
    assert sent_at == pytest.approx(expected, abs=MOMENT)
    server.let_go("b")
    server.let_go("c")
    await answers_of(tasks)


async def test_many_answers_let_others_have_their_turn(server: Server) -> None:
    """Who was answered goes on, and each takes its time."""
    tasks = asking(Batcher(server.send), "a" * 100)
    await asyncio.sleep(_ASKED)  # no time goes by where the loop only turns
    most_at_once = before = 0
    for _ in range(100):
        await asyncio.sleep(0)
        done = sum(task.done() for task in tasks)
        most_at_once, before = max(most_at_once, done - before), done
    assert before == len(tasks)
    assert most_at_once <= 20


async def test_an_exception_that_cannot_be_copied_is_raised_all_the_same() -> None:
    async def send(_items: Sequence[str]) -> Sequence[str]:
        raise WatchLost("136", "gone")

    with pytest.raises(WatchLost):
        await asyncio.wait_for(Batcher(send).ask("a"), 5)


async def test_too_few_answers_are_an_error() -> None:
    async def send(_items: Sequence[str]) -> Sequence[str]:
        return []

    with pytest.raises(ValueError, match="shorter"):
        await asyncio.wait_for(Batcher(send).ask("a"), 5)


async def test_what_is_only_told_goes_along_and_nobody_is_answered(server: Server) -> None:
    batcher = Batcher(server.send)
    batcher.tell("a")
    asked = asking(batcher, "b")
    batcher.tell("c")
    assert await answers_of(asked) == ["b!"]
    assert sorted("".join(server.batches)) == ["a", "b", "c"]
    assert len(server.batches) == 1


async def test_stopped_it_drops_what_waits_and_cancels_what_is_on_the_way(server: Server) -> None:
    server.hold("a")
    batcher = Batcher(server.send, most=1, at_once=1)
    batcher.tell("a")
    batcher.tell("b")
    await turned()
    assert server.batches == ["a"]
    await batcher.stop()
    assert server.on_the_way == 1, "cancelled where it waited"
    server.let_go("a")
    await asyncio.sleep(1)
    assert server.batches == ["a"]


async def test_what_failed_is_freed_without_a_collection() -> None:
    """A row with a large output, say, while the database is away."""

    class Large:
        pass

    async def fail(_: Sequence[Large]) -> Sequence[None]:
        raise Unavailable("away")

    async def asked() -> weakref.ref[Large]:
        large = Large()
        seen = weakref.ref(large)
        with suppress(Unavailable):
            await Batcher(fail).ask(large)
        return seen

    gc.disable()
    try:
        seen = await asked()
        await turned()
        assert seen() is None
    finally:
        gc.enable()
