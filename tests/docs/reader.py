"""Somebody who follows the pages: blocks are typed as they stand, where a test has its servers."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, block
from tests.mongosh import NODE_MODULES, node, ran, typed

_SECONDS = 120.0
_STOP_SECONDS = 30.0


@dataclass
class Typed:
    """What a command that goes on has printed so far; `code` once it has ended."""

    lines: list[str] = field(default_factory=list)
    code: int | None = None

    def has(self, words: str) -> bool:
        return any(words in line for line in self.lines)


@dataclass(frozen=True, slots=True)
class Reader:
    """Types blocks by their names; where the pages have constants, the test's own are typed.

    `before` is the block that a shell begins with; `path` is searched before the rest of PATH.
    """

    folder: Path
    mongodb_url: str
    database: str = "conductor_state"
    http_port: int = 8085
    conductor_port: int = 8000
    mongod_port: int = 27017
    path: str = ""
    before: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The block, with the addresses of the test."""
        text = block(name)
        for constant, here in (
            ("mongodb://localhost:27017/?replicaSet=rs0", self.mongodb_url),
            ("--port 27017", f"--port {self.mongod_port}"),
            ("127.0.0.1:8085", f"127.0.0.1:{self.http_port}"),
            ("localhost:8000", f"localhost:{self.conductor_port}"),
            ("--port 8000", f"--port {self.conductor_port}"),
            ("conductor_state", self.database),
        ):
            text = text.replace(constant, here)
        return text

    async def shell(self, name: str) -> str:
        """What bash prints for the block; fails where a line of it fails."""
        async with self._bash(name, self.text(name)) as process:
            assert process.stdout is not None
            async with asyncio.timeout(_SECONDS):
                said = (await process.stdout.read()).decode()
                code = await process.wait()
        assert code == 0, f"{name}: {said}"
        return said

    @asynccontextmanager
    async def going(self, name: str) -> AsyncIterator[Typed]:
        """Type a block that goes on until SIGTERM, which comes at the end of the context."""
        *earlier, last = self.text(name).strip().splitlines()
        told = Typed()

        async def listen(output: asyncio.StreamReader) -> None:
            async for line in output:
                told.lines.append(line.decode())

        async with self._bash(name, "\n".join([*earlier, f"exec {last}"])) as process:
            assert process.stdout is not None
            listening = asyncio.create_task(listen(process.stdout), name=f"listen to {name}")
            try:
                yield told
            finally:
                _signal_all(process, signal.SIGTERM)
                async with asyncio.timeout(_STOP_SECONDS):
                    await listening
                    told.code = await process.wait()

    @asynccontextmanager
    async def _bash(self, name: str, script: str) -> AsyncIterator[Process]:
        """A shell in a session of its own, so that nothing that it began outlives it."""
        begin = self.text(self.before) if self.before is not None else ""
        process = await asyncio.create_subprocess_exec(
            *("bash", "-euo", "pipefail", "-c", f"{begin}\n{script}", name),
            cwd=self.folder,
            env=self._environ(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _signal_all(process, signal.SIGKILL)
            await process.wait()

    def _environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
        path = os.pathsep.join([self.path, inherited.get("PATH", os.defpath)]).lstrip(os.pathsep)
        return {
            **inherited,
            "MONGODB_URL": self.mongodb_url,
            "PATH": path,
            "MONGODB_DATABASE": self.database,
            "SCHEDULER_HTTP_PORT": str(self.http_port),
            **self.environ,
        }

    async def mongosh(self, name: str) -> str:
        """What mongosh prints for the block, in the database."""
        return await typed(
            self.mongodb_url, f'db = db.getSiblingDB("{self.database}");\n{self.text(name)}'
        )

    async def python(self, name: str) -> str:
        """What the block prints as a program of its own."""
        script = self._file(name, "py")
        return await ran([sys.executable, str(script)], MONGODB_URL=self.mongodb_url)

    async def node(self, name: str) -> str:
        """What the block prints as a program of Node."""
        command = [node(), str(self._file(name, "js"))]
        return await ran(command, MONGODB_URL=self.mongodb_url, NODE_PATH=str(NODE_MODULES))

    def _file(self, name: str, suffix: str) -> Path:
        file = self.folder / f"{name}.{suffix}"
        file.write_text(self.text(name), encoding="utf-8")
        return file


_OURS = ("PYTHONPATH", "VIRTUAL_ENV", "MONGODB_URL")


def _signal_all(process: Process, number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return  # all of them have ended


def installed_in(folder: Path) -> str:
    """A folder for PATH with the command as this code has it: scripts may lead elsewhere."""
    command = folder / "bin" / "councilor-scheduler"
    command.parent.mkdir(exist_ok=True)
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m service "$@"\n',
        encoding="utf-8",
    )
    command.chmod(0o755)
    return str(command.parent)


def needs(program: str) -> None:
    """Skip the test where a program that the page uses is not there."""
    if shutil.which(program) is None:
        pytest.skip(f"no {program}: apt-get install {program}")
