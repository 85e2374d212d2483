"""Writes the job table behind to `apscheduler_jobs`, for people and for the next start."""

import asyncio
from collections.abc import Callable, Iterable

from service.ports import JobTable, ServiceError, StoredJobs

_COLLECT_SECONDS = 0.02
_MANY, _BUSY_SECONDS = 50, 0.2
"""Where so many change within one pause, they are collected for longer."""
_LONGEST_PAUSE = 1.0
_BULK = 200


class Projection:
    """Run `project` as a task; `flush` once it has ended. A crash loses some milliseconds of it.

    What is lost that way are next runs that had already passed: the restart finds those slots in
    the ledger.
    """

    def __init__(self, stored: StoredJobs, jobs: JobTable, failed: Callable[[str], None]) -> None:
        self._stored = stored
        self._jobs = jobs
        self._failed = failed
        self._changed: set[str] = set()
        self._has_changed = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many jobs are to be written."""
        return len(self._changed)

    def mark(self, agent_id: str) -> None:
        """Say that the job of this agent is another, or gone."""
        self._changed.add(agent_id)
        self._has_changed.set()

    async def project(self) -> None:
        """Write what has been marked, collected for some milliseconds, until cancelled."""
        pause = _COLLECT_SECONDS
        while True:
            await self._has_changed.wait()
            await asyncio.sleep(pause)
            is_busy = len(self._changed) >= _MANY
            try:
                await self.flush()
            except ServiceError as error:
                self._failed(str(error))
                pause = min(pause * 3, _LONGEST_PAUSE)
            else:
                pause = _BUSY_SECONDS if is_busy else _COLLECT_SECONDS

    async def flush(self) -> None:
        """Write everything that is marked. Raises Unavailable, Refused; it stays marked then."""
        while self._changed:
            batch = [self._changed.pop() for _ in range(min(_BULK, len(self._changed)))]
            try:
                await self._save(batch)
            except BaseException:
                for agent_id in batch:
                    self.mark(agent_id)
                raise
        self._has_changed.clear()

    async def _save(self, agent_ids: Iterable[str]) -> None:
        jobs = {agent_id: self._jobs.of_agent(agent_id) for agent_id in agent_ids}
        # One whose acceptance is a guess comes again as soon as it is none.
        present = [job for job in jobs.values() if job is not None and not job.is_assumed]
        await self._stored.save(present, [name for name, job in jobs.items() if job is None])

    async def compare_all(self, resynced: asyncio.Event) -> None:
        """After each full comparison, remove what is stored for nobody and restore what is lost."""
        while True:
            await resynced.wait()
            resynced.clear()
            try:
                wanted = {job.agent_id for job in self._jobs.all()}
                missing = await self._stored.keep_only(wanted)
            except ServiceError as error:
                self._failed(str(error))
                continue
            come_meanwhile = {job.agent_id for job in self._jobs.all()} - wanted
            for agent_id in {*missing, *come_meanwhile}:
                self.mark(agent_id)
