"""What becomes of a slot that came due: re-read the document, decide, and see to its ledger row."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from service.domain.catch_up import DueSlots, due_slots
from service.domain.config import CatchUp, Overlap
from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from service.domain.execution import (
    STALE_REQUEST,
    Claim,
    Execution,
    Fire,
    NotRun,
    Reason,
    Status,
    Stretch,
    Trigger,
    order_for,
)
from service.domain.planning import (
    Absence,
    AgentDocument,
    Desired,
    JobSpec,
    JobState,
    desired_by,
    past_of,
    stored_of,
)
from service.domain.schedule import Timetable
from service.ports import Agents, Clock, JobTable, Ledger, Refused
from service.runner import Runner, cancelled
from service.telemetry import Telemetry

log = structlog.get_logger()

_TICK = timedelta(microseconds=1)
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Case:
    """A slot, with the document as it is now and what that wants."""

    fire: Fire
    document: AgentDocument
    councilor: Councilor | None
    desired: Desired | Absence
    now: datetime
    was_full: bool


@dataclass(frozen=True, slots=True)
class _Start:
    """A slot that may start; with its claim, every slot up to `settles` is settled."""

    spec: JobSpec
    slot: datetime
    trigger: Trigger
    settles: datetime
    has_more: bool


class Settler:
    """Sees to it that every slot `fire` is told of ends in one row: a run, or why there is none."""

    def __init__(
        self,
        agents: Agents,
        ledger: Ledger,
        jobs: JobTable,
        runner: Runner,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: SchedulePolicy,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._jobs = jobs
        self._runner = runner
        self._telemetry = telemetry
        self._clock = clock
        self._policy = policy
        self._serving_since = clock()
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._is_stopped = False
        self._failed = failed

    def fire(self, fire: Fire) -> None:
        """Settle this slot. While an agent's slots are being settled, later ones join in."""
        is_request = fire.trigger is Trigger.MANUAL
        lane = fire if is_request else fire.agent_id
        going = self._tasks.get(lane)
        if self._is_stopped or (going is not None and not going.done()):
            return
        work = self._settle_request(fire) if is_request else self._settle_due(fire)
        task = asyncio.create_task(work, name=f"settle {fire.execution_id}")
        self._tasks[lane] = task
        task.add_done_callback(partial(self._settled, lane))

    def _settled(self, lane: object, task: asyncio.Task[None]) -> None:
        if self._tasks.get(lane) is task:
            del self._tasks[lane]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("settle_failed", exc_info=error)
            self._failed(error)  # a fault of ours: better to start anew than to lose slots

    async def stop(self) -> None:
        """Settle nothing more; slots that are open stay so, for the next start."""
        self._is_stopped = True
        await cancelled(self._tasks.values())

    async def _settle_due(self, fire: Fire) -> None:
        """Settle the agent's slots, oldest first, until none is due."""
        queued: datetime | None = None
        while True:
            queued = await self._settled_or_queued(fire, queued)
            if queued is not None:
                await self._end_of_run(fire.agent_id)
                continue
            job = self._jobs.of_agent(fire.agent_id)
            if job is None or job.next_run_at is None or job.next_run_at > self._clock():
                return
            fire = replace(fire, key=job.key, due_at=job.next_run_at)

    async def _settled_or_queued(self, fire: Fire, queued: datetime | None) -> datetime | None:
        try:
            return await self._runner.until_available(partial(self._settle_next, fire, queued))
        except Refused as error:
            # The ledger itself rejects the row, by a validator say: nothing can be recorded.
            log.exception("slot_not_recorded", agent_id=fire.agent_id, error=str(error))
            self._jobs.settle(fire.agent_id, fire.due_at)
            return None

    async def _settle_next(self, fire: Fire, queued: datetime | None) -> datetime | None:
        """Settle what was missed, and the next start; answers the slot that has to wait instead."""
        was_full = self._runner.is_full
        await self._runner.take_place()
        try:
            await self._runner.withdraw_doubtful(fire.agent_id)
            case = await self._look(fire, was_full=was_full)
            start = await self._next_start(case, queued)
        except BaseException:
            self._runner.give_place_back()
            raise
        if start is None:
            self._runner.give_place_back()
            return None
        claim = await self._claim(case, start.slot, start.trigger)
        return await self._after(case, start, claim, was_queued=queued is not None)

    async def _look(self, fire: Fire, *, was_full: bool) -> _Case:
        """Read the document again, on the primary: what was paused before its slot never runs."""
        (document,) = await self._agents.read([fire.key])
        fields = document.fields or {}
        reading = parse_councilor(fields, self._policy)
        desired = desired_by(fire.key, reading, document.damage)
        if document.fields is None or desired.agent_id != fire.agent_id:
            desired = Absence(fire.key, fire.agent_id, deleted=True)
        is_ours = isinstance(desired, Desired)  # and not somebody else's since a rename
        councilor = reading if is_ours and isinstance(reading, Councilor) else None
        return _Case(fire, document, councilor, desired, self._clock(), was_full)

    async def _next_start(self, case: _Case, queued: datetime | None) -> _Start | None:
        """Record what does not run; answers what may start, if anything."""
        desired, fire = case.desired, case.fire
        if not isinstance(desired, Desired) or desired.state is not JobState.SCHEDULED:
            await self._skip(case, queued or fire.due_at, _reason_of(desired))
            self._jobs.settle(fire.agent_id, queued or fire.due_at)
            return None
        assert desired.spec is not None
        slots = await self._due_slots(case, desired, desired.spec, queued)
        if slots is None:
            # No slot of what the document says now, after an edit: there is nothing to record.
            self._jobs.settle(fire.agent_id, queued or fire.due_at)
            return None
        if slots.missed is not None:
            await self._miss(case, slots.missed, is_outage=slots.last < self._serving_since)
            self._jobs.settle(fire.agent_id, slots.missed.last)
        if not slots.starts:
            self._jobs.settle(fire.agent_id, slots.last)
            return None
        (slot, trigger), *more = slots.starts
        return _Start(desired.spec, slot, trigger, slot if more else slots.last, bool(more))

    async def _due_slots(
        self, case: _Case, desired: Desired, spec: JobSpec, queued: datetime | None
    ) -> DueSlots | None:
        timetable = self._timetable(case, desired, spec)
        if timetable is None:
            return None
        if queued is not None:
            is_slot = timetable.latest_slot(queued) == queued
            return DueSlots(((queued, Trigger.SCHEDULE),), None, queued) if is_slot else None
        decide = partial(
            due_slots, spec, timetable, now=case.now, serving_since=self._serving_since
        )
        slots = decide(case.fire.due_at)
        if slots is None or slots.is_on_time:
            return slots
        # After an outage, or a long sleep: some of these may have their rows already.
        settled = await self._ledger.settled_until(case.fire.agent_id, case.fire.due_at)
        return slots if settled is None else decide(settled + _TICK)

    def _timetable(self, case: _Case, desired: Desired, spec: JobSpec) -> Timetable | None:
        job = self._jobs.of_agent(case.fire.agent_id)
        status = (case.document.fields or {}).get("councilor_status")
        past = past_of(status, stored_of(job) if job is not None else None, desired)
        return spec.timetable(past.accepted_at) if past.accepted_at is not None else None

    async def _after(
        self, case: _Case, start: _Start, claim: Claim, *, was_queued: bool
    ) -> datetime | None:
        agent_id = case.fire.agent_id
        if claim is Claim.OVERLAPS:
            if start.spec.catch_up is CatchUp.ALL and start.trigger is Trigger.CATCH_UP:
                await self._end_of_run(agent_id)
                return None
            if start.spec.overlap is Overlap.QUEUE_ONE:
                return start.slot
            await self._skip(case, start.slot, Reason.OVERLAP)
        self._jobs.settle(agent_id, start.settles)
        if was_queued and claim is Claim.WON:
            await self._skip_those_that_came_meanwhile(case)
        if start.has_more:
            await self._runner.end_of_run(agent_id)
        return None

    async def _skip_those_that_came_meanwhile(self, case: _Case) -> None:
        """One slot may wait for the end of a run; those that came due while it did are skipped."""
        while (job := self._jobs.of_agent(case.fire.agent_id)) is not None:
            if job.next_run_at is None or job.next_run_at > case.now:
                return
            await self._skip(case, job.next_run_at, Reason.OVERLAP)
            self._jobs.settle(job.agent_id, job.next_run_at)

    async def _end_of_run(self, agent_id: str) -> None:
        """Wait for the agent's run; where it goes on in another replica, look again in a while."""
        if not await self._runner.end_of_run(agent_id):
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def _settle_request(self, fire: Fire) -> None:
        """Start what was asked for, once; wait where a run goes on already."""
        is_new = True
        while True:
            step = partial(self._answer_request, fire, is_new)
            try:
                if await self._runner.until_available(step):
                    return
            except Refused as error:
                log.exception("slot_not_recorded", agent_id=fire.agent_id, error=str(error))
                return
            is_new = False
            await self._end_of_run(fire.agent_id)

    async def _answer_request(self, fire: Fire, is_new: bool) -> bool:
        """False where the run has to wait for the end of another."""
        await self._runner.withdraw_doubtful(fire.agent_id)
        if await self._ledger.known([fire.execution_id]):
            return True
        await self._runner.take_place()
        try:
            case = await self._look(fire, was_full=False)
            may_run = await self._may_run(case, is_new)
        except BaseException:
            self._runner.give_place_back()
            raise
        if not may_run:
            self._runner.give_place_back()
            return True
        return await self._claim(case, fire.due_at, Trigger.MANUAL) is not Claim.OVERLAPS

    async def _may_run(self, case: _Case, is_new: bool) -> bool:
        if case.councilor is None or case.document.damage is not None:
            await self._skip(case, case.fire.due_at, _reason_of(case.desired))
            return False
        if is_new and case.now - case.fire.due_at > STALE_REQUEST:
            await self._record(case, case.fire.due_at, Status.MISSED, Reason.STALE, None)
            return False
        return True

    async def _claim(self, case: _Case, slot: datetime, trigger: Trigger) -> Claim:
        """Claim the slot in the place that was taken; the run goes on by itself where it is won."""
        assert case.councilor is not None
        execution_id = replace(case.fire, due_at=slot, trigger=trigger).execution_id
        execution = Execution(
            execution_id=execution_id,
            agent_id=case.fire.agent_id,
            scheduled_for=slot,
            trigger=trigger,
            spec_hash=case.councilor.spec_hash,
            owner=self._runner.owner,
            # The same for every try of this process: a claim that seemed lost is known again.
            nonce=hashlib.sha256(f"{self._runner.owner} {execution_id}".encode()).hexdigest()[:32],
            started_at=self._clock(),
        )
        config = (case.document.fields or {}).get("councilor_config")
        order = order_for(case.councilor, config, execution, self._runner.policy.timeout)
        return await self._runner.start(execution, case.fire.key, order)

    async def _skip(self, case: _Case, slot: datetime, reason: Reason) -> None:
        await self._record(case, slot, Status.SKIPPED, reason, None)

    async def _miss(self, case: _Case, stretch: Stretch, *, is_outage: bool) -> None:
        was_full = case.was_full and not is_outage
        reason = Reason.CAPACITY if was_full else Reason.OUTAGE
        await self._record(case, stretch.first, Status.MISSED, reason, stretch)

    async def _record(
        self, case: _Case, slot: datetime, status: Status, reason: Reason, stretch: Stretch | None
    ) -> None:
        not_run = NotRun(
            agent_id=case.fire.agent_id,
            scheduled_for=slot,
            trigger=case.fire.trigger,
            status=status,
            reason=reason,
            spec_hash=case.desired.spec_hash if isinstance(case.desired, Desired) else None,
            owner=self._runner.owner,
            at=case.now,
            stretch=stretch,
        )
        if await self._ledger.record(not_run):
            self._telemetry.not_run(not_run)


def _reason_of(desired: Desired | Absence) -> Reason:
    if isinstance(desired, Absence):
        return Reason.DELETED if desired.deleted else Reason.DEMOTED
    return Reason.PAUSED if desired.state is JobState.PAUSED else Reason.INVALID
