"""Sees every slot that comes due through to its row: many together, or an agent's one by one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from service.batching import Batcher, BatchPolicy
from service.cases import Case, Cases
from service.decisions import Decisions, Start
from service.domain.catch_up import PUNCTUAL
from service.domain.execution import Claim, Fire, Reason, Stretch, Trigger
from service.patience import Patience
from service.ports import Clock, JobTable, Refused, ServiceError
from service.requests import Requests
from service.runner import Runner, cancelled
from service.settling import Known, Settling
from service.standby import Standby

log = structlog.get_logger()

_TICK = timedelta(microseconds=1)
_BATCHES = BatchPolicy(at_least_seconds=0, distance_seconds=0.01)
"""Slots that come due at the same time are handed over at the same time."""
_HANDED_OVER_FIRST = timedelta(seconds=0.2)
"""For so long, what else is due is handed over before anything starts."""
_TOGETHER_AT_ONCE = 3
"""Batches of slots that have come due together: one is read while another is claimed."""

_Waiting = tuple[Fire, Known]


class Settler:
    """Sees to it that every slot `fire` is told of ends in one row: a run, or why there is none."""

    def __init__(
        self,
        jobs: JobTable,
        runner: Runner,
        cases: Cases,
        decisions: Decisions,
        settling: Settling,
        requests: Requests,
        standby: Standby,
        patience: Patience,
        clock: Clock,
        *,
        failed: Callable[[BaseException], None],
        batches: BatchPolicy | None = None,
    ) -> None:
        self._jobs = jobs
        self._runner = runner
        self._cases = cases
        self._decisions = decisions
        self._settling = settling
        self._requests = requests
        self._standby = standby
        self._patience = patience
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: set[Fire] = set()
        """The requests that are being answered."""
        self._together: Batcher[_Waiting, None] = Batcher(
            self._settle_together, at_once=_TOGETHER_AT_ONCE, policy=batches or _BATCHES
        )
        self._schedules: dict[str, Known] = {}
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
            if self._settling.is_plain(fire, known):
                self._schedules[fire.agent_id] = known
                self._together.tell((fire, known))
            else:
                self._settle_alone(fire, known)

    def _settle_alone(self, fire: Fire, known: Known, *, has_started: bool = False) -> None:
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

    async def _settle_due(self, fire: Fire, known: Known, *, has_started: bool) -> None:
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
        self, fire: Fire, known: Known, queued: datetime | None, *, is_first: bool
    ) -> datetime | None:
        stands_by = queued is None and await self._standby.turn(
            fire.agent_id, fire.due_at, is_first=is_first
        )
        step = partial(self._settling.settle_next, fire, known, queued, stands_by=stands_by)
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

    def _known(self, fire: Fire) -> Known:
        job = self._jobs.of_agent(fire.agent_id)
        held = Reason.CAPACITY if self._runner.is_full else None
        return Known(job.timetable if job is not None else None, held=held)

    def job_changed(self, agent_id: str) -> None:
        """Take note that an agent's job is another, or gone."""
        known, job = self._schedules.get(agent_id), self._jobs.of_agent(agent_id)
        if known is not None and known.until is None:
            is_same = job is not None and job.timetable == known.timetable
            known.until = None if is_same else self._clock()

    async def _miss_leftovers(self, fire: Fire, known: Known) -> None:
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
