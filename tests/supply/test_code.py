"""Who can write to the database cannot run code here: what keeps it so."""

import pickle  # noqa: TID251 the trap must be a real one
import subprocess
import sys
from pathlib import Path

import bson
import pytest

from tests.flow.conftest import Database, Start, conductor, config, db, job_of, start
from tests.steps import eventually

__all__ = ["conductor", "db", "start"]

ROOT = Path(__file__).parents[2]
REFUSED = [
    ("import pickle", "TID251"),
    ("from pickle import loads", "TID251"),
    ("import marshal", "TID251"),
    ("import shelve", "TID251"),
    ("from apscheduler.jobstores.mongodb import MongoDBJobStore", "TID251"),
    ("from apscheduler.jobstores import redis", "TID251"),
    ("import asyncio\nasyncio.create_subprocess_shell(text)", "TID251"),
    ("eval(text)", "S307"),
    ("exec(text)", "S102"),
    ("import subprocess\nsubprocess.run(text, shell=True)", "S602"),
    ("import subprocess\nsubprocess.run([text])", "S603"),
    ("import os\nos.system(text)", "S605"),
    ("import yaml\nyaml.load(text)", "S506"),
    ("import ssl\nssl._create_unverified_context()", "S323"),
    ("import requests\nrequests.get(text, verify=False)", "S501"),
    ("password = 'hunter2'", "S105"),
]
"""Code that the lint refuses, and the rule that does."""


def lint(code: str, name: str) -> str:
    """What ruff says of a file of this name, by the rules of pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", name, "-"],
        input=code,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("code", "rule"), REFUSED, ids=[code for code, _ in REFUSED])
def test_the_lint_refuses_what_could_run_code(code: str, rule: str) -> None:
    """Also where most is allowed: beside the real clock, and where chance is."""
    assert f"{rule} " in lint(f"{code}\n", "service/app.py")
    assert f"{rule} " in lint(f"{code}\n", "service/breaker.py")


def test_nothing_that_unpickles_is_loaded_with_the_service() -> None:
    """Of APScheduler's job stores: their base, and the one in memory that it brings itself."""
    seen = (
        "print(*sorted(name for name in sys.modules if name.startswith('apscheduler.jobstores.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, service.app, service.cli; {seen}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["apscheduler.jobstores.base", "apscheduler.jobstores.memory"]


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (self._folder,)  # type: ignore[return-value]


@pytest.mark.mongo
async def test_a_pickled_job_that_would_run_code_runs_none(
    start: Start, db: Database, tmp_path: Path
) -> None:
    """What APScheduler's own store would unpickle at its start is replaced unread."""
    folder = tmp_path / "sprung"
    trap = bson.Binary(pickle.dumps(Trap(folder)))
    foreign = {"_id": "scout", "next_run_time": 1.5, "job_state": trap}
    await db["apscheduler_jobs"].insert_one(foreign)
    scout = {"agent_id": "scout", "is_councilor": True, "councilor_config": config("1h")}
    await db["agents"].insert_one(scout)
    await start()

    async def is_replaced() -> bool:
        job = await job_of(db, "scout")
        return job is not None and isinstance(job["job_state"], dict)

    await eventually(is_replaced)
    assert not folder.exists()
    pickle.loads(trap)  # noqa: S301 it is a trap indeed
    assert folder.exists()
