"""The commands, as processes of their own: what they print, write and answer."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pymongo.errors import WriteError

from service import __version__
from service.adapters.mongo.client import Client
from service.domain.document_schema import agents_validator
from tests.contract.test_agents import councilor
from tests.flow.conftest import Database

ROOT = Path(__file__).parent.parent.parent
Command = Callable[..., Awaitable[tuple[int, str, str]]]


async def commanded(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", *arguments),
        env={**inherited, "COLUMNS": "120", **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def command(replica_set_url: str, database: str) -> Command:
    async def run(*arguments: str) -> tuple[int, str, str]:
        return await commanded(*arguments, MONGODB_URL=replica_set_url, MONGODB_DATABASE=database)

    return run


@pytest.fixture
def db(client: Client, database: str) -> Database:
    return client[database]


async def agent_of(db: Database) -> dict[str, Any]:
    agent = await db["agents"].find_one({"agent_id": "scout"})
    assert agent is not None
    return agent


@pytest.mark.mongo
async def test_the_writing_commands_update_the_document_as_any_writer_would(
    command: Command, db: Database
) -> None:
    await db["agents"].insert_one({"agent_id": "scout", "name": "Scout"})
    code, out, err = await command("promote", "scout", "--every", "30m", "--prompt", "look around")
    assert (code, out, err) == (0, "scout: promoted\n", "")
    agent = await agent_of(db)
    assert agent["is_councilor"] is True
    assert agent["councilor_config"]["schedule"] == {
        "type": "interval",
        "value": "30m",
        "enabled": True,
    }
    assert agent["councilor_config"]["task"]["prompt"] == "look around"
    await command("pause", "scout")
    assert (await agent_of(db))["councilor_config"]["schedule"]["enabled"] is False
    await command("resume", "scout")
    assert (await agent_of(db))["councilor_config"]["schedule"]["enabled"] is True
    await command("run-now", "scout")
    assert (await agent_of(db))["councilor_run_requested_at"].tzinfo is not None
    await command("demote", "scout")
    agent = await agent_of(db)
    assert agent["is_councilor"] is False
    assert "councilor_config" not in agent
    assert agent["name"] == "Scout"


@pytest.mark.mongo
async def test_an_unknown_agent_and_a_meaningless_schedule_are_told_in_one_line(
    command: Command, db: Database
) -> None:
    code, out, err = await command("pause", "nobody")
    assert (code, out, err) == (1, "", "councilor-scheduler: there is no agent nobody\n")
    await db["agents"].insert_one({"agent_id": "scout"})
    for act in ("pause", "resume", "run-now"):
        code, _, err = await command(act, "scout")
        assert (code, err) == (
            1,
            "councilor-scheduler: scout is no councilor: promote it first\n",
        )
    assert set(await agent_of(db)) == {"_id", "agent_id"}
    code, _, err = await command("promote", "scout", "--every", "0m", "--prompt", "look")
    assert (code, err.count("\n")) == (1, 1)
    assert "is no time at all" in err
    assert "is_councilor" not in await agent_of(db)


@pytest.mark.mongo
async def test_jobs_lists_what_the_documents_say(command: Command, db: Database) -> None:
    await db["agents"].insert_many([councilor("a"), councilor("b", "0m"), {"agent_id": "c"}])
    code, out, _ = await command("jobs", "--json")
    items = orjson.loads(out)
    assert code == 0
    assert [(item["agent_id"], item["state"], item["schedule"]) for item in items] == [
        ("a", "scheduled", "interval=30m"),
        ("b", "invalid", None),
    ]
    code, out, _ = await command("jobs")
    assert "Every 30 minutes" in out
    assert "\x1b" not in out


@pytest.mark.mongo
async def test_promoting_a_councilor_again_keeps_what_is_not_named(
    command: Command, db: Database
) -> None:
    scout = councilor()
    scout["councilor_config"] |= {"notifications": {"channels": ["toast"]}}
    scout["councilor_config"]["schedule"] |= {"catch_up": "skip", "enabled": False}
    await db["agents"].insert_one(scout)
    assert (await command("promote", "scout", "--prompt", "new", "--cron", "@daily"))[0] == 0
    config = (await agent_of(db))["councilor_config"]
    assert config["schedule"] == {
        "type": "cron",
        "value": "@daily",
        "enabled": True,
        "catch_up": "skip",
    }
    assert config["task"] == {"name": "look", "prompt": "new"}
    assert (config["title"], config["notifications"]) == ("Scout", {"channels": ["toast"]})


@pytest.mark.mongo
async def test_history_of_an_agent_without_any_is_empty(command: Command, db: Database) -> None:
    assert (await command("history", "scout"))[0] == 1
    await db["agents"].insert_one({"agent_id": "scout"})
    assert await command("history", "scout") == (0, "no executions\n", "")
    assert await command("history", "scout", "--json") == (0, "[]\n", "")


@pytest.mark.mongo
async def test_check_judges_the_councilors_in_the_database(command: Command, db: Database) -> None:
    await db["agents"].insert_many([councilor("good"), councilor("bad", "0m")])
    code, out, _ = await command("check", "--json", "good")
    assert (code, [finding["state"] for finding in orjson.loads(out)]) == (0, ["scheduled"])
    assert (await command("check"))[0] == 1
    assert (await command("check", "nobody"))[2] == (
        "councilor-scheduler: there is no agent nobody\n"
    )


async def test_check_needs_no_database_for_files(tmp_path: Path) -> None:
    monday = councilor("monday", "0 9 * * 1")
    monday["councilor_config"]["schedule"] |= {"type": "cron", "timezone": "Europe/Berlin"}
    file = tmp_path / "agents.json"
    file.write_bytes(orjson.dumps([monday, councilor("bad", "30"), {"agent_id": "plain"}]))
    arguments = ("check", "--file", str(file), "--json", "--count", "2")
    code, out, _ = await commanded(*arguments, "--at", "2026-11-23T12:00:00Z")
    good, bad, plain = orjson.loads(out)
    assert code == 1
    assert good["next_runs"] == ["2026-11-30T08:00:00Z", "2026-12-07T08:00:00Z"]
    assert good["runs_per_day"] == pytest.approx(1 / 7, abs=0.01)
    assert (bad["state"], bad["error"]["field"]) == ("invalid", "councilor_config.schedule.value")
    assert plain["state"] == "not_councilor"
    assert set(good) == {
        "agent_id",
        "state",
        "error",
        "explanation",
        "timezone",
        "next_runs",
        "runs_per_day",
        "warnings",
    }


async def test_an_interval_without_an_anchor_counts_from_the_instant_asked_about(
    tmp_path: Path,
) -> None:
    file = tmp_path / "agent.json"
    file.write_bytes(orjson.dumps(councilor()))
    code, out, _ = await commanded(
        *("check", "--file", str(file), "--json", "--count", "1"), "--at", "2026-11-23T12:00:00Z"
    )
    assert code == 0
    assert orjson.loads(out)[0]["next_runs"] == ["2026-11-23T12:30:00Z"]


async def test_the_readme_shows_what_check_prints() -> None:
    """Without colours, since this is no terminal."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^\$ councilor-scheduler (check .*?)\n(.*?)^```", readme, re.M | re.S)
    code, out, _ = await commanded(*shown[0].split(), COLUMNS="100")
    assert code == 1
    assert [line.rstrip() for line in out.splitlines()] == shown[1].splitlines()


