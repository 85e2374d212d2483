"""A local mongod as a one-node replica set: found, started, watched, and never left behind.

Whoever may connect to 127.0.0.1 may read and write. `mongod.log` is the log of the last start.

mongod has a session of its own, so that Ctrl-C reaches only us. Should we be killed, Linux kills
mongod too, bound to the *thread* that runs the event loop. Elsewhere it ends with our
context only, so a `kill -9` leaves it: the next start then says that the folder is in use.
"""

import asyncio
import ctypes
import importlib.util
import os
import platform as machine
import re
import shutil
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.ports import ServiceError

# Makes the replica set on 127.0.0.1:port have a writable primary, whatever port it had before.
Initiate = Callable[[int], Awaitable[None]]
Environ = Mapping[str, str]

_START_SECONDS, _STOP_SECONDS = 60, 10
_PORT_ATTEMPTS = 5
_NETWORK = ("--replSet=rs0", "--bind_ip=127.0.0.1", "--nounixsocket")
_SMALL = ("--oplogSize=256", "--wiredTigerCacheSizeGB=0.25")
_QUIET = ("--setParameter=diagnosticDataCollectionEnabled=false",)
_PORT_TAKEN = "Address already in use"
_NO_CURL = "mongod needs {said}: install libcurl4 (Debian/Ubuntu: apt-get install libcurl4)"
_ENDED = "mongod ended: {said}: see {log}"
# What the loader, the kernel or mongod says, and what to do about it; the first match counts. Of
# several errors the first is the cause: later ones, and the lines of the shutdown, follow from it.
_ADVICE = {
    r"libraries: (libcurl\.so\.4)": _NO_CURL,
    r"libraries: ([^\s:]+)": "mongod needs {said}: install the package that has it",
    r"^exit code -4$": "mongod 5.0 and newer need a processor with AVX: set MONGOD to an older one",
    r"DBPathInUse|Unable to lock": "another process uses {log.parent}: end it, use another folder",
    _PORT_TAKEN: "others took each free port before mongod could: try again",
    r'"s":"[EF]".*?"msg":"([^"]*)"(?:.*?"(?:errmsg|error)":"((?:[^"\\]|\\.)*)")?': _ENDED,
    r"^([^{\s].*)": _ENDED,
}


class EmbeddedUnavailable(ServiceError):
    """There is no local MongoDB; the message is one line that says what a person can do."""

    def __init__(self, advice: str) -> None:
        super().__init__(" ".join(f"{advice}, or point MONGODB_URL at a replica set".split()))


class _PortTaken(EmbeddedUnavailable):
    """Somebody else took the port between our choice and mongod's."""


@dataclass(frozen=True, slots=True)
class EmbeddedMongod:
    """A running mongod: `url` leads to its writable primary until `wait` returns."""

    url: str
    process: Process

    async def wait(self) -> int:
        """Return mongod's exit code once it has ended, by itself or because it was stopped."""
        return await self.process.wait()


@asynccontextmanager
async def embedded_mongod(
    *, data_dir: Path, environ: Environ, initiate: Initiate, extra_args: Sequence[str] = ()
) -> AsyncIterator[EmbeddedMongod]:
    """Run mongod on a free loopback port, with a writable primary, and end it on the way out.

    Raises EmbeddedUnavailable, or what `initiate` raises.
    """
    binary = str(await asyncio.to_thread(find_mongod, environ))
    log = data_dir / "mongod.log"
    command = (binary, *_NETWORK, *_SMALL, *_QUIET, f"--dbpath={data_dir / 'db'}", *extra_args)
    async with AsyncExitStack() as stack:
        for attempts_left in reversed(range(_PORT_ATTEMPTS)):
            try:
                mongod = await stack.enter_async_context(_running(command, environ, log, initiate))
                break
            except _PortTaken:
                if not attempts_left:
                    raise
        yield mongod


def default_data_dir(environ: Environ, platform: str) -> Path:
    """Return the folder for data that outlives a run; `platform` is as in `sys.platform`."""
    base = _user_dir(environ, "XDG_DATA_HOME", ".local/share")
    if platform == "darwin":
        base = _user_dir(environ, "", "Library/Application Support")
    return base / "councilor-scheduler" / "mongodb"


def _user_dir(environ: Environ, name: str, fallback: str) -> Path:
    """Return the folder that `name` names; a relative one is ignored, as the XDG rules say."""
    named = Path(environ.get(name, ""))
    return named if named.is_absolute() else Path(environ.get("HOME") or Path.home()) / fallback


