"""docs/take-over.md by hand and without a password, to the letter, on what the gateway left."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import block
from tests.flow.conftest import TestConductor
from tests.flow.process import process_of
from tests.steps import eventually
from tests.takeover.checks import (
    SETTINGS,
    agents_of,
    assert_checked,
    assert_old_scheduler_works,
    assert_refused,
    assert_runs,
    assert_standalone_again,
    assert_stopped,
    assert_taken_over,
    machine,
    next_run,
    old_next_run,
)
from tests.takeover.gateway import Document, Left
from tests.takeover.newcomer import Newcomer


@pytest.mark.mongo
async def test_the_guide_by_hand_without_a_password(
    tmp_path: Path, conductor: TestConductor
) -> None:
    async with machine(tmp_path, conductor, has_password=False) as (person, left):
        newcomer = person
        await assert_checked(newcomer)
        await assert_refused(newcomer, because="a standalone server has no change streams")
        before = await agents_of(newcomer)
        assert "agent_32" in await newcomer.mongosh("take-over-weekdays")
        both_days = await newcomer.mongosh("take-over-both-days")
        assert re.findall(r"agent_\d+", both_days) == ["agent_47"]
        assert "2026-10-03" in await newcomer.mongosh("take-over-latest")
        await newcomer.shell("take-over-before", "take-over-stop-by-hand")
        await newcomer.shell("take-over-start-by-hand", "take-over-initiate")
        assert "nothing is lost" in await newcomer.shell("take-over-after")
        newcomer = newcomer.and_then("take-over-url")
        await assert_refused(newcomer, because="an index of another kind is in the way")
        await newcomer.mongosh("take-over-plain-index")
        await assert_refused(newcomer, because="several rows with one execution_id")
        await newcomer.mongosh("take-over-old-jobs")
        assert (await newcomer.mongosh("take-over-unique-ids")).split() == ["20"]
        assert block("take-over-run") == "councilor-scheduler run\n"
        async with process_of(await newcomer.environment()) as replica:
            assert (await replica.saw("resync_finished"))["documents"] == 50
            await assert_taken_over(newcomer, left, before)
            await assert_runs(newcomer, left, conductor)
            await assert_mondays_are_mondays(newcomer, left)
            await assert_counting_goes_on(newcomer)
            await assert_spread(newcomer)
            await assert_stopped(replica)
        await assert_old_scheduler_works(newcomer)
        await newcomer.mongosh("take-over-no-trace")
        await assert_no_trace(newcomer, left)
        await assert_standalone_again(newcomer, "take-over-standalone-by-hand")
        await assert_restored(newcomer.and_then(SETTINGS), before)


async def assert_mondays_are_mondays(newcomer: Newcomer, left: Left) -> None:
    now = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    days = [next_run(now[agent["agent_id"]]).isoweekday() for agent in left.by_number[:2]]
    assert days == [1, 7]
    for agent in left.crons:
        there, value = now[agent["agent_id"]], agent["councilor_config"]["schedule"]["value"]
        assert next_run(there) == old_next_run(there, value)


async def assert_counting_goes_on(newcomer: Newcomer) -> None:
    """From 1,000 runs at 75.8 %: one more, which succeeds."""
    await newcomer.line("councilor-scheduler run-now agent_1")

    async def stats() -> Document:
        agents = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
        found: Document = agents["agent_1"]["stats"]
        return found if found["total_executions"] > 1_000 else {}

    found = await eventually(stats)
    sums = (found["total_executions"], found["successful_executions"], found["success_rate"])
    assert sums == (1_001, 759, 75.8)


async def assert_spread(newcomer: Newcomer) -> None:
    """None but intervals of hours and more are spread, and all of them still run."""
    was = {
        agent["agent_id"]: agent["councilor_status"].get("accepted_at")
        for agent in await agents_of(newcomer)
        if "councilor_status" in agent
    }
    await newcomer.mongosh("take-over-spread")
    agents = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    spread = {
        agent_id
        for agent_id, agent in agents.items()
        if "spread" in agent.get("councilor_config", {}).get("schedule", {})
    }
    assert {"agent_1", "agent_3"} < spread
    assert not {"agent_0", "agent_2", "agent_20", "agent_36", "agent_44"} & spread

    async def accepted_anew() -> bool:
        now = {
            agent["agent_id"]: agent["councilor_status"]
            for agent in await agents_of(newcomer)
            if agent["agent_id"] in spread
        }
        return all(now[name]["accepted_at"] > was[name] for name in spread)

    await eventually(accepted_anew)
    said = await newcomer.line("councilor-scheduler jobs | tail -1")
    assert "36 scheduled, 7 paused, 7 invalid" in said


async def assert_no_trace(newcomer: Newcomer, left: Left) -> None:
    now = {agent["_id"]: agent for agent in await agents_of(newcomer)}
    of_the_gateway = {"total_executions", "success_rate", "last_execution"}
    assert not any("councilor_status" in agent for agent in now.values())
    assert all(agent.get("stats", {}).keys() <= of_the_gateway for agent in now.values())
    for agent in [*left.crons, *left.paused, *left.plain]:
        assert now[agent["_id"]] == agent


async def assert_restored(newcomer: Newcomer, before: list[Document]) -> None:
    """The copy is that of before the take-over, though it was asked for again since."""
    stop, copy = block("take-over-stop-by-hand").splitlines()
    await newcomer.line(f"{stop}\n{copy}")
    await newcomer.shell("take-over-restore")
    newcomer.mongod("--fork", "--config", "mongod.conf")
    assert "nothing is lost" in await newcomer.shell("take-over-after")
    assert await agents_of(newcomer) == before
    assert (newcomer.folder / "data.failed").is_dir()
    assert not (newcomer.folder / "data" / "data").exists()
