"""Mongo's shell, and Node: what operators and other writers type is run as they would run it."""

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NODE_MODULES = ROOT / ".node" / "node_modules"
"""Where `.ci/run` installs `mongosh` and `mongodb` from npm."""
_SECONDS = 60.0


def mongosh() -> str:
    """The path of mongosh; skips the test where there is none."""
    found = shutil.which("mongosh", path=_path())
    if found is None:
        pytest.skip("no mongosh: npm install --prefix .node mongosh@2 mongodb@6")
    return found


def node() -> str:
    """The path of Node, with the driver installed beside; skips the test where there is none."""
    found = shutil.which("node")
    if found is None or not (NODE_MODULES / "mongodb").is_dir():
        pytest.skip("no Node with its driver: npm install --prefix .node mongosh@2 mongodb@6")
    return found


async def typed(url: str, script: str, *arguments: str) -> str:
    """What mongosh prints when it is given this script at this address; fails where it fails."""
    command = [mongosh(), url, "--quiet", "--norc", *arguments, "--eval", script]
    return await ran(command)


async def ran(command: list[str], **environ: str) -> str:
    """What a command prints, its errors among it; fails where it does not end with 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **environ, "PATH": _path()},
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()
    return said.decode()


def _path() -> str:
    return os.pathsep.join([str(NODE_MODULES / ".bin"), os.environ.get("PATH", os.defpath)])
