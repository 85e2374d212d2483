"""No file is written: a container needs neither a root that can be written, nor a volume."""

from pathlib import Path

import pytest

from tests.flow.conftest import Database, TestConductor, conductor, config, db
from tests.flow.process import Launch, launch
from tests.steps import eventually

__all__ = ["conductor", "db", "launch"]
_NO_WRITES = '''
import json, os, sys

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink"}

def refuse(event, arguments):
    """As a read-only root does; each is told, also where somebody does without."""
    is_opened = event == "open" and isinstance(arguments[0], (str, bytes))
    if event in _CHANGES or is_opened and arguments[2] & _WRITING:
        told = {"event": "file_written", "path": str(arguments[0])}
        sys.stdout.write(json.dumps(told) + "\\n")
        raise OSError(30, "Read-only file system", arguments[0])

sys.addaudithook(refuse)
'''


@pytest.mark.mongo
async def test_a_service_that_may_write_no_file_runs_and_tells(
    launch: Launch, db: Database, conductor: TestConductor, tmp_path: Path
) -> None:
    """With a notification that goes outside, to whoever takes a POST: the Conductor, here."""
    (tmp_path / "sitecustomize.py").write_text(_NO_WRITES, encoding="utf-8")
    replica = await launch(
        PYTHONPATH=str(tmp_path),
        PYTHONDONTWRITEBYTECODE="1",
        CONDUCTOR_API_URL=conductor.url,
        SCHEDULER_NOTIFY_URLS=f"{conductor.url.replace('http:', 'json:')}/conductor/execute",
    )
    told = {**config(), "notifications": {"on_success": True, "channels": ["json"]}}
    agent = {"agent_id": "scout", "is_councilor": True, "councilor_config": told}
    await db["agents"].insert_one(agent)
    await eventually(lambda: is_told(db))
    replica.process.terminate()
    assert await replica.ended() == 0
    assert [each for each in replica.events if each["event"] == "file_written"] == []


async def is_told(db: Database) -> bool:
    told = await db["scheduler_notifications"].find_one({"delivery": "sent"})
    return told is not None
