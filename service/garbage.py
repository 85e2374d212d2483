"""Python's cyclic collector, kept away from what lives as long as the process.

A full collection looks at every object there is: with 100,000 jobs it takes a third of a second,
in which no timer is kept. Jobs have no cycles, and are freed without it.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MANY = 50
"""New jobs that are worth it."""
_THRESHOLDS = (20_000, 50, 100)
"""With thousands of runs on their way, the usual 700 new objects have it look at them all the time:
it takes a quarter of the processor time of a run."""

_SWITCH_SECONDS = 0.001
"""How long the event loop waits for a thread of the driver that encodes, whenever both want to."""


def tune() -> None:
    """Collect less often, and let no thread keep the loop waiting for long."""
    gc.set_threshold(*_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_SECONDS)


def spare(new_jobs: int) -> None:
    """Leave out of all collections what there is now, where many jobs are new."""
    if new_jobs >= _MANY:
        gc.freeze()


@contextmanager
def paused() -> Iterator[None]:
    """Collect nothing while much may be made that stays; leave it out afterwards, if so."""
    gc.disable()
    try:
        yield
    finally:
        if gc.get_count()[0] > _THRESHOLDS[0]:
            gc.freeze()
        gc.enable()
