"""What every ledger promises: the fake that unit tests trust, and the real collection."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.history import MongoHistory
from service.adapters.mongo.keys import key_of
from service.adapters.mongo.ledger import MongoLedger
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
    Stretch,
    Trigger,
    execution_id_of,
    interrupted,
)
from service.domain.severity import Severity
from service.ports import History, HistoryQuery, Ledger, Misconfigured, TakenSlots
from tests.claiming import opened
from tests.fakes import NOON, FakeLedger

MINUTE = timedelta(minutes=1)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mongo)])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "fake":
        yield FakeLedger()
        return
    database = request.getfixturevalue("database")
    async with connected(request.getfixturevalue("replica_set_url")) as client:
        real = MongoLedger(client, database, "executions", "agents")
        await real.prepare(keep_for=None)
        yield real


@pytest.fixture
def history(ledger: Ledger, request: pytest.FixtureRequest) -> History:
    """The same rows, as people read them."""
    if isinstance(ledger, FakeLedger):
        return ledger
    client, database = map(request.getfixturevalue, ("client", "database"))
    return MongoHistory(client, database, "executions")


def run_of(agent_id: str = "scout", minutes: int = 0, **changes: Any) -> Execution:
    slot = NOON + minutes * MINUTE
    execution = Execution(
        execution_id=execution_id_of(agent_id, slot, Trigger.SCHEDULE),
        agent_id=agent_id,
        scheduled_for=slot,
        trigger=Trigger.SCHEDULE,
        spec_hash="0123456789abcdef",
        owner="replica-1",
        nonce=f"nonce of {agent_id} {minutes}",
        started_at=slot + timedelta(milliseconds=7),
        attempts=(Attempt(slot + timedelta(milliseconds=7), None),),
    )
    return replace(execution, **changes)


def outcome(**changes: Any) -> Outcome:
    end = Outcome(
        status=Status.COMPLETED,
        severity=Severity.SUCCESS,
        completed_at=NOON + MINUTE / 2,
        output="all is well",
        error=None,
        reason=None,
    )
    return replace(end, **changes)


def missed(first: int, last: int) -> NotRun:
    stretch = Stretch(NOON + first * MINUTE, NOON + last * MINUTE, last - first + 1)
    return NotRun(
        agent_id="scout",
        scheduled_for=stretch.first,
        trigger=Trigger.SCHEDULE,
        status=Status.MISSED,
        reason=Reason.OUTAGE,
        spec_hash=None,
        owner="replica-1",
        at=NOON + timedelta(hours=1),
        stretch=stretch,
    )


async def test_a_slot_is_won_once(ledger: Ledger) -> None:
    assert await opened(ledger, run_of()) is Claim.WON
    assert await opened(ledger, run_of(nonce="another", owner="replica-2")) is Claim.TAKEN


async def test_a_claim_that_is_asked_for_again_is_still_ours(ledger: Ledger) -> None:
    """After an error nobody knows whether the row is there: the nonce tells."""
    await opened(ledger, run_of())
    assert await opened(ledger, run_of()) is Claim.WON


async def test_a_claim_that_is_withdrawn_leaves_the_slot_free(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    await ledger.withdraw(run_of(nonce="another's"))
    assert await ledger.known([run_of().execution_id])
    await ledger.withdraw(run_of())
    assert not await ledger.known([run_of().execution_id])
    await opened(ledger, run_of())
    await ledger.close(run_of(), None, outcome())
    await ledger.withdraw(run_of())
    assert await ledger.known([run_of().execution_id])


async def test_two_runs_of_one_agent_cannot_overlap(ledger: Ledger) -> None:
    await opened(ledger, run_of(minutes=0))
    assert await opened(ledger, run_of(minutes=1)) is Claim.OVERLAPS
    assert await opened(ledger, run_of("another", minutes=1)) is Claim.WON


async def test_the_next_slot_is_free_when_the_run_has_ended(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    await ledger.close(run_of(), None, outcome())
    assert await opened(ledger, run_of(minutes=1)) is Claim.WON


async def test_a_slot_that_was_recorded_cannot_be_claimed(ledger: Ledger) -> None:
    assert await ledger.record(missed(0, 0))
    assert await opened(ledger, run_of()) is Claim.TAKEN


async def test_a_slot_that_was_claimed_is_not_recorded_as_missed(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    assert not await ledger.record(missed(0, 3))


async def test_closing_needs_the_owner_and_its_nonce(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    assert not await ledger.close(run_of(owner="zombie"), None, outcome())
    assert not await ledger.close(run_of(nonce="zombie"), None, outcome())
    assert await ledger.running_of("replica-1") == [run_of()]


async def test_a_late_result_is_refused_when_the_run_was_closed_for_it(
    ledger: Ledger, history: History
) -> None:
    await opened(ledger, run_of())
    await ledger.close(run_of(), None, interrupted(run_of(), NOON + MINUTE, "gone"))
    assert not await ledger.close(run_of(), None, outcome())
    (row,) = await history.page("scout", HistoryQuery(10))
    assert (row.fields["status"], row.fields["reason"]) == (Status.ERROR, Reason.INTERRUPTED)


async def test_closing_twice_the_same_way_says_yes_twice(ledger: Ledger) -> None:
    """The first answer may be lost on its way."""
    await opened(ledger, run_of())
    assert await ledger.close(run_of(), None, outcome())
    assert await ledger.close(run_of(), None, outcome())


async def test_a_closed_row_says_how_it_ended(ledger: Ledger, history: History) -> None:
    await opened(ledger, run_of())
    end = outcome(status=Status.ERROR, severity=Severity.ERROR, error="no", reason=Reason.FAILED)
    await ledger.close(run_of(), None, end)
    (row,) = await history.page("scout", HistoryQuery(10))
    assert row.fields["error"] == "no"
    assert row.fields["severity"] == Severity.ERROR
    assert row.fields["duration_ms"] == 29_993
    assert "nonce" not in row.fields


async def test_taken_are_the_slots_that_have_a_row(ledger: Ledger) -> None:
    assert await ledger.taken("scout", NOON) == []
    await opened(ledger, run_of(minutes=7))
    await ledger.record(missed(1, 5))
    await opened(ledger, run_of("another", minutes=9))
    stretch = TakenSlots(NOON + MINUTE, NOON + 5 * MINUTE, provisional_since=missed(1, 5).at)
    run = TakenSlots(NOON + 7 * MINUTE, NOON + 7 * MINUTE)
    assert await ledger.taken("scout", NOON + 3 * MINUTE) == [stretch, run]
    assert await ledger.taken("scout", NOON + 6 * MINUTE) == [run]


async def test_a_run_that_was_asked_for_takes_no_slot(ledger: Ledger) -> None:
    await opened(ledger, run_of(trigger=Trigger.MANUAL))
    assert await ledger.taken("scout", NOON) == []


async def test_a_stretch_is_provisional_until_it_is_confirmed(
    ledger: Ledger, history: History
) -> None:
    await ledger.record(missed(1, 5))
    shorter = Stretch(NOON + MINUTE, NOON + 3 * MINUTE, 3)
    await ledger.confirm(replace(missed(1, 5), stretch=shorter, owner="another"))
    (slots,) = await ledger.taken("scout", NOON)
    assert slots.provisional_since == missed(1, 5).at
    await ledger.confirm(replace(missed(1, 5), stretch=shorter))
    assert await ledger.taken("scout", NOON) == [TakenSlots(shorter.first, shorter.last)]
    (row,) = await history.page("scout", HistoryQuery(10))
    assert (row.fields["slots_missed"], "provisional" in row.fields) == (3, False)


async def test_a_stretch_whose_answer_was_lost_is_recorded_again_until_it_is_final(
    ledger: Ledger,
) -> None:
    assert await ledger.record(missed(1, 5))
    assert not await ledger.record(replace(missed(1, 7), owner="another"))
    assert await ledger.record(missed(1, 7))
    (slots,) = await ledger.taken("scout", NOON)
    assert slots.last == NOON + 7 * MINUTE
    await ledger.confirm(missed(1, 7))
    assert not await ledger.record(missed(1, 7))


async def test_a_provisional_stretch_may_become_the_row_of_its_first_slot(
    ledger: Ledger, history: History
) -> None:
    """The agent was deleted before the stretch was final."""
    await ledger.record(missed(1, 5))
    deleted = replace(missed(1, 5), stretch=None, status=Status.SKIPPED, reason=Reason.DELETED)
    assert await ledger.record(deleted)
    assert await ledger.taken("scout", NOON) == [TakenSlots(NOON + MINUTE, NOON + MINUTE)]
    (row,) = await history.page("scout", HistoryQuery(10))
    assert "slots_missed" not in row.fields


async def test_a_row_that_gives_way_is_gone_unless_it_is_anothers(ledger: Ledger) -> None:
    await ledger.record(missed(1, 1))
    await ledger.discard(replace(missed(1, 1), owner="another"))
    assert len(await ledger.taken("scout", NOON)) == 1
    await ledger.discard(missed(1, 1))
    assert await ledger.taken("scout", NOON) == []


async def test_a_claim_that_may_have_arrived_becomes_the_row_that_is_recorded(
    ledger: Ledger,
    history: History,
) -> None:
    await opened(ledger, run_of(nonce="ours"))
    not_run = replace(missed(0, 0), stretch=None, owner="replica-1")
    assert not await ledger.record(replace(not_run, nonce="another's"))
    assert await ledger.record(replace(not_run, nonce="ours"))
    (row,) = await history.page("scout", HistoryQuery(10))
    assert (row.fields["status"], row.fields["reason"]) == (Status.MISSED, Reason.OUTAGE)
    assert await ledger.running_of("replica-1") == []


async def test_a_row_whose_answer_was_lost_is_recorded_again_by_its_owner_alone(
    ledger: Ledger,
) -> None:
    not_run = replace(missed(0, 0), stretch=None)
    assert await ledger.record(not_run)
    assert await ledger.record(replace(not_run, at=not_run.at + MINUTE))
    assert not await ledger.record(replace(not_run, owner="another"))
    assert not await ledger.record(replace(not_run, reason=Reason.STALE))


async def test_a_run_that_has_begun_another_call_meanwhile_is_not_taken_over(
    ledger: Ledger,
) -> None:
    """Its owner only slept, between the look at its row and the attempt to take it."""
    await opened(ledger, run_of())
    refused = (Attempt(NOON, "cannot connect"),)
    await ledger.note_attempts(run_of(), refused)
    await ledger.note_attempts(run_of(), (*refused, Attempt(NOON, None)))
    second = run_of(owner="replica-2", nonce="second")
    assert not await ledger.take_over(run_of(attempts=refused), second)


async def test_calls_are_on_record_while_a_run_goes_on(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    refused = (Attempt(NOON, "cannot connect"),)
    assert await ledger.note_attempts(run_of(), refused)
    (found,) = await ledger.running_of("replica-1")
    assert found.attempts == refused
    assert found.is_surely_not_accepted
    assert not await ledger.note_attempts(run_of(owner="zombie"), ())
    await ledger.close(run_of(), None, outcome())
    assert not await ledger.note_attempts(run_of(), ())


async def test_a_run_is_taken_over_once_and_its_old_owner_has_no_say_any_more(
    ledger: Ledger,
) -> None:
    await opened(ledger, run_of())
    second = run_of(owner="replica-2", nonce="second")
    assert await ledger.take_over(run_of(), second)
    assert not await ledger.take_over(run_of(), run_of(owner="replica-3", nonce="third"))
    assert not await ledger.close(run_of(), None, outcome())
    assert not await ledger.note_attempts(run_of(), ())
    assert await ledger.running_of("replica-2") == [second]
    assert await ledger.close(second, None, outcome())


async def test_known_are_those_with_a_row(ledger: Ledger) -> None:
    await opened(ledger, run_of())
    other = run_of(minutes=1).execution_id
    assert await ledger.known([run_of().execution_id, other]) == {run_of().execution_id}


async def test_latest_is_the_latest_start(ledger: Ledger, history: History) -> None:
    for minutes in (0, 2, 1):
        await opened(ledger, run_of(minutes=minutes))
        await ledger.close(run_of(minutes=minutes), None, outcome())
    await ledger.record(missed(5, 9))
    latest = await history.latest(["scout", "never ran"])
    assert {name: row.fields["scheduled_for"] for name, row in latest.items()} == {
        "scout": NOON + 2 * MINUTE
    }


async def test_history_is_latest_slot_first_and_limited(ledger: Ledger, history: History) -> None:
    await ledger.record(missed(5, 9))
    await opened(ledger, run_of())
    rows = await history.page("scout", HistoryQuery(1))
    assert [row.fields["slots_missed"] for row in rows] == [5]
    assert len(await history.page("scout", HistoryQuery(10))) == 2


async def test_orphans_are_the_running_rows_of_nobody_alive(ledger: Ledger) -> None:
    await opened(ledger, run_of("a"))
    await opened(ledger, run_of("b", owner="dead"))
    assert [run.agent_id for run in await ledger.running_of_others(["replica-1"])] == ["b"]


@pytest.mark.mongo
async def test_a_run_that_a_crash_kept_from_being_counted_is_counted_once(
    client: Client, database: str
) -> None:
    """Killed after the row was closed, or after it was counted: the fold comes out the same."""
    agents, rows = client[database]["agents"], client[database]["executions"]
    await agents.insert_one(
        {"agent_id": "scout", "stats": {"total_executions": 4, "success_rate": 50}}
    )
    ledger = MongoLedger(client, database, "executions", "agents")
    await ledger.prepare(keep_for=None)
    await opened(ledger, run_of())
    await ledger.close(run_of(), None, outcome())
    assert await ledger.count_forgotten(NOON + MINUTE) == 0
    await rows.update_one({}, {"$set": {"counted": False}})  # counted, but the row does not say so
    assert await ledger.count_forgotten(NOON) == 0  # too fresh: its replica may be at it
    assert await ledger.count_forgotten(NOON + MINUTE) == 1
    await agents.update_one({}, {"$unset": {"stats.counted": ""}})
    await rows.update_one({}, {"$set": {"counted": False}})  # not counted, as far as anybody knows
    assert await ledger.count_forgotten(NOON + MINUTE) == 1
    agent = await agents.find_one()
    assert agent is not None
    assert agent["stats"]["total_executions"] == 6
    assert agent["stats"]["successful_executions"] == 4
    assert agent["stats"]["success_rate"] == 66.7
    assert await rows.count_documents({"counted": {"$exists": True}}) == 0


@pytest.mark.mongo
async def test_a_slot_is_won_once_even_without_indexes_and_they_come_back(
    client: Client, database: str
) -> None:
    rows = client[database]["executions"]
    ledger = MongoLedger(client, database, "executions", "agents")
    await ledger.prepare(keep_for=None)
    indexes = set(await rows.index_information())
    await rows.drop()
    assert await opened(ledger, run_of()) is Claim.WON
    assert await opened(ledger, run_of(nonce="another")) is Claim.TAKEN
    await ledger.restore_indexes()
    assert set(await rows.index_information()) == indexes


@pytest.mark.mongo
@pytest.mark.parametrize("days", [None, 90])
async def test_with_the_collection_rows_expire_again_as_they_did(
    client: Client, database: str, days: int | None
) -> None:
    rows = client[database]["executions"]
    ledger = MongoLedger(client, database, "executions", "agents")
    await ledger.prepare(keep_for=timedelta(days=days) if days else None)
    indexes = await rows.index_information()
    await rows.rename("executions_of_yesterday")
    await opened(ledger, run_of())
    await ledger.restore_indexes()
    assert await rows.index_information() == indexes


@pytest.mark.mongo
async def test_an_expiry_that_another_replica_has_ended_stays_so(
    client: Client, database: str
) -> None:
    """While settings are rolled out, those of old and new replicas differ."""
    old, new = (MongoLedger(client, database, "executions", "agents") for _ in range(2))
    await old.prepare(keep_for=timedelta(days=90))
    await new.prepare(keep_for=None)
    await old.restore_indexes()
    assert "expiry" not in await client[database]["executions"].index_information()


@pytest.mark.mongo
async def test_running_rows_of_other_programs_stop_nothing(client: Client, database: str) -> None:
    rows = client[database]["executions"]
    await rows.insert_one({"execution_id": "z", "status": "running", "owner": "theirs"})
    ledger = MongoLedger(client, database, "executions", "agents")
    assert await ledger.running_of_others([]) == []


@pytest.mark.mongo
async def test_a_document_that_refuses_statistics_does_without_them(
    client: Client, database: str
) -> None:
    """A validator of the user's that refuses statistics costs the statistics, not the row."""
    agents = client[database]["agents"]
    document_id = (await agents.insert_one({"agent_id": "scout", "stats": {}})).inserted_id
    ledger = MongoLedger(client, database, "executions", "agents")
    await ledger.prepare(keep_for=None)
    await client[database].command("collMod", "agents", validator={"stats": {}})
    await opened(ledger, run_of())
    assert await ledger.close(run_of(), key_of(document_id), outcome())
    assert await ledger.running_of("replica-1") == []
    (agent,) = await agents.find().to_list(None)
    assert agent["stats"] == {}


