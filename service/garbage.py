"""Python's cyclic collector, kept away from what lives long, and from when much goes on.

A full collection looks at every object there is: with 100,000 jobs it takes a third of a second,
in which no timer is kept. A collection of what is new takes a millisecond for a thousand objects,
and thousands of runs on their way are 100,000 of them, none of it garbage. Neither jobs nor runs
have cycles: they are freed without it.
"""

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MANY_JOBS, _MANY_OBJECTS = 50, 20_000
"""New ones that are worth it."""
_OBJECTS_OF_A_RUN = 150
"""That live as long as it is on its way; measured: some 100."""
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
    gc.set_threshold(_MANY_OBJECTS + _OBJECTS_OF_A_RUN * runs_at_once, *_OLDER)
    sys.setswitchinterval(_SWITCH_SECONDS)


async def collect_when_quiet(is_quiet: Callable[[], bool]) -> None:
    """Collect what is new, at times what is older, after each quiet second, until cancelled."""
    often, seldom = _OLDER
    collected = 0
    is_quiet_now = False
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        was_quiet, is_quiet_now = is_quiet_now, is_quiet()
        if not (was_quiet and is_quiet_now) or gc.get_count()[0] < _FEW_OBJECTS:
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
    """Collect nothing while much may be made that stays; leave it out afterwards, if so."""
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _MANY_OBJECTS:
            gc.freeze()
        gc.enable()
