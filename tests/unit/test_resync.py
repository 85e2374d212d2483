"""What a resync leaves alone, what comes first, and how verdicts are written behind."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Never

import pytest

from service.adapters.apscheduler import TimedJobs
from service.adapters.mongo.keys import key_of
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.execution import Fire
from service.domain.jobs import (
    AgentDocument,
    JobState,
    Listed,
    Past,
    stored_of,
    whole_of,
)
from service.domain.verdict import Verdict
from service.ports import Changed, JobTable, Misconfigured, Told, WatchLost
from service.reconciliation import Reconciliation
from service.telemetry import Telemetry
from service.verdicts import Judged, Verdicts
from tests.contract.test_agents import councilor, desired_of
from tests.fakes import NOON, FakeAgents, FakeClock, FakeJobTable, Outage, listed
from tests.steps import eventually, going, turned, turned_until
from tests.unit.test_reconciler import HALF_HOUR, Side


class Agents(FakeAgents):
    """Tells what was read of a listing; may keep writes on the way, refuse them, or be down."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.looked_into: list[DocumentKey] = []
        self.writes = Outage()
        self.tries = 0
        self.released = asyncio.Event()
        self.released.set()
        self.written: list[list[DocumentKey]] = []
        self.cleared: list[list[DocumentKey]] = []
        self.refuses_verdicts = False

    async def documents(self) -> AsyncIterator[Sequence[Listed]]:
        async for batch in super().documents():
            yield [replace(one, read=self._reading(one)) for one in batch]

    def _reading(self, one: Listed) -> "Reading":
        return Reading(self.looked_into, one)

    async def changes(self) -> Sequence[Changed]:
        changes = [*await super().changes()]
        while not self._events.empty():
            event = self._events.get_nowait()
            if isinstance(event, WatchLost):
                raise event
            changes.append(event)
        return changes

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, Told | None]:
        self.tries += 1
        self.writes.check()
        await self.released.wait()
        if verdicts:
            self.written.append([document.key for document, _ in verdicts])
        if self.refuses_verdicts:
            return {document.key: None for document, _ in verdicts}
        return await super().write_verdicts(verdicts)

    async def clear_verdicts(self, keys: Sequence[DocumentKey]) -> None:
        if keys:
            await self.released.wait()
            self.cleared.append(list(keys))
        await super().clear_verdicts(keys)

    def insert(self, document_id: object, fields: Mapping[str, object]) -> None:
        """Let the watch tell of a new document."""
        key = key_of(document_id)
        self.collection[key] = {"_id": document_id, **fields}
        self._events.put_nowait(Changed(key, "insert"))


class Reading:
    """Looks into a document of a listing, and says so."""

    def __init__(self, looked_into: list[DocumentKey], one: Listed) -> None:
        self._looked_into, self._one = looked_into, one

    def __call__(self) -> AgentDocument:
        self._looked_into.append(self._one.key)
        return self._one.read()


class Resyncing(Side):
    """A reconciler on such agents."""

    def __post_init__(self) -> None:
        self.agents: Agents = Agents(self.clock)

    async def resync(self) -> None:
        self.agents.lose_watch("286")
        await turned_until(lambda: not self.health.watching)

        async def is_back() -> bool:
            return self.health.watching

        await eventually(is_back)
        await turned()


async def test_a_resync_does_not_look_into_what_it_knows() -> None:
    side = Resyncing()
    for n in range(3):
        side.agents.change(n, councilor(str(n)))
    async with side.running():
        side.agents.looked_into.clear()
        side.agents.reads.clear()
        puts, written = len(side.jobs.puts), len(side.agents.written)
        side.agents.collection[key_of(1)]["name"] = "no event told of it"
        side.agents.collection[key_of(2)]["stats"] = {"total_executions": 9}
        await side.resync()
        assert side.agents.looked_into == [key_of(1)]
        assert side.agents.reads == []
        assert set(side.jobs.puts[puts:]) == {"1"}
        assert len(side.agents.written) == written
        assert side.jobs.jobs["1"].name == "no event told of it"


async def test_what_has_a_date_in_it_is_looked_into_each_time() -> None:
    """Whether its verdict still holds depends on what time it is."""
    side = Resyncing()
    paused = councilor()
    paused["councilor_config"]["schedule"]["paused_until"] = NOON + timedelta(days=1)
    side.agents.change(1, paused)
    async with side.running():
        side.agents.looked_into.clear()
        await side.resync()
        assert side.agents.looked_into == [key_of(1)]


