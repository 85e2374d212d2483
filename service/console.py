"""Log events as lines for a person who reads along: short, aligned, and nothing but text."""

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any

from rich.cells import cell_len

from service.domain.printable import one_line, printable

TIME_FORMAT = "%m-%d %H:%M:%SZ"
"""Z for UTC, as everything in a log is."""
_EVENT, _AGENT = 16, 24
"""How wide they are at least, so that what comes next stands below what came next before."""
_LONGEST = {"agent_id": 48, "execution_id": 72}
_LONGEST_OTHER = 160
_RESET, _DIM, _BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
_LEVELS = {"debug": _DIM, "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[1;31m"}


def has_colours(environ: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Tell whether to colour: only on a terminal, where NO_COLOR and FORCE_COLOR say nothing."""
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (is_terminal and environ.get("TERM") != "dumb")


class LinesForPeople:
    """structlog's last processor: one line an event, and a traceback below it."""

    def __init__(self, *, is_coloured: bool) -> None:
        self._is_coloured = is_coloured

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
        """The line of an event: when, how bad, what, who, then the rest as it was given."""
        said = dict(event)
        level, name = str(said.pop("level", "")), one_line(said.pop("event", ""), _LONGEST_OTHER)
        time, exception = str(said.pop("timestamp", "")), said.pop("exception", None)
        parts = [
            self._in(_DIM, time),
            self._in(_LEVELS.get(level, ""), f"{level:<7}"),
            self._in(_BOLD, _padded(name, _EVENT)),
        ]
        if "agent_id" in said:
            parts.append(self._field("agent_id", said.pop("agent_id"), _AGENT))
        if "execution_id" in said:  # long, and of use to few
            said["execution_id"] = said.pop("execution_id")
        parts += [self._field(key, value) for key, value in said.items()]
        line = " ".join(parts).rstrip()
        return line if exception is None else f"{line}\n{_indented(str(exception))}"

    def _field(self, key: str, value: object, width: int = 0) -> str:
        shown = _shown(value, _LONGEST.get(key, _LONGEST_OTHER))
        return f"{self._in(_DIM, f'{printable(key)}=')}{_padded(shown, width)}"

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._is_coloured and style else text


def _shown(value: object, longest: int) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    line = one_line(value, longest)
    return f'"{line}"' if " " in line or not line else line


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _indented(text: str) -> str:
    return "\n".join(f"    {printable(line)}" for line in text.splitlines())
