"""A replica set that outlives the loops of tests: a thread with a loop of its own keeps it."""

import asyncio
import os
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from service.adapters.embedded import EmbeddedUnavailable, find_mongod
from tests.cluster import Node, ReplicaSet, replica_set
from tests.keeping import kept as kept_by_thread

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cluster:
    """A replica set in another loop; what touches its processes or proxies is done there."""

    members: ReplicaSet
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return self.members.url

    @property
    def nodes(self) -> Sequence[Node]:
        return self.members.nodes

    async def primary(self) -> Node:
        return await self._there(self.members.primary())

    async def secondaries(self) -> list[Node]:
        return await self._there(self.members.secondaries())

    async def step_down(self) -> None:
        await self._there(self.members.step_down())

    async def kill(self, node: Node) -> None:
        await self._there(node.kill())

    async def restore(self) -> None:
        await self._there(self.members.restore())

    def go_silent(self) -> int:
        """Make the service's open connections half-open, to all members; answers how many."""
        return sum(node.proxy.go_silent() for node in self.nodes)

    async def cut(self) -> int:
        """Reset the service's open connections, to all members; answers how many."""

        async def cut() -> int:
            return sum(node.proxy.cut() for node in self.nodes)

        return await self._there(cut())

    async def fail(self, mode: object, *commands: str, **data: Any) -> "Struck":
        """Make the primary fail the service's next commands of these names."""
        primary = await self.primary()
        count = await primary.fail_point(mode, failCommands=list(commands), **data)
        return Struck(primary, count)

    async def _there(self, work: Coroutine[Any, Any, _T]) -> _T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))


@dataclass(frozen=True)
class Struck:
    """A fail point that was set on a node, and how often it had struck before."""

    node: Node
    before: int
    name: str = "failCommand"

    async def happens(self, times: int = 1) -> None:
        """Wait until it has struck so often: a test without that proves nothing."""
        await self.node.met_fail_point(self.before + times, self.name)

    async def ends(self) -> None:
        await self.node.fail_point("off", name=self.name)


@contextmanager
def kept(folder: Path, members: int, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """Keep a replica set until the context ends; where there is no mongod, skip and say so."""
    try:
        find_mongod(os.environ)
    except EmbeddedUnavailable as unavailable:
        pytest.skip(f"needs a mongod that can be killed: {unavailable}")
    them = replica_set(folder, members=members, options=options)
    with kept_by_thread(them, "replica set of the tests") as (running, loop):
        yield Cluster(running, loop)
