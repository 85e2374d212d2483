"""One slot by itself: whose it is, a place for it, what may start, and what came of its claim."""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from service.breaker import Breaker
from service.cases import Case, Cases
from service.decisions import Decisions, Start
from service.domain.catch_up import PUNCTUAL
from service.domain.config import CatchUp, Overlap
from service.domain.execution import Claim, Fire, Reason, Trigger
from service.domain.jobs import JobSpec
from service.domain.schedule import Timetable
from service.pace import Pace
from service.ports import Clock, JobTable, Ledger
from service.runner import Runner
from service.standby import Standby


@dataclass(slots=True)
class Known:
    """The schedule that a slot came from; and until when it was the agent's, once it is not."""

    timetable: Timetable | None
    until: datetime | None = None
    held: Reason | None = None
    """What the slot was held back for, if for anything."""
    is_open: bool = False
    """It has waited for a place, and was not settled, whatever its job says by now."""


class Settling:
    """What it takes to settle a slot. Methods raise Unavailable, Misconfigured and Refused."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: JobTable,
        runner: Runner,
        cases: Cases,
        decisions: Decisions,
        standby: Standby,
        breaker: Breaker,
        clock: Clock,
        *,
        catch_up_pace: Pace | None = None,
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._runner = runner
        self._cases = cases
        self._decisions = decisions
        self._standby = standby
        self._breaker = breaker
        self._clock = clock
        self._catch_up_pace = catch_up_pace or Pace()

    def is_plain(self, fire: Fire, known: Known) -> bool:
        """Tell whether nothing is known that keeps this slot from starting just now."""
        return (
            self._standby.goes_first(fire.agent_id)
            and self._is_latest(fire, known.timetable)
            and not self._breaker.is_holding
            and not self._runner.claims.is_doubtful(fire.execution_id)
            and not self._runner.runs(fire.agent_id)
        )

    async def settle_next(
        self, fire: Fire, known: Known, queued: datetime | None, *, stands_by: bool
    ) -> datetime | None:
        """Settle what was missed, and the next start; answers the slot that has to wait instead."""
        job = self._jobs.of_agent(fire.agent_id)
        is_open, known.is_open = known.is_open or queued is not None, False
        if not is_open and job and job.next_run_at and job.next_run_at > fire.due_at:
            return None  # an earlier try has settled it: on to the next one
        if await self._is_left_to_others(fire, stands_by=stands_by):
            self._jobs.settle(fire.agent_id, fire.due_at)
            return None
        if await self._breaker.let_through():
            known.held = Reason.CONDUCTOR_UNAVAILABLE
        has_turn = False
        while True:
            case, start = await self._take_place(fire, queued, known, has_turn=has_turn)
            if start is None:
                return None
            if has_turn or start.trigger is not Trigger.CATCH_UP:
                break
            self._runner.give_place_back()
            has_turn = await self._turn(start.before)
        launch = self._cases.launch(case, start.slot, start.trigger, start.before)
        claim = await self._runner.start(launch)
        return await self._after(case, start, claim, was_queued=queued is not None)

    async def _is_left_to_others(self, fire: Fire, *, stands_by: bool) -> bool:
        """Tell whether another replica took the slot: it went first, or runs the agent.

        Slots that have piled up are left to the replica that does: one of them may wait there.
        """
        while True:
            job = self._jobs.of_agent(fire.agent_id)
            is_latest = self._is_latest(fire, job.timetable if job is not None else None)
            may_be_taken = stands_by or not is_latest
            if self._runner.claims.is_doubtful(fire.execution_id):
                may_be_taken = False  # a row of it may be our own
            if may_be_taken and await self._standby.is_taken(fire):
                return True
            if is_latest:
                return False
            owner = await self._ledger.running_owner(fire.agent_id)
            if owner is None or owner == self._runner.owner:
                return False
            await self._runner.wait_for_agent(fire.agent_id)

    def _is_latest(self, fire: Fire, timetable: Timetable | None) -> bool:
        """Tell whether no slot has come due since this one, which is on time."""
        if timetable is None:
            return True
        now = self._clock()
        is_on_time = now - fire.due_at <= PUNCTUAL and fire.due_at >= self._decisions.serving_since
        return is_on_time and timetable.next_slot(fire.due_at) > now

    async def _take_place(
        self, fire: Fire, queued: datetime | None, known: Known, *, has_turn: bool
    ) -> tuple[Case, Start | None]:
        """Look what may start, if anything; then a place is taken for it."""
        if known.held is None and self._runner.is_full:
            known.held = Reason.CAPACITY
        await self._runner.take_place()
        start = None
        try:
            case = await self._cases.look(fire)
            start = await self._decisions.next_start(case, queued, known.held, has_turn=has_turn)
        finally:
            if start is None:
                self._runner.give_place_back()
        return case, start

    async def _turn(self, before: datetime) -> bool:
        """Wait for a turn to catch up; False where a slot that is on time comes first."""
        try:
            async with asyncio.timeout((before - self._clock()).total_seconds()):
                await self._catch_up_pace.turn()
        except TimeoutError:
            return False
        return True

    async def _after(
        self, case: Case, start: Start, claim: Claim, *, was_queued: bool
    ) -> datetime | None:
        agent_id = case.fire.agent_id
        if claim is Claim.OVERLAPS:
            if start.spec.catch_up is CatchUp.ALL and start.trigger is Trigger.CATCH_UP:
                await self._runner.wait_for_agent(agent_id)
                return None
            if start.spec.overlap is Overlap.QUEUE_ONE:
                return start.slot
            await self._cases.skip(case, start.slot, Reason.OVERLAP)
        self._jobs.settle(agent_id, start.settles)
        if was_queued and claim is Claim.WON:
            await self._skip_those_that_came_meanwhile(case, start.spec)
        if start.has_more:
            await self._runner.end_of_run(agent_id)
        return None

    async def _skip_those_that_came_meanwhile(self, case: Case, spec: JobSpec) -> None:
        """One slot may wait for the end of a run; those that came due while it did are skipped."""
        while (job := self._jobs.of_agent(case.fire.agent_id)) is not None:
            slot = job.next_run_at
            if slot is None or slot > case.now:
                return
            is_left_out = spec.skip_next and slot == job.skipped_slot
            await self._cases.skip(case, slot, Reason.SKIP_NEXT if is_left_out else Reason.OVERLAP)
            self._jobs.settle(job.agent_id, slot)
