"""This replica among the others: its heartbeat, and the runs that a dead one has left."""

import asyncio
import math
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from time import monotonic

import structlog

from service.domain.execution import Execution, interrupted
from service.ports import Clock, JobTable, Ledger, Replicas, ServiceError
from service.telemetry import Telemetry

log = structlog.get_logger()

_GONE = "the replica that ran it is gone; what Conductor made of it is not known"


class Membership:
    """After `join`, run `beat` and `mend` as tasks; `leave` once they have ended."""

    def __init__(
        self,
        replicas: Replicas,
        ledger: Ledger,
        jobs: JobTable,
        telemetry: Telemetry,
        clock: Clock,
        *,
        replica_id: str,
        facts: Mapping[str, object],
        ttl: timedelta,
        executions: Collection[str],
    ) -> None:
        self._replicas = replicas
        self._ledger = ledger
        self._jobs = jobs
        self._telemetry = telemetry
        self._clock = clock
        self._id = replica_id
        self._facts = facts
        self._ttl = ttl
        self._executions = executions
        self._last_beat = -math.inf
        self._beating_since = math.inf

    async def join(self) -> None:
        """Be known to the others before the first claim. Raises Unavailable, Refused."""
        await self._replicas.heartbeat(self._id, self._facts, self._ttl)
        now = monotonic()
        if now - self._last_beat > self._ttl.total_seconds():
            self._beating_since = now
        self._last_beat = now

    async def beat(self) -> None:
        """Say every third of the time-to-live that we live."""
        while True:
            await asyncio.sleep(self._ttl.total_seconds() / 3)
            try:
                await self.join()
            except ServiceError as error:
                log.warning("heartbeat_failed", error=str(error))

    async def mend(self) -> None:
        """Look as often what dead replicas have left, and put it right.

        A task of its own: however long that takes, the heartbeat goes on.
        """
        while True:
            for step in (
                self._close_orphans,
                self._count_forgotten,
                self._ledger.restore_indexes,
                self._replicas.forget_dead,
            ):
                try:
                    await step()
                except ServiceError as error:
                    log.warning("mending_failed", error=str(error))
            await asyncio.sleep(self._ttl.total_seconds() / 3)

    async def _count_forgotten(self) -> None:
        await self._ledger.count_forgotten(self._clock() - self._ttl)

    async def leave(self) -> None:
        """Be dead at once, not only when the time-to-live is over. Raises Unavailable."""
        await self._replicas.leave(self._id)

    async def _close_orphans(self) -> None:
        # After an outage everybody's time has run out, and whoever comes back first would take
        # the others for dead: they get as long to be heard of as we have been heard ourselves.
        if monotonic() - self._beating_since < self._ttl.total_seconds():
            return
        # The rows first: who claims after that is not among them, and who did is alive by now.
        running = await self._ledger.running_of_others({self._id})
        alive = await self._replicas.alive() if running else ()
        lost = [run for run in running if run.owner not in alive]
        for orphan in (*lost, *await self._forgotten()):
            job = self._jobs.of_agent(orphan.agent_id)
            outcome = interrupted(self._clock(), _GONE)
            if await self._ledger.close(orphan, job.key if job is not None else None, outcome):
                self._telemetry.run_ended(orphan, outcome)

    async def _forgotten(self) -> Sequence[Execution]:
        """Rows of our own that nothing here is at: a claim, say, that arrived after all."""
        before = self._clock() - self._ttl
        return [
            run
            for run in await self._ledger.running_of(self._id)
            if run.execution_id not in self._executions and run.started_at < before
        ]
