"""Where the service's log goes in the demo: to the narrator, and to whoever waits for an event."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

import structlog
from structlog.typing import EventDict, WrappedLogger

from service.telemetry import configure_logging

Event = Mapping[str, object]
Wanted = Callable[[Event], bool]


@dataclass(frozen=True, slots=True)
class _Waiting:
    wanted: Wanted
    heard: asyncio.Future[Event]


class Ears:
    """The last processor of the log: takes every event, so that nothing is printed as JSON."""

    def __init__(self, told: Callable[[Event], None]) -> None:
        self._told = told
        self._waiting: list[_Waiting] = []

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> NoReturn:
        self._told(event)
        for waiting in [waiting for waiting in self._waiting if waiting.wanted(event)]:
            self._waiting.remove(waiting)
            if not waiting.heard.done():
                waiting.heard.set_result(event)
        raise structlog.DropEvent

    def next(self, wanted: Wanted) -> asyncio.Future[Event]:
        """The next event that is wanted, from this call on."""
        heard: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(wanted, heard))
        return heard


def named(name: str, agent_id: str) -> Wanted:
    """Tell an event by its name and its agent."""
    return lambda event: (event["event"], event.get("agent_id")) == (name, agent_id)


@contextmanager
def listening(ears: Ears) -> Iterator[None]:
    """Have the log come to these ears, what libraries log included, until the context ends."""
    before = structlog.get_config()
    configure_logging("json", "info")
    structlog.configure(processors=[structlog.processors.add_log_level, ears])
    try:
        yield
    finally:
        structlog.configure(**before)