def find_mongod(environ: Environ) -> Path:
    """Return the binary to run: `$MONGOD`, else mongod on PATH, else the one of the wheel."""
    named = environ.get("MONGOD")
    if found := shutil.which(named or "mongod", path=environ.get("PATH", "")):
        return Path(found).absolute()
    if named:
        raise EmbeddedUnavailable(f"MONGOD={named} is not a program: correct it, unset it")
    # Found through the namespace package, so that none of the wheel's code is imported.
    spec = importlib.util.find_spec("fiftyone")
    for folder in (spec and spec.submodule_search_locations) or ():
        binary = Path(folder, "db", "bin", "mongod")
        if binary.is_file():
            return _executable(binary, _user_dir(environ, "XDG_CACHE_HOME", ".cache"))
    system = f"{sys.platform} {machine.machine()}"
    wheel = ", install this package's extra `embedded`" if system == "linux x86_64" else ""
    raise EmbeddedUnavailable(f"no mongod found for {system}: install mongod, set MONGOD{wheel}")


def _executable(binary: Path, cache_dir: Path) -> Path:
    """Return `binary` made executable, or a private copy where the file is somebody else's."""
    if os.access(binary, os.X_OK):
        return binary
    with suppress(OSError):
        binary.chmod(binary.stat().st_mode | 0o111)
        return binary
    copy = cache_dir / "councilor-scheduler" / f"mongod-{binary.stat().st_size}"
    part = copy.with_suffix(f".{os.getpid()}")
    try:
        if not os.access(copy, os.X_OK):
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(binary, part)
            part.chmod(0o700)
            part.replace(copy)
    except OSError as error:
        raise EmbeddedUnavailable(f"{error}: make {binary} executable, set MONGOD") from error
    return copy


@asynccontextmanager
async def _running(
    command: Sequence[str], environ: Environ, log: Path, initiate: Initiate
) -> AsyncIterator[EmbeddedMongod]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    process = await _spawn([*command, f"--port={port}"], environ, log)
    try:
        await _come_up(process, log, _primary(log, port, initiate))
        yield EmbeddedMongod(f"mongodb://127.0.0.1:{port}/?replicaSet=rs0", process)
    finally:
        await _stop(process)


async def _spawn(command: Sequence[str], environ: Environ, log: Path) -> Process:
    bind = None
    if sys.platform == "linux":
        bind = partial(_bind_to_parent, os.getpid(), ctypes.CDLL(None).prctl)
    try:
        _prepare(log)
        # No --logpath: mongod logs to its output, so this file also has what the loader says.
        with log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=output,
                stderr=STDOUT,
                env=environ,
                start_new_session=True,
                preexec_fn=bind,
            )
    except OSError as error:
        advice = "choose a folder you may write to, set MONGOD to one built for this system"
        raise EmbeddedUnavailable(f"{error} on starting mongod: {advice}") from error


def _prepare(log: Path) -> None:
    for folder in (log.parent, log.parent / "db"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name("mongod.log.1"))


def _bind_to_parent(parent: int, prctl: Callable[[int, int], object]) -> None:
    """Have the kernel kill this process, which is between fork and exec, when its parent ends."""
    # SIGKILL frees the folder at once for a restart; the journal has what was acknowledged.
    prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


async def _primary(log: Path, port: int, initiate: Initiate) -> None:
    # The log is asked, not the port, where somebody else could answer; the W is small before 4.4.
    while "aiting for connections" not in _said(log):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.05)
    await initiate(port)


def _said(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


async def _come_up(process: Process, log: Path, primary: Coroutine[None, None, None]) -> None:
    """Return once there is a primary; raise what mongod's end, or its silence, means."""
    tasks = asyncio.create_task(primary), asyncio.create_task(process.wait())
    try:
        await asyncio.wait(tasks, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if process.returncode is not None:
        raise _failure(process.returncode, log)
    if tasks[0].cancelled():
        raise EmbeddedUnavailable(f"mongod is not ready after {_START_SECONDS} s: see {log}")
    tasks[0].result()


def _failure(returncode: int, log: Path) -> EmbeddedUnavailable:
    """Say what to do about a mongod that has ended before it was of use."""
    output = f"{_said(log)}\nexit code {returncode}"
    searches = ((re.search(saying, output, re.M), advice) for saying, advice in _ADVICE.items())
    match, advice = next((match, advice) for match, advice in searches if match)
    said = ": ".join(group for group in match.groups() if group)[:300]
    kind = _PortTaken if match[0] == _PORT_TAKEN else EmbeddedUnavailable
    return kind(advice.format(said=said, log=log))


async def _stop(process: Process) -> None:
    """End mongod: politely, then by force after ten seconds or at a further cancellation."""
    with suppress(TimeoutError, ProcessLookupError):
        try:
            process.terminate()
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
