"""10,000 simulated fires of an interval: whatever happens on the way, slot k stays where it is."""

from dataclasses import replace
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from service.domain.catch_up import due_slots
from service.domain.councilor import DocumentKey
from service.domain.jobs import AgentDocument, Desired, Job, stored_of
from service.domain.planning import Keep, Put, desired_job, past_of, plan
from service.domain.schedule import delay_within
from tests.contract.test_agents import POLICY, councilor
from tests.fakes import NOON

FIRES = 10_000
KEY = DocumentKey(b"1")


class World:
    """A document, what is stored, and two replicas that each plan and settle on their own."""

    def __init__(self, random: Random, value: str, spread: str | None) -> None:
        self.random = random
        self.fields = councilor(value=value)
        if spread is not None:
            self.fields["councilor_config"]["schedule"]["spread"] = spread
        self.now = NOON
        self.replicas: list[Job | None] = [None, None]
        self.stored: Job | None = None
        desired = self.desired()
        self.say(desired)
        self.plan_everywhere()

    def desired(self) -> Desired:
        desired = desired_job(AgentDocument(KEY, self.fields), POLICY)
        assert isinstance(desired, Desired)
        return desired

    def say(self, desired: Desired) -> None:
        status = {"state": desired.state.value, "spec_hash": desired.spec_hash}
        self.fields["councilor_status"] = status | {"accepted_at": NOON}

    def plan_everywhere(self) -> None:
        """Each replica reconciles the document as it is now."""
        for place, current in enumerate(self.replicas):
            desired, known = self.desired(), current or self.stored
            stored = stored_of(known) if known is not None else None
            past = past_of(self.fields.get("councilor_status"), stored, desired)
            (action,) = plan(desired, current, past, self.now)
            if isinstance(action, Put):
                self.replicas[place] = action.job
            else:
                assert isinstance(action, Keep)
        self.say(self.desired())

    def edit_task(self) -> None:
        task = self.fields["councilor_config"]["task"]
        task["prompt"] = f"look {self.random.random()}"
        self.plan_everywhere()

    def wipe_status(self) -> None:
        """Somebody replaces the whole document."""
        del self.fields["councilor_status"]
        self.plan_everywhere()

    def rename(self) -> None:
        self.fields["name"] = f"Scout {self.random.random()}"
        self.plan_everywhere()

    def restart(self) -> None:
        """A replica is gone, and comes back with what the other one has stored."""
        place = self.random.randrange(2)
        self.stored = self.replicas[1 - place]
        self.replicas[place] = None
        self.plan_everywhere()

    def fire(self) -> list[Any]:
        """Some replica settles what has come due, late; the others hear of it from the ledger."""
        job = self.random.choice(self.replicas)
        assert job is not None
        assert job.timetable is not None
        assert job.spec is not None
        assert job.next_run_at is not None
        lateness = timedelta(microseconds=self.random.randrange(14_000_000))
        self.now = max(self.now, job.next_run_at + lateness)
        slots = due_slots(job.spec, job.timetable, job.next_run_at, self.now, NOON)
        assert slots is not None
        for place, other in enumerate(self.replicas):
            assert other is not None
            following = job.timetable.next_slot(slots.last)
            self.replicas[place] = replace(other, next_run_at=following)
        return [slot for slot, _ in slots.starts]


@pytest.mark.parametrize(
    ("value", "spread"), [("1m", None), ("90s", "20s"), ("7h", "5m"), ("1w2d", None)]
)
def test_slot_k_is_the_acceptance_and_k_intervals(value: str, spread: str | None) -> None:
    """Lateness, restarts, failovers, edits of the task, documents that were replaced."""
    world = World(Random(value), value, spread)
    (period,) = {job.spec.schedule.shortest_gap for job in world.replicas if job and job.spec}
    delay = timedelta(0)
    if spread is not None:
        delay = delay_within({"20s": 20, "5m": 300}[spread] * timedelta(seconds=1), "scout")
    events = [world.edit_task, world.wipe_status, world.rename, world.restart]
    fired: list[Any] = []
    while len(fired) < FIRES:
        if world.random.random() < 0.2:
            world.random.choice(events)()
        fired += world.fire()
    assert fired == [NOON + k * period + delay for k in range(1, len(fired) + 1)]
