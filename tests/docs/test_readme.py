"""README: its first commands, and what it has people write."""

import os
import sys
from pathlib import Path

import pytest

from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from tests.docs.pages import ROOT, block
from tests.docs.reader import Reader
from tests.flow.conftest import Database
from tests.mongosh import ran
from tests.steps import eventually

DEMO, TESTS = (line.partition("#")[0].strip() for line in block("readme-first").splitlines())


def script_of(command: str) -> str:
    path = ROOT / command.split(maxsplit=1)[0]
    assert os.access(path, os.X_OK), path
    return path.read_text(encoding="utf-8")


async def test_the_demo_shows_all_and_ends(tmp_path: Path) -> None:
    """What `scripts/demo` runs once it has made .venv, for less long."""
    name, *arguments = DEMO.split()
    assert script_of(name).splitlines()[-1] == 'exec .venv/bin/councilor-scheduler demo "$@"'
    assert arguments == ["--for", "60s"]
    command = [sys.executable, "-m", "service", "demo", "--for", "6s"]
    said = await ran(command, HOME=str(tmp_path), TMPDIR=str(tmp_path))
    for words in ("http://127.0.0.1:", "What the ledger says", "README.md"):
        assert words in said


def test_the_tests_are_what_the_second_command_runs() -> None:
    """This one is among them."""
    assert TESTS == "scripts/test"
    script = script_of(TESTS).splitlines()
    assert "scripts/check" in script
    assert script[-1].startswith("exec python -m pytest ")


@pytest.mark.mongo
async def test_an_agent_is_a_councilor_by_one_update(reader: Reader, db: Database) -> None:
    await reader.mongosh("readme-promote")

    async def is_judged() -> object:
        found = await db["agents"].find_one({"agent_id": "coverage-scout"})
        return found if found and found.get("councilor_status") else None

    agent = await eventually(is_judged)
    assert agent["councilor_status"]["state"] == "scheduled"
    assert agent["councilor_status"]["explanation"] == "Every 30 minutes"
    assert isinstance(parse_councilor(agent, SchedulePolicy()), Councilor)
