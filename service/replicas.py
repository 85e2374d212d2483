"""This replica among the others: its heartbeat, and the runs that a dead one has left."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog

from service.domain.execution import interrupted
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
    ) -> None:
        self._replicas = replicas
        self._ledger = ledger
        self._jobs = jobs
        self._telemetry = telemetry
        self._clock = clock
        self._id = replica_id
        self._facts = facts
        self._ttl = ttl

    async def join(self) -> None:
        """Be known to the others before the first claim. Raises Unavailable, Refused."""
        await self._replicas.heartbeat(self._id, self._facts, self._ttl)

    async def beat(self) -> None:
        """Say every third of the time-to-live that we live."""
        while True:
            try:
                await self.join()
            except ServiceError as error:
                log.warning("heartbeat_failed", error=str(error))
            await asyncio.sleep(self._ttl.total_seconds() / 3)

    async def mend(self) -> None:
        """Look as often what dead replicas have left, and put it right.

        A task of its own: however long that takes, the heartbeat goes on.
        """
        while True:
            try:
                await self._ledger.restore_indexes()
                await self._replicas.forget_dead()
                await self._close_orphans()
                await self._ledger.count_forgotten(self._clock() - self._ttl)
            except ServiceError as error:
                log.warning("mending_failed", error=str(error))
            await asyncio.sleep(self._ttl.total_seconds() / 3)

    async def leave(self) -> None:
        """Be dead at once, not only when the time-to-live is over. Raises Unavailable."""
        await self._replicas.leave(self._id)

    async def _close_orphans(self) -> None:
        alive = {*await self._replicas.alive(), self._id}
        for orphan in await self._ledger.running_of_others(alive):
            job = self._jobs.of_agent(orphan.agent_id)
            outcome = interrupted(self._clock(), _GONE)
            if await self._ledger.close(orphan, job.key if job is not None else None, outcome):
                self._telemetry.run_ended(orphan, outcome)