async def test_check_is_fit_for_a_folder_and_for_some_of_its_agents(tmp_path: Path) -> None:
    folder = ("check", "--json", "--file", str(ROOT / "tests" / "examples"))
    code, out, _ = await commanded(*folder, "monday-report", "unlucky-days")
    assert code == 0
    assert {finding["agent_id"] for finding in orjson.loads(out)} == {
        "monday-report",
        "unlucky-days",
    }
    code, out, _ = await commanded(*folder)
    states = [finding["state"] for finding in orjson.loads(out)]
    assert (code, states.count("invalid"), states.count("scheduled")) == (1, 6, 7)
    assert (await commanded(*folder, "nobody"))[0] == 1
    code, _, err = await commanded("check", "--file", str(tmp_path))
    assert (code, "no JSON files" in err) == (1, True)


async def test_a_document_cannot_steer_the_terminal_it_is_shown_on(tmp_path: Path) -> None:
    agent = councilor("a\x1b[31mRED\x07\nnew") | {"council\x1bor_config": 1}
    agent["councilor_config"]["schedule"]["value"] = "[bold]\x1b[2J"
    (tmp_path / "a.json").write_bytes(orjson.dumps(agent))
    code, out, _ = await commanded("check", "--file", str(tmp_path))
    assert (code, "[bold]" in out) == (1, True)
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "a\N{REPLACEMENT CHARACTER}[31mRED" in out


