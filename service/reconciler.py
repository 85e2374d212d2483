"""Keeps the job table equal to what the documents say: what to watch, and what to read again."""

import asyncio
import random
from datetime import timedelta
from time import monotonic

from service.domain.councilor import DocumentKey, SchedulePolicy
from service.health import Health
from service.ports import (
    Agents,
    Clock,
    JobTable,
    Misconfigured,
    StoredJobs,
    Unavailable,
    Watch,
    WatchLost,
)
from service.reconciliation import Reconciliation
from service.telemetry import Telemetry

_BATCH = 200
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PAUSE_AFTER_REFUSAL = 30.0
_SETTLING = timedelta(minutes=1)
"""How long after a skipped slot the document may not yet say all of it."""


class Reconciler:
    """Run `watch` and `reconcile` side by side, each as a task, until they are cancelled."""

    def __init__(
        self,
        agents: Agents,
        jobs: JobTable,
        stored_jobs: StoredJobs,
        telemetry: Telemetry,
        health: Health,
        clock: Clock,
        *,
        policy: SchedulePolicy,
        resync_interval: timedelta,
    ) -> None:
        self._agents = agents
        self._jobs = jobs
        self._stored_jobs = stored_jobs
        self._telemetry = telemetry
        self._health = health
        self._clock = clock
        self._resync_seconds = resync_interval.total_seconds()
        self._reconciliation = Reconciliation(
            agents, jobs, telemetry, clock, policy=policy, mark=self._mark
        )
        self._dirty: dict[DocumentKey, float] = {}
        self._has_dirty = asyncio.Event()
        self._one_pass = asyncio.Lock()
        self.resynced = asyncio.Event()
        """Set after each full comparison; whoever waits for it clears it."""

    async def watch(self) -> None:
        """Enter the stream, compare everything, follow; after any doubt, do so again.

        Raises Misconfigured where the first entry finds that waiting will not help.
        """
        reason, pause = "startup", _SHORTEST_PAUSE
        while True:
            try:
                async with self._agents.watch() as watch:
                    if reason != "resync":
                        await self._learn(is_startup=not self._health.synced)
                    await self._compare_all(watch, reason)
                    pause = _SHORTEST_PAUSE
                    await self._follow(watch)
                reason = "resync"
                continue
            except WatchLost as lost:
                reason = lost.reason
                self._lost(reason, str(lost))
            except Unavailable as error:
                reason = "unavailable"
                self._lost(reason, str(error))
            except Misconfigured as error:
                if not self._health.synced:
                    raise
                reason, pause = "refused", _PAUSE_AFTER_REFUSAL
                self._lost(reason, str(error))
            await asyncio.sleep(random.uniform(0, pause))  # full jitter: replicas spread out
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _learn(self, *, is_startup: bool) -> None:
        """What happened while nothing was watched, the stored jobs know: what others have seen."""
        left_behind = await self._stored_jobs.load()
        self._reconciliation.begin(left_behind, is_startup=is_startup)

    def _lost(self, reason: str, detail: str) -> None:
        self._health.watch_is_lost(detail)
        self._telemetry.watch_lost(reason, detail)

    async def _compare_all(self, watch: Watch, reason: str) -> None:
        """List every document; what has a job and is not listed is looked up once more."""
        began, seen = monotonic(), set[DocumentKey]()
        async with self._one_pass:
            self._dirty.clear()  # all that was marked so far is older than the listing
            async for documents in watch.documents():
                await self._reconciliation.reconcile(documents)
                seen.update(document.key for document in documents)
            # A second look also keeps one empty listing from removing everything.
            unseen = [job.key for job in self._jobs.all() if job.key not in seen]
            for start in range(0, len(unseen), _BATCH):
                await self._reconciliation.reconcile(
                    await self._agents.read(unseen[start : start + _BATCH])
                )
        self._reconciliation.everything_was_seen()
        self._health.synced = True
        self._health.watch_is_live()
        self._telemetry.watch_entered(reason, len(seen), monotonic() - began, self._clock())
        self.resynced.set()

    async def _follow(self, watch: Watch) -> None:
        """Mark what changes, until the next full comparison is due."""
        until = monotonic() + self._resync_seconds * random.uniform(0.9, 1.1)
        while monotonic() < until:
            dirty = await watch.changes()
            self._health.watch_answered()
            for key in dirty.keys:
                self._telemetry.change_seen(dirty.operation)
                self._mark(key)

    def reconsider(self, agent_id: str) -> None:
        """Look again at an agent whose slots have moved on, where its verdict depends on that."""
        job = self._jobs.of_agent(agent_id)
        if job is None or job.spec is None or not job.spec.skip_next:
            return
        if job.skipped_slot is None or self._clock() - job.skipped_slot < _SETTLING:
            self._mark(job.key)

    def _mark(self, key: DocumentKey) -> None:
        self._dirty.setdefault(key, monotonic())
        self._has_dirty.set()

    async def reconcile(self) -> None:
        """Re-read what was marked and apply it; what cannot be read stays marked."""
        pause = _SHORTEST_PAUSE
        while True:
            await self._has_dirty.wait()
            async with self._one_pass:
                batch = dict(list(self._dirty.items())[:_BATCH])
                for key in batch:
                    del self._dirty[key]
                if not self._dirty:
                    self._has_dirty.clear()
                try:
                    await self._reconciliation.reconcile(await self._agents.read(list(batch)))
                except (Unavailable, Misconfigured) as error:
                    self._telemetry.database_failed(error)
                    for key in batch:
                        self._mark(key)
                else:
                    pause = _SHORTEST_PAUSE
                    for since in batch.values():
                        self._telemetry.took_effect(monotonic() - since)
                    continue
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)
