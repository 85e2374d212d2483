"""What crashes leave behind, put right by any replica that finds it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import count

import structlog

from service.breaker import Breaker
from service.cases import Case, Cases
from service.domain.catch_up import may_still_start
from service.domain.execution import STALE_REQUEST, Execution, Fire, Trigger, interrupted
from service.domain.jobs import Desired, Job, JobState
from service.notifier import Notifier
from service.ports import Clock, JobTable, Ledger, Replicas, ServiceError
from service.replicas import Membership
from service.runner import Runner
from service.telemetry import Telemetry

log = structlog.get_logger()

_SELDOM, _LESS_OFTEN = 20, 3
"""Turns between two looks for what can wait; and for what has to be older than a write may take
before anything is done about it."""
_GONE = "the replica that ran it is gone; what Conductor made of it is not known"


class Mending:
    """Run `mend` as a task; `every` is how often it looks, `grace` how long a write may take."""

    def __init__(
        self,
        ledger: Ledger,
        replicas: Replicas,
        membership: Membership,
        jobs: JobTable,
        cases: Cases,
        runner: Runner,
        breaker: Breaker,
        notifier: Notifier,
        telemetry: Telemetry,
        clock: Clock,
        *,
        is_synced: Callable[[], bool],
        every: timedelta,
        grace: timedelta,
    ) -> None:
        self._is_synced = is_synced
        self._ledger = ledger
        self._replicas = replicas
        self._membership = membership
        self._jobs = jobs
        self._cases = cases
        self._runner = runner
        self._breaker = breaker
        self._notifier = notifier
        self._telemetry = telemetry
        self._clock = clock
        self._every = every
        self._grace = grace

    async def mend(self) -> None:
        """Look again and again what is to be put right; what fails is tried the next time."""
        for turn in count():
            less_often = (
                self._settle_forgotten,
                self._count_forgotten,
                self._take_notifications_over,
            )
            for step in (
                self._settle_orphans,
                self._ledger.restore_indexes,
                *(less_often if turn % _LESS_OFTEN == 0 else ()),
                *((self._replicas.forget_dead,) if turn % _SELDOM == 0 else ()),
            ):
                try:
                    await step()
                except ServiceError as error:
                    log.warning("mending_failed", error=str(error))
            await asyncio.sleep(self._every.total_seconds())

    async def _count_forgotten(self) -> None:
        await self._ledger.count_forgotten(self._clock() - self._grace)

    async def _take_notifications_over(self) -> None:
        await self._notifier.take_over(self._membership.dead_among, self._runner.owner)

    async def _settle_orphans(self) -> None:
        """Close the runs whose replicas are gone, or go on with those that had not begun."""
        if not self._is_synced():
            return  # whose agents they are is not known yet
        running = await self._ledger.running_of_others({self._runner.owner})
        dead = await self._membership.dead_among({run.owner for run in running})
        await self._settle([run for run in running if run.owner in dead])

    async def _settle_forgotten(self) -> None:
        """The same with runs of our own that nothing here is at."""
        if self._is_synced():
            await self._settle(await self._forgotten())

    async def _settle(self, orphans: Sequence[Execution]) -> None:
        for orphan in orphans:
            try:
                if not (orphan.is_surely_not_accepted and await self._is_seen_to(orphan)):
                    await self._close(orphan)
            except ServiceError as error:  # the next one may be luckier
                log.warning("mending_failed", error=str(error))

    async def _forgotten(self) -> Sequence[Execution]:
        """Rows of our own that nothing here is at: a claim, say, that arrived after all."""
        before = self._clock() - self._grace
        return [
            run
            for run in await self._ledger.running_of(self._runner.owner)
            if run.execution_id not in self._runner.executions
            and not self._runner.claims.is_doubtful(run.execution_id)
            and run.started_at < before
        ]

    async def _close(self, orphan: Execution) -> None:
        job = self._jobs.of_agent(orphan.agent_id)
        outcome = interrupted(orphan, self._clock(), _GONE)
        if await self._ledger.close(orphan, job.key if job is not None else None, outcome):
            self._telemetry.run_ended(orphan, outcome)
            self._notifier.run_ended(orphan, outcome, None)

    async def _is_seen_to(self, orphan: Execution) -> bool:
        """Go on with a run that Conductor has not heard of, where it is not too late for that.

        True also where it has to wait: for Conductor, or for a free place in any replica.
        """
        job = self._jobs.of_agent(orphan.agent_id)
        if job is None or not _is_in_time(job, orphan, self._clock()):
            return False
        if self._breaker.is_open or self._runner.is_full:
            return True
        await self._runner.take_place()
        try:
            case = await self._cases.look(
                Fire(job.key, orphan.agent_id, orphan.scheduled_for, orphan.trigger)
            )
            is_wanted = _is_wanted(case)
        except BaseException:
            self._runner.give_place_back()
            raise
        if not is_wanted:
            self._runner.give_place_back()
            return False
        next_slot = job.timetable.next_slot(case.now) if job.timetable is not None else None
        self._telemetry.run_taken_over(orphan)
        await self._runner.start(self._cases.resumption(case, orphan, next_slot))
        return True


def _is_wanted(case: Case) -> bool:
    if case.councilor is None or case.document.damage is not None:
        return False
    if case.fire.trigger is Trigger.MANUAL:
        return True
    return isinstance(case.desired, Desired) and case.desired.state is JobState.SCHEDULED


def _is_in_time(job: Job, orphan: Execution, now: datetime) -> bool:
    if orphan.trigger is Trigger.MANUAL:
        return now - orphan.scheduled_for <= STALE_REQUEST
    if job.spec is None or job.timetable is None:
        return False
    return may_still_start(job.spec, job.timetable, orphan.scheduled_for, now)