async def test_an_older_listing_does_not_overwrite_a_change() -> None:
    side = Resyncing()
    key = side.agents.change(1, councilor(value="30m"))

    async def older_documents() -> AsyncIterator[Sequence[Listed]]:
        (old,) = await FakeAgents.read(side.agents, [key])
        side.agents.change(1, councilor(value="45m"))
        await turned()
        yield [listed(old)]

    side.agents.documents = older_documents  # type: ignore[method-assign]
    async with side.running():
        await turned()
        assert side.jobs.jobs["scout"].next_run_at == NOON + timedelta(minutes=45)
        assert spec_hash_of(side) == side.jobs.jobs["scout"].spec_hash


async def test_a_second_look_that_takes_long_does_not_overwrite_a_change() -> None:
    """What has a job and is not listed is read again; meanwhile it may be read anew."""
    side = Resyncing()
    side.agents.change(1, councilor(value="30m"))
    looks, released, read = list[Sequence[DocumentKey]](), asyncio.Event(), side.agents.read

    async def nothing() -> AsyncIterator[Sequence[Listed]]:
        for batch in list[Sequence[Listed]]():
            yield batch

    async def slowly(
        keys: Sequence[DocumentKey], *, with_stats: bool = False
    ) -> Sequence[AgentDocument]:
        documents = await read(keys)
        looks.append(keys)
        if len(looks) == 1:
            await released.wait()
        return documents

    async def is_looked_at() -> bool:
        return bool(looks)

    async with side.running():
        side.agents.documents = nothing  # type: ignore[method-assign]
        side.agents.read = slowly  # type: ignore[method-assign]
        side.agents.lose_watch("286")
        await eventually(is_looked_at)
        side.agents.change(1, councilor(value="45m"))
        await turned()
        released.set()
        await turned_until(lambda: len(looks) == 2)
        await turned()
        assert side.jobs.jobs["scout"].next_run_at == NOON + timedelta(minutes=45)


def spec_hash_of(side: Side) -> object:
    return (side.status(1) or {}).get("spec_hash")


async def test_an_edit_is_read_before_a_pile_of_new_documents() -> None:
    side = Resyncing()
    side.agents.change("old", councilor())
    async with side.running():
        side.agents.reads.clear()
        for n in range(1_000):
            side.agents.insert(n, {"agent_id": str(n)})
        side.change_schedule("old", enabled=False)
        await turned_until(lambda: len(side.agents.reads) > 1_000)
        assert side.agents.reads.index(key_of("old")) == 0
        assert side.jobs.jobs["scout"].state is JobState.PAUSED


async def test_a_new_document_that_is_edited_is_read_as_new_once() -> None:
    side = Resyncing()
    async with side.running():
        side.agents.insert(1, councilor())
        side.change_schedule(1, enabled=False)
        await turned_until(lambda: "scout" in side.jobs.jobs)
        assert side.jobs.jobs["scout"].state is JobState.PAUSED


async def test_a_job_takes_effect_before_its_verdict_and_is_certain_after_it() -> None:
    side = Resyncing()
    async with side.running():
        side.agents.released.clear()
        side.clock.advance(timedelta(microseconds=1_234_567))
        guess = NOON + timedelta(milliseconds=1_234)
        side.agents.change(1, councilor())
        await turned_until(lambda: "scout" in side.jobs.jobs)
        job = side.jobs.jobs["scout"]
        assert (job.is_assumed, job.accepted_at, side.status(1)) == (True, guess, None)
        side.clock.advance(timedelta(minutes=2))
        side.agents.released.set()
        await turned_until(lambda: side.status(1))
        await turned()
        job = side.jobs.jobs["scout"]
        assert (job.is_assumed, job.accepted_at) == (False, side.clock.now)
        assert job.next_run_at == side.clock.now + HALF_HOUR


async def test_a_job_follows_the_acceptance_that_the_server_has_kept() -> None:
    """Somebody else's may have come between the reading and the writing."""
    side, earlier = Resyncing(), timedelta(minutes=10)
    side.agents.change(1, councilor(value="30m"))
    write = side.agents.write_verdicts

    async def kept(
        verdicts: Sequence[tuple[AgentDocument, Verdict]],
    ) -> Mapping[DocumentKey, Told | None]:
        told = await write(verdicts)
        return {
            key: replace(one, accepted_at=NOON - earlier) if one else None
            for key, one in told.items()
        }

    async with side.running():
        assert side.jobs.jobs["scout"].next_run_at == NOON + HALF_HOUR
        assert not side.jobs.jobs["scout"].is_assumed
        side.agents.write_verdicts = kept  # type: ignore[method-assign]
        side.change_schedule(1, enabled=False)
        await turned_until(lambda: side.jobs.jobs["scout"].accepted_at == NOON - earlier)