async def test_schema_prints_a_validator() -> None:
    code, out, _ = await commanded("schema")
    assert (code, orjson.loads(out)) == (0, agents_validator())
    assert (await commanded("schema", "--strict"))[0] == 2


@pytest.mark.mongo
async def test_schema_lets_mongodb_tell_writers(command: Command, db: Database) -> None:
    await db["agents"].insert_many([councilor("good"), councilor("bad", "0m")])
    code, out, _ = await command("schema", "--apply")
    assert (code, "do not fit it already: 1" in out) == (0, True)
    await db["agents"].insert_one(councilor("worse", "0m"))
    assert (await command("schema", "--apply", "--strict"))[0] == 0
    with pytest.raises(WriteError):
        await db["agents"].insert_one(councilor("worst", "0m"))
    options = await db["agents"].options()
    assert (options["validationAction"], options["validator"]) == ("error", agents_validator())
    assert (await command("check", "good"))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        pytest.param(("run",), {}, "MONGODB_URL", id="no database"),
        pytest.param(
            ("run",),
            {"SCHEDULER_HTTP_PORT": "99999", "SCHEDULER_TIMEZONE": "Mars"},
            "SCHEDULER_TIMEZONE",
            id="wrong settings",
        ),
        pytest.param(("jobs",), {"MONGODB_URL": "http://x"}, "MONGODB_URL", id="no address"),
        pytest.param(("check", "--at", "noon"), {}, "not an instant", id="wrong instant"),
        pytest.param(("fly",), {}, "No such command", id="no command"),
        pytest.param(("promote", "a", "--prompt", "p"), {}, "--every", id="no schedule"),
    ],
)
async def test_wrong_usage_ends_with_code_2_and_says_what(
    arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    code, out, err = await commanded(*arguments, **environ)
    assert (code, out) == (2, "")
    assert said in err


async def test_a_file_that_cannot_be_read_is_told_of(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for path in (broken, tmp_path / "missing.json"):
        code, _, err = await commanded("check", "--file", str(path))
        assert (code, err.count("\n")) == (1, 1)
        assert str(path) in err


async def test_the_version_is_told() -> None:
    assert await commanded("--version") == (0, f"councilor-scheduler {__version__}\n", "")


@pytest.mark.mongo
async def test_run_embedded_starts_a_replica_set_of_its_own_and_stops_it(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "run", "--embedded", "--data-dir", str(tmp_path)),
        env={**os.environ, "SCHEDULER_HTTP_PORT": "0", "MONGODB_URL": ""},
        stdout=PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timedelta(seconds=30).total_seconds()):
            async for line in process.stdout:
                if orjson.loads(line)["event"] == "resync_finished":
                    break
        process.terminate()
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    assert not _mongods_in(tmp_path)


def _mongods_in(folder: Path) -> list[bytes]:
    """The commands of running processes that name this folder, as Linux tells them."""
    found: list[bytes] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(command)
    return found
