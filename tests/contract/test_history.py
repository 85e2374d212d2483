"""What people read of the ledger: the fake that unit tests trust, and the real collection."""

from datetime import datetime, timedelta
from typing import Any

import bson
import pytest
from bson import DatetimeMS
from bson.raw_bson import RawBSONDocument

from service.adapters.mongo.client import Client
from service.adapters.mongo.history import MongoHistory
from service.domain.execution import NotRun, Reason, Status, Stretch, Trigger
from service.domain.severity import Severity
from service.ports import EndedRuns, History, HistoryQuery, Ledger, LedgerRow, UnknownRow
from tests.claiming import opened
from tests.contract.test_ledger import MINUTE, history, ledger, outcome, run_of
from tests.fakes import NOON

__all__ = ["history", "ledger"]


async def ran(ledger: Ledger, minutes: int, agent_id: str = "scout", **end: Any) -> str:
    run = run_of(agent_id, minutes)
    await opened(ledger, run)
    ended_at = NOON + minutes * MINUTE + timedelta(seconds=2)
    assert await ledger.close(run, None, outcome(completed_at=ended_at, **end))
    return run.execution_id


def not_run(
    minutes: int, stretch: Stretch | None = None, trigger: Trigger = Trigger.SCHEDULE
) -> NotRun:
    slot = NOON + minutes * MINUTE
    status, reason = (Status.MISSED, Reason.OUTAGE) if stretch else (Status.SKIPPED, Reason.OVERLAP)
    return NotRun("scout", slot, trigger, status, reason, "hash", "replica-1", slot, stretch)


def ids(rows: Any) -> list[object]:
    return [row.fields["execution_id"] for row in rows]


async def test_pages_follow_each_other_latest_slot_first(ledger: Ledger, history: History) -> None:
    written = [await ran(ledger, n) for n in range(5)]
    first = await history.page("scout", HistoryQuery(2))
    second = await history.page("scout", HistoryQuery(2, after=str(ids(first)[-1])))
    third = await history.page("scout", HistoryQuery(2, after=str(ids(second)[-1])))
    assert ids([*first, *second, *third]) == written[::-1]
    assert await history.page("nobody", HistoryQuery(2)) == []
    with pytest.raises(UnknownRow):
        await history.page("scout", HistoryQuery(2, after="exec_of_somebody_else"))


async def test_pages_meet_within_a_slot_that_has_several_rows(
    ledger: Ledger, history: History
) -> None:
    """Runs that were asked for at the instant of a slot, say."""
    early = await ran(ledger, 0)
    names = [f"exec_scout_{n}_manual" for n in range(7)]
    for name in (names[n] for n in (3, 0, 6, 1, 5, 2, 4)):
        run = run_of("scout", 5, trigger=Trigger.MANUAL, execution_id=name, nonce=name)
        await opened(ledger, run)
        assert await ledger.close(run, None, outcome(completed_at=NOON + 6 * MINUTE))
    late = await ran(ledger, 9)
    for limit in (1, 2, 3, 4):
        found, after = list[object](), None
        while rows := await history.page("scout", HistoryQuery(limit, after)):
            assert len(rows) <= limit
            found += ids(rows)
            after = str(found[-1])
        assert found == [late, *names[::-1], early]


async def test_pages_are_of_a_kind(ledger: Ledger, history: History) -> None:
    ill = await ran(ledger, 0, status=Status.ERROR, severity=Severity.ERROR, error="why")
    await ran(ledger, 1)
    await ledger.record(not_run(2))
    for query in (HistoryQuery(severity=Severity.ERROR), HistoryQuery(status=Status.ERROR)):
        assert ids(await history.page("scout", query)) == [ill]
    (skipped,) = await history.page("scout", HistoryQuery(status=Status.SKIPPED))
    assert skipped.fields["reason"] == "overlap"


async def test_a_page_shows_the_beginning_of_an_output_and_a_row_all_of_it(
    ledger: Ledger, history: History
) -> None:
    output = "\N{GRINNING FACE}" * 10_000
    execution_id = await ran(ledger, 0, output=output)
    (row,) = await history.page("scout", HistoryQuery())
    assert row.fields["output"] == output[:4_000]
    assert [
        row.fields["output"] for row in await history.page("scout", HistoryQuery(is_whole=True))
    ] == [output]
    whole = await history.row("scout", execution_id)
    assert whole is not None
    assert whole.fields["output"] == output
    assert await history.row("somebody else", execution_id) is None
    assert "nonce" not in whole.fields


async def test_the_slot_at_an_instant_is_the_latest_that_is_not_after_it(
    ledger: Ledger, history: History
) -> None:
    early = await ran(ledger, 0)
    late = await ran(ledger, 10)
    manual = run_of("scout", 5, trigger=Trigger.MANUAL, execution_id="exec_scout_5_manual")
    await opened(ledger, manual)

    async def at(instant: datetime) -> object:
        row = await history.slot_at("scout", instant)
        return row.fields["execution_id"] if row is not None else None

    async def asked(first: int, last: int) -> object:
        row = await history.request_at("scout", NOON + first * MINUTE, NOON + last * MINUTE)
        return row.fields["execution_id"] if row is not None else None

    assert await at(NOON - timedelta(milliseconds=1)) is None
    assert await at(NOON) == early
    assert await at(NOON + 9 * MINUTE) == early
    assert await at(NOON + 10 * MINUTE) == late
    assert await asked(0, 4) is None
    assert await asked(0, 9) == await asked(5, 5) == manual.execution_id
    assert await asked(6, 9) is None


