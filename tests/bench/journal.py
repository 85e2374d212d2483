"""The log of a service that runs: counted while it grows, read when it has grown."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import orjson

_POLL_SECONDS = 0.02


class Unmeasured(Exception):
    """A figure cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the log: its name, its time in seconds since 1970, everything it says."""

    name: str
    at: float
    fields: dict[str, Any]

    @property
    def agent_id(self) -> str:
        return str(self.fields.get("agent_id"))


class Journal:
    """A log of JSON lines that a process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Where the log ends now; what is written later begins there."""
        return self.path.stat().st_size

    def events(self, *names: str, since: int = 0) -> Iterator[Event]:
        """The events of these names, in order."""
        wanted = [_mark(name) for name in names]
        with self.path.open("rb") as log:
            log.seek(since)
            for line in log:
                if line.endswith(b"\n") and any(mark in line for mark in wanted):
                    yield _event(orjson.loads(line))

    def tally(self, name: str, since: int = 0) -> "Tally":
        """A count of one event that follows the log."""
        return Tally(self.path, name, since)


class Tally:
    """How often an event has come; cheap enough to ask often."""

    def __init__(self, path: Path, name: str, since: int) -> None:
        self._path = path
        self._mark = _mark(name)
        self._name = name
        self._read = since
        self._count = 0

    def now(self) -> int:
        """The count, with what was written since the last time."""
        with self._path.open("rb") as log:
            log.seek(self._read)
            lines = log.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read += len(lines)
        self._count += lines.count(self._mark)
        return self._count

    def wait(self, count: int, within: float, *, alive: Callable[[], bool]) -> None:
        """Return when there are so many. Raises Unmeasured after so many seconds."""
        until = monotonic() + within
        while self.now() < count:
            if monotonic() > until or not alive():
                why = f"within {within:g} s" if alive() else "before the service ended"
                raise Unmeasured(f"{self._count} of {count} {self._name} {why}: {self._tail()}")
            sleep(_POLL_SECONDS)

    def _tail(self) -> str:
        return self._path.read_bytes()[-1_000:].decode("utf-8", "replace")


def _mark(name: str) -> bytes:
    return b'"event":"%s"' % name.encode()


def _event(fields: dict[str, Any]) -> Event:
    at = datetime.fromisoformat(fields["timestamp"]).timestamp()
    return Event(fields["event"], at, fields)
