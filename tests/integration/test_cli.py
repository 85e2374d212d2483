"""The commands, as processes of their own: what they print, write and answer."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from pymongo.errors import WriteError

from service import __version__
from service.adapters.mongo.client import Client
from service.app import wall_clock
from service.domain.document_schema import agents_validator
from tests.contract.test_agents import councilor
from tests.flow.conftest import Database
from tests.steps import eventually

ROOT = Path(__file__).parent.parent.parent
Command = Callable[..., Awaitable[tuple[int, str, str]]]


async def commanded(*arguments: str, **environ: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    names = ("PATH", "HOME", "SCHEDULER_SECRETS_DIR")
    inherited = {name: os.environ[name] for name in names if name in os.environ}
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
    wanted = ("promote", "scout", "--every", "30m", "--prompt", "look around")
    assert await command(*wanted) == (0, "scout: promoted\n", "")
    assert await command(*wanted) == (0, "scout: was promoted already, just so\n", "")
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
async def test_jobs_are_chosen_and_ordered(command: Command, db: Database) -> None:
    agents = [councilor("a", name="Zoe"), councilor("b", "0m"), councilor("c", name="Ada")]
    agents[2]["councilor_config"]["schedule"]["enabled"] = False
    await db["agents"].insert_many([*agents, councilor("a", "0m")])

    async def listed(*options: str) -> list[str]:
        code, out, _ = await command("jobs", "--json", *options)
        assert code == 0
        return [item["agent_id"] for item in orjson.loads(out)]

    assert await listed() == ["a", "a", "b", "c"]
    assert await listed("--state", "invalid") == ["a", "b"]  # the second one's id is taken
    assert await listed("--state", "paused") == ["c"]
    assert await listed("--sort", "name", "--state", "scheduled") == ["a"]
    assert await listed("--sort", "name") == ["c", "a", "b", "a"]
    assert await listed("-q", "ADA") == ["c"]
    assert await listed("-q", "nobody") == []
    _, out, _ = await command("jobs", "-q", "zoe")
    assert out.splitlines()[-1] == "1 of 4 councilors: 1 scheduled"


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
    assert [(f["state"], f["file"]) for f in orjson.loads(out)] == [("scheduled", None)]
    assert code == 0
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
        "file",
    }
    assert {each["file"] for each in (good, bad, plain)} == {"agents.json"}


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
        pytest.param(("jobs", "--watch"), {}, "needs a terminal", id="watch without a terminal"),
        pytest.param(("jobs", "-w", "--json"), {}, "one of them", id="watch for programs"),
        pytest.param(("jobs", "-w", "--every", "2"), {}, "not an interval", id="no interval"),
        pytest.param(("jobs", "--state", "fine"), {}, "'fine' is not one of", id="no state"),
        pytest.param(("pause", "\udcff"), {}, "UTF-8", id="no text"),
    ],
)
async def test_wrong_usage_ends_with_code_2_and_says_what(
    arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    code, out, err = await commanded(*arguments, **environ)
    assert (code, out) == (2, "")
    assert said in err
    assert all(line.startswith("councilor-scheduler: ") for line in err.splitlines())


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


@pytest.mark.mongo
async def test_programs_are_told_whether_something_happened(command: Command, db: Database) -> None:
    await db["agents"].insert_many([councilor(), councilor("bad", "0m"), {"agent_id": "plain"}])

    async def told(*arguments: str) -> tuple[object, ...]:
        code, out, err = await command(*arguments, "--json")
        assert (code, err) == (0, "")
        answer = orjson.loads(out)
        assert list(answer) == ["agent_id", "done", "changed", "state", "said"]
        return tuple(answer.values())[1:4]

    every_day = ("promote", "plain", "--prompt", "p", "--cron", "@daily")
    assert await told(*every_day) == ("promoted", True, "scheduled")
    assert await told(*every_day) == ("promoted", False, "scheduled")
    assert await told("pause", "scout") == ("paused", True, "paused")
    updated_at = (await agent_of(db))["updated_at"]
    assert await told("pause", "scout") == ("paused", False, "paused")
    assert (await agent_of(db))["updated_at"] == updated_at
    assert await told("resume", "scout") == ("resumed", True, "scheduled")
    assert await told("resume", "scout") == ("resumed", False, "scheduled")
    assert await told("run-now", "bad") == ("run_requested", True, "invalid")
    assert await told("demote", "scout") == ("demoted", True, "not_councilor")
    assert await told("demote", "scout") == ("demoted", False, "not_councilor")
    _, out, _ = await command("schema", "--apply", "--json")
    assert orjson.loads(out) == {"collection": "agents", "action": "warn", "misfits": 1}


@pytest.mark.mongo
async def test_a_pause_may_have_an_end_and_resume_ends_it_before(
    command: Command, db: Database
) -> None:
    await db["agents"].insert_one(councilor())
    until = ("pause", "scout", "--until", "2999-01-04T09:00:00+01:00")
    assert (await command(*until))[1] == "scout: paused until 2999-01-04 08:00:00 UTC\n"
    assert (await command(*until))[1] == "scout: was paused until 2999-01-04 08:00:00 UTC already\n"
    schedule = (await agent_of(db))["councilor_config"]["schedule"]
    assert schedule["paused_until"] == datetime(2999, 1, 4, 8, tzinfo=UTC)
    assert schedule["enabled"] is True
    assert await command("resume", "scout") == (0, "scout: resumed\n", "")
    assert "paused_until" not in (await agent_of(db))["councilor_config"]["schedule"]
    assert (await command("pause", "scout", "--until", "2h"))[0] == 0
    for wrong in ("soon", "2020-01-01"):
        assert (await command("pause", "scout", "--until", wrong))[0] == 2


@pytest.mark.mongo
async def test_a_run_is_asked_for_as_it_will_go(command: Command, db: Database) -> None:
    await db["agents"].insert_one(councilor())
    nobody = "scout: asked for a run; no scheduler is alive: it runs if one is within the hour\n"
    assert (await command("run-now", "scout"))[1] == nobody
    beat = {"_id": "r", "expires_at": datetime(2999, 1, 1, tzinfo=UTC)}
    await db["scheduler_replicas"].insert_one(beat)
    assert (await command("run-now", "scout"))[1] == "scout: asked for a run\n"
    running = {"councilor_id": "scout", "status": "running", "started_at": wall_clock()}
    await db["councilor_executions"].insert_one(running | {"execution_id": "exec_scout_1"})
    assert (await command("run-now", "scout"))[1] == (
        "scout: asked for a run, which starts when the present one has ended\n"
    )


@pytest.mark.mongo
async def test_the_next_slot_is_skipped_and_a_used_flag_needs_a_scheduler(
    command: Command, db: Database
) -> None:
    slot = datetime(2026, 1, 1, tzinfo=UTC)
    used = councilor(councilor_status={"skipped_slot": slot})
    used["councilor_config"]["schedule"]["skip_next"] = True
    await db["agents"].insert_one(used)
    code, _, err = await command("skip-next", "scout")
    assert (code, err.count("\n"), "has no row in the ledger yet" in err) == (1, 1, True)
    row = {"execution_id": "e", "councilor_id": "scout", "scheduled_for": slot, "status": "skipped"}
    await db["councilor_executions"].insert_one(row | {"trigger": "schedule"})
    code, _, err = await command("skip-next", "scout")
    assert (code, "no scheduler has cleared" in err) == (1, True)
    assert (await agent_of(db))["councilor_config"]["schedule"]["skip_next"] is False
    await db["agents"].update_one({}, {"$unset": {"councilor_status": ""}})
    code, out, _ = await command("skip-next", "scout")
    assert (code, out) == (
        0,
        "scout: the next slot is left out, once a scheduler has seen it: none has yet\n",
    )
    assert (await agent_of(db))["councilor_config"]["schedule"]["skip_next"] is True


@pytest.mark.mongo
async def test_one_of_two_agents_with_one_id_is_not_changed_by_chance(
    command: Command, db: Database
) -> None:
    await db["agents"].insert_many([councilor(), councilor()])
    code, _, err = await command("pause", "scout")
    assert (code, "2 documents have the agent_id scout" in err) == (1, True)
    assert await db["agents"].count_documents({"updated_at": {"$exists": True}}) == 0


@pytest.mark.mongo
async def test_an_agent_that_was_meant_is_named(command: Command, db: Database) -> None:
    await db["agents"].insert_one({"agent_id": "coverage-scout"})
    said = "councilor-scheduler: there is no agent coverage-scut; did you mean coverage-scout?\n"
    for words in ("pause", "history", "check"):
        assert await command(words, "coverage-scut") == (1, "", said)


BASH = "_COUNCILOR_SCHEDULER_COMPLETE"


@pytest.mark.mongo
async def test_a_shell_completes_agent_ids(
    replica_set_url: str, database: str, db: Database
) -> None:
    safe, unsafe = ["a-1", "a-2", "b"], ["a b", "a$(id)", "a\\", "a\n"]
    await db["agents"].insert_many([{"agent_id": each} for each in safe + unsafe])
    environ = {"MONGODB_URL": replica_set_url, "MONGODB_DATABASE": database}
    words = {"COMP_WORDS": "councilor-scheduler\npause\na", "COMP_CWORD": "2"}

    async def offered() -> list[str]:  # nothing, where the machine is too busy for a second
        code, out, err = await commanded(**environ, **words, **{BASH: "complete_bash"})
        assert (code, err) == (0, "")
        return out.split()

    assert await eventually(offered) == ["a-1", "a-2"]
    typed = {"_TYPER_COMPLETE_ARGS": "councilor-scheduler history b"}

    async def offered_to_zsh() -> str:
        _, out, _ = await commanded(**environ, **typed, **{BASH: "complete_zsh"})
        return out if '"' in out else ""

    out = await eventually(offered_to_zsh)
    assert ('"b"' in out, "a-1" in out) == (True, False)


@pytest.mark.parametrize("url", ["", "junk", "mongodb://127.0.0.1:1/"])
async def test_a_shell_is_told_nothing_of_a_database_that_is_away(url: str) -> None:
    words = {"COMP_WORDS": "councilor-scheduler\npause\n", "COMP_CWORD": "2"}
    code, out, err = await commanded(**words, MONGODB_URL=url, **{BASH: "complete_bash"})
    assert (code, out.strip(), err) == (0, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
async def test_shells_are_taught_to_complete(shell: str) -> None:
    code, out, _ = await commanded(**{BASH: f"source_{shell}"})
    assert (code, "councilor-scheduler" in out, f"{BASH}=complete_{shell}" in out) == (
        0,
        True,
        True,
    )


async def test_a_database_that_does_not_answer_is_told_without_the_password() -> None:
    url = "mongodb://bob:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=500"
    for arguments in (("jobs",), ("pause", "scout")):
        code, out, err = await commanded(*arguments, MONGODB_URL=url)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("councilor-scheduler: MongoDB does not answer: ")
        assert "127.0.0.1:1" in err
        assert "hunter2" not in err


async def test_whoever_stops_reading_is_told_nothing() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "schema"), stdout=PIPE, stderr=PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout._transport.close()  # type: ignore[attr-defined]  # as `| true` does
    assert await process.stderr.read() == b""
    assert await process.wait() == 1


@pytest.mark.mongo
async def test_a_view_lives_until_ctrl_c(replica_set_url: str, database: str, db: Database) -> None:
    await db["agents"].insert_one(councilor())
    terminal, inside = os.openpty()
    environ = {**os.environ, "MONGODB_URL": replica_set_url, "MONGODB_DATABASE": database}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "service", "jobs", "--watch"),
        env=environ | {"TERM": "xterm"},
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    loop, seen, screen = asyncio.get_running_loop(), asyncio.Event(), bytearray()

    def read() -> None:
        try:
            screen.extend(os.read(terminal, 65_536))
        except OSError:  # nobody writes to it any more
            loop.remove_reader(terminal)
        if screen.count(b"1 councilor: 1 scheduled") >= 2:
            seen.set()

    loop.add_reader(terminal, read)
    async with asyncio.timeout(30):
        await seen.wait()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
    loop.remove_reader(terminal)
    os.close(terminal)
    assert b"Traceback" not in screen
    assert screen.rstrip().endswith(b"\x1b[?25h")  # the cursor is back


async def test_help_groups_the_commands_and_tells_the_exit_codes() -> None:
    code, out, _ = await commanded("--help", COLUMNS="80")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    panels = [word for word in ("Run", "Look", "Write", "Check") if f"─ {word} ─" in out]
    assert panels == ["Run", "Look", "Write", "Check"]
    assert out.index("─ Run ─") < out.index("─ Look ─") < out.index("─ Write ─")
    for words in ("Exit codes", "MONGODB_URL", "NO_COLOR", "skip-next"):
        assert words in out
    for name in ("run", "jobs", "history", "promote", "pause", "skip-next", "check", "schema"):
        code, out, _ = await commanded(name, "--help", COLUMNS="80")
        assert (code, f"councilor-scheduler {name}" in out.split("Examples")[-1]) == (0, True)
