"""The reconciler on fakes: what it watches, when it lists, what it writes."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, Never

import pytest
from structlog.testing import capture_logs

from service.adapters.mongo.keys import key_of
from service.domain.councilor import SchedulePolicy
from service.domain.execution import Trigger
from service.domain.jobs import AgentDocument, Desired, JobState, Listed, StoredJob
from service.domain.planning import desired_job
from service.health import Health
from service.ports import Misconfigured
from service.reconciler import Reconciler
from service.telemetry import Telemetry
from tests.contract.test_agents import councilor
from tests.fakes import NOON, FakeAgents, FakeClock, FakeJobTable, FakeStoredJobs, listed
from tests.steps import eventually, going, turned, turned_until
from tests.unit.test_telemetry import samples

HALF_HOUR = timedelta(minutes=30)


@dataclass
class Side:
    """A reconciler with everything around it."""

    clock: FakeClock = field(default_factory=FakeClock)
    jobs: FakeJobTable = field(default_factory=FakeJobTable)
    health: Health = field(default_factory=Health)
    telemetry: Telemetry = field(default_factory=Telemetry)
    stored: FakeStoredJobs = field(default_factory=FakeStoredJobs)
    resync_interval: timedelta = timedelta(hours=1)

    def __post_init__(self) -> None:
        self.agents = FakeAgents(self.clock)

    def reconciler(self) -> Reconciler:
        return Reconciler(
            self.agents,
            self.jobs,
            self.stored,
            self.telemetry,
            self.health,
            self.clock,
            policy=SchedulePolicy(),
            resync_interval=self.resync_interval,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        reconciler = self.reconciler()
        async with going(reconciler.watch(), reconciler.reconcile(), reconciler.verdicts.write()):
            await turned_until(lambda: self.health.watching)
            await turned()  # verdicts follow
            yield

    def status(self, document_id: object) -> dict[str, Any] | None:
        return self.agents.collection[key_of(document_id)].get("councilor_status")

    def change_schedule(self, document_id: object, **changes: object) -> None:
        fields = self.agents.collection[key_of(document_id)]
        fields["councilor_config"]["schedule"] |= changes
        self.agents.change(document_id, {k: v for k, v in fields.items() if k != "_id"})


async def test_the_first_sync_schedules_what_is_there() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        job = side.jobs.jobs["scout"]
        assert (job.state, job.next_run_at) == (JobState.SCHEDULED, NOON + HALF_HOUR)
        assert side.health.synced
        assert (side.status(1) or {})["accepted_at"] == NOON


async def test_a_change_is_read_again_and_applied() -> None:
    side = Side()
    async with side.running():
        side.agents.change(1, councilor())
        await turned_until(lambda: side.status(1))
        side.change_schedule(1, enabled=False)
        await turned_until(lambda: side.jobs.jobs["scout"].state is JobState.PAUSED)
        side.agents.change(1, None)
        await turned_until(lambda: "scout" not in side.jobs.jobs)


async def test_many_changes_of_one_document_cost_few_readings() -> None:
    side = Side()
    async with side.running():
        for minutes in range(1, 51):
            side.agents.change(1, councilor(value=f"{minutes}m"))
        await turned_until(
            lambda: (
                "scout" in side.jobs.jobs
                and side.jobs.jobs["scout"].next_run_at == NOON + timedelta(minutes=50)
            )
        )
        await turned()
        assert len(side.agents.reads) < 25


async def test_our_own_statistics_change_nothing() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        puts, observed = len(side.jobs.puts), (side.status(1) or {})["observed_at"]
        side.clock.advance(timedelta(minutes=3))
        fields = {k: v for k, v in side.agents.collection[key_of(1)].items() if k != "_id"}
        side.agents.change(1, {**fields, "stats": {"total_executions": 7}})
        await turned()
        assert len(side.jobs.puts) == puts
        assert (side.status(1) or {})["observed_at"] == observed


async def test_a_lost_watch_is_entered_again_and_what_was_missed_is_found() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        del side.agents.collection[key_of(1)]  # no event tells of it
        side.agents.collection[key_of(2)] = {"_id": 2, **councilor("found")}
        with capture_logs() as logs:
            side.agents.lose_watch("286")
            await turned_until(lambda: side.agents.opened == 1)
            async with going(wait_for(side, "found")) as (task,):
                await task
        assert set(side.jobs.jobs) == {"found"}
        assert [log["event"] for log in logs if log["event"].startswith("watch")] == [
            "watch_lost",
            "watch_resumed",
        ]


async def wait_for(side: Side, agent_id: str) -> None:
    """Over the pause before the next try, which is random and below a tenth of a second."""

    async def is_back() -> bool:
        return agent_id in side.jobs.jobs and side.health.watching

    await eventually(is_back)


async def test_an_outage_is_waited_out_and_readiness_says_so() -> None:
    side = Side()
    async with side.running():
        side.agents.outage.is_on = True
        side.agents.lose_watch("network")
        await turned_until(lambda: not side.health.watching)
        assert side.health.trouble is not None
        side.agents.outage.is_on = False
        side.agents.collection[key_of(1)] = {"_id": 1, **councilor()}
        await wait_for(side, "scout")


async def test_what_cannot_be_read_stays_dirty() -> None:
    side = Side()
    async with side.running():
        side.agents.outage.is_on = True
        side.agents.change(1, councilor())
        await turned()
        assert side.jobs.jobs == {}
        side.agents.outage.is_on = False
        await wait_for(side, "scout")


async def test_the_queue_tells_since_when_it_waits_however_often_reading_fails() -> None:
    side = Side()
    async with side.running():
        assert metric(side, "queue_oldest_age_seconds") == 0
        side.agents.outage.is_on = True
        side.agents.change(1, councilor())
        await turned_until(lambda: metric(side, "database_retries_total"))
        failed_at = monotonic()
        side.agents.change(1, councilor(value="20m"))

        async def has_failed_again() -> bool:
            return metric(side, "database_retries_total") > 2

        await eventually(has_failed_again)
        least = monotonic() - failed_at
        assert metric(side, "queue_oldest_age_seconds") >= least
        assert metric(side, "queue_depth") == 1
        assert metric(side, "queue_adds_total") == metric(side, "queue_coalesced_total") == 1
        side.agents.outage.is_on = False
        await wait_for(side, "scout")
        await turned()
        assert metric(side, "queue_depth") == metric(side, "queue_oldest_age_seconds") == 0


async def test_who_has_no_job_is_counted_until_that_is_mended() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        side.agents.change(2, councilor(value="20m"))
        side.agents.change(3, {**councilor(), "agent_id": ""})
        await turned_until(lambda: metric(side, "documents_without_job") == 2)
        side.agents.change(2, councilor("other"))
        await turned_until(lambda: metric(side, "documents_without_job") == 1)
        del side.agents.collection[key_of(3)]  # no event tells of it
        side.agents.lose_watch("286")

        async def is_none_left() -> bool:
            return metric(side, "documents_without_job") == 0

        await eventually(is_none_left)


def metric(side: Side, name: str) -> float:
    (value,) = samples(side.telemetry)[name].values()
    return value


async def test_one_document_that_breaks_our_code_harms_no_other() -> None:
    side = Side()

    class Breaks(dict[str, object]):
        def get(self, *_: object) -> Never:
            raise RuntimeError("a fault of ours")

    async def documents() -> AsyncIterator[Sequence[Listed]]:
        breaks, works = AgentDocument(key_of(1), Breaks()), AgentDocument(key_of(2), councilor())
        yield [listed(breaks), listed(works)]

    side.agents.documents = documents  # type: ignore[method-assign]
    with capture_logs() as logs:
        async with side.running():
            assert set(side.jobs.jobs) == {"scout"}
    assert [log["event"] for log in logs if log["log_level"] == "error"] == ["reconcile_failed"]


async def test_missed_slots_come_back_from_the_stored_job() -> None:
    side = Side()
    accepted_at = NOON - 10 * HALF_HOUR
    status = {"state": "scheduled", "accepted_at": accepted_at, "observed_at": NOON}
    async with side.running():
        side.agents.change(1, councilor())
        await turned_until(lambda: side.status(1))
        spec_hash = side.jobs.jobs["scout"].spec_hash
    again = Side()
    missed = NOON - 2 * HALF_HOUR
    again.stored.jobs["scout"] = StoredJob("scout", spec_hash, "scheduled", accepted_at, missed)
    again.agents.change(1, councilor(councilor_status={**status, "spec_hash": spec_hash}))
    async with again.running():
        assert again.jobs.jobs["scout"].next_run_at == missed


@pytest.mark.parametrize(
    ("value", "enabled"),
    [pytest.param("20m", True, id="another schedule"), pytest.param("30m", False, id="paused")],
)
async def test_slots_that_came_while_nothing_was_watched_are_known_from_the_others(
    value: str, enabled: bool
) -> None:
    """Somebody else saw the change, took the job, and died before its slot."""
    side, accepted_at = Side(), NOON - 2 * HALF_HOUR
    blind = councilor(value=value)
    blind["councilor_config"]["schedule"]["enabled"] = enabled
    side.agents.change(1, blind)
    async with side.running():
        now = councilor()
        (desired,) = [desired_job(AgentDocument(key_of(1), now), SchedulePolicy())]
        assert isinstance(desired, Desired)
        status = {"state": "scheduled", "spec_hash": desired.spec_hash, "accepted_at": accepted_at}
        side.agents.collection[key_of(1)] = {"_id": 1, **now, "councilor_status": status}
        missed = NOON - HALF_HOUR
        side.stored.jobs["scout"] = StoredJob(
            "scout", desired.spec_hash, "scheduled", accepted_at, missed
        )
        side.agents.lose_watch("136")
        await eventually(lambda: is_due(side, missed))


async def is_due(side: Side, slot: datetime) -> bool:
    return bool(side.jobs.jobs["scout"].next_run_at == slot)


async def test_a_status_that_was_wiped_gets_its_acceptance_back() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        side.clock.advance(timedelta(minutes=7))
        side.agents.change(1, councilor())
        await turned_until(lambda: side.status(1))
        assert (side.status(1) or {})["accepted_at"] == NOON
        assert side.jobs.jobs["scout"].next_run_at == NOON + HALF_HOUR


async def test_a_request_is_handed_over_once_per_value() -> None:
    side = Side()
    side.agents.change(1, councilor(councilor_run_requested_at=NOON))
    async with side.running():
        side.change_schedule(1, enabled=False)
        await turned_until(lambda: side.jobs.jobs["scout"].state is JobState.PAUSED)
        assert [(fire.due_at, fire.trigger) for fire in side.jobs.requests] == [
            (NOON, Trigger.MANUAL)
        ]


async def test_an_invalid_councilor_is_rejected_once_and_runs_again_when_mended() -> None:
    side = Side()
    side.agents.change(1, councilor())
    with capture_logs() as logs:
        async with side.running():
            side.change_schedule(1, value="0m")
            await turned_until(lambda: side.jobs.jobs["scout"].state is JobState.INVALID)
            side.change_schedule(1, value="0m")
            await turned()
            assert side.jobs.jobs["scout"].next_run_at is None
            side.change_schedule(1, value="30m")
            await turned_until(lambda: side.jobs.jobs["scout"].state is JobState.SCHEDULED)
    told = [log["event"] for log in logs if log["event"].startswith("job_")]
    assert told == ["job_scheduled", "job_rejected", "job_scheduled"]


async def test_the_smaller_id_has_the_agent_id_until_it_goes() -> None:
    side = Side()
    side.agents.change(2, councilor(value="20m"))
    async with side.running():
        side.agents.change(1, councilor(value="10m"))
        await turned_until(lambda: (side.status(2) or {}).get("state") == "invalid")
        assert side.jobs.jobs["scout"].key == key_of(1)
        side.agents.change(1, None)
        await turned_until(lambda: (side.status(2) or {}).get("state") == "scheduled")
        assert side.jobs.jobs["scout"].key == key_of(2)


async def test_a_demotion_takes_the_verdict_away() -> None:
    side = Side()
    side.agents.change(1, councilor())
    async with side.running():
        status = side.status(1)
        side.agents.change(1, {"agent_id": "scout", "councilor_status": status})
        await turned_until(lambda: side.status(1) is None)
        assert side.jobs.jobs == {}


async def test_a_deployment_that_can_never_be_watched_ends_the_start() -> None:
    side = Side()

    def refused() -> Any:
        raise Misconfigured("a standalone")

    side.agents.watch = refused  # type: ignore[method-assign]
    with pytest.raises(Misconfigured):
        await side.reconciler().watch()


async def test_a_request_that_is_no_date_is_told_of_and_stops_nothing() -> None:
    side = Side()
    with capture_logs() as logs:
        async with side.running():
            side.agents.change(1, councilor(councilor_run_requested_at="yesterday"))
            await turned_until(lambda: side.status(1))
            side.change_schedule(1, catch_up="skip")
            await turned()
    status = side.status(1) or {}
    assert (status["state"], status["error"]["field"]) == (
        "scheduled",
        "councilor_run_requested_at",
    )
    assert '"yesterday"' in status["error"]["message"]
    assert side.jobs.requests == []
    assert [log["event"] for log in logs].count("request_rejected") == 1


async def test_skip_next_is_pinned_once_and_armed_again_by_taking_it_away() -> None:
    side = Side()
    side.agents.change(1, councilor())

    def skipped() -> object:
        return (side.status(1) or {}).get("skipped_slot")

    async with side.running():
        side.change_schedule(1, skip_next=True)
        await turned_until(lambda: skipped() == NOON + HALF_HOUR)
        side.clock.advance(3 * HALF_HOUR)
        side.jobs.settle("scout", NOON + 3 * HALF_HOUR)
        side.change_schedule(1, catch_up="skip")
        await turned()
        assert skipped() == NOON + HALF_HOUR, "it has had its effect"
        side.change_schedule(1, skip_next=False)
        await turned_until(lambda: skipped() is None)
        side.change_schedule(1, skip_next=True)
        await turned_until(lambda: skipped() == NOON + 4 * HALF_HOUR)


async def test_a_verdict_is_complete_when_the_slot_that_was_due_is_settled() -> None:
    """While it is, nobody can say which slot `skip_next` takes out."""
    side = Side()
    side.agents.change(1, councilor())
    reconciler = side.reconciler()
    async with going(reconciler.watch(), reconciler.reconcile(), reconciler.verdicts.write()):
        await turned_until(lambda: side.status(1))
        side.clock.advance(HALF_HOUR)
        side.change_schedule(1, skip_next=True)
        await turned()
        assert "skipped_slot" not in (side.status(1) or {})
        side.jobs.settle("scout", NOON + HALF_HOUR)
        reconciler.reconsider("scout")
        await turned_until(lambda: "skipped_slot" in (side.status(1) or {}))
        assert (side.status(1) or {})["skipped_slot"] == NOON + 2 * HALF_HOUR
