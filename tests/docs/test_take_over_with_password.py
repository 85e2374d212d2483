"""docs/take-over.md with systemd and a password, to the letter, on what the gateway left."""

from pathlib import Path

import pytest

from tests.flow.conftest import TestConductor
from tests.flow.process import process_of
from tests.takeover.checks import (
    agents_of,
    assert_checked,
    assert_kept,
    assert_old_scheduler_works,
    assert_runs,
    assert_standalone_again,
    assert_stopped,
    assert_taken_over,
    machine,
    next_run,
    old_next_run,
)
from tests.takeover.gateway import Left
from tests.takeover.newcomer import Newcomer


@pytest.mark.mongo
async def test_the_guide_by_systemd_with_a_password(
    tmp_path: Path, conductor: TestConductor
) -> None:
    async with machine(tmp_path, conductor, has_password=True) as (person, left):
        newcomer = person
        await assert_checked(newcomer)
        zoned = await newcomer.mongosh("take-over-zone-in-documents")
        assert "modifiedCount: 19" in zoned
        newcomer = newcomer.and_then("take-over-no-zone")
        await newcomer.mongosh("take-over-weekdays", "take-over-weekdays-by-name")
        before = await agents_of(newcomer)
        await newcomer.shell("take-over-before", "take-over-stop-systemd")
        await newcomer.shell("take-over-key", "take-over-key-systemd", "take-over-start-systemd")
        await newcomer.shell("take-over-initiate")
        assert "nothing is lost" in await newcomer.shell("take-over-after")
        newcomer = newcomer.and_then("take-over-url-password")
        await newcomer.mongosh("take-over-old-jobs")
        await newcomer.mongosh("take-over-unique-ids", "take-over-plain-index", "take-over-stats")
        assert "createUser" in await newcomer.shell("take-over-role")
        service = newcomer.and_then("take-over-role")
        async with process_of(await service.environment()) as replica:
            await replica.saw("resync_finished")
            await assert_taken_over(newcomer, left, before)
            await assert_runs_as_before(newcomer, left)
            await assert_runs(newcomer, left, conductor)
            await assert_stopped(replica)
        # All but the one that somebody asked to run: that is written in its document.
        await assert_kept(newcomer, [agent for agent in before if agent["agent_id"] != "agent_0"])
        await assert_old_scheduler_works(newcomer)
        await assert_standalone_again(newcomer, "take-over-standalone-systemd")


async def assert_runs_as_before(newcomer: Newcomer, left: Left) -> None:
    """With the old zone and days by name, every cron runs when the gateway would have run it."""
    now = {agent["agent_id"]: agent for agent in await agents_of(newcomer)}
    for agent in [*left.crons, *left.by_number]:
        there, value = now[agent["agent_id"]], agent["councilor_config"]["schedule"]["value"]
        assert next_run(there) == old_next_run(there, value), value
