"""What the probes ask: is the first sync done, is the change stream live, may runs start."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

SILENT_SECONDS = 10.0
"""The server answers a quiet stream each second; the driver notices a dead connection sooner."""

Trouble = Callable[[], str | None]
"""Answers what is wrong, in words for people; None where nothing is."""


@dataclass(slots=True)
class Health:
    """Facts that the reconciler keeps and the probes read.

    `needed` are further checks without which this replica is of no use; `others` are told only.
    """

    synced: bool = False
    watching: bool = False
    trouble: str | None = None
    """Why the stream is not live, in words for people."""
    answered_at: float = field(default_factory=monotonic)
    needed: Mapping[str, Trouble] = field(default_factory=dict)
    others: Mapping[str, Trouble] = field(default_factory=dict)

    def watch_is_live(self) -> None:
        self.watching, self.trouble = True, None
        self.watch_answered()

    def watch_is_lost(self, why: str) -> None:
        self.watching, self.trouble = False, why

    def watch_answered(self) -> None:
        self.answered_at = monotonic()

    @property
    def silent_seconds(self) -> float:
        """How long the stream has not been answered."""
        return monotonic() - self.answered_at

    @property
    def stream_trouble(self) -> str | None:
        """Why changes are not seen now, if that is so."""
        if not self.watching:
            return self.trouble or "not open yet"
        if self.silent_seconds > SILENT_SECONDS:
            return f"no answer for {self.silent_seconds:.0f} s"
        return None