async def test_a_job_whose_verdict_is_refused_is_certain_all_the_same() -> None:
    """A validator of the user's: nobody will ever know better than the guess."""
    side = Resyncing()
    side.agents.refuses_verdicts = True
    async with side.running():
        side.agents.change(1, councilor())
        await turned_until(lambda: side.agents.written)
        await turned()
        job = side.jobs.jobs["scout"]
        assert (job.is_assumed, job.accepted_at, side.status(1)) == (False, NOON, None)


async def test_a_verdict_is_written_again_after_an_outage() -> None:
    side = Resyncing()
    async with side.running():
        side.agents.writes.is_on = True
        tries = side.agents.tries
        side.agents.change(1, councilor())
        await turned_until(lambda: side.agents.tries > tries)
        assert side.jobs.jobs["scout"].is_assumed
        side.agents.writes.is_on = False

        async def is_said() -> object:
            return side.status(1)

        await eventually(is_said)
        assert not side.jobs.jobs["scout"].is_assumed


async def test_a_verdict_on_the_way_gives_way_to_a_newer_one() -> None:
    side = Resyncing()
    async with side.running():
        side.agents.released.clear()
        side.agents.change(1, councilor(value="30m"))
        await turned_until(lambda: "scout" in side.jobs.jobs)
        side.change_schedule(1, value="45m")
        await turned_until(
            lambda: side.jobs.jobs["scout"].next_run_at == NOON + timedelta(minutes=45)
        )
        side.agents.released.set()
        await turned_until(lambda: side.status(1))
        await turned()
        job = side.jobs.jobs["scout"]
        assert job.next_run_at == NOON + timedelta(minutes=45)
        assert spec_hash_of(side) == job.spec_hash
        assert side.agents.written == [[key_of(1)], [key_of(1)]]
        assert not job.is_assumed


async def test_a_verdict_that_waits_is_dropped_with_its_document() -> None:
    side = Resyncing()
    async with side.running():
        side.agents.released.clear()
        side.agents.change(1, councilor("first"))
        await turned_until(lambda: "first" in side.jobs.jobs)
        await turned()
        side.agents.change(2, councilor("second"))
        await turned_until(lambda: "second" in side.jobs.jobs)
        side.agents.change(2, None)
        await turned_until(lambda: "second" not in side.jobs.jobs)
        side.agents.released.set()
        await turned()
        assert side.agents.written == [[key_of(1)]]


async def test_a_demotion_and_a_promotion_meanwhile_end_with_a_verdict() -> None:
    side = Resyncing()
    side.agents.change(1, councilor())
    async with side.running():
        status = side.status(1)
        side.agents.released.clear()
        side.agents.change(1, {"agent_id": "scout", "councilor_status": status})
        await turned_until(lambda: "scout" not in side.jobs.jobs)
        side.agents.change(1, councilor(councilor_status=status))
        await turned_until(lambda: "scout" in side.jobs.jobs)
        side.agents.released.set()
        await turned()
        assert (side.status(1) or {})["state"] == "scheduled"