@pytest.mark.mongo
async def test_what_the_predecessor_left_neither_stops_us_nor_is_lost(
    client: Client, database: str
) -> None:
    """Rows without an owner, a run without an end, indexes under other names."""
    rows = client[database]["executions"]
    await rows.create_index("execution_id", unique=True, name="theirs")
    await rows.create_index([("councilor_id", 1), ("started_at", -1)], name="theirs too")
    running = {"councilor_id": "scout", "status": "running", "started_at": NOON}
    await rows.insert_many([{**running, "execution_id": "1"}, {**running, "execution_id": "2"}])
    ledger = MongoLedger(client, database, "executions", "agents")
    for _ in range(2):
        await ledger.prepare(keep_for=timedelta(days=90))
    assert await opened(ledger, run_of()) is Claim.WON
    assert await ledger.running_of_others([]) == [run_of()]
    found = await MongoHistory(client, database, "executions").page("scout", HistoryQuery(10))
    assert sorted(str(row.fields["reason"]) for row in found) == [
        "None",
        "interrupted",
        "interrupted",
    ]


@pytest.mark.mongo
async def test_rows_that_forbid_the_unique_index_are_told_of(client: Client, database: str) -> None:
    rows = client[database]["executions"]
    await rows.insert_many([{"execution_id": "same"}, {"execution_id": "same"}])
    with pytest.raises(Misconfigured, match="SCHEDULER_EXECUTIONS_COLLECTION"):
        await MongoLedger(client, database, "executions", "agents").prepare(keep_for=None)


