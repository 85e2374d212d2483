"""What travels as one on a real database: claims, closings and statistics, each for itself."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS
from pymongo import InsertOne, UpdateOne
from pymongo.errors import DuplicateKeyError, WriteError

from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.bulks import Operation, changed_at_once, write_all
from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.keys import key_of
from service.adapters.mongo.ledger import MongoLedger
from service.adapters.mongo.stats import CountedRun, Sums, counted, counted_in, summed
from service.domain.execution import Claim, Execution, Stretch
from service.domain.severity import Severity
from service.ports import Refused, TakenSlots
from tests.claiming import opened
from tests.contract.test_ledger import MINUTE, missed, outcome, run_of
from tests.fakes import NOON

pytestmark = pytest.mark.mongo
_SUMS = ("total_executions", "successful_executions", "success_rate", "last_execution", "counted")


@pytest.fixture
async def ledger(replica_set_url: str, database: str) -> AsyncIterator[MongoLedger]:
    async with connected(replica_set_url) as client:
        ledger = MongoLedger(client, database, "executions", "agents")
        await ledger.prepare(keep_for=None)
        yield ledger


async def stats_of(client: Client, database: str, document_id: object) -> Any:
    found = await client[database]["agents"].find_one({"_id": document_id})
    assert found is not None
    return found.get("stats")


async def test_claims_of_one_bulk_each_get_their_own_answer(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    rows = client[database]["executions"]
    await opened(ledger, run_of("taken"))
    await opened(ledger, run_of("busy", minutes=0))
    validator = {"councilor_id": {"$ne": "refused"}}
    await client[database].command("collMod", "executions", validator=validator)
    claims = await asyncio.gather(
        opened(ledger, run_of("taken", nonce="another")),
        opened(ledger, run_of("fresh")),
        opened(ledger, run_of("busy", minutes=1)),
        opened(ledger, run_of("refused")),
        opened(ledger, run_of("taken")),
        opened(ledger, run_of("fresh too")),
        return_exceptions=True,
    )
    answers = [Refused if isinstance(claim, Refused) else claim for claim in claims]
    assert answers == [
        Claim.TAKEN,
        Claim.WON,
        Claim.OVERLAPS,
        Refused,
        Claim.WON,
        Claim.WON,
    ]
    assert await rows.count_documents({}) == 4


async def test_two_claims_of_one_slot_in_one_bulk_have_one_winner(ledger: MongoLedger) -> None:
    claims = await asyncio.gather(*(opened(ledger, run_of(nonce=str(n))) for n in range(5)))
    assert sorted(claims) == sorted([Claim.WON, *[Claim.TAKEN] * 4])


async def test_a_row_that_cannot_be_sent_fails_for_no_other(ledger: MongoLedger) -> None:
    """The driver refuses a bulk as a whole where it cannot encode one of its rows."""
    odd = run_of("odd", spec_hash=object())
    asked = (opened(ledger, run) for run in (run_of("a"), odd, run_of("b")))
    async with asyncio.timeout(20):
        claims = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(claims[1], Refused)
    assert (claims[0], claims[2]) == (Claim.WON, Claim.WON)


async def test_a_bulk_names_what_became_of_each(client: Client, database: str) -> None:
    rows = client[database]["rows"]
    await rows.insert_one({"_id": 1})
    await client[database].command("collMod", "rows", validator={"bad": {"$exists": False}})
    update = UpdateOne({"_id": 1}, {"$set": {"a": 1}})
    nobody = UpdateOne({"_id": 99}, {"$set": {"a": 1}})
    refused = InsertOne({"_id": 3, "bad": 1})
    operations: list[Operation] = [
        InsertOne({"_id": 1}),
        update,
        nobody,
        refused,
        InsertOne({"_id": 2}),
    ]
    written = await write_all(rows, operations)
    kinds = [type(failure) for failure in written.failures]
    assert kinds == [DuplicateKeyError, type(None), type(None), WriteError, type(None)]
    assert (written.is_whole, written.matched) == (False, 1)
    assert await rows.count_documents({}) == 2
    assert (await write_all(rows, [update, nobody])).is_whole


async def test_closings_of_one_bulk_each_get_their_own_answer(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    """One was taken over, one was closed for it, one is there no more."""
    names = ["ours", "taken over", "closed", "gone", "ours too"]
    documents = [{"_id": name, "agent_id": name} for name in names]
    await client[database]["agents"].insert_many(documents)
    runs = [run_of(name) for name in names]
    for run in runs:
        await opened(ledger, run)
    assert await ledger.take_over(runs[1], replace(runs[1], owner="replica-2", nonce="2"))
    assert await ledger.close(runs[2], key_of("closed"), outcome(completed_at=NOON + MINUTE))
    await ledger.withdraw(runs[3])
    answers = await asyncio.gather(
        *(ledger.close(run, key_of(run.agent_id), outcome()) for run in runs)
    )
    assert answers == [True, False, False, False, True]
    counts = [await total_of(client, database, name) for name in names]
    assert counts == [1, 0, 1, 0, 1]
    row = await client[database]["executions"].find_one({"councilor_id": "taken over"}) or {}
    assert (row["status"], row["owner"]) == ("running", "replica-2")


async def total_of(client: Client, database: str, document_id: object) -> int:
    stats = await stats_of(client, database, document_id)
    return stats["total_executions"] if stats is not None else 0


async def test_closing_twice_at_the_same_time_counts_once(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    """The answer to the first may have been lost, with its count or before it."""
    await client[database]["agents"].insert_one({"_id": 1, "agent_id": "scout"})
    await opened(ledger, run_of())
    close = [ledger.close(run_of(), key_of(1), outcome()) for _ in range(3)]
    assert await asyncio.gather(*close) == [True] * 3
    assert await ledger.close(run_of(), key_of(1), outcome())
    assert await total_of(client, database, 1) == 1
    assert await client[database]["executions"].count_documents({"counted": False}) == 0


async def test_runs_of_one_agent_in_one_bulk_are_all_counted(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    """Each counts on what the one before it has left."""
    await client[database]["agents"].insert_one({"_id": 1, "agent_id": "scout"})
    runs = await ended_runs(client, database, 7)
    severities = [Severity.SUCCESS, Severity.ERROR, *[Severity.SUCCESS] * 5]
    await asyncio.gather(
        *(
            ledger.close(run, key_of(1), outcome(severity=severity, completed_at=NOON + n * MINUTE))
            for n, (run, severity) in enumerate(zip(runs, severities, strict=True))
        )
    )
    stats = await stats_of(client, database, 1)
    assert [stats[name] for name in _SUMS[:4]] == [7, 6, 85.7, NOON + 6 * MINUTE]
    assert len(stats["counted"]) == 7


async def ended_runs(client: Client, database: str, count: int) -> Sequence[Execution]:
    """Running rows of one agent, which the index would let it have one after the other only."""
    rows = client[database]["executions"]
    await rows.drop_indexes()
    ledger = MongoLedger(client, database, "executions", "agents")
    runs = [run_of(minutes=n) for n in range(count)]
    for run in runs:
        assert await opened(ledger, run) is Claim.WON
    return runs


OURS: dict[str, Any] = {
    "total_executions": 1,
    "successful_executions": 1,
    "success_rate": 100.0,
    "last_execution": NOON,
    "counted": ["01234567"],
}


@pytest.mark.parametrize("seen", [None, OURS], ids=["no statistics seen", "our own seen"])
async def test_statistics_that_have_changed_since_they_were_seen_keep_that_change(
    ledger: MongoLedger, client: Client, database: str, seen: object
) -> None:
    """What was seen is a guard: where it is not there any more, the server counts on what is."""
    by_now = {**OURS, "total_executions": 10, "success_rate": 50, "theirs": "kept"}
    await client[database]["agents"].insert_one({"_id": 1, "agent_id": "scout", "stats": by_now})
    await opened(ledger, run_of())
    assert await ledger.close(run_of(), key_of(1), outcome(), seen)
    stats = await stats_of(client, database, 1)
    assert (stats["total_executions"], stats["theirs"]) == (11, "kept")
    assert (stats["successful_executions"], len(stats["counted"])) == (2, 2)


async def test_what_was_seen_when_slots_came_due_is_counted_on_at_once(
    ledger: MongoLedger, client: Client, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one statement for all, as long as nobody else has counted."""

    async def nothing_else(*_: object) -> None:
        raise AssertionError

    statistics = {"fresh": {}, "ours": {"stats": OURS}, "more": {"stats": {**OURS, "by": "them"}}}
    await client[database]["agents"].insert_many(
        {"_id": name, "agent_id": name, **stats} for name, stats in statistics.items()
    )
    agents = MongoAgents(client, database, "agents")
    looked = await agents.look([key_of(name) for name in statistics])
    for name in statistics:
        await opened(ledger, run_of(name))
    monkeypatch.setattr("service.adapters.mongo.endings.write_all", nothing_else)
    answers = await asyncio.gather(
        *(
            ledger.close(run_of(name), key_of(name), outcome(), (seen.fields or {}).get("stats"))
            for name, seen in zip(statistics, looked, strict=True)
        )
    )
    assert answers == [True] * 3
    assert [await total_of(client, database, name) for name in statistics] == [1, 2, 2]
    assert (await stats_of(client, database, "more"))["by"] == "them"
    assert await client[database]["executions"].count_documents({"counted": False}) == 0


