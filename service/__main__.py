"""`python -m service` is `councilor-scheduler`."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run a command; Ctrl-C ends it without a traceback from its first moment on.

    So does SIGTERM end `run`, with 0: nothing has begun. As process 1, that of a container, it
    would not hear the signal at all: the kernel passes on to that one only what it listens to.
    """
    if sys.argv[1:2] == ["run"]:
        # Until the service listens itself, which replaces this. Other commands, which fail where
        # they are ended, are left to the signal.
        signal.signal(signal.SIGTERM, _end_at_once)
    at_first = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from service.cli import main as run  # noqa: PLC0415 it takes a while

    signal.signal(signal.SIGINT, at_first)
    run()


def _end_at_once(_: int, __: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    main()