@pytest.mark.mongo
async def test_rows_expire_after_the_time_that_was_set_last(client: Client, database: str) -> None:
    ledger = MongoLedger(client, database, "executions", "agents")
    rows = client[database]["executions"]
    for keep_for, expected in ((1, 86_400), (2, 172_800)):
        await ledger.prepare(keep_for=timedelta(days=keep_for))
        assert (await rows.index_information())["expiry"]["expireAfterSeconds"] == expected
    await ledger.prepare(keep_for=None)
    assert "expiry" not in await rows.index_information()


DATE = [("created_at", 1)]


@pytest.mark.mongo
async def test_another_time_to_keep_rows_rebuilds_no_index(client: Client, database: str) -> None:
    ledger, rows = MongoLedger(client, database, "executions", "agents"), client[database]
    await ledger.prepare(keep_for=timedelta(days=1))
    async with rows.watch([], show_expanded_events=True) as changes:
        await ledger.prepare(keep_for=timedelta(days=2))
        await rows["executions"].insert_one({"execution_id": "last"})
        kinds = [(await changes.next())["operationType"] for _ in range(2)]
    assert kinds == ["modify", "insert"]


@pytest.mark.mongo
@pytest.mark.parametrize("name", ["expiry", "created_at_1"])
async def test_an_index_without_expiry_is_named_with_the_setting(
    client: Client, database: str, name: str
) -> None:
    await client[database]["executions"].create_index(DATE, name=name)
    with pytest.raises(Misconfigured) as told:
        await MongoLedger(client, database, "executions", "agents").prepare(timedelta(days=1))
    assert str(told.value).startswith("SCHEDULER_EXECUTION_TTL: ")
    assert f'dropIndex("{name}")' in str(told.value)


