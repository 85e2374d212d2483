"""The collector is left as it was found, whatever happens meanwhile."""

import gc
from collections.abc import Iterator

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
