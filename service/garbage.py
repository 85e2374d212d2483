"""Python's cyclic collector, kept away from what lives long, and from when much goes on.

A full collection looks at every object there is: with 100,000 jobs it takes a third of a second,
in which no timer is kept. A collection of what is new takes a millisecond for a thousand objects,
and thousands of runs on their way are 100,000 of them, hardly any of it garbage: jobs, and runs
that end well, have no cycles, and are freed without it.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MANY_JOBS, _MANY_OBJECTS = 50, 20_000
"""New ones that are worth it."""
_OBJECTS_OF_A_RUN, _MOST_RUNS = 150, 2_000
"""They live as long as it is on its way; measured: some 100. However many runs the settings allow,
what cycles keep alive meanwhile stays bounded."""
_OLDER = (50, 100)
"""A collection of what is younger comes so often before one of the next older objects."""
_EVERY_SECONDS = 1.0
_FEW_OBJECTS = 1_000
"""New ones that are not worth a collection."""

_SWITCH_SECONDS = 0.001
"""How long the event loop waits for a thread of the driver that encodes, whenever both want to."""


def tune(runs_at_once: int) -> None:
    """Collect by itself only beyond what so many runs may take, and let no thread keep the loop
    waiting for long. What there is by now is left out of all collections."""
    gc.freeze()
    of_runs = _OBJECTS_OF_A_RUN * min(runs_at_once, _MOST_RUNS)
    gc.set_threshold(_MANY_OBJECTS + of_runs, *_OLDER)
    sys.setswitchinterval(_SWITCH_SECONDS)


async def collect_when_quiet(is_quiet: Callable[[], bool]) -> None:
    """Collect what is new, at times what is older, after each quiet second, until cancelled.

    Not while collecting is `paused`.
    """
    often, seldom = _OLDER
    collected = 0
    is_quiet_now = False
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        was_quiet, is_quiet_now = is_quiet_now, is_quiet()
        is_wanted = gc.isenabled() and gc.get_count()[0] >= _FEW_OBJECTS
        if not (was_quiet and is_quiet_now and is_wanted):
            continue
        collected += 1
        is_seldom = collected % (often * seldom) == 0
        gc.collect(2 if is_seldom else 1 if collected % often == 0 else 0)


def spare(new_jobs: int) -> None:
    """Leave out of all collections what there is now, where many jobs are new."""
    if new_jobs >= _MANY_JOBS:
        gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing while much may be made that stays; leave all there is out then, if so."""
    gc.disable()
    before, *_ = gc.get_count()
    try:
        yield
    finally:
        if gc.get_count()[0] - before > _MANY_OBJECTS:
            gc.freeze()
        gc.enable()
