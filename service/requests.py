"""Runs that a document asks for, whatever its schedule says: each value starts one run, once."""

from datetime import timedelta
from functools import partial

import structlog

from service.breaker import Breaker
from service.cases import Case, Cases
from service.domain.execution import STALE_REQUEST, Claim, Fire, Reason, Trigger
from service.patience import Patience
from service.ports import Clock, JobTable, Refused
from service.runner import Runner
from service.standby import Standby

log = structlog.get_logger()


class Requests:
    """Answers run-now requests; `kept_for` is how long the ledger remembers, None for ever."""

    def __init__(
        self,
        cases: Cases,
        jobs: JobTable,
        runner: Runner,
        standby: Standby,
        breaker: Breaker,
        patience: Patience,
        clock: Clock,
        *,
        kept_for: timedelta | None,
    ) -> None:
        self._cases = cases
        self._jobs = jobs
        self._runner = runner
        self._standby = standby
        self._breaker = breaker
        self._patience = patience
        self._clock = clock
        self._kept_for = kept_for

    async def answer(self, fire: Fire) -> None:
        """Start what was asked for, once; wait where a run goes on already."""
        if self._is_forgotten(fire):
            return
        is_stale = self._clock() - fire.due_at > STALE_REQUEST
        await self._standby.turn(fire.agent_id, fire.due_at)
        while True:
            step = partial(self._is_answered, fire, is_stale=is_stale)
            try:
                if await self._patience.retried(step, lambda: self._runner.is_draining):
                    return
            except Refused as error:
                log.error(  # noqa: TRY400 what the driver says may quote the row
                    "slot_not_recorded", agent_id=fire.agent_id, error=str(error)
                )
                return
            is_stale = False
            await self._runner.wait_for_agent(fire.agent_id)

    def _is_forgotten(self, fire: Fire) -> bool:
        """Tell whether a request is too old to run, and any row of it may have expired."""
        age = self._clock() - fire.due_at
        return self._kept_for is not None and age > max(self._kept_for, STALE_REQUEST)

    async def _is_answered(self, fire: Fire, *, is_stale: bool) -> bool:
        """False where the run has to wait for the end of another."""
        is_ours = self._runner.claims.is_doubtful(fire.execution_id)
        if not is_ours and await self._standby.is_taken(fire):
            return True
        await self._breaker.let_through()
        await self._runner.take_place()
        try:
            case = await self._cases.look(fire)
            may_run = await self._may_run(case, is_stale=is_stale)
        except BaseException:
            self._runner.give_place_back()
            raise
        if not may_run:
            self._runner.give_place_back()
            return True
        job = self._jobs.of_agent(fire.agent_id)
        next_slot = job.timetable.next_slot(case.now) if job and job.timetable else None
        launch = self._cases.launch(case, fire.due_at, Trigger.MANUAL, next_slot)
        claim = await self._runner.start(launch)
        return claim is not Claim.OVERLAPS

    async def _may_run(self, case: Case, *, is_stale: bool) -> bool:
        if case.councilor is None or case.document.damage is not None:
            await self._cases.skip_by_document(case, case.fire.due_at)
            return False
        if is_stale:
            await self._cases.miss(case, case.fire.due_at, Reason.STALE)
            return False
        return True
