"""Writers that change agents all the time, and journal what they sent and what was acknowledged."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from random import Random
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from service.app import wall_clock
from tests.chaos.cast import (
    Change,
    drawn_change,
    edition_of,
    first_document,
    is_steady,
    prompt_of,
)
from tests.chaos.history import Agent, Write

_GIVE_UP_SECONDS = 40.0
_ASK_AGAIN_SECONDS = 0.1
_PAUSE_SECONDS = (0.1, 0.9)
_NAMESPACE_NOT_FOUND = 26
_NAMESPACE_EXISTS = 48
_AWAY = "agents_away"

Collection = AsyncCollection[dict[str, Any]]
Client = AsyncMongoClient[dict[str, Any]]


@asynccontextmanager
async def writing_client(url: str) -> AsyncIterator[Client]:
    """A client that is not the service's: faults that are aimed at that leave it alone."""
    client: Client = AsyncMongoClient(
        url,
        appname="writer",
        tz_aware=True,
        socketTimeoutMS=5_000,
        connectTimeoutMS=2_000,
        serverSelectionTimeoutMS=5_000,
        heartbeatFrequencyMS=1_000,
    )
    async with client:
        yield client


class Writer:
    """Owns the agents: what it believes of them is what must be there at the end.

    Some workers share the agents out between them, so that one slow write does not stop all.
    """

    def __init__(self, client: Client, database: str, *, seed: int, agents: int) -> None:
        self._db = client[database]
        durable = WriteConcern("majority", wtimeout=4_000, j=True)
        self._agents: Collection = self._db.get_collection("agents", write_concern=durable)
        rng = Random(f"{seed} cast")
        now = _whole_ms(wall_clock())
        self._believed: list[dict[str, Any] | None] = [
            first_document(number, rng, now) for number in range(agents)
        ]
        self._names = [f"agent-{number}" for number in range(agents)]
        self._is_whole = [True] * agents
        self._edition = 1
        self._workers = [asyncio.Lock() for _ in range(3)]
        self._rngs = [Random(f"{seed} writer {n}") for n in range(len(self._workers))]
        self.writes: list[Write] = []

    @property
    def agents(self) -> Sequence[Agent]:
        """What is believed now."""
        return [
            Agent(name, self._believed[n], is_steady(n), self._is_whole[n])
            for n, name in enumerate(self._names)
        ]

    async def open(self) -> None:
        """Write the first documents."""
        await self._insert_all("insert")

    async def work(self, worker: int, over: asyncio.Event) -> None:
        """Change one agent after the other until it is over."""
        rng = self._rngs[worker]
        shares = range(worker, len(self._believed), len(self._workers))
        mine = [number for number in shares if not is_steady(number)]
        while mine and not over.is_set():
            await asyncio.sleep(rng.uniform(*_PAUSE_SECONDS))
            async with self._workers[worker]:
                await self._change(rng.choice(mine), rng)

    @property
    def workers(self) -> range:
        return range(len(self._workers))

    async def drop_agents(self, seconds: float) -> None:
        """Drop the collection, and put back all that was there after a while."""
        async with self._everybody_waits():
            self._is_whole = [False] * len(self._is_whole)
            await self._for_all("drop", self._db.drop_collection, "agents", runs=False)
            await asyncio.sleep(seconds)
            await self._insert_all("insert again")

    async def rename_agents(self, seconds: float) -> None:
        """Rename the collection, and back after a while."""
        async with self._everybody_waits():
            self._is_whole = [False] * len(self._is_whole)  # a run may end while they are away
            away: Collection = self._db[_AWAY]
            await self._for_all("rename away", self._agents.rename, _AWAY, runs=False)
            await asyncio.sleep(seconds)
            await self._for_all("rename back", away.rename, "agents", runs=True)

    async def drop_jobs(self) -> None:
        """Drop what the service says about its jobs."""
        await _surely(lambda: self._db.drop_collection("apscheduler_jobs"))

    @asynccontextmanager
    async def _everybody_waits(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for lock in self._workers:
                await stack.enter_async_context(lock)
            yield

    async def _change(self, number: int, rng: Random) -> None:
        self._edition += 1
        before, name = self._believed[number], self._names[number]
        now = _whole_ms(wall_clock())
        change = drawn_change(before, number, self._edition, rng, now)
        sent = wall_clock()
        acked = await _surely(lambda: self._apply(before, change))
        after = change.after
        self._believed[number] = after
        if after is not None:
            self._names[number] = after["agent_id"]
        self._is_whole[number] &= change.sets is not None and change.what != "rename"
        if self._names[number] != name:
            self.writes.append(Write(name, change.what, sent, acked, runs=False))
        self._journal(number, change.what, sent, acked, touches_schedule=change.touches_schedule)

    async def _apply(self, before: dict[str, Any] | None, change: Change) -> None:
        """Carry out a change; doing so again does no harm."""
        if before is None:
            assert change.after is not None
            await self._inserted(change.after)
            return
        mine = {"_id": before["_id"]}
        if change.after is None:
            await self._agents.delete_one(mine)
        elif change.sets is None:
            await self._agents.replace_one(mine, change.after)
        else:
            gone = {"$unset": dict.fromkeys(change.unsets, "")} if change.unsets else {}
            await self._agents.update_one(mine, {"$set": change.sets, **gone})

    async def _inserted(self, document: dict[str, Any]) -> None:
        try:
            await self._agents.insert_one(document)
        except DuplicateKeyError:  # our own, whose answer was lost; does the majority have it?
            name = {"agent_id": document["agent_id"]}
            await self._agents.update_one({"_id": document["_id"]}, {"$set": name})

    async def _insert_all(self, what: str) -> None:
        for number, document in enumerate(self._believed):
            if document is not None:
                sent = wall_clock()
                acked = await _surely(lambda document=document: self._inserted(document))  # type: ignore[misc]
                self._journal(number, what, sent, acked)

    async def _for_all(
        self, what: str, step: Callable[[str], Awaitable[Any]], name: str, *, runs: bool
    ) -> None:
        sent = wall_clock()
        acked = await _surely(lambda: step(name))
        for number, document in enumerate(self._believed):
            if document is not None:
                self._journal(number, what, sent, acked, is_there=runs)

    def _journal(
        self,
        number: int,
        what: str,
        sent: datetime,
        acked: datetime | None,
        *,
        is_there: bool = True,
        touches_schedule: bool = True,
    ) -> None:
        name, document = self._names[number], self._believed[number]
        runs = is_there and Agent(name, document).state == "scheduled"
        not_before = Agent(name, document).schedule.get("paused_until")
        edition = edition_of(prompt_of(document))
        self.writes.append(
            Write(name, what, sent, acked, runs, not_before, edition, touches_schedule)
        )


async def _surely(step: Callable[[], Awaitable[Any]]) -> datetime | None:
    """Take a step until it is acknowledged; answers when, or None where that never came."""
    try:
        async with asyncio.timeout(_GIVE_UP_SECONDS):
            while not await _acknowledged(step):  # noqa: ASYNC110 a server has no event
                await asyncio.sleep(_ASK_AGAIN_SECONDS)
    except TimeoutError:
        return None
    return wall_clock()


async def _acknowledged(step: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await step()
    except OperationFailure as error:
        # A drop or a rename whose answer was lost has been carried out.
        return error.code in (_NAMESPACE_NOT_FOUND, _NAMESPACE_EXISTS)
    except PyMongoError:
        return False
    return True


def _whole_ms(instant: datetime) -> datetime:
    """MongoDB keeps dates in milliseconds."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
