"""Carries out the faults of a plan, and heals what they leave."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

from pymongo.errors import PyMongoError

from service.app import wall_clock
from tests.chaos.conductor import JournalingConductor, Mood
from tests.chaos.history import Struck
from tests.chaos.plan import Fault, Kind
from tests.chaos.replicas import Replica
from tests.chaos.writer import Client, Writer
from tests.cluster import Node, ReplicaSet

_STRIKE_SECONDS = 90.0
_ELECTION_SECONDS = 20.0
_ASK_SECONDS = 0.1
_ALONE_SECONDS = 2.5
_ROLL_BATCHES = 6
_ROLL_TEXT = "x" * 200_000
_COMMANDS = {Kind.FAIL_GETMORE: "getMore", Kind.FAIL_INSERT: "insert", Kind.FAIL_UPDATE: "update"}
_MOODS = {Kind(f"conductor-{mood.value}"): mood for mood in Mood if mood is not Mood.WELL}
_FAILURES: Mapping[str, Mapping[str, Any]] = {
    "close": {"closeConnection": True},
    "block": {"blockConnection": True, "blockTimeMS": 3_000},
    "unconfirmed": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication"}},
}


class Faults:
    """Strikes at the parts of a run; `struck` journals what was done."""

    def __init__(
        self,
        cluster: ReplicaSet,
        client: Client,
        replicas: Sequence[Replica],
        conductor: JournalingConductor,
        writer: Writer,
        rng: Random,
    ) -> None:
        self._cluster = cluster
        self._client = client
        self._replicas = replicas
        self._conductor = conductor
        self._writer = writer
        self._rng = rng
        self._members = asyncio.Lock()
        self._moods = asyncio.Lock()
        self._data = asyncio.Lock()
        self._steps = self._steps_by_kind()
        self.struck: list[Struck] = []

    async def carry_out(self, plan: Sequence[Fault]) -> None:
        """Strike when it is time; returns when the last fault is over."""
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as strikes:
            for fault in plan:
                strikes.create_task(self._strike(start + fault.at, fault))

    async def heal(self) -> None:
        """Undo whatever a fault may have left."""
        for replica in self._replicas:
            replica.signal(signal.SIGCONT)
            replica.restart()
        self._conductor.mood = Mood.WELL
        self._conductor.is_hurried = True
        await self._conductor.listen()
        await self._cluster.restore()

    def _steps_by_kind(self) -> Mapping[Kind, Callable[[Fault], Awaitable[None]]]:
        return {
            **dict.fromkeys((Kind.REPLICA_KILL, Kind.REPLICA_RESTART), self._end_replica),
            Kind.REPLICA_STOP: self._stop_replica,
            **dict.fromkeys((Kind.PRIMARY_KILL, Kind.SECONDARY_KILL), self._kill_member),
            **dict.fromkeys((Kind.PRIMARY_STOP, Kind.SECONDARY_STOP), self._stop_member),
            Kind.PARTITION: self._partition,
            Kind.STEP_DOWN: self._step_down,
            Kind.OPLOG_ROLL: self._roll_oplog,
            Kind.HALF_OPEN: self._silence_connections,
            Kind.LOST_ANSWERS: self._lose_answers,
            Kind.CUT: self._cut_connections,
            **dict.fromkeys(_COMMANDS, self._fail_commands),
            Kind.AGENTS_DROP: self._drop_agents,
            Kind.AGENTS_RENAME: self._rename_agents,
            Kind.JOBS_DROP: self._drop_jobs,
            Kind.CONDUCTOR_REFUSE: self._refuse_calls,
            **dict.fromkeys(_MOODS, self._change_mood),
        }

    async def _strike(self, at: float, fault: Fault) -> None:
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        began, failed = wall_clock(), None
        try:
            async with asyncio.timeout(_STRIKE_SECONDS):
                await self._steps[fault.kind](fault)
        except (PyMongoError, TimeoutError) as error:
            failed = f"{type(error).__name__}: {error}"
        self.struck.append(Struck(fault.kind.value, began, wall_clock(), failed))

    async def _end_replica(self, fault: Fault) -> None:
        replica = self._replicas[fault.replica]
        is_kill = fault.kind is Kind.REPLICA_KILL
        async with replica.lock:
            await replica.end(signal.SIGKILL if is_kill else signal.SIGTERM)
            await asyncio.sleep(fault.seconds)
            replica.restart()

    async def _stop_replica(self, fault: Fault) -> None:
        async with self._stopped(fault):
            await asyncio.sleep(fault.seconds)

    @asynccontextmanager
    async def _stopped(self, fault: Fault) -> AsyncIterator[None]:
        replica = self._replicas[fault.replica]
        async with replica.lock:
            replica.signal(signal.SIGSTOP)
            try:
                yield
            finally:
                replica.signal(signal.SIGCONT)

    async def _member(self, fault: Fault) -> Node:
        primary = await self._cluster.primary(_ELECTION_SECONDS)
        if fault.kind in (Kind.PRIMARY_KILL, Kind.PRIMARY_STOP):
            return primary
        return self._rng.choice([node for node in self._cluster.nodes if node is not primary])

    async def _kill_member(self, fault: Fault) -> None:
        async with self._members:
            node = await self._member(fault)
            await node.kill()
            await asyncio.sleep(fault.seconds)
            await node.start()
            await self._all_members_are_well()

    async def _stop_member(self, fault: Fault) -> None:
        async with self._members:
            node = await self._member(fault)
            node.freeze()
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                node.thaw()
            await self._all_members_are_well()

    async def _partition(self, fault: Fault) -> None:
        """Let the primary alone take writes for a while, then elect another without them.

        What was acknowledged by the majority stays; all else is rolled back (FAULTS 3, T10).
        """
        async with self._members:
            primary = await self._cluster.primary(_ELECTION_SECONDS)
            others = [node for node in self._cluster.nodes if node is not primary]
            try:
                await _stop_fetching(others, "alwaysOn")
                await asyncio.sleep(_ALONE_SECONDS)
                primary.freeze()
                await _stop_fetching(others, "off")
                await asyncio.sleep(fault.seconds)
            finally:
                primary.thaw()
            await self._all_members_are_well()

    async def _step_down(self, _fault: Fault) -> None:
        async with self._members:
            await self._cluster.step_down()
            await self._all_members_are_well()

    async def _all_members_are_well(self) -> None:
        """Wait until every member follows, so that the next may fall."""
        async with asyncio.timeout(_ELECTION_SECONDS * 2):
            await self._cluster.primary(_ELECTION_SECONDS)
            for node in self._cluster.nodes:
                while not _is_well(await node.hello()):  # noqa: ASYNC110 another process
                    await asyncio.sleep(_ASK_SECONDS)

    async def _roll_oplog(self, fault: Fault) -> None:
        """Write so much, while a replica is stopped, that it cannot resume where it was."""
        filler = self._client["filler"]["filler"]
        async with self._members, self._stopped(fault):
            for _ in range(_ROLL_BATCHES):
                await filler.insert_many([{"text": _ROLL_TEXT} for _ in range(20)])
                await self._client.admin.command("fsync")
            await asyncio.sleep(fault.seconds)
        with suppress(PyMongoError):
            await filler.drop()

    async def _silence_connections(self, _fault: Fault) -> None:
        (await self._cluster.primary(_ELECTION_SECONDS)).proxy.go_silent()

    async def _cut_connections(self, _fault: Fault) -> None:
        (await self._cluster.primary(_ELECTION_SECONDS)).proxy.cut()

    async def _lose_answers(self, fault: Fault) -> None:
        proxy = (await self._cluster.primary(_ELECTION_SECONDS)).proxy
        proxy.lose_answers()
        await asyncio.sleep(fault.seconds)
        proxy.cut()

    async def _fail_commands(self, fault: Fault) -> None:
        node = await self._cluster.primary(_ELECTION_SECONDS)
        failure = _FAILURES.get(fault.detail) or {"errorCode": int(fault.detail)}
        await node.fail_point("alwaysOn", failCommands=[_COMMANDS[fault.kind]], **failure)
        await asyncio.sleep(fault.seconds)
        with suppress(PyMongoError):  # it may be dead by now, and its fail points with it
            await node.fail_point("off", only=None)

    async def _drop_agents(self, fault: Fault) -> None:
        async with self._data:
            await self._writer.drop_agents(fault.seconds)

    async def _rename_agents(self, fault: Fault) -> None:
        async with self._data:
            await self._writer.rename_agents(fault.seconds)

    async def _drop_jobs(self, _fault: Fault) -> None:
        async with self._data:
            await self._writer.drop_jobs()

    async def _refuse_calls(self, fault: Fault) -> None:
        async with self._moods:
            await self._conductor.refuse()
            await asyncio.sleep(fault.seconds)
            await self._conductor.listen()

    async def _change_mood(self, fault: Fault) -> None:
        async with self._moods:
            self._conductor.mood = _MOODS[fault.kind]
            await asyncio.sleep(fault.seconds)
            self._conductor.mood = Mood.WELL


async def _stop_fetching(nodes: Sequence[Node], mode: str) -> None:
    """Keep members from fetching what the primary writes, or let them again."""
    for node in nodes:
        await node.fail_point(mode, name="stopReplProducer", only=None)


def _is_well(hello: Mapping[str, Any]) -> bool:
    return bool(hello.get("isWritablePrimary") or hello.get("secondary"))
