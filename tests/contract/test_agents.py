"""What every collection of agents promises: the fake that unit tests trust, and the real one."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import bson
import pytest
from bson.raw_bson import RawBSONDocument

from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.keys import id_of, key_of
from service.adapters.mongo.stats import CountedRun, counted
from service.app import wall_clock
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.jobs import AgentDocument, Desired, JobSpec, Past
from service.domain.planning import desired_job, past_of
from service.domain.severity import Severity
from service.domain.verdict import (
    SKIPPED_FORMAT,
    Verdict,
    is_said,
    upcoming_slots,
    verdict_on,
)
from service.ports import Agents, Told, Watch, WatchLost
from tests.fakes import NOON, FakeAgents, FakeClock

POLICY = SchedulePolicy()


def councilor(agent_id: str = "scout", value: str = "30m", **fields: object) -> dict[str, Any]:
    return {
        "agent_id": agent_id,
        "is_councilor": True,
        "councilor_config": {
            "title": "Scout",
            "schedule": {"type": "interval", "value": value, "enabled": True},
            "task": {"name": "look", "prompt": "look around"},
        },
        **fields,
    }


class Writer(Protocol):
    """Anybody who changes documents."""

    async def put(self, document_id: object, fields: Mapping[str, object] | None) -> DocumentKey:
        """Replace a document, or delete it."""


@dataclass
class FakeWriter:
    agents: FakeAgents

    async def put(self, document_id: object, fields: Mapping[str, object] | None) -> DocumentKey:
        return self.agents.change(document_id, fields)


@dataclass
class RealWriter:
    client: Client
    database: str

    async def put(self, document_id: object, fields: Mapping[str, object] | None) -> DocumentKey:
        agents = self.client[self.database]["agents"]
        if fields is None:
            await agents.delete_one({"_id": document_id})
        else:
            await agents.replace_one({"_id": document_id}, dict(fields), upsert=True)
        return key_of(document_id)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mongo)])
async def side(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Agents, Writer]]:
    if request.param == "fake":
        fake = FakeAgents(FakeClock())
        yield fake, FakeWriter(fake)
        return
    database = request.getfixturevalue("database")
    async with connected(request.getfixturevalue("replica_set_url")) as client:
        yield MongoAgents(client, database, "agents"), RealWriter(client, database)


async def listed(watch: Watch) -> list[AgentDocument]:
    return [document.read() async for batch in watch.documents() for document in batch]


async def next_keys(watch: Watch) -> Sequence[DocumentKey]:
    """The keys of the next event; quiet reads passed over."""
    async with asyncio.timeout(20):
        while True:
            if changes := await watch.changes():
                return tuple(change.key for change in changes)


def accepted_at(told: Mapping[DocumentKey, Told | None], key: DocumentKey) -> datetime:
    answer = told[key]
    assert answer is not None
    return answer.accepted_at


def desired_of(document: AgentDocument) -> Desired:
    desired = desired_job(document, POLICY)
    assert isinstance(desired, Desired)
    return desired


def desired_spec(document: AgentDocument) -> JobSpec:
    spec = desired_of(document).spec
    assert spec is not None
    return spec


def verdict_for(document: AgentDocument, past: Past | None = None, now: datetime = NOON) -> Verdict:
    return verdict_on(desired_of(document), past or Past(), None, now)


async def test_a_watch_lists_councilors_and_tells_of_changes(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    await writer.put(1, councilor())
    await writer.put(2, {"agent_id": "plain", "is_councilor": False})
    async with agents.watch() as watch:
        assert [document.key for document in await listed(watch)] == [key_of(1)]
        changed = await writer.put(2, councilor("promoted"))
        assert await next_keys(watch) == (changed,)


async def test_what_changes_between_opening_and_listing_is_not_lost(
    side: tuple[Agents, Writer],
) -> None:
    agents, writer = side
    async with agents.watch() as watch:
        key = await writer.put(1, councilor())
        assert [document.key for document in await listed(watch)] == [key]
        assert await next_keys(watch) == (key,)


async def test_a_deletion_is_a_key_and_reading_it_finds_nothing(
    side: tuple[Agents, Writer],
) -> None:
    agents, writer = side
    key = await writer.put(1, councilor())
    async with agents.watch() as watch:
        await writer.put(1, None)
        assert await next_keys(watch) == (key,)
        assert [document.fields for document in await agents.read([key])] == [None]


async def test_documents_that_are_no_longer_councilors_but_bear_a_verdict_are_listed(
    side: tuple[Agents, Writer],
) -> None:
    agents, writer = side
    await writer.put(1, {"agent_id": "a", "is_councilor": False, "councilor_status": {}})
    await writer.put(2, {"agent_id": "b", "councilor_run_requested_at": NOON})
    await writer.put(3, {"agent_id": "c"})
    async with agents.watch() as watch:
        assert {document.key for document in await listed(watch)} == {key_of(1), key_of(2)}


async def test_an_acceptance_is_set_once_and_kept(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, councilor())
    (document,) = await agents.read([key])
    first = await agents.write_verdicts([(document, verdict_for(document))])
    (document,) = await agents.read([key])
    again = await agents.write_verdicts([(document, verdict_for(document))])
    assert set(first) == {key}
    assert accepted_at(again, key) == accepted_at(first, key)


async def test_a_new_schedule_is_accepted_anew(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, councilor(councilor_status={"spec_hash": "old", "accepted_at": NOON}))
    (document,) = await agents.read([key])
    accepted = await agents.write_verdicts([(document, verdict_for(document))])
    (document,) = await agents.read([key])
    assert document.fields is not None
    assert document.fields["councilor_status"]["accepted_at"] == accepted_at(accepted, key)  # type: ignore[index]


async def test_a_verdict_remembers_the_states_before_it_and_since_when(
    side: tuple[Agents, Writer],
) -> None:
    """Each change of state, and of what is wrong, once; what stays as it is adds nothing."""
    agents, writer = side
    paused = councilor()
    paused["councilor_config"]["schedule"]["enabled"] = False
    steps = (
        councilor(),
        councilor(value="1h"),
        paused,
        councilor(value="0m"),
        councilor(value="x"),
    )
    status: dict[str, Any] = {}
    for step in (*steps, *steps):
        key = await writer.put(1, {**step, **({"councilor_status": status} if status else {})})
        (document,) = await agents.read([key])
        await agents.write_verdicts([(document, verdict_for(document))])
        status = await status_of(agents, key)
    told = [(entry["state"], entry.get("error") or "") for entry in status["history"]]
    invalid = [(state, error) for state, error in told if state == "invalid"]
    assert [state for state, _ in told] == ["scheduled", "paused", "invalid", "invalid"] * 2
    assert len({error for _, error in invalid}) == 2
    assert all(isinstance(entry["since"], datetime) for entry in status["history"])


async def test_a_lost_acceptance_is_carried_over(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, councilor())
    (document,) = await agents.read([key])
    verdict = verdict_for(document, Past(accepted_at=NOON))
    told = await agents.write_verdicts([(document, verdict)])
    assert accepted_at(told, key) == NOON


def skipping(value: str = "30m", kind: str = "interval", **fields: Any) -> dict[str, Any]:
    promoted = councilor(**fields)
    promoted["councilor_config"]["schedule"] |= {"type": kind, "value": value, "skip_next": True}
    return promoted


async def status_of(agents: Agents, key: DocumentKey) -> dict[str, Any]:
    (document,) = await agents.read([key])
    assert document.fields is not None
    status = document.fields["councilor_status"]
    assert isinstance(status, dict)
    return status


@pytest.mark.parametrize(("value", "kind"), [("30m", "interval"), ("*/30 * * * *", "cron")])
async def test_a_promotion_that_skips_its_first_slot_says_so(
    side: tuple[Agents, Writer], value: str, kind: str
) -> None:
    """The slots follow from the acceptance, which only the server knows."""
    agents, writer = side
    now = NOON if isinstance(agents, FakeAgents) else wall_clock()
    key = await writer.put(1, skipping(value, kind))
    (document,) = await agents.read([key])
    await agents.write_verdicts([(document, verdict_for(document, now=now))])
    status = await status_of(agents, key)
    spec = desired_spec(document)
    slots = upcoming_slots(spec.timetable(status["accepted_at"]), status["observed_at"], 6)
    assert status["skipped_slot"] == slots[0]
    assert status["next_runs"] == [*slots[1:]]
    assert status["explanation"].endswith(f"{slots[0]:{SKIPPED_FORMAT}}")
    (document,) = await agents.read([key])
    past = past_of(status, None, desired_of(document))
    assert is_said(status, verdict_on(desired_of(document), past, past.skipped_slot, now))


async def test_a_slot_that_somebody_settled_on_meanwhile_stays_until_the_flag_goes(
    side: tuple[Agents, Writer],
) -> None:
    agents, writer = side
    earlier, later = NOON - timedelta(days=200), NOON + timedelta(days=999)
    key = await writer.put(1, skipping())
    (document,) = await agents.read([key])
    await agents.leave_out(document, earlier)
    verdict = verdict_on(desired_of(document), Past(NOON), later, NOON)
    await agents.write_verdicts([(document, verdict)])
    assert (await status_of(agents, key))["skipped_slot"] == earlier
    (document,) = await agents.read([key])
    await agents.write_verdicts([(document, verdict)])
    assert (await status_of(agents, key))["skipped_slot"] == later
    key = await writer.put(1, councilor(councilor_status={"skipped_slot": earlier}))
    (document,) = await agents.read([key])
    await agents.write_verdicts([(document, verdict_for(document))])
    assert "skipped_slot" not in await status_of(agents, key)


async def test_a_slot_is_left_out_only_of_what_was_read(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, skipping(councilor_status=[{"skipped_slot": NOON}]))
    (document,) = await agents.read([key])
    await agents.leave_out(document, NOON)
    assert await status_of(agents, key) == {"skipped_slot": NOON}
    await writer.put(1, skipping("45m", councilor_status={"state": "scheduled"}))
    await agents.leave_out(document, NOON)
    assert await status_of(agents, key) == {"state": "scheduled"}
    (document,) = await agents.read([key])
    await agents.leave_out(document, NOON)
    assert await status_of(agents, key) == {"state": "scheduled", "skipped_slot": NOON}


async def test_a_verdict_on_a_changed_document_is_not_written(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, councilor())
    (judged,) = await agents.read([key])
    await writer.put(1, councilor(value="45m"))
    assert await agents.write_verdicts([(judged, verdict_for(judged))]) == {}
    (document,) = await agents.read([key])
    assert document.fields is not None
    assert "councilor_status" not in document.fields


async def test_a_written_verdict_is_said(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    invalid = councilor("bad")
    invalid["councilor_config"]["schedule"]["value"] = "$0m"
    paused = councilor("paused")
    paused["councilor_config"]["schedule"]["enabled"] = False
    cron = councilor("cron", "0 9 * * 1")
    cron["councilor_config"]["schedule"] |= {"type": "cron", "timezone": "Europe/Berlin"}
    later = councilor("later")
    later["councilor_config"]["schedule"]["paused_until"] = NOON + timedelta(days=9)
    keys = [await writer.put(n, d) for n, d in enumerate([invalid, paused, cron, later])]
    now = NOON if isinstance(agents, FakeAgents) else wall_clock()
    for document in await agents.read(keys):
        await agents.write_verdicts([(document, verdict_for(document, now=now))])
    for document in await agents.read(keys):
        assert document.fields is not None
        assert is_said(document.fields["councilor_status"], verdict_for(document, now=now))


async def test_clearing_a_verdict_spares_councilors(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    demoted = await writer.put(1, {"agent_id": "a", "councilor_status": {"state": "scheduled"}})
    promoted = await writer.put(2, councilor(councilor_status={"state": "scheduled"}))
    await agents.clear_verdicts([demoted, promoted])
    first, second = await agents.read([demoted, promoted])
    assert first.fields is not None
    assert second.fields is not None
    assert "councilor_status" not in first.fields
    assert "councilor_status" in second.fields


async def test_editing_is_what_any_writer_would_do(side: tuple[Agents, Writer]) -> None:
    agents, writer = side
    key = await writer.put(1, councilor())
    assert await agents.edit("scout", {"is_councilor": False, "councilor_config": None})
    assert not await agents.edit("nobody", {"is_councilor": True})
    assert not await agents.edit("scout", {"councilor_config.x": 1}, councilors_only=True)
    (document,) = await agents.read([key])
    assert document.fields is not None
    assert "councilor_config" not in document.fields


@pytest.mark.mongo
class TestMongoAgents:
    """What only a real collection can show."""

    @pytest.fixture
    def agents(self, client: Client, database: str) -> MongoAgents:
        return MongoAgents(client, database, "agents")

    async def test_our_own_writes_cost_no_event(
        self, agents: MongoAgents, client: Client, database: str
    ) -> None:
        documents = client[database]["agents"]
        await documents.insert_one({"_id": 1, **councilor()})
        async with agents.watch() as watch:
            (document,) = await agents.read([key_of(1)])
            await agents.write_verdicts([(document, verdict_for(document))])
            for name in ("first", "second"):
                run = CountedRun(name, Severity.SUCCESS, NOON)
                await documents.update_one({"_id": 1}, counted(run))
            await documents.update_one({"_id": 1}, {"$unset": {"councilor_status": ""}})
            await documents.update_one({"_id": 2}, {"$set": {"statsX": 1}}, upsert=True)
            await documents.update_one({"_id": 2}, {"$set": {"statsX": 2, "stats.a": 1}})
            keys = await next_keys(watch)
            while len(keys) < 2:
                keys = (*keys, *await next_keys(watch))
            assert keys == (key_of(2), key_of(2))
            assert await watch.changes() == []

    @pytest.mark.parametrize("ending", ["drop", "rename", "dropDatabase"])
    async def test_the_end_of_the_collection_ends_the_watch_once(
        self, agents: MongoAgents, client: Client, database: str, ending: str
    ) -> None:
        documents = client[database]["agents"]
        await documents.insert_one({"_id": 1, **councilor()})
        async with agents.watch() as watch:
            match ending:
                case "drop":
                    await documents.drop()
                case "rename":
                    await documents.rename("others")
                case _:
                    await client.drop_database(database)
            with pytest.raises(WatchLost) as lost:
                await next_keys(watch)
        assert lost.value.reason in ("drop", "rename", "dropDatabase")
        await documents.insert_one({"_id": 2, **councilor()})
        async with agents.watch() as watch:
            assert [document.key for document in await listed(watch)] == [key_of(2)]
            await documents.delete_one({"_id": 2})
            assert await next_keys(watch) == (key_of(2),)

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param((b"AAAA", b"\xff\xfe\xff\xfe"), id="not UTF-8"),
            pytest.param((b"BBBBBBBB", (2**62).to_bytes(8, "little")), id="a date too far"),
        ],
    )
    async def test_a_document_that_cannot_be_decoded_hides_no_other(
        self, agents: MongoAgents, client: Client, database: str, damage: tuple[bytes, bytes]
    ) -> None:
        poison = councilor("poison", councilor_run_requested_at=bson.Int64(0))
        poison["councilor_config"]["task"]["prompt"] = "AAAA"
        poison["councilor_run_requested_at"] = bson.Int64(int.from_bytes(b"BBBBBBBB", "little"))
        raw = bson.encode({"_id": 1, **poison}).replace(*damage)
        await client[database].command(
            "insert", "agents", documents=[RawBSONDocument(raw), {"_id": 2, **councilor()}]
        )
        async with agents.watch() as watch:
            documents = {document.key: document for document in await listed(watch)}
        assert documents[key_of(2)].damage is None
        poisoned = documents[key_of(1)]
        assert poisoned.fields is not None
        assert poisoned.fields["agent_id"] == "poison"

    async def test_damage_in_statistics_keeps_nothing_from_running(
        self, agents: MongoAgents, client: Client, database: str
    ) -> None:
        """Now, and at the second after the next, when the slot was."""
        document = {"_id": 1, **councilor(), "stats": {"counted": ["AAAA"]}}
        raw = RawBSONDocument(bson.encode(document).replace(b"AAAA", b"\xff\xfe\xff\xfe"))
        await client[database].command("insert", "agents", documents=[raw])
        (now,) = await agents.look([key_of(1)])
        assert (now.damage, (now.fields or {})["agent_id"]) == (None, councilor()["agent_id"])
        hello = await client.admin.command("hello")
        written = hello["lastWrite"]["lastWriteDate"].replace(microsecond=0)
        second = written.replace(tzinfo=UTC) + timedelta(seconds=1)
        async with asyncio.timeout(20):
            while hello["$clusterTime"]["clusterTime"].time <= second.timestamp():
                await client[database]["others"].insert_one({})  # the server's clock goes on
                hello = await client.admin.command("hello")
        ((past,),) = await agents.as_of([(now, [second])])
        assert past is not None
        assert (past.damage, (past.fields or {})["agent_id"]) == (None, councilor()["agent_id"])

    @pytest.mark.parametrize(
        "status", [None, "text", 5, [1, 2], {"accepted_at": "text"}, {"error": {"field": 1}}]
    )
    async def test_any_status_is_replaced_as_a_whole(
        self, agents: MongoAgents, client: Client, database: str, status: object
    ) -> None:
        documents = client[database]["agents"]
        await documents.insert_one({"_id": 1, **councilor(), "councilor_status": status})
        (document,) = await agents.read([key_of(1)])
        assert key_of(1) in await agents.write_verdicts([(document, verdict_for(document))])
        found = await documents.find_one({"_id": 1})
        assert found is not None
        assert list(found["councilor_status"]) == [
            "state",
            "spec_hash",
            "accepted_at",
            "error",
            "explanation",
            "timezone",
            "next_runs",
            "observed_at",
            "history",
        ]
        assert [state["state"] for state in found["councilor_status"]["history"]] == ["scheduled"]

    async def test_next_runs_of_an_interval_follow_its_acceptance(
        self, agents: MongoAgents, client: Client, database: str
    ) -> None:
        documents = client[database]["agents"]
        spread = councilor()
        spread["councilor_config"]["schedule"]["spread"] = "10m"
        await documents.insert_one({"_id": 1, **spread})
        (document,) = await agents.read([key_of(1)])
        accepted = await agents.write_verdicts([(document, verdict_for(document))])
        desired = desired_job(document, POLICY)
        assert isinstance(desired, Desired)
        assert desired.spec is not None
        timetable = desired.spec.timetable(accepted_at(accepted, key_of(1)))
        found = await documents.find_one({"_id": 1})
        assert found is not None
        runs = found["councilor_status"]["next_runs"]
        expected = [timetable.next_slot(accepted_at(accepted, key_of(1)))]
        while len(expected) < 5:
            expected.append(timetable.next_slot(expected[-1]))
        assert runs == expected


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param([-5, -1.5, 0, 2, 10, 1e9], id="numbers"),
        pytest.param(["", "a", "ab", "b", "é"], id="texts"),
        pytest.param([bson.ObjectId("0" * 24), bson.ObjectId("f" * 24)], id="ObjectIds"),
        pytest.param([3, "3", {"a": 1}, bson.ObjectId("0" * 24), True], id="types"),
    ],
)
def test_keys_compare_as_ids_do_and_turn_back(ids: list[object]) -> None:
    keys = [key_of(document_id) for document_id in ids]
    assert sorted(keys) == keys
    assert [id_of(key) for key in keys] == ids
