"""The embedded mongod on the real binary: it starts, keeps, ends, and complains."""

import asyncio
import os
import select
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection

from service.adapters.embedded import (
    EmbeddedMongod,
    EmbeddedUnavailable,
    default_data_dir,
    embedded_mongod,
    find_mongod,
)
from service.adapters.mongo.replica_set import initiate

pytestmark = pytest.mark.mongo

ROOT = Path(__file__).parents[2]
PARENT = """
import signal
# Whoever runs the tests in the background has them ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)
import asyncio, os, pathlib, sys
from service.adapters.embedded import embedded_mongod
from service.adapters.mongo.replica_set import initiate

async def main():
    data_dir = pathlib.Path(sys.argv[1])
    async with embedded_mongod(data_dir=data_dir, environ=os.environ, initiate=initiate) as mongod:
        print(mongod.process.pid, flush=True)
        await mongod.wait()

asyncio.run(main())
"""
DEAF = "trap '' TERM; echo Waiting for connections; exec sleep 1000"
NO_CURL = "error while loading shared libraries: libcurl.so.4: cannot open shared object file"
NO_OTHER = "error while loading shared libraries: libfoo.so.9: cannot open shared object file"
FATAL = '{"s":"I","msg":"Begin"}\n{"s":"F", "msg":"Gone","attr":{"error":"NoSpace: disk full"}}'


def running(
    data_dir: Path, environ: Mapping[str, str] = os.environ
) -> AbstractAsyncContextManager[EmbeddedMongod]:
    return embedded_mongod(data_dir=data_dir, environ=environ, initiate=initiate)


async def already_primary(port: int) -> None:
    """Stand in for `initiate` where the program is no server."""


def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def program(path: Path, body: str, interpreter: str = "/bin/sh") -> Path:
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(0o700)
    return path


@asynccontextmanager
async def collection(mongod: EmbeddedMongod) -> AsyncIterator[AsyncCollection[dict[str, int]]]:
    client = AsyncMongoClient[dict[str, int]](mongod.url, serverSelectionTimeoutMS=10_000)
    async with client:
        yield client["test"].get_collection("kept", write_concern=WriteConcern("majority"))


