"""Sees every slot that comes due through to its row: turns, places, claims, what comes next."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from service.batching import Batcher, BatchPolicy
from service.breaker import Breaker
from service.cases import Case, Cases
from service.decisions import Decisions, Start
from service.domain.catch_up import PUNCTUAL
from service.domain.config import CatchUp, Overlap
from service.domain.execution import Claim, Fire, Reason, Stretch, Trigger
from service.domain.jobs import JobSpec
from service.domain.schedule import Timetable
from service.pace import Pace
from service.patience import Patience
from service.ports import Clock, JobTable, Ledger, Refused, ServiceError
from service.requests import Requests
from service.runner import Runner, cancelled
from service.standby import Standby

log = structlog.get_logger()

_TICK = timedelta(microseconds=1)
_BATCHES = BatchPolicy(at_least_seconds=0, distance_seconds=0.01)
"""Slots that come due at the same time are handed over at the same time."""
_HANDED_OVER_FIRST = timedelta(seconds=0.2)
"""For so long, what else is due is handed over before anything starts."""
_TOGETHER_AT_ONCE = 3
"""Batches of slots that have come due together: one is read while another is claimed."""


@dataclass(slots=True)
class _Known:
    """The schedule that a slot came from; and until when it was the agent's, once it is not."""

    timetable: Timetable | None
    until: datetime | None = None
    held: Reason | None = None
    """What the slot was held back for, if for anything."""
    is_open: bool = False
    """It has waited for a place, and was not settled, whatever its job says by now."""


_Waiting = tuple[Fire, _Known]


