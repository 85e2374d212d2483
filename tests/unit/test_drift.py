"""What a comparison finds is drift only where the changes must have told of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Never

import pytest
from structlog.testing import capture_logs

from service.adapters.mongo.keys import key_of
from service.domain.jobs import Listed
from service.ports import Unavailable
from tests.contract.test_agents import councilor
from tests.fakes import NOON, FakeAgents, listed
from tests.steps import going, turned, turned_until
from tests.unit.test_reconciler import Side
from tests.unit.test_telemetry import samples

MINUTE = timedelta(minutes=1)
NONE = {"missing": 0, "extra": 0, "stale": 0}


@asynccontextmanager
async def following(
    *documents: Mapping[str, object], reads_changes: bool = True
) -> AsyncIterator[Side]:
    """A reconciler that has read these long ago, and compares everything after each change."""
    side = Side(resync_interval=timedelta(0))
    side.agents.documents = lambda: all_at_once(side.agents)  # type: ignore[method-assign]
    for number, fields in enumerate(documents, start=1):
        side.agents.change(number, fields)
    reconciler = side.reconciler()
    tasks = [reconciler.watch(), reconciler.verdicts.write()]
    async with going(*tasks, *([reconciler.reconcile()] if reads_changes else [])):
        await turned_until(lambda: side.health.watching)
        await turned()
        for earlier in (2 * MINUTE, MINUTE):
            side.agents.position = NOON - earlier
            await compared(side)
        yield side


async def all_at_once(agents: FakeAgents) -> AsyncIterator[Sequence[Listed]]:
    """A listing in one batch, which gives way to who follows, as one that is read does."""
    await asyncio.sleep(0)
    yield [listed(document) for document in await agents.read(list(agents.collection))]


def write_unheard(side: Side, document_id: int, fields: Mapping[str, object] | None) -> None:
    """Write a document, and let no event tell of it."""
    key = key_of(document_id)
    if fields is None:
        del side.agents.collection[key]
    else:
        side.agents.collection[key] = {"_id": document_id, **fields}
    now = side.agents.collection.get(key)
    side.agents.history.setdefault(key, []).append((side.clock(), now))


async def compared(side: Side) -> None:
    """Let one change be told, whereupon everything is compared again."""
    before = comparisons(side)
    side.agents.change(9, {"agent_id": "plain"})
    await turned_until(lambda: comparisons(side) > before)
    await turned()


def comparisons(side: Side) -> float:
    return sum(samples(side.telemetry)["watch_relists_total"].values())


def drift(side: Side) -> dict[str, float]:
    return samples(side.telemetry)["resync_drift_total"]


FOUND: dict[str, Callable[[Side], None]] = {
    "missing": lambda side: write_unheard(side, 2, councilor("new")),
    "extra": lambda side: write_unheard(side, 1, None),
    "stale": lambda side: write_unheard(side, 1, councilor(value="20m")),
}


@pytest.mark.parametrize(("kind", "write"), FOUND.items(), ids=FOUND)
@pytest.mark.parametrize(
    ("position", "counted"),
    [
        pytest.param(NOON + 2 * MINUTE, 1, id="the stream was past it"),
        pytest.param(NOON + MINUTE, 0, id="it came between two streams"),
        pytest.param(None, 0, id="nobody knows how far the stream was"),
    ],
)
async def test_only_what_the_stream_was_past_has_drifted(
    kind: str, write: Callable[[Side], None], position: datetime | None, counted: int
) -> None:
    async with following(councilor()) as side:
        side.clock.advance(MINUTE)
        side.agents.position = position
        write(side)
        with capture_logs() as logs:
            await compared(side)
        assert drift(side) == NONE | {kind: counted}
        assert [log["event"] for log in logs if log["log_level"] == "error"] == (
            ["drift_found"] * counted
        )
        await compared(side)
        assert drift(side) == NONE | {kind: counted}, "it was put right"


async def test_what_was_told_and_not_read_again_yet_has_not_drifted() -> None:
    async with following(councilor(), reads_changes=False) as side:
        side.clock.advance(MINUTE / 2)
        side.agents.position = NOON + MINUTE
        side.agents.change(1, councilor(value="20m"))
        await turned_until(lambda: side.jobs.jobs["scout"].next_run_at == NOON + 20.5 * MINUTE)
        await turned()
    assert drift(side) == NONE


async def test_what_was_undone_between_two_streams_is_no_drift() -> None:
    """Positions are whole seconds: what was told since may be newer than what they stand for."""
    async with following(councilor()) as side:
        side.agents.position = NOON + MINUTE
        side.clock.advance(1.1 * MINUTE)
        side.agents.change(1, councilor(value="20m"))
        await turned_until(lambda: side.jobs.jobs["scout"].next_run_at == NOON + 21.1 * MINUTE)
        side.clock.advance(0.1 * MINUTE)
        write_unheard(side, 1, councilor())
        await compared(side)
        assert side.jobs.jobs["scout"].next_run_at == NOON + 31.2 * MINUTE
    assert drift(side) == NONE


async def test_an_agent_id_that_another_document_has_taken_has_not_drifted() -> None:
    """The smaller `_id` has it: the other one did not change, and need not have been told of."""
    async with following({}, councilor()) as side:
        side.clock.advance(2 * MINUTE)
        side.agents.position = NOON + MINUTE
        write_unheard(side, 1, councilor())
        # Judged in one step with the first, since it is not to the byte what it was.
        write_unheard(side, 2, councilor(councilor_run_requested_at=NOON))
        await compared(side)
        await turned_until(lambda: side.jobs.jobs["scout"].key == key_of(1))
        for later in (2 * MINUTE, 3 * MINUTE, 4 * MINUTE):
            side.agents.position = NOON + later
            await compared(side)
        side.clock.advance(5 * MINUTE)
        write_unheard(side, 1, {"agent_id": "scout"})
        await compared(side)
        await turned_until(lambda: side.jobs.jobs["scout"].key == key_of(2))
    assert drift(side) == NONE


async def test_a_database_that_does_not_answer_has_nothing_to_say_about_drift() -> None:
    async with following(councilor()) as side:
        side.agents.position = NOON + MINUTE
        asked = list[object]()

        async def look(keys: object) -> Never:
            asked.append(keys)
            raise Unavailable("no primary")

        side.agents.look = look  # type: ignore[method-assign]
        write_unheard(side, 2, councilor("new"))
        await compared(side)
        assert asked == [[key_of(2)]]
        assert side.health.watching
        assert drift(side) == NONE
