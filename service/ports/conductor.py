"""What runs agents."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from service.domain.execution import (
    Order,
    Reason,
)


class Conductor(Protocol):
    """What runs agents."""

    async def execute(self, order: Order) -> "Answer":
        """Have the task done, once. Raises nothing but CancelledError: endings are values."""

    async def is_there(self) -> bool:
        """Tell whether Conductor says that it is well. Raises nothing but CancelledError."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What Conductor said. A run failed exactly where `failure` is set."""

    output: str | None
    failure: "Failure | None" = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed: `reason` for programs, the rest for people.

    `said` is Conductor's own text, which may quote what it was sent: it belongs in no log.
    """

    reason: Reason
    summary: str
    said: str = ""
    may_repeat: bool = False
    """Nothing was accepted, or a repeated call would be refused: it may be made again."""
    retry_after: timedelta | None = None
    """How long Conductor wants to be left alone."""
    is_down: bool = False
    """Nobody was there to answer, or only a gateway."""

    @property
    def text(self) -> str:
        """All that is known."""
        return f"{self.summary}: {self.said}" if self.said else self.summary