class Settler:
    """Sees to it that every slot `fire` is told of ends in one row: a run, or why there is none."""

    def __init__(
        self,
        ledger: Ledger,
        jobs: JobTable,
        runner: Runner,
        cases: Cases,
        decisions: Decisions,
        requests: Requests,
        standby: Standby,
        breaker: Breaker,
        patience: Patience,
        clock: Clock,
        *,
        failed: Callable[[BaseException], None],
        catch_up_pace: Pace | None = None,
        batches: BatchPolicy | None = None,
    ) -> None:
        self._ledger = ledger
        self._jobs = jobs
        self._runner = runner
        self._cases = cases
        self._standby = standby
        self._breaker = breaker
        self._patience = patience
        self._clock = clock
        self._requests = requests
        self._catch_up_pace = catch_up_pace or Pace()
        self._decisions = decisions
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[Fire] = set()
        """The requests that are being answered."""
        self._together: Batcher[_Waiting, None] = Batcher(
            self._settle_together, at_once=_TOGETHER_AT_ONCE, policy=batches or _BATCHES
        )
        self._schedules: dict[str, _Known] = {}
        """Of the agents whose slots are being settled."""
        self._is_stopped = False
        self._failed = failed

    def fire(self, fire: Fire) -> None:
        """Settle this slot. While an agent's slots are being settled, later ones join in."""
        if self._is_stopped:
            return
        if fire.trigger is Trigger.MANUAL:
            if fire not in self._asked:
                self._asked.add(fire)
                self._see_to(self._answer(fire))
        elif fire.agent_id not in self._schedules:
            known = self._known(fire)
            if self._may_go_along(fire, known):
                self._schedules[fire.agent_id] = known
                self._together.tell((fire, known))
            else:
                self._settle_alone(fire, known)

    def _settle_alone(self, fire: Fire, known: _Known, *, has_started: bool = False) -> None:
        self._schedules[fire.agent_id] = known
        self._see_to(self._settle_due(fire, known, has_started=has_started))

    async def _answer(self, fire: Fire) -> None:
        try:
            await self._requests.answer(fire)
        finally:
            self._asked.discard(fire)

    def _see_to(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="settle")
        self._tasks.add(task)
        task.add_done_callback(self._settled)

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._found_fault(error)

    def _found_fault(self, error: BaseException) -> None:
        log.error("settle_failed", exc_info=error)
        self._failed(error)  # a fault of ours: better to start anew than to lose slots

    async def stop(self) -> None:
        """Settle nothing more; slots that are open stay so, for the other replicas or the next."""
        self._is_stopped = True
        await self._together.stop()
        await cancelled(self._tasks)

    def _may_go_along(self, fire: Fire, known: _Known) -> bool:
        """Tell whether nothing is known that keeps this slot from starting just now."""
        return (
            self._standby.goes_first(fire.agent_id)
            and self._is_latest(fire, known.timetable)
            and not self._breaker.is_holding
            and not self._runner.claims.is_doubtful(fire.execution_id)
            and not self._runner.runs(fire.agent_id)
        )

    async def _settle_together(self, slots: Sequence[_Waiting]) -> Sequence[None]:
        """Start slots that have come due at the same time, as places for them get free.

        One by one, each of them would be read, claimed and waited for by itself; those of which it
        turns out that more is to be done are left to that.
        """
        left = list(slots)
        (first, _), *_ = slots
        while self._waits_for_more(first):  # noqa: ASYNC110 each round hands more of them over
            await asyncio.sleep(0)
        try:
            while left:
                if self._runner.is_full:
                    for _, known in left:
                        known.held = known.held or Reason.CAPACITY
                places = await self._runner.take_places(len(left))
                await self._start_together(left[:places])
                left = left[places:]
        except Exception as error:  # noqa: BLE001 told, and the process ends for it
            self._found_fault(error)
        return [None] * len(slots)

    def _waits_for_more(self, first: Fire) -> bool:
        return self._jobs.is_behind and self._clock() - first.due_at < _HANDED_OVER_FIRST

    async def _start_together(self, slots: Sequence[_Waiting]) -> None:
        """Start these in the places that were taken."""
        starts: Sequence[tuple[Case, Start] | None] = [None] * len(slots)
        try:
            starts = await self._decisions.plain_starts([fire for fire, _ in slots])
        except ServiceError:
            pass  # each for itself, then: it is told of, and tried again
        finally:
            for _ in range(starts.count(None)):
                self._runner.give_place_back()
        claims = iter(
            await self._runner.start_all(
                [
                    self._cases.launch(case, start.slot, start.trigger, start.before)
                    for case, start in filter(None, starts)
                ]
            )
        )
        for (fire, known), found in zip(slots, starts, strict=True):
            if found is None or next(claims) not in (Claim.WON, Claim.TAKEN):
                known.is_open = True
                self._settle_alone(fire, known)
                continue
            self._jobs.settle(fire.agent_id, found[1].settles)
            if known.until is not None:
                self._settle_alone(fire, known, has_started=True)
                continue
            del self._schedules[fire.agent_id]
            if (later := self._next_due(fire)) is not None:
                self.fire(later)

    async def _settle_due(self, fire: Fire, known: _Known, *, has_started: bool) -> None:
        """Settle the agent's slots, oldest first, until none is due."""
        queued: datetime | None = None
        is_first = True
        try:
            while True:
                if not has_started:
                    queued = await self._settled_or_queued(fire, known, queued, is_first=is_first)
                if queued is not None:
                    await self._runner.wait_for_agent(fire.agent_id)
                    continue
                if known.until is not None:
                    await self._retried(fire, partial(self._miss_leftovers, fire, known))
                if (later := self._next_due(fire)) is None:
                    return
                fire, known = later, self._known(later)
                self._schedules[fire.agent_id] = known
                is_first, has_started = False, False
        finally:
            # At once: what comes due from now on is settled anew.
            del self._schedules[fire.agent_id]

    def _next_due(self, fire: Fire) -> Fire | None:
        """The agent's next slot, where that has come due by now."""
        job = self._jobs.of_agent(fire.agent_id)
        if job is None or job.next_run_at is None or job.next_run_at > self._clock():
            return None
        if job.is_assumed:
            return None  # it fires as soon as its acceptance is known
        return replace(fire, key=job.key, due_at=job.next_run_at)

    async def _settled_or_queued(
        self, fire: Fire, known: _Known, queued: datetime | None, *, is_first: bool
    ) -> datetime | None:
        stands_by = queued is None and await self._standby.turn(
            fire.agent_id, fire.due_at, is_first=is_first
        )
        step = partial(self._settle_next, fire, known, queued, stands_by=stands_by)
        return await self._retried(fire, step)

    async def _retried(
        self, fire: Fire, step: Callable[[], Awaitable[datetime | None]]
    ) -> datetime | None:
        try:
            return await self._patience.retried(step, lambda: self._runner.is_draining)
        except Refused as error:
            # The ledger itself rejects the row, by a validator say: nothing can be recorded.
            log.error(  # noqa: TRY400 what the driver says may quote the row
                "slot_not_recorded", agent_id=fire.agent_id, error=str(error)
            )
            self._jobs.settle(fire.agent_id, fire.due_at)
            return None

    def _known(self, fire: Fire) -> _Known:
        job = self._jobs.of_agent(fire.agent_id)
        held = Reason.CAPACITY if self._runner.is_full else None
        return _Known(job.timetable if job is not None else None, held=held)

    def job_changed(self, agent_id: str) -> None:
        """Take note that an agent's job is another, or gone."""
        known, job = self._schedules.get(agent_id), self._jobs.of_agent(agent_id)
        if known is not None and known.until is None:
            is_same = job is not None and job.timetable == known.timetable
            known.until = None if is_same else self._clock()

    async def _miss_leftovers(self, fire: Fire, known: _Known) -> None:
        """Record this slot, and those behind it until the document changed, if it did.

        They have waited, for the database say, and now their schedule is gone.
        """
        timetable = known.timetable
        if timetable is None or known.until is None:
            return
        first, last = timetable.next_slot(fire.due_at - _TICK), timetable.latest_slot(known.until)
        if last is None or first > last:
            return
        case = await self._cases.look(fire)
        while first <= last:
            stretch = Stretch(first, last, timetable.count(first, last))
            is_late = known.until - first > PUNCTUAL
            reason = known.held or (Reason.OUTAGE if is_late else Reason.EDITED)
            until = await self._cases.miss_stretch(case, stretch, reason, timetable)
            first = timetable.next_slot(until)

    async def _settle_next(
        self, fire: Fire, known: _Known, queued: datetime | None, *, stands_by: bool
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
        self, fire: Fire, queued: datetime | None, known: _Known, *, has_turn: bool
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
