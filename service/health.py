"""What the probes ask: is the first sync done, is the change stream live."""

from dataclasses import dataclass


@dataclass(slots=True)
class Health:
    """Facts that the reconciler keeps and the probes read."""

    synced: bool = False
    watching: bool = False
    trouble: str | None = None
    """Why the stream is not live, in words for people."""

    def watch_is_live(self) -> None:
        self.watching, self.trouble = True, None

    def watch_is_lost(self, why: str) -> None:
        self.watching, self.trouble = False, why
