"""SIGTERM in the first half second, while Python is still importing: as heard by process 1, too."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

_HALT = "halted here"
# Runs before anything of the service does, and halts it at one place until its input ends.
_HOOK = f"""
import sys
sys.modules["uvloop"] = None
def halt():
    print({_HALT!r}, file=sys.stderr, flush=True)
    sys.stdin.read()
"""
_WHILE_IMPORTING = """
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "service.cli":
            halt()
sys.meta_path.insert(0, Finder())
"""
_BEFORE_ITS_OWN_HANDLERS = """
import asyncio.unix_events as loops
listen = loops._UnixSelectorEventLoop.add_signal_handler
def add_signal_handler(*arguments):
    halt()
    listen(*arguments)
loops._UnixSelectorEventLoop.add_signal_handler = add_signal_handler
"""
_AS_PROCESS_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
_ENDS_WITHIN_SECONDS = 20.0


@asynccontextmanager
async def halted(
    folder: Path, place: str, words: Sequence[str], prefix: Sequence[str] = ()
) -> AsyncIterator[Process]:
    """A command that has come to this place and no further."""
    (folder / "sitecustomize.py").write_text(_HOOK + place)
    process = await asyncio.create_subprocess_exec(
        *(*prefix, sys.executable, "-m", "service", *words),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "MONGODB_URL": "mongodb://127.0.0.1:1",
            "SCHEDULER_HTTP_PORT": "0",
            "SCHEDULER_SECRETS_DIR": str(folder),
        },
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(_ENDS_WITHIN_SECONDS):
            assert (await process.stderr.readline()).decode().strip() == _HALT
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ending(process: Process) -> tuple[int, bytes]:
    assert process.stdout is not None
    async with asyncio.timeout(_ENDS_WITHIN_SECONDS):
        said = await process.stdout.read()
        return await process.wait(), said


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(_WHILE_IMPORTING, id="while it imports"),
        pytest.param(_BEFORE_ITS_OWN_HANDLERS, id="before its own handlers"),
    ],
)
async def test_an_early_sigterm_ends_run_with_0_and_nothing_begun(
    tmp_path: Path, place: str
) -> None:
    async with halted(tmp_path, place, ["run"]) as process:
        process.send_signal(signal.SIGTERM)
        assert await ending(process) == (0, b"")


async def test_process_1_hears_it_too(tmp_path: Path) -> None:
    """The kernel passes nothing on to it that it has no handler for."""
    if await _cannot_be_process_1():
        pytest.skip("unshare --pid does not work here: it takes root, and a kernel that lets it")
    async with halted(tmp_path, _WHILE_IMPORTING, ["run"], _AS_PROCESS_1) as process:
        os.kill(_child_of(process.pid), signal.SIGTERM)
        assert await ending(process) == (0, b"")


def _child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()[0])


async def _cannot_be_process_1() -> bool:
    if shutil.which(_AS_PROCESS_1[0]) is None:
        return True
    trial = await asyncio.create_subprocess_exec(*_AS_PROCESS_1, "true", stderr=PIPE)
    await trial.communicate()
    return trial.returncode != 0


async def test_other_commands_are_ended_by_the_signal_itself(tmp_path: Path) -> None:
    """A `check` that was ended has found nothing out, and must not seem to have found all well."""
    async with halted(tmp_path, _WHILE_IMPORTING, ["check"]) as process:
        process.send_signal(signal.SIGTERM)
        assert await ending(process) == (-signal.SIGTERM, b"")


async def test_an_early_interrupt_ends_it_as_before(tmp_path: Path) -> None:
    async with halted(tmp_path, _WHILE_IMPORTING, ["run"]) as process:
        process.send_signal(signal.SIGINT)
        assert await ending(process) == (-signal.SIGINT, b"")
