"""Replicas of the service as processes that are restarted when they end, as containers are."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals

import aiohttp
import orjson

from service.app import wall_clock
from tests.chaos.history import Exit

_LINE_BYTES = 4 * 1024 * 1024
_RESTART_SECONDS = 0.3
_STOP_SECONDS = 15.0
_TAIL = 30
_WANTED_CODES = {0, -SIGKILL, -SIGTERM}
"""How a process ends that was told to; by SIGTERM itself where it had hardly begun."""
_ASK = aiohttp.ClientTimeout(total=2)


class Replica:
    """One of the replicas: a process at a time, all that they said in `lines`."""

    def __init__(self, number: int, environ: Mapping[str, str], service: Path, log: Path) -> None:
        self.number = number
        self.lines: list[str] = []
        self.exits: list[Exit] = []
        self.launches = 0
        self.was_forced = False
        """Tell whether it ever had to be killed, since it did not stop when it was told to."""
        self.lock = asyncio.Lock()
        """Held by the fault that is at this replica."""
        self._environ = environ
        self._service = service
        self._log = log
        self._process: Process | None = None
        self._port: int | None = None
        self._may_run = asyncio.Event()
        self._may_run.set()
        self._is_over = False

    async def supervise(self) -> None:
        """Start it again whenever it ends, until `stop`."""
        while True:
            await self._may_run.wait()
            if self._is_over:
                return
            self._process = await self._launch()
            code = await self._lived(self._process)
            is_wanted = not self._may_run.is_set() or self._is_over
            if not is_wanted or code not in _WANTED_CODES:
                said = "\n".join(self.lines[-_TAIL:])
                self.exits.append(Exit(self.number, wall_clock(), code, said))
                await asyncio.sleep(_RESTART_SECONDS)

    def signal(self, number: Signals) -> None:
        """Send a signal to the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def end(self, number: Signals) -> None:
        """End it by a signal, by force if need be, and keep it from being restarted."""
        self._may_run.clear()
        self.signal(number)
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            self.was_forced = True
            self.signal(SIGKILL)
            await process.wait()

    def restart(self) -> None:
        """Let it run again after `end`."""
        self._may_run.set()

    async def stop(self) -> None:
        """End it for good, in good order if it can."""
        self._is_over = True
        self.signal(SIGCONT)
        await self.end(SIGTERM)
        self._may_run.set()

    async def why_not_ready(self, http: aiohttp.ClientSession) -> str | None:
        """What it says, or why it says nothing; None where it is ready."""
        if self._port is None:
            return f"replica {self.number} has not started"
        try:
            url = f"http://127.0.0.1:{self._port}/readyz"
            async with http.get(url, timeout=_ASK) as response:
                said = await response.text()
                return None if response.status == 200 else f"replica {self.number}: {said}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"replica {self.number} does not answer: {type(error).__name__}"

    async def _launch(self) -> Process:
        self.launches += 1
        self._port = None
        inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "run"),
            cwd=self._service,
            env={**inherited, "PYTHONPATH": str(self._service), **self._environ},
            stdout=PIPE,
            stderr=PIPE,
            limit=_LINE_BYTES,
            start_new_session=True,
        )

    async def _lived(self, process: Process) -> int:
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as streams:
            streams.create_task(self._read(process.stdout))
            streams.create_task(self._read(process.stderr))
        return await process.wait()

    async def _read(self, stream: asyncio.StreamReader) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            async for raw in stream:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                self.lines.append(line)
                print(line, file=log, flush=True)
                if self._port is None and '"scheduler_started"' in line:
                    self._port = orjson.loads(line)["http_port"]


@asynccontextmanager
async def supervised(
    count: int, environ: Mapping[str, str], service: Path, folder: Path
) -> AsyncIterator[Sequence[Replica]]:
    """So many replicas; those that still run at the end of the context are killed."""
    them = [Replica(n, environ, service, folder / f"replica-{n}.log") for n in range(count)]
    tasks = [asyncio.create_task(replica.supervise()) for replica in them]
    try:
        yield them
    finally:
        for replica in them:
            replica.signal(SIGKILL)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