async def ended(pid: int) -> bool:
    """Tell whether a process that is not our child ends in 10 s, be it reaped or not."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return any(await asyncio.to_thread(select.select, [descriptor], [], [], 10))
    finally:
        os.close(descriptor)


async def test_data_survives_a_restart_on_another_port(tmp_path: Path) -> None:
    async with running(tmp_path / "data") as mongod, collection(mongod) as kept:
        first_port = urlsplit(mongod.url).port
        await kept.insert_one({"_id": 1})

    # It must hang up: mongod asks the host of its old configuration, for 30 s, whether that is it.
    other = await asyncio.start_server(hang_up, "127.0.0.1", first_port)
    async with other, running(tmp_path / "data") as mongod, collection(mongod) as kept:
        assert urlsplit(mongod.url).port != first_port
        assert await kept.find_one() == {"_id": 1}
        await kept.insert_one({"_id": 2})


async def test_nothing_is_left_running(tmp_path: Path) -> None:
    async with running(tmp_path) as mongod:
        assert mongod.process.returncode is None

    assert await mongod.wait() == 0
    with pytest.raises(ProcessLookupError):
        os.kill(mongod.process.pid, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the death signal of Linux")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_mongod_ends_with_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    """And the folder is good for another start at once."""
    command = (sys.executable, "-c", PARENT, str(tmp_path))
    parent = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())

    os.killpg(parent.pid, ending)
    async with asyncio.timeout(30):
        await parent.communicate()

    assert await ended(pid)
    async with running(tmp_path) as mongod:
        assert mongod.process.returncode is None


async def test_death_in_use_is_noticed(tmp_path: Path) -> None:
    async with running(tmp_path) as mongod, asyncio.timeout(10):
        mongod.process.kill()
        assert await mongod.wait() == -signal.SIGKILL


async def test_cancellation_while_stopping_kills_at_once(tmp_path: Path) -> None:
    deaf = {"MONGOD": str(program(tmp_path / "deaf", DEAF))}
    started = asyncio.get_running_loop().create_future()

    async def use() -> None:
        async with embedded_mongod(data_dir=tmp_path, environ=deaf, initiate=already_primary) as it:
            started.set_result(it)
            await it.wait()

    task = asyncio.create_task(use())
    mongod = await started
    task.cancel()
    await asyncio.wait([task], timeout=0.1)
    assert mongod.process.returncode is None
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert mongod.process.returncode == -signal.SIGKILL


async def test_cancellation_while_starting_leaves_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    mute = program(tmp_path / "mute", f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    start = running(tmp_path, {**os.environ, "MONGOD": str(mute)}).__aenter__()
    task = asyncio.create_task(start)
    pid = int(await asyncio.to_thread((tmp_path / "pid").read_text))

    task.cancel()
    await asyncio.wait([task], timeout=15)

    assert task.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_folder_in_use_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as mongod:
        with pytest.raises(EmbeddedUnavailable, match=f"another process uses {tmp_path}"):
            await running(tmp_path).__aenter__()
        assert mongod.process.returncode is None


async def test_another_port_is_tried_when_one_is_taken(tmp_path: Path) -> None:
    real = find_mongod(os.environ)
    taken = f'[ -e {tmp_path}/tried ] && exec {real} "$@"; touch {tmp_path}/tried'
    body = f"{taken}; echo SocketException: Address already in use; exit 48"
    environ = {**os.environ, "MONGOD": str(program(tmp_path / "unlucky", body))}

    async with running(tmp_path / "data", environ) as mongod:
        assert (tmp_path / "tried").exists()
        assert mongod.process.returncode is None


@pytest.mark.parametrize(
    ("body", "advice"),
    [
        pytest.param(f"echo '{NO_CURL}' >&2; exit 127", "apt-get install libcurl4", id="libcurl"),
        pytest.param(f"echo '{NO_OTHER}' >&2; exit 127", r"needs libfoo\.so\.9", id="library"),
        pytest.param("kill -ILL $$", "processor with AVX", id="illegal instruction"),
        pytest.param(f"echo '{FATAL}'; exit 14", "Gone: NoSpace: disk full", id="JSON error"),
        pytest.param("echo 'bad option'; echo try --help; exit 2", "bad option", id="plain error"),
        pytest.param("echo in use: Address already in use; exit 48", "each free port", id="ports"),
        pytest.param("exit 3", "exit code 3", id="silent"),
    ],
)
async def test_failed_start_says_what_to_do(tmp_path: Path, body: str, advice: str) -> None:
    environ = {**os.environ, "MONGOD": str(program(tmp_path / "mongod", body))}

    with pytest.raises(EmbeddedUnavailable, match=advice) as caught:
        await running(tmp_path / "data", environ).__aenter__()

    assert "point MONGODB_URL at a replica set" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_unusable_folder_or_binary_is_named(tmp_path: Path) -> None:
    foreign = program(tmp_path / "mongod", "", interpreter="/nowhere/ld-linux")

    with pytest.raises(EmbeddedUnavailable, match=f"{foreign}/data"):
        await running(foreign / "data").__aenter__()
    with pytest.raises(EmbeddedUnavailable, match=str(foreign)):
        await running(tmp_path, {"MONGOD": str(foreign)}).__aenter__()


def test_variable_beats_path_beats_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "site" / "fiftyone" / "db" / "bin" / "mongod"
    wheel.parent.mkdir(parents=True)
    wheel.write_bytes(b"not yet executable")
    monkeypatch.syspath_prepend(tmp_path / "site")
    on_path, named = program(tmp_path / "mongod", ""), program(tmp_path / "named", "")

    assert find_mongod({"PATH": str(tmp_path), "MONGOD": str(named)}) == named
    assert find_mongod({"PATH": str(tmp_path), "MONGOD": ""}) == on_path
    assert find_mongod({}) == wheel
    assert os.access(wheel, os.X_OK)


def test_variable_that_points_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=f"MONGOD={tmp_path}/none is not a program"):
        find_mongod({**os.environ, "MONGOD": f"{tmp_path}/none"})


@pytest.mark.parametrize(
    ("xdg", "platform", "folder"),
    [
        ("", "linux", "/h/.local/share"),
        ("/x", "linux", "/x"),
        ("relative", "linux", "/h/.local/share"),
        ("/x", "darwin", "/h/Library/Application Support"),
    ],
)
def test_data_is_kept_where_the_platform_keeps_it(xdg: str, platform: str, folder: str) -> None:
    data_dir = default_data_dir({"HOME": "/h", "XDG_DATA_HOME": xdg}, platform)

    assert data_dir == Path(folder, "councilor-scheduler", "mongodb")
