"""`python -m tests.bench.serving`: the service as `run` runs it, and a watcher on its loop.

Standard input is a socket: it takes `reset` and `report`, a line each, and answers JSON lines; its
end ends the service. `--unwatched` leaves the watcher off, which costs what an idle service does
not.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson

from service.app import Stop, serve

# What the command `run` is made of, so that what is measured is what people run.
from service.cli.running import _stop_on_signals
from service.domain.execution import Fire
from service.loop import run_loop
from service.settings import Settings, settings_from_environment
from service.settler import Settler
from service.telemetry import configure_logging
from tests.bench.watcher import Watcher


async def _served(settings: Settings, watcher: Watcher | None) -> None:
    stop = Stop()
    _stop_on_signals(stop)
    if watcher is not None:
        watcher.start()
        _watch_fires(watcher)
    async with _controlled(stop, watcher):
        await serve(settings, stop)


def _watch_fires(watcher: Watcher) -> None:
    """Have each slot that is handed over noted."""
    settle = Settler.fire

    def noted(self: Settler, fire: Fire) -> None:
        settle(self, fire)
        watcher.handed_over()

    Settler.fire = noted  # type: ignore[method-assign]


@asynccontextmanager
async def _controlled(stop: Stop, watcher: Watcher | None) -> AsyncIterator[None]:
    control = socket.socket(fileno=os.dup(0))
    reader, writer = await asyncio.open_connection(sock=control)
    task = asyncio.create_task(_answer(reader, writer, stop, watcher), name="control")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        writer.close()
        if watcher is not None:
            watcher.stop()


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    stop: Stop,
    watcher: Watcher | None,
) -> None:
    async for line in reader:
        report = watcher.report() if watcher is not None else {}
        if line.strip() == b"reset" and watcher is not None:
            watcher.reset()
        writer.write(orjson.dumps(report) + b"\n")
    stop.ask()  # whoever measured is gone


def main() -> None:
    """Serve until a signal comes."""
    settings = settings_from_environment()
    configure_logging(settings.scheduler_log_format, settings.scheduler_log_level)
    run_loop(_served(settings, None if "--unwatched" in sys.argv else Watcher()))


if __name__ == "__main__":
    main()
