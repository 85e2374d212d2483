"""Who else lives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the primary says of itself: its clock, and how far the majority is behind its writes."""

    at: datetime
    majority_lag: timedelta
    written_at: datetime | None = None
    """The cluster time of its last write, where it tells, in whole seconds."""


class Replicas(Protocol):
    """The collection `scheduler_replicas`; all times are the server's."""

    async def server_state(self) -> ServerState:
        """Ask the primary how it is. Raises Unavailable."""

    async def heartbeat(self, replica_id: str, facts: Mapping[str, object], ttl: timedelta) -> None:
        """Say that this replica lives for another `ttl`. Raises Unavailable."""

    async def alive(self) -> Sequence[str]:
        """The replicas whose time has not run out. Raises Unavailable."""

    async def leave(self, replica_id: str) -> None:
        """Remove this replica's document. Raises Unavailable."""

    async def forget_dead(self) -> None:
        """Remove the documents of replicas that died a day ago or more. Raises Unavailable."""
