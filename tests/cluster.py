"""Three mongods of the tests' own as a replica set, and every way to make their lives hard.

All members are reached through a proxy each, so that connections can go silent. Only processes
that were started here are ever touched.
"""

import asyncio
import os
import signal
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from service.adapters.embedded import find_mongod

SERVICE = b"councilor"
"""The `appName` by which the service's connections are told from those of others."""
_ASK_SECONDS = 0.02
_START_SECONDS = 30.0
_SMALL = ("--wiredTigerCacheSizeGB=0.25", "--nounixsocket", "--bind_ip=127.0.0.1")
_PARAMETERS = (
    *("--setParameter=enableTestCommands=1", "--setParameter=minOplogTruncationPoints=2"),
    "--setParameter=diagnosticDataCollectionEnabled=false",
    # A member that reads its oplog from a frozen one gives up in 6 s, not 10: until then there is
    # no majority.
    "--setParameter=oplogNetworkTimeoutBufferSeconds=1",
)
_FAIL_POINTS = (
    *("failCommand", "failGetMoreAfterCursorCheckout"),
    *("rsSyncApplyStop", "stopReplProducer"),
)
_QUICK_ELECTIONS = {
    "electionTimeoutMillis": 2_000,
    "heartbeatIntervalMillis": 500,
    "heartbeatTimeoutSecs": 2,
    "chainingAllowed": False,
}


class Proxy:
    """Passes bytes to a port; `go_silent` swallows those of open connections, without an end."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        # Not by cancelling: asyncio's server reports its cancelled tasks as faults (3.11).
        for pipe in self._pipes:
            pipe.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def go_silent(self, client: bytes | None = SERVICE) -> int:
        """Make open connections half-open for ever; answers how many.

        Only those whose client said that it is `client`, or all; new connections work.
        """
        struck = [pipe for pipe in self._pipes if not pipe.is_silent and pipe.comes_from(client)]
        for pipe in struck:
            pipe.is_silent = True
        return len(struck)

    def cut(self, client: bytes | None = SERVICE) -> int:
        """Reset open connections; answers how many."""
        struck = [pipe for pipe in self._pipes if pipe.comes_from(client)]
        for pipe in struck:
            pipe.abort()
        return len(struck)

    def lose_answers(self, client: bytes | None = SERVICE) -> int:
        """Swallow what the server says on open connections; what it is told arrives.

        So everything is done, and nobody hears of it. Answers how many.
        """
        struck = [pipe for pipe in self._pipes if pipe.comes_from(client)]
        for pipe in struck:
            pipe.is_deaf = True
        return len(struck)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pipe = _Pipe(writer, target[1])
        self._pipes.add(pipe)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(pipe.forward(reader, target[1], is_client=True))
                both.create_task(pipe.forward(target[0], writer, is_client=False))
        except* OSError:
            pass  # either end is gone: so is the other, below
        finally:
            self._pipes.discard(pipe)
            pipe.abort()


@dataclass(eq=False)
class _Pipe:
    """One connection through a proxy, both of its ends."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_silent: bool = False
    is_deaf: bool = False
    said: bytes = b""

    def comes_from(self, client: bytes | None) -> bool:
        return client is None or client in self.said

    def abort(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()

    async def forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_client: bool
    ) -> None:
        while chunk := await source.read(65_536):
            if is_client and not self.said:
                # The first message names the client's `appName`; later ones hold field names such
                # as `councilor_config`, whoever sends them.
                self.said = chunk
            if not self.is_silent and (is_client or not self.is_deaf):
                sink.write(chunk)
                await sink.drain()
        if not self.is_silent:
            raise ConnectionResetError  # an end that is closed closes both