async def test_the_latest_of_many_agents_come_together(ledger: Ledger, history: History) -> None:
    """Ids that look like expressions, too."""
    names = ["scout", "$councilor_id", "a.b", "$$ROOT"]
    for agent_id in names:
        for minutes in range(3):
            await ran(ledger, minutes, agent_id)
    await ledger.record(not_run(3))
    latest = await history.latest([*names, "never ran"])
    assert latest.keys() == set(names)
    assert all(ids([row]) == [f"exec_{name}_{ms(2)}"] for name, row in latest.items())
    recent = await history.recent(names, 2)
    assert ids(recent["$$ROOT"]) == [f"exec_$$ROOT_{ms(n)}" for n in (2, 1)]
    assert [row.fields["status"] for row in recent["scout"]] == ["skipped", "completed"]
    assert await history.latest([]) == {}


def ms(minutes: int) -> int:
    return round((NOON + minutes * MINUTE).timestamp() * 1000)


async def test_what_has_ended_is_counted_by_time_and_kind(ledger: Ledger, history: History) -> None:
    await ran(ledger, 0)
    await ran(ledger, 1)
    await ran(ledger, 16, status=Status.ERROR, severity=Severity.ERROR, error="why")
    await ledger.record(not_run(17))
    await opened(ledger, run_of("still running", 18))
    found = await history.ended(NOON, NOON + 30 * MINUTE, 900)
    assert sorted(found, key=lambda group: (group.at, group.status)) == [
        EndedRuns(NOON, "completed", "success", 2, 3_986),
        EndedRuns(NOON + 15 * MINUTE, "error", "error", 1, 1_993),
        EndedRuns(NOON + 15 * MINUTE, "skipped", "warning", 1, 0),
    ]
    assert await history.ended(NOON - MINUTE, NOON, 900) == []


@pytest.mark.mongo
async def test_what_other_programs_wrote_hides_nothing(client: Client, database: str) -> None:
    """Bytes that are no UTF-8, dates beyond any calendar, fields of any type, or none."""
    rows = client[database]["executions"]
    real = MongoHistory(client, database, "executions")
    row = {"councilor_id": "scout", "execution_id": "AAAA", "output": "BBBB", "scheduled_for": NOON}
    bad = bson.encode(row).replace(b"BBBB", b"\xff\xfe\xff\xfe")
    await client[database].command("insert", "executions", documents=[RawBSONDocument(bad)])
    await rows.insert_many(
        [
            {"councilor_id": "scout", "scheduled_for": DatetimeMS(-(2**60)), "output": [1]},
            {"councilor_id": "scout", "scheduled_for": DatetimeMS(2**60), "severity": {"a": 1}},
            {"councilor_id": "scout", "completed_at": NOON, "severity": [1], "duration_ms": "x"},
            {"councilor_id": "scout", "execution_id": "good", "scheduled_for": NOON - MINUTE},
            {"councilor_id": ["scout"], "execution_id": 5},
        ]
    )
    found = await real.page("scout", HistoryQuery())
    assert len(found) >= 5
    assert {"AAAA", "good"} <= {row.fields.get("execution_id") for row in found}
    at_noon = await real.slot_at("scout", NOON)
    assert isinstance(at_noon, LedgerRow)
    assert at_noon.fields["execution_id"] == "AAAA"
    assert len((await real.recent(["scout"], 9))["scout"]) >= 5
    (group,) = await real.ended(NOON - MINUTE, NOON + MINUTE, 900)
    assert (group.count, group.duration_ms) == (1, 0)


@pytest.mark.mongo
async def test_a_day_is_counted_from_an_index_alone(client: Client, database: str) -> None:
    """No row is fetched: outputs may be large."""
    await MongoHistory(client, database, "executions").prepare()
    wanted = {"completed_at": {"$gte": NOON, "$lt": NOON + MINUTE, "$type": "date"}}
    fields = {"_id": 0, **dict.fromkeys(("completed_at", "severity", "status", "duration_ms"), 1)}
    stages = [
        {"$match": wanted},
        {"$sort": {"completed_at": -1}},
        {"$limit": 9},
        {"$project": fields},
    ]
    explained = await client[database].command(
        "explain", {"aggregate": "executions", "pipeline": stages, "cursor": {}}
    )
    assert "PROJECTION_COVERED" in str(explained)
    assert "FETCH" not in str(explained)


@pytest.mark.mongo
async def test_who_is_asked_for_is_looked_up_once_however_long_the_ledger_is(
    client: Client, database: str
) -> None:
    """The lookup begins from one row of the ledger, whichever, and not from each."""
    rows, asked = client[database]["councilor_executions"], ["scout", "guard", "nobody"]
    await rows.insert_many(
        {"_id": f"{name}_{n}", "councilor_id": name, "scheduled_for": NOON + n * MINUTE}
        for name in asked[:2]
        for n in range(9)
    )
    await client[database].command("profile", 2)
    found = await MongoHistory(client, database, rows.name).recent(asked, 3)
    await client[database].command("profile", 0)
    assert {name: len(rows) for name, rows in found.items()} == dict(
        zip(asked, (3, 3, 0), strict=True)
    )
    seen = client[database]["system.profile"].find({"command.aggregate": rows.name})
    assert [entry["nreturned"] async for entry in seen] == [len(asked)]
