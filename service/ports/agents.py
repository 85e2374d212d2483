"""The collection `agents`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol

from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument, Listed
from service.domain.verdict import Verdict


class Changed(NamedTuple):
    """Something may have changed in this document of `agents`; `operation` says how."""

    key: DocumentKey
    operation: str


@dataclass(frozen=True, slots=True)
class Told:
    """A document after its verdict was written."""

    document: AgentDocument
    accepted_at: datetime
    """When its present spec was accepted, by the server's clock."""


class Watch(Protocol):
    """A change stream that is open, so that a listing made now misses nothing."""

    @property
    def position(self) -> datetime | None:
        """The whole second of cluster time before which `changes` has told of everything.

        None where nobody knows.
        """

    def documents(self) -> AsyncIterator[Sequence[Listed]]:
        """Every document that may concern us, in batches. Raises WatchLost."""

    async def changes(self) -> Sequence[Changed]:
        """The next changes, in order; empty after about a second without any. Raises WatchLost.

        Must not be cancelled and called again: a cancelled call may lose changes.
        """


class Agents(Protocol):
    """The collection `agents`."""

    def watch(self) -> AbstractAsyncContextManager[Watch]:
        """Open the change stream. Raises WatchLost, Unavailable, Misconfigured."""

    async def read(
        self, keys: Sequence[DocumentKey], *, with_stats: bool = False
    ) -> Sequence[AgentDocument]:
        """The documents as the majority has them, on the primary, one for each key.

        They are at least as new as any change that the watch has delivered. Raises Unavailable.
        """

    async def look(self, keys: Sequence[DocumentKey]) -> Sequence[AgentDocument]:
        """The same, with nothing in `councilor_status` but what slots are settled by."""

    async def as_of(
        self, asked: Sequence[tuple[AgentDocument, Sequence[datetime]]]
    ) -> Sequence[Sequence[AgentDocument | None]]:
        """Each document, as `look` has it, at its instants, whole seconds; None: not remembered.

        The server does for some minutes. The same object where it was the same, statistics aside.
        One query for each instant. Raises Unavailable.
        """

    async def find(self, agent_ids: Sequence[str] | None) -> Sequence[AgentDocument]:
        """The councilors with these ids, or all. Raises Unavailable."""

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, Told | None]:
        """Set `councilor_status` where the document still is what was judged.

        Answers with what each says now, and None for those that refuse it; documents that have
        changed meanwhile, or that are invalid and were never accepted, are left out. Raises
        Unavailable, Misconfigured.
        """

    async def leave_out(self, document: AgentDocument, slot: datetime) -> None:
        """Let `councilor_status` say that `skip_next` takes out this slot.

        Does nothing where the configuration has changed. Raises Unavailable, Refused.
        """

    async def clear_verdicts(self, keys: Sequence[DocumentKey]) -> None:
        """Remove `councilor_status` from documents that are no councilors. Raises Unavailable."""

    async def edit(
        self, agent_id: str, changes: Mapping[str, object], *, councilors_only: bool = False
    ) -> bool:
        """Do what any writer would: set fields (None unsets). False where there is no such agent.

        With `councilors_only`, one that is not promoted is no such agent. Raises Unavailable.
        """

    async def ping(self) -> None:
        """Return when the primary answers. Raises Unavailable."""