@dataclass(eq=False)
class Node:
    """One mongod: `port` is its own, `proxy.port` the one that everybody knows."""

    data_dir: Path
    port: int
    proxy: Proxy
    options: Sequence[str] = ()
    process: Process | None = None
    is_frozen: bool = False

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    async def start(self) -> None:
        """Start it, anew or again; returns when it answers."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            str(find_mongod(os.environ)),
            *("--replSet", "rs0", "--port", str(self.port), "--dbpath", str(self.data_dir)),
            *("--logpath", str(self.data_dir / "mongod.log"), "--logappend"),
            *(*_SMALL, *_PARAMETERS, *self.options),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            start_new_session=True,
        )
        async with asyncio.timeout(_START_SECONDS):
            while not await self.answers():
                assert self.is_running, f"mongod ended: see {self.data_dir}/mongod.log"
                await asyncio.sleep(_ASK_SECONDS)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        self.is_frozen = False

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and silent."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.is_frozen = False

    async def answers(self) -> bool:
        try:
            await self.command("ping")
        except PyMongoError:
            return False
        return True

    async def hello(self) -> dict[str, Any]:
        """What it says of itself; empty where it does not answer within half a second."""
        try:
            return await self.command("hello")
        except PyMongoError:
            return {}

    async def command(
        self, name: str, value: Any = 1, *, seconds: float = 0.5, **more: Any
    ) -> dict[str, Any]:
        """Run a command of the `admin` database, past the proxy. Raises PyMongoError."""
        return await asyncio.to_thread(self._command, name, value, seconds, more)

    def _command(
        self, name: str, value: Any, seconds: float, more: Mapping[str, Any]
    ) -> dict[str, Any]:
        # In a thread: PyMongo's asynchronous client leaks a socket where it is closed while its
        # monitor connects (4.20), and leaks are faults here.
        milliseconds = int(seconds * 1_000)
        client: MongoClient[dict[str, Any]]
        with MongoClient(
            "127.0.0.1",
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds,
        ) as client:
            return client.admin.command(name, value, **more)

    async def fail_point(
        self, mode: object, *, name: str = "failCommand", only: bytes | None = SERVICE, **data: Any
    ) -> int:
        """Set a fail point; `failCommand` strikes the service's connections only, or all.

        Answers how often it had struck until now.
        """
        if name == "failCommand" and only is not None:
            data["appName"] = only.decode()
        was = await self.command("configureFailPoint", name, mode=mode, data=data, seconds=5)
        return int(was["count"])

    async def met_fail_point(self, times: int, name: str = "failCommand") -> None:
        """Wait until it has struck so often, by the count that `fail_point` answers."""
        await self.command(
            "waitForFailPoint", name, timesEntered=times, maxTimeMS=15_000, seconds=20
        )


class ReplicaSet:
    """The members; `url` leads to them through their proxies."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        seeds = ",".join(f"127.0.0.1:{node.proxy.port}" for node in nodes)
        self.url = f"mongodb://{seeds}/?replicaSet=rs0"

    async def initiate(self) -> None:
        members = [
            {"_id": n, "host": f"127.0.0.1:{node.proxy.port}"} for n, node in enumerate(self.nodes)
        ]
        config = {"_id": "rs0", "members": members, "settings": _QUICK_ELECTIONS}
        await self.nodes[0].command("replSetInitiate", config, seconds=20)
        await self.primary()

    async def primary(self, within: float = 30) -> Node:
        """Wait for a primary that its own majority believes in."""
        async with asyncio.timeout(within):
            while True:
                if (node := await self.primary_now()) is not None:
                    return node
                await asyncio.sleep(_ASK_SECONDS)

    async def primary_now(self) -> Node | None:
        """The writable primary of the highest term, if one answers."""
        found: list[tuple[bytes, Node]] = []
        for node in self.nodes:
            if node.is_running and not node.is_frozen:
                hello = await node.hello()
                if hello.get("isWritablePrimary"):
                    found.append((hello["electionId"].binary, node))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    async def secondaries(self) -> list[Node]:
        primary = await self.primary()
        return [node for node in self.nodes if node is not primary]

    async def step_down(self, seconds: int = 10) -> None:
        """Make the primary give up for a while; another one is elected."""
        primary = await self.primary()
        with suppress(PyMongoError):  # the connection may be dropped on the way
            await primary.command(
                "replSetStepDown", seconds, secondaryCatchUpPeriodSecs=5, force=True, seconds=8
            )

    async def restore(self) -> None:
        """Thaw and restart whoever needs it, take fail points off, wait for a primary."""
        for node in self.nodes:
            if node.is_frozen:
                node.thaw()
            if not node.is_running:
                await node.start()
        for node in self.nodes:
            for name in _FAIL_POINTS:
                with suppress(PyMongoError):
                    await node.fail_point("off", name=name, only=None)
        await self.primary()


@asynccontextmanager
async def replica_set(
    folder: Path, *, members: int = 3, options: Sequence[str] = ()
) -> AsyncIterator[ReplicaSet]:
    """A replica set of its own, gone at the end. Test commands are enabled."""
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(members):
            port = _free_port()
            proxy = await stack.enter_async_context(Proxy(port))
            nodes.append(Node(folder / str(number), port, proxy, options))
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            them = ReplicaSet(nodes)
            await them.initiate()
            yield them
        finally:
            for node in nodes:
                if node.process is not None:
                    if node.is_frozen:
                        node.thaw()
                    await node.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
