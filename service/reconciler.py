"""Keeps the job table equal to what the documents say: what to watch, and what to read again."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain, islice
from time import monotonic

from service import garbage
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.jobs import AgentDocument, Listed
from service.drift import Drift, Followed
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
from service.verdicts import Verdicts

_BATCH = 400
_KNOWN, _OTHERS, _NEW = range(3)
_PORTION = 50
"""Documents that are judged before the event loop may turn to something else."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PAUSE_AFTER_REFUSAL = 30.0
_SETTLING = timedelta(minutes=1)
"""How long after a skipped slot the document may not yet say all of it."""


class Reconciler:
    """Run `watch`, `reconcile` and `verdicts.write` side by side, until they are cancelled."""

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
            agents,
            jobs,
            telemetry,
            clock,
            policy=policy,
            mark=self._mark,
            is_busy=lambda: sum(map(len, self._lanes)) > _BATCH,
        )
        self._lanes: tuple[dict[DocumentKey, float], ...] = ({}, {}, {})
        """What has to be read again, and since when; the first lane first."""
        self._reading: dict[DocumentKey, float] = {}
        """What is just being read again."""
        self._followed = Followed()
        self._changed: set[DocumentKey] | None = None
        """What has changed since the listing began, while it goes on."""
        self._pause = _SHORTEST_PAUSE
        self._has_dirty = asyncio.Event()
        self._one_pass = asyncio.Lock()
        self.resynced = asyncio.Event()
        """Set after each full comparison; whoever waits for it clears it."""
        telemetry.resyncs_every(resync_interval)
        telemetry.queue_measured(lambda: sum(map(len, self._waiting)), self._oldest_age)

    async def watch(self) -> None:
        """Enter the stream, compare everything, follow; after any doubt, do so again.

        Raises Misconfigured where the first entry finds that waiting will not help.
        """
        reason = "startup"
        while True:
            try:
                async with self._agents.watch() as watch:
                    if reason != "resync":
                        await self._learn(is_startup=not self._health.synced)
                    dropped = await self._settle_reads()
                    drift = self._drift(reason, dropped)
                    await self._compare_and_follow(watch, reason, drift)
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
                reason, self._pause = "refused", _PAUSE_AFTER_REFUSAL
                self._lost(reason, str(error))
            await asyncio.sleep(random.uniform(0, self._pause))  # full jitter: replicas spread out
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _learn(self, *, is_startup: bool) -> None:
        """What happened while nothing was watched, the stored jobs know: what others have seen."""
        with garbage.paused():
            left_behind = await self._stored_jobs.load()
            self._reconciliation.begin(left_behind, is_startup=is_startup)

    def _lost(self, reason: str, detail: str) -> None:
        self._health.watch_is_lost(detail)
        self._telemetry.watch_lost(reason, detail)

    def _drift(self, reason: str, dropped: set[DocumentKey]) -> Drift:
        """What this comparison is held against: nothing, unless the stream has ended by plan."""
        followed = self._followed
        # Another document may have stood in the way of those without a job, and be gone.
        excused = dropped | followed.recent | self._reconciliation.without_job
        return Drift(
            self._agents,
            self._jobs,
            self._telemetry,
            position=followed.position if reason == "resync" else None,
            excused=excused,
        )

    async def _settle_reads(self) -> set[DocumentKey]:
        """Let what was read before the stream was opened take effect before anything is listed.

        Answers what was still to be read: it is listed instead.
        """
        async with self._one_pass:
            dropped = set[DocumentKey]().union(*self._lanes)
            for lane in self._lanes:
                lane.clear()  # all of it is older than the listing
            self._changed = set()
        return dropped

    async def _compare_and_follow(self, watch: Watch, reason: str, drift: Drift) -> None:
        """List, while changes are followed already, until the next full comparison is due."""
        tasks = [
            asyncio.create_task(
                self._compare_all(watch, reason, drift), name="compare all documents"
            ),
            asyncio.create_task(self._follow(watch), name="follow the changes"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _compare_all(self, watch: Watch, reason: str, drift: Drift) -> None:
        """List every document; what has a job and is not listed is looked up once more.

        Documents that change meanwhile are left to those who follow: what is listed is older.
        """
        began, seen = monotonic(), set[DocumentKey]()
        with garbage.paused():
            async for batch in watch.documents():
                await self._compare(batch, drift)
                seen.update(document.key for document in batch)
        # A second look also keeps one empty listing from removing everything.
        unseen = [job.key for job in self._jobs.all() if job.key not in seen]
        unseen += self._reconciliation.without_job - seen
        for start in range(0, len(unseen), _BATCH):
            async with self._one_pass:  # else it might overwrite what was read later
                documents = await self._agents.read(unseen[start : start + _BATCH])
                self._put_right(documents, drift)
        await drift.tell()
        self._reconciliation.everything_was_seen()
        self._changed = None
        self._pause = _SHORTEST_PAUSE
        self._health.synced = True
        self._health.watch_is_live()
        self._telemetry.watch_entered(reason, len(seen), monotonic() - began, self._clock())
        self.resynced.set()

    async def _compare(self, batch: Sequence[Listed], drift: Drift) -> None:
        changed = self._changed or ()
        unknown = [
            document
            for document in batch
            if document.key not in changed and not self._reconciliation.is_known(document)
        ]
        self._telemetry.reconciled(changed=0, kept=len(batch) - len(unknown), failed=0)
        for start in range(0, len(unknown), _PORTION):
            await asyncio.sleep(0)
            changed = self._changed or ()
            portion = unknown[start : start + _PORTION]
            documents = [one.read() for one in portion if one.key not in changed]
            self._put_right(documents, drift)

    def _put_right(self, documents: Sequence[AgentDocument], drift: Drift) -> None:
        with drift.noticed(documents):
            self._reconciliation.reconcile(documents)
        self._followed.read(document.key for document in documents)

    async def _follow(self, watch: Watch) -> None:
        """Mark what changes, until the next full comparison is due."""
        until = monotonic() + self._resync_seconds * random.uniform(0.9, 1.1)
        while monotonic() < until or self._changed is not None:
            changes = await watch.changes()
            self._health.watch_answered()
            self._telemetry.changes_seen(Counter(operation for _, operation in changes))
            for key, operation in changes:
                if self._changed is not None:
                    self._changed.add(key)
                self._mark(key, operation)
            self._followed.reached(watch.position)
            self._telemetry.stream_reached(self._followed.position)

    def reconsider(self, agent_id: str) -> None:
        """Look again at an agent whose slots have moved on, where its verdict depends on that."""
        job = self._jobs.of_agent(agent_id)
        if job is None or job.spec is None or not job.spec.skip_next:
            return
        if job.skipped_slot is None or self._clock() - job.skipped_slot < _SETTLING:
            self._mark(job.key)

    def _mark(self, key: DocumentKey, operation: str = "") -> None:
        """Have a document read again: those with a job first, and new documents last.

        So many promotions at once hold back no pause, and an import no promotion.
        """
        lane = self._lane_of(key)
        if lane is _OTHERS and operation == "insert":
            lane = _NEW
        self._telemetry.queued(is_new=not any(key in waiting for waiting in self._lanes))
        self._enqueue(key, lane, monotonic())

    def _enqueue(self, key: DocumentKey, lane: int, since: float) -> None:
        for slower in self._lanes[lane + 1 :]:
            since = min(slower.pop(key, since), since)
        if not any(key in faster for faster in self._lanes[:lane]):
            self._lanes[lane].setdefault(key, since)
        self._has_dirty.set()

    def _lane_of(self, key: DocumentKey) -> int:
        return _KNOWN if self._jobs.of_document(key) is not None else _OTHERS

    async def reconcile(self) -> None:
        """Re-read what was marked and apply it; what cannot be read stays marked."""
        pause = _SHORTEST_PAUSE
        while True:
            await self._has_dirty.wait()
            async with self._one_pass:
                batch = self._reading = self._next_batch()
                try:
                    documents = await self._agents.read(list(batch))
                except (Unavailable, Misconfigured) as error:
                    self._telemetry.database_failed(error)
                    for key, since in batch.items():
                        self._enqueue(key, self._lane_of(key), since)
                    self._reading = {}
                else:
                    pause = _SHORTEST_PAUSE
                    self._followed.read(batch)
                    await self._apply(documents, batch)
                    self._reading = {}
                    continue
            await asyncio.sleep(random.uniform(0, pause))
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _apply(
        self, documents: Sequence[AgentDocument], since: Mapping[DocumentKey, float]
    ) -> None:
        for start in range(0, len(documents), _PORTION):
            portion = documents[start : start + _PORTION]
            self._reconciliation.reconcile(portion)
            now = monotonic()
            for document in portion:
                self._telemetry.took_effect(now - since[document.key])
            await asyncio.sleep(0)

    def _next_batch(self) -> dict[DocumentKey, float]:
        batch: dict[DocumentKey, float] = {}
        for lane in self._lanes:
            for key in list(islice(lane, _BATCH - len(batch))):
                batch[key] = lane.pop(key)
        if not any(self._lanes):
            self._has_dirty.clear()
        return batch

    @property
    def _waiting(self) -> Sequence[Mapping[DocumentKey, float]]:
        return (*self._lanes, self._reading)

    def _oldest_age(self) -> float:
        """How long the document that has waited longest has, in seconds.

        Those that wait in line are looked at as far as they are read next.
        """
        firsts = [islice(waiting.values(), _BATCH) for waiting in self._waiting]
        now = monotonic()
        return now - min(chain.from_iterable(firsts), default=now)

    @property
    def verdicts(self) -> Verdicts:
        """What writes the verdicts: to be run as a task beside."""
        return self._reconciliation.verdicts
