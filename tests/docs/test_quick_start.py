"""The quick start, to the letter: from an empty folder to a row in the ledger."""

import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from os import environ, pathsep
from pathlib import Path

import pytest

from service import __version__
from service.adapters.embedded import EmbeddedUnavailable, find_mongod
from service.adapters.mongo.client import connected
from tests.docs.pages import ROOT
from tests.docs.reader import Reader, needs
from tests.flow.conftest import Database, free_port, rows_of
from tests.mongosh import NODE_MODULES, mongosh
from tests.steps import eventually

pytestmark = pytest.mark.mongo

LONG = 60.0
PROMOTED = "coverage-scout"


def mongod_folder(folder: Path) -> Path:
    """A folder for PATH with `mongod`; skips the test where there is none."""
    try:
        found = find_mongod(environ)
    except EmbeddedUnavailable as error:
        pytest.skip(str(error))
    (folder / "mongod").symlink_to(found)
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What somebody has who got this repository, as far as it is installed."""
    folder = tmp_path_factory.mktemp("project")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "service", folder / "service", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def reader_in(project: Path, tools: Path) -> Reader:
    mongosh()
    path = [str(Path(sys.executable).parent), str(mongod_folder(tools)), str(NODE_MODULES / ".bin")]
    port = free_port()
    return Reader(
        project,
        f"mongodb://localhost:{port}/?replicaSet=rs0",
        http_port=free_port(),
        conductor_port=free_port(),
        mongod_port=port,
        path=pathsep.join(path),
    )


async def is_answered(reader: Reader, name: str) -> str | None:
    """What the block prints, where its last line does not fail."""
    try:
        return await reader.shell(name)
    except AssertionError:
        return None


@asynccontextmanager
async def the_database(reader: Reader) -> AsyncIterator[Database]:
    async with connected(reader.mongodb_url) as client:
        yield client[reader.database]


async def test_the_quick_start_leads_to_a_row_in_the_ledger(project: Path, tmp_path: Path) -> None:
    needs("curl")
    reader = reader_in(project, tmp_path)
    said = await reader.shell("quick-start-install")
    assert f"councilor-scheduler {__version__}" in said
    async with reader.going("quick-start-mongod"):
        assert await eventually(lambda: is_answered(reader, "quick-start-initiate"), LONG)
        terminal = replace(reader, before="quick-start-terminal")
        async with (
            terminal.going("quick-start-conductor") as stand_in,
            terminal.going("quick-start-run") as service,
        ):
            assert await eventually(lambda: is_answered(terminal, "quick-start-ready"), LONG)
            for event in ("scheduler_started", "resync_finished"):
                assert service.has(event)
            await from_the_promotion_to_the_ledger(terminal)
    assert (stand_in.code, service.code) == (0, 0)


async def from_the_promotion_to_the_ledger(terminal: Reader) -> None:
    assert "modifiedCount: 1" in await terminal.mongosh("quick-start-promote")

    async def is_judged() -> bool:
        return "state: 'scheduled'" in await terminal.mongosh("quick-start-verdict")

    await eventually(is_judged, LONG)
    assert "explanation: 'Every minute'" in await terminal.mongosh("quick-start-verdict")
    assert PROMOTED in await terminal.shell("quick-start-now")
    async with the_database(terminal) as db:

        async def is_run() -> bool:
            return any(row["status"] == "completed" for row in await rows_of(db, PROMOTED))

        await eventually(is_run, LONG)
    said = " ".join((await terminal.shell("quick-start-look")).split())
    for words in ("Coverage Scout", "completed", '"last_severity":"success"'):
        assert words in said
    assert "lies in the future" in said or "It ran" in said
    assert "status: 'completed'" in await terminal.mongosh("quick-start-ledger")


async def test_the_readme_runs_it_just_so(
    project: Path, tmp_path: Path, replica_set_url: str, database: str
) -> None:
    python = str(Path(sys.executable).parent)
    reader = Reader(project, replica_set_url, database, http_port=free_port(), path=python)
    async with reader.going("readme-run") as service:

        async def is_ready() -> bool:
            return service.has("resync_finished")

        await eventually(is_ready, 2 * LONG)
    assert service.code == 0


async def test_without_any_mongodb_there_is_the_embedded_one(project: Path, tmp_path: Path) -> None:
    reader = Reader(
        project,
        "mongodb://nobody.invalid",
        http_port=free_port(),
        path=str(Path(sys.executable).parent),
        environ={"XDG_DATA_HOME": str(tmp_path)},
    )
    await reader.shell("quick-start-install")
    terminal = replace(reader, before="quick-start-terminal")
    async with terminal.going("quick-start-embedded") as service:

        async def is_ready() -> bool:
            return service.has("embedded_mongod_started") and service.has("resync_finished")

        await eventually(is_ready, 2 * LONG)
    assert service.code == 0
    assert (tmp_path / "councilor-scheduler").is_dir()