ODD: dict[str, Any] = {
    "text": "none yet",
    "null": None,
    "list": [1, 2],
    "nothing in it": {},
    "a text as total": {"total_executions": "7", "successful_executions": 3},
    "a total below zero": {"total_executions": -4, "successful_executions": 3, "counted": []},
    "a float": {"total_executions": 4.0, "successful_executions": 2, "counted": []},
    "marks that are no list": {"total_executions": 4, "counted": "abc"},
    "no last execution": {"total_executions": 1, "successful_executions": 1, "counted": []},
    "the predecessor's": {"total_executions": 4, "success_rate": 50},
}


async def test_odd_statistics_are_counted_by_the_server_beside_others(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    """One document that has to be looked at by the server costs no other its count."""
    agents = client[database]["agents"]
    documents = [{"_id": name, "agent_id": name, "stats": stats} for name, stats in ODD.items()]
    await agents.insert_many([*documents, {"_id": "new", "agent_id": "new"}])
    names = [*ODD, "new", "deleted"]
    for name in names:
        await opened(ledger, run_of(name))
    answers = await asyncio.gather(
        *(ledger.close(run_of(name), key_of(name), outcome()) for name in names)
    )
    assert answers == [True] * len(names)
    counts = {name: await total_of(client, database, name) for name in [*ODD, "new"]}
    assert counts == dict.fromkeys(ODD, 1) | {
        "a float": 5,
        "marks that are no list": 5,
        "no last execution": 2,
        "the predecessor's": 5,
        "new": 1,
    }
    assert await client[database]["executions"].count_documents({"counted": False}) == 0


@pytest.mark.parametrize("odd", ODD)
def test_odd_statistics_are_left_to_the_server(odd: str) -> None:
    run = CountedRun("run", Severity.SUCCESS, NOON)
    assert (counted_in(ODD[odd], run) is None) == (ODD[odd] is not None)


async def test_statistics_are_the_same_whoever_counts(client: Client, database: str) -> None:
    """To the last decimal, for hundreds of counts: by what was read, and by the server."""
    documents, random = client[database]["agents"], Random(1)
    pairs = [(total, good) for total in range(25) for good in range(total + 1)]
    pairs += [(total, random.randint(0, total)) for total in random.sample(range(25, 9_999), 150)]
    pairs += [(799, good) for good in range(0, 800, 7)]  # x.x5 %: half, to even
    stats: list[dict[str, Any] | None] = [None, None]
    for total, good in pairs:
        marks = [f"{random.getrandbits(32):08x}" for _ in range(min(total, 20))]
        latest = NOON + timedelta(minutes=random.randint(-9, 9))
        stats.append(dict(zip(_SUMS, (total, good, 0.0, latest, marks), strict=True)))
    severities = [Severity.SUCCESS, Severity.ERROR]
    runs = [CountedRun(str(n), severities[n % 2], NOON) for n in range(len(stats))]
    await documents.insert_many(
        [
            {"_id": f"{side} {n}", "agent_id": "agent", **({} if said is None else {"stats": said})}
            for side in ("read", "server")
            for n, said in enumerate(stats)
        ]
    )
    for _ in range(2):
        found = {document["_id"]: document.get("stats") async for document in documents.find()}
        sums: list[tuple[Any, str, Sums]] = []
        for n, run in enumerate(runs):
            added = counted_in(found[f"read {n}"], run)
            assert added is not None
            sums.append((f"read {n}", "agent", added))
        changed = await changed_at_once(documents, {"_id": {"$regex": "^read"}}, summed(sums))
        assert changed == sum(pair.after != pair.before for _, _, pair in sums)
        updates = [UpdateOne({"_id": f"server {n}"}, counted(run)) for n, run in enumerate(runs)]
        assert (await write_all(documents, updates)).is_whole
        after = {document["_id"]: document["stats"] async for document in documents.find()}
        differing = [n for n in range(len(runs)) if after[f"read {n}"] != after[f"server {n}"]]
        assert differing == []
    totals = [after[f"read {n}"]["total_executions"] for n in range(len(runs))]
    assert totals == [1, 1, *(total + 1 for total, _ in pairs)], "asked for twice, counted once"


async def test_an_output_that_is_no_text_fails_for_no_other(ledger: MongoLedger) -> None:
    runs = [run_of("a"), run_of("b")]
    for run in runs:
        await opened(ledger, run)
    said = await asyncio.gather(
        ledger.close(runs[0], None, outcome(output="\ud800")),
        ledger.close(runs[1], None, outcome()),
        return_exceptions=True,
    )
    assert isinstance(said[0], Refused)
    assert said[1] is True


async def test_a_row_that_is_too_large_fails_for_no_other(ledger: MongoLedger) -> None:
    said = await asyncio.gather(
        opened(ledger, run_of("small")),
        opened(ledger, run_of("huge", spec_hash="x" * 17_000_000)),
        opened(ledger, run_of("other")),
        return_exceptions=True,
    )
    assert isinstance(said[1], Refused)
    assert (said[0], said[2]) == (Claim.WON, Claim.WON)


async def test_what_is_taken_is_told_to_each_who_asks(
    ledger: MongoLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one asks for so long ago that its rows would hide those of the others."""
    for minute in range(8):
        await ledger.record(replace(missed(minute, minute), agent_id="old", stretch=None))
    await ledger.record(replace(missed(1, 5), agent_id="new"))
    await ledger.record(replace(missed(7, 7), agent_id="new", stretch=None))
    asked = [("old", 0), ("new", 4), ("none", 0), ("new", 6), ("old", 7), ("new", -9_999)]
    slots = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 7], [], [7], [7], [1, 7]]
    for most in (1_000, 5):
        monkeypatch.setattr("service.adapters.mongo.taken._MOST_TOGETHER", most)
        taken = await asyncio.gather(
            *(ledger.taken(agent_id, NOON + minutes * MINUTE) for agent_id, minutes in asked)
        )
        assert [[(row.first - NOON) / MINUTE for row in rows] for rows in taken] == slots


async def test_rows_of_other_programs_keep_nobody_from_an_answer(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    await ledger.record(replace(missed(1, 5), agent_id="good"))
    foreign: dict[str, Any] = {"councilor_id": "odd", "scheduled_for": NOON}
    far = DatetimeMS(2**50)
    rows = [
        foreign | {"councilor_id": ["odd", "good"], "last_slot": NOON + MINUTE},
        foreign | {"scheduled_for": far, "last_slot": far},
        foreign | {"created_at": far, "provisional": True, "last_slot": "noon"},
        foreign | {"scheduled_for": NOON + MINUTE, "last_slot": NOON - MINUTE},
    ]
    for number, row in enumerate(rows):
        row |= {"_id": number, "execution_id": f"foreign {number}"}
    await client[database]["executions"].insert_many(rows)
    good, odd = await asyncio.gather(*(ledger.taken(name, NOON) for name in ("good", "odd")))
    assert [slots.last for slots in good] == [NOON + 5 * MINUTE]
    assert [slots.first for slots in odd] == [NOON, NOON + MINUTE]
    covering = await ledger.covering([("good", NOON + 2 * MINUTE), ("odd", NOON + 2 * MINUTE)])
    assert [len(stretches) for stretches in covering] == [1, 0]


async def test_what_is_taken_is_found_without_reading_what_was_long_ago(
    ledger: MongoLedger, client: Client, database: str
) -> None:
    """Of agents that ran each minute for days, only the rows of the last minutes."""
    names, rows = [f"agent {number}" for number in range(20)], client[database]["executions"]
    await rows.insert_many(
        {"execution_id": f"{name} {n}", "councilor_id": name, "scheduled_for": NOON - n * MINUTE}
        for name in names
        for n in range(200)
    )
    await client[database].command("profile", 2)
    taken = await asyncio.gather(*(ledger.taken(name, NOON - 2 * MINUTE) for name in names))
    await client[database].command("profile", 0)
    assert [len(slots) for slots in taken] == [3] * len(names)
    finds = client[database]["system.profile"].find({"command.find": "executions"})
    examined = [find["docsExamined"] async for find in finds]
    assert 0 < sum(examined) <= 4 * 3 * len(names)


async def test_stretches_are_confirmed_each_as_it_is(ledger: MongoLedger) -> None:
    agents = [f"agent {number}" for number in range(3)]
    rows = [replace(missed(1, 5), agent_id=agent_id) for agent_id in agents]
    for row in rows:
        assert await ledger.record(row)
    ends = [NOON + minutes * MINUTE for minutes in (2, 3, 4)]
    final = [
        replace(row, stretch=Stretch(NOON + MINUTE, end, 2))
        for row, end in zip(rows, ends, strict=True)
    ]
    await asyncio.gather(*map(ledger.confirm, final))
    taken = await asyncio.gather(*(ledger.taken(agent_id, NOON) for agent_id in agents))
    assert taken == [[TakenSlots(NOON + MINUTE, end)] for end in ends]