@pytest.mark.mongo
async def test_an_index_of_that_name_on_something_else_is_named(
    client: Client, database: str
) -> None:
    await client[database]["executions"].create_index("mine", name="expiry")
    for keep_for in (timedelta(days=1), None):
        with pytest.raises(Misconfigured, match="expiry"):
            await MongoLedger(client, database, "executions", "agents").prepare(keep_for)


@pytest.mark.mongo
@pytest.mark.parametrize("keep_for", [timedelta(days=1), None])
async def test_an_operators_own_expiry_stays_as_it_is(
    client: Client, database: str, keep_for: timedelta | None
) -> None:
    rows = client[database]["executions"]
    await rows.create_index(DATE, name="theirs", expireAfterSeconds=7)
    await MongoLedger(client, database, "executions", "agents").prepare(keep_for)
    indexes = await rows.index_information()
    assert indexes["theirs"]["expireAfterSeconds"] == 7
    assert "expiry" not in indexes


@pytest.mark.mongo
@pytest.mark.parametrize("kind", ["time series", "view"])
async def test_what_is_no_plain_collection_is_told_of_and_not_waited_for(
    client: Client, database: str, kind: str
) -> None:
    options: dict[str, Any] = {"timeseries": {"timeField": "created_at"}}
    if kind == "view":
        options = {"viewOn": "other", "pipeline": []}
    await client[database].create_collection("executions", **options)
    with pytest.raises(Misconfigured, match="SCHEDULER_EXECUTIONS_COLLECTION"):
        await MongoLedger(client, database, "executions", "agents").prepare(timedelta(days=1))


def test_a_stretch_is_final_when_its_writer_said_so_or_has_died() -> None:
    stretch = TakenSlots(NOON, NOON + 2 * MINUTE, provisional_since=NOON)
    assert not stretch.is_final(NOON + timedelta(seconds=10))
    assert stretch.is_final(NOON + timedelta(seconds=11))
    assert replace(stretch, provisional_since=None).is_final(NOON)
    assert [stretch.covers(NOON + n * MINUTE) for n in range(4)] == [False, True, True, False]
