"""The console of the demo: what the writer does, and what the service's log says about it."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import TextIOWrapper
from time import monotonic

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.text import Text

from service.demo.ears import Event
from service.demo.mongosh import command_lines, update_text

_INDENT, _COMMAND_INDENT = 19, 11
_WIDEST = 132


@dataclass(frozen=True, slots=True)
class _Look:
    icon: str
    style: str


_WRITER = _Look("✎", "bold magenta")
_FOUND = _Look("☞", "bold cyan")
_DEMO = _Look("•", "bold")
_QUIET = _Look("·", "dim")
_LOOKS = {
    "job_scheduled": _Look("●", "cyan"),
    "job_paused": _Look("⏸", "yellow"),
    "job_resumed": _Look("●", "cyan"),
    "job_removed": _Look("■", "yellow"),
    "job_rejected": _Look("⚠", "bold red"),
    "run_started": _Look("▶", "dim"),
    "run_failed": _Look("✖", "red"),
    "run_skipped": _Look("↷", "yellow"),
    "run_missed": _Look("↷", "yellow"),
}
_SEVERITIES = {"success": _Look("✔", "green"), "warning": _Look("✔", "yellow")}
_REASONS = {"overlap": "overlap: still running"}


class _Stage(Console):
    """A console that tells when nobody reads it any more, instead of ending the process."""

    def __init__(self, abandoned: Callable[[], None]) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal may not know every sign
        super().__init__(highlight=False, emoji=False, markup=False)
        self._abandoned = abandoned

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._abandoned()


class Narrator:
    """Prints as things happen. `abandoned` is called where the reader has gone."""

    def __init__(self, abandoned: Callable[[], None]) -> None:
        self._console = _Stage(abandoned)
        self._began = monotonic()
        self._sent: dict[str, float] = {}
        self.reactions_ms: list[float] = []
        """How long each update took from being sent to the service's word of its effect."""

    def chapter(self, title: str, meaning: str = "") -> None:
        """Begin a new part of the story."""
        self.show(Text(), Rule(Text(title, "bold"), align="left", style="dim"))
        if meaning:
            self.show(Text(meaning, "italic dim"))

    def wrote(
        self, headline: str, update: Mapping[str, object] | None = None, *, timed: str = ""
    ) -> None:
        """Tell of an update that is about to be sent, to the agent `timed` if it takes effect."""
        detail = update_text(update) if update is not None else ""
        self._line(_WRITER, "writer", Text(headline, "bold"), detail, "magenta")
        if timed:
            self._sent[timed] = monotonic()

    def commanded(self, headline: str, agent_id: str, values: Mapping[str, object]) -> None:
        """As `wrote`, with the whole command that sets these values, as one would type it."""
        self.wrote(headline, timed=agent_id)
        for line in command_lines(agent_id, values, self._width - _COMMAND_INDENT):
            self._print(Text(" " * _COMMAND_INDENT + line, "magenta"))

    def found(self, headline: str, detail: str) -> None:
        """Tell what the writer has read."""
        self._line(_FOUND, "writer", Text(headline, "bold"), detail, "cyan")

    def demo(self, headline: str, detail: str = "") -> None:
        """Tell what the demo itself does."""
        self._line(_DEMO, "demo", Text(f"{headline:<18}"), detail, "cyan")

    def hear(self, event: Event) -> None:
        """Tell of an event of the service's log."""
        name, agent_id = str(event["event"]), event.get("agent_id")
        look = _LOOKS.get(name, _QUIET)
        if name == "run_finished":
            look = _SEVERITIES.get(str(event["severity"]), _Look("✖", "red"))
        elif look is _QUIET and event.get("level") in ("warning", "error"):
            look = _Look("⚠", "red")
        head = Text().append(f"{name:<14}", look.style)
        if agent_id is not None:
            head.append(f"{agent_id!s:<17}", "dim" if look.style == "dim" else "")
        gist, detail = _gist(name, event)
        head.append(gist, look.style)
        if (delay := self._reaction_ms(name, agent_id)) is not None:
            head.append(f"{'  ' if gist else ''}{delay:.0f} ms later", "dim")
        self._line(look, "service", head, detail, look.style)

    def _reaction_ms(self, name: str, agent_id: object) -> float | None:
        is_effect = name.startswith("job_") or name == "run_started"
        if not is_effect or (sent := self._sent.pop(str(agent_id), None)) is None:
            return None
        delay = (monotonic() - sent) * 1000
        self.reactions_ms.append(delay)
        return delay

    @property
    def _width(self) -> int:
        return min(self._console.width, _WIDEST)

    def _line(self, look: _Look, who: str, head: Text, detail: str, detail_style: str) -> None:
        """One line, or more where the detail does not fit behind the rest."""
        time = f"+{monotonic() - self._began:.1f}s"
        line = Text.assemble((f"{time:>8} ", "dim"), (f"{look.icon} ", look.style))
        line.append(f"{who:<8}", look.style if who == "writer" else "dim")
        line.append_text(head)
        if detail and cell_len(line.plain) + 2 + cell_len(detail) <= self._width:
            line.append("  ").append(detail, detail_style)
            detail = ""
        line.rstrip()
        self._print(line)
        room = self._width - _INDENT
        for part in Text(detail, detail_style).wrap(self._console, room) if detail else ():
            part.rstrip()
            self._print(Text(" " * _INDENT).append_text(part))

    def _print(self, text: Text) -> None:
        self.show(text, is_whole=True)

    def show(self, *renderables: RenderableType, is_whole: bool = False) -> None:
        """Print anything that rich can, each on lines of its own; `is_whole` lines never wrap."""
        try:
            self._console.print(*renderables, sep="\n", soft_wrap=is_whole)
        except OSError:  # the terminal is gone
            self._console.on_broken_pipe()


def _gist(name: str, event: Event) -> tuple[str, str]:
    """What an event says beyond its name and agent: briefly, and at length."""
    match name:
        case "job_scheduled" | "job_resumed":
            gist, detail = str(event["schedule"]), ""
        case "job_paused" | "job_removed":
            gist, detail = "", ""
        case "job_rejected":
            gist, detail = "", str(event["error"])
        case "run_started":
            gist, detail = "on request" if event["trigger"] == "manual" else "", ""
        case "run_finished":
            gist, detail = f"{event['severity']}  {_took(event)}", ""
        case "run_failed":
            gist, detail = f"error  {_took(event)}", str(event["error"])
        case "run_skipped":
            gist, detail = _REASONS.get(str(event["reason"]), str(event["reason"])), ""
        case "scheduler_started":
            gist, detail = "", f"http://{event['http_host']}:{event['http_port']}/jobs"
        case "resync_finished":
            gist, detail = "", f"{event['documents']} documents compared ({event['reason']})"
        case _:
            gist, detail = "", _fields(event)
    return gist, detail


def _took(event: Event) -> str:
    return f"{event['duration_ms']} ms"


def _fields(event: Event) -> str:
    shown = [name for name in event if name not in ("event", "level", "agent_id", "exc_info")]
    return "  ".join(f"{name}={event[name]}" for name in shown)