class Judgements:
    """Verdicts, and what they told."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.agents = Agents(clock or FakeClock())
        self.told: list[tuple[Judged, Told | None]] = []
        self.verdicts = Verdicts(self.agents, Telemetry(), self._tell, is_busy=lambda: False)

    def _tell(self, judged: Judged, told: Told | None) -> None:
        self.told.append((judged, told))

    async def say(self, fields: Mapping[str, object]) -> Judged:
        key = self.agents.change(1, fields)
        (document,) = await self.agents.read([key])
        judged = Judged(document, desired_of(document), Past(), NOON)
        self.verdicts.say(judged)
        return judged


async def test_of_several_verdicts_the_latest_is_told_of() -> None:
    side = Judgements()
    side.agents.released.clear()
    async with going(side.verdicts.write()):
        await side.say(councilor(value="1h"))
        await turned()
        await side.say(councilor(value="2h"))
        latest = await side.say(councilor(value="3h"))
        side.agents.released.set()
        await turned()
    assert [judged for judged, _ in side.told] == [latest]
    assert [len(keys) for keys in side.agents.written] == [1, 1]


async def test_what_is_forgotten_is_not_told_of() -> None:
    side = Judgements()
    side.agents.released.clear()
    async with going(side.verdicts.write()):
        await side.say(councilor())
        await turned()
        side.verdicts.forget(key_of(1))
        side.agents.released.set()
        await turned()
    assert side.told == []


async def test_a_verdict_that_is_to_be_cleared_again_is_cleared_again() -> None:
    """Demoted, promoted and demoted again, while the first removal is on its way."""
    side = Judgements()
    side.agents.released.clear()
    key = side.agents.change(1, {"agent_id": "scout", "councilor_status": {}})
    async with going(side.verdicts.write()):
        side.verdicts.clear(key)
        await turned()
        side.verdicts.forget(key)
        side.verdicts.clear(key)
        side.agents.released.set()
        await turned()
    assert side.agents.cleared == [[key], [key]]


def reconciliation_of(side: Judgements, jobs: JobTable, clock: FakeClock) -> Reconciliation:
    return Reconciliation(
        side.agents,
        jobs,
        Telemetry(),
        clock,
        policy=SchedulePolicy(),
        mark=lambda _: None,
        is_busy=lambda: False,
    )


async def test_a_job_is_not_known_by_a_document_that_it_was_not_judged_from() -> None:
    """Resumed between the verdict and the look at what it became: that is another document."""
    side, jobs = Judgements(), FakeJobTable()
    key = side.agents.change(1, paused := councilor_that(enabled=False))
    reconciliation = reconciliation_of(side, jobs, FakeClock())
    write = side.agents.write_verdicts

    async def resumed_meanwhile(
        verdicts: Sequence[tuple[AgentDocument, Verdict]],
    ) -> Mapping[DocumentKey, Told | None]:
        await write(verdicts)
        status = side.agents.collection[key]["councilor_status"]
        side.agents.change(1, councilor_that(enabled=True) | {"councilor_status": status})
        (document,) = await side.agents.read([key])
        return {key: Told(document, status["accepted_at"])}

    side.agents.write_verdicts = resumed_meanwhile  # type: ignore[method-assign]
    async with going(reconciliation.verdicts.write()):
        reconciliation.reconcile(await side.agents.read([key]))
        await turned()
    assert paused["councilor_config"]["schedule"]["enabled"] is False
    (document,) = await side.agents.read([key])
    assert jobs.jobs["scout"].digest is None
    assert not reconciliation.is_known(listed(document))


async def test_replicas_whose_first_verdict_was_overtaken_agree_on_the_anchor() -> None:
    side, clock = Judgements(), FakeClock()
    key = side.agents.change(1, councilor())
    replicas = []
    for _ in range(2):
        jobs = FakeJobTable()
        reconciliation = reconciliation_of(side, jobs, clock)
        reconciliation.reconcile(await side.agents.read([key]))
        replicas.append((reconciliation, jobs))
        clock.advance(timedelta(milliseconds=50))
    edited = councilor()
    edited["councilor_config"]["task"]["prompt"] = "another"
    side.agents.change(1, edited)  # before either verdict arrives
    for _ in range(2):
        for reconciliation, _jobs in replicas:
            async with going(reconciliation.verdicts.write()):
                await turned()
            reconciliation.reconcile(await side.agents.read([key]))
    for reconciliation, _jobs in replicas:
        async with going(reconciliation.verdicts.write()):
            await turned()
    accepted = side.agents.collection[key]["councilor_status"]["accepted_at"]
    assert {jobs.jobs["scout"].accepted_at for _, jobs in replicas} == {accepted}


async def test_a_slot_between_an_acceptance_and_its_answer_fires() -> None:
    clock, fired = FakeClock(NOON - timedelta(milliseconds=20)), list[Fire]()
    side = Judgements(clock)
    jobs = TimedJobs(lambda _: None, clock, longest_sleep=timedelta(milliseconds=20))
    reconciliation = reconciliation_of(side, jobs, clock)
    write = side.agents.write_verdicts

    async def slowly(
        verdicts: Sequence[tuple[AgentDocument, Verdict]],
    ) -> Mapping[DocumentKey, Told | None]:
        clock.advance(timedelta(milliseconds=10))
        told = await write(verdicts)
        clock.advance(timedelta(milliseconds=30))  # the slot comes due, the answer is on its way
        await eventually(is_due)
        return told

    async def is_due() -> bool:
        return "scout" in jobs._open

    async def has_fired() -> bool:
        return bool(fired)

    side.agents.write_verdicts = slowly  # type: ignore[method-assign]
    promoted = councilor(value="* * * * *")
    promoted["councilor_config"]["schedule"]["type"] = "cron"
    key = side.agents.change(1, promoted)
    async with jobs.firing(fired.append), going(reconciliation.verdicts.write()):
        reconciliation.reconcile(await side.agents.read([key]))
        await eventually(has_fired)
    assert [fire.due_at for fire in fired] == [NOON]


async def test_without_the_right_to_write_verdicts_the_first_write_says_so() -> None:
    side = Judgements()
    await side.say(councilor())

    async def refused(_: object) -> Never:
        raise Misconfigured("grant readWrite")

    side.agents.write_verdicts = refused  # type: ignore[method-assign,assignment]
    with pytest.raises(Misconfigured):
        await side.verdicts.write()


async def test_a_right_that_is_taken_away_makes_jobs_certain_and_is_told() -> None:
    side = Judgements()
    async with going(side.verdicts.write()):
        await side.say(councilor())
        await turned()
        told = len(side.told)

        async def refused(_: object) -> Never:
            raise Misconfigured("grant readWrite")

        side.agents.write_verdicts = refused  # type: ignore[method-assign,assignment]
        await side.say(councilor(value="1h"))
        await turned()
        assert side.verdicts.trouble == "grant readWrite"
        assert [answer for _, answer in side.told[told:]] == [None]


async def test_a_document_that_went_while_it_was_listed_is_not_taken_over() -> None:
    side = Resyncing()
    side.agents.change(1, councilor())
    async with side.running():
        job = side.jobs.jobs["scout"]
    assert whole_of(job) is not None
    side.stored.jobs["scout"] = replace(stored_of(job), whole=whole_of(job))
    side.jobs.jobs.clear()
    side.health.synced = side.health.watching = False
    (document,) = await side.agents.read([key_of(1)])

    async def documents() -> AsyncIterator[Sequence[Listed]]:
        side.agents.change(1, None)  # while this is on its way
        await turned()
        yield [listed(document)]

    side.agents.documents = documents  # type: ignore[method-assign]
    async with side.running():
        assert side.jobs.jobs == {}


def councilor_that(*, enabled: bool) -> dict[str, Any]:
    promoted = councilor()
    promoted["councilor_config"]["schedule"]["enabled"] = enabled
    return promoted


async def test_a_document_that_changes_while_it_waits_with_new_ones_waits_no_more() -> None:
    side = Resyncing()
    reconciler = side.reconciler()
    for number in range(500):
        reconciler._mark(key_of(number), "insert")
    reconciler._mark(key_of(499), "update")
    assert next(iter(reconciler._next_batch())) == key_of(499)
    reconciler._mark(key_of(1), "insert")
    assert list(reconciler._next_batch())[-1] == key_of(1)
    assert reconciler._next_batch() == {}


async def test_a_document_on_which_there_is_no_verdict_stops_no_other() -> None:
    """A fault of ours: told of, and left at that."""
    side = Judgements()
    bad = await side.say(councilor())
    side.verdicts.say(replace(bad, desired=None))  # type: ignore[arg-type]
    key = side.agents.change(2, councilor("other"))
    (document,) = await side.agents.read([key])
    side.verdicts.say(Judged(document, desired_of(document), Past(), NOON))
    async with going(side.verdicts.write()):
        await turned()
    assert [judged.document.key for judged, _ in side.told] == [key]


async def test_a_document_that_changed_before_its_verdict_is_not_told_of() -> None:
    """It will be judged anew; until then nothing makes a guess of its acceptance a fact."""
    side = Judgements()
    await side.say(councilor())
    side.agents.change(1, councilor(value="45m"))
    async with going(side.verdicts.write()):
        await turned()
    assert side.told == []


async def test_a_scheduled_job_without_a_timer_is_judged_anew() -> None:
    side, jobs = Judgements(), FakeJobTable()
    key = side.agents.change(1, councilor())
    reconciliation = reconciliation_of(side, jobs, FakeClock())
    async with going(reconciliation.verdicts.write()):
        reconciliation.reconcile(await side.agents.read([key]))
        await turned()
    (document,) = await side.agents.read([key])
    assert reconciliation.is_known(listed(document))
    jobs.jobs["scout"] = jobs.jobs["scout"].due_next(None)
    assert not reconciliation.is_known(listed(document))
