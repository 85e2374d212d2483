"""The collector is left as it was found, whatever happens meanwhile."""

import asyncio
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pytest

from service import garbage


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    threshold, was_enabled = gc.get_threshold(), gc.isenabled()
    gc.enable()
    gc.unfreeze()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    if not was_enabled:
        gc.disable()


def test_runs_on_their_way_are_no_reason_to_collect() -> None:
    switch_seconds = sys.getswitchinterval()
    sys.setswitchinterval(0.005)  # as Python has it, whatever ran in this process before
    try:
        garbage.tune(2_000)
        threshold, *_ = gc.get_threshold()
        assert threshold >= 100 * 2_000, "objects of runs, as measured"
        assert gc.get_freeze_count() > 0, "what there was before is never looked at"
        assert sys.getswitchinterval() < 0.005
        garbage.tune(1_000_000)
        assert gc.get_threshold()[0] < 500_000, "or cycles would live for ever"
    finally:
        sys.setswitchinterval(switch_seconds)


async def collected(
    monkeypatch: pytest.MonkeyPatch, seconds: Sequence[tuple[bool, int]]
) -> list[int]:
    """Which generations are collected in seconds that are quiet or not, with new objects."""
    coming, now, generations = iter(seconds), [(False, 0)], list[int]()

    async def second(_: float) -> None:
        try:
            now[0] = next(coming)
        except StopIteration:
            raise asyncio.CancelledError from None

    monkeypatch.setattr(asyncio, "sleep", second)
    monkeypatch.setattr(gc, "get_count", lambda: (now[0][1], 0, 0))
    monkeypatch.setattr(gc, "collect", generations.append)
    with suppress(asyncio.CancelledError):
        await garbage.collect_when_quiet(lambda: now[0][0])
    return generations


async def test_what_is_new_is_collected_after_a_whole_quiet_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy, quiet = (False, 5_000), (True, 5_000)
    assert await collected(monkeypatch, [busy, quiet, busy, quiet, busy]) == []
    assert await collected(monkeypatch, [busy, quiet, quiet, quiet]) == [0, 0]


async def test_nothing_is_collected_by_hand_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    with garbage.paused():
        assert await collected(monkeypatch, [(True, 5_000)] * 5) == []


async def test_hardly_anything_new_is_not_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await collected(monkeypatch, [(True, 999)] * 5) == []


async def test_older_objects_have_their_turn_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generations = await collected(monkeypatch, [(True, 1_000)] * 10_001)
    assert [generations.count(age) for age in (0, 1, 2)] == [9_800, 198, 2]


def test_few_new_jobs_stay_with_the_collector() -> None:
    garbage.spare(49)
    assert gc.get_freeze_count() == 0


def test_many_new_jobs_are_left_out_and_all_else_stays_as_it_was() -> None:
    threshold = gc.get_threshold()
    garbage.spare(50)
    assert gc.get_freeze_count() > 0
    assert (gc.isenabled(), gc.get_threshold()) == (True, threshold)


def test_nothing_is_collected_in_a_pause_and_everything_after_it() -> None:
    threshold = gc.get_threshold()
    with garbage.paused():
        assert not gc.isenabled()
    assert (gc.isenabled(), gc.get_threshold()) == (True, threshold)
    assert gc.get_freeze_count() == 0, "nothing was made that stays"


def test_what_a_long_pause_has_made_is_left_out() -> None:
    with garbage.paused():
        made = [[n] for n in range(60_000)]
    assert gc.get_freeze_count() > len(made)


def test_what_was_made_before_a_pause_is_still_collected() -> None:
    gc.disable()
    made = [[n] for n in range(60_000)]
    with garbage.paused():
        pass
    assert gc.get_freeze_count() == 0, f"{len(made)} of these are nobody's to keep"


def test_a_pause_ends_with_an_error_too() -> None:
    with pytest.raises(KeyError), garbage.paused():
        raise KeyError
    assert gc.isenabled()


def test_cycles_made_after_a_pause_are_collected_again() -> None:
    class Ring:
        ring: "Ring | None" = None

    with garbage.paused():
        pass
    ring = Ring()
    ring.ring = ring
    del ring
    assert gc.collect() > 0
