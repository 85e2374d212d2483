"""Keeps the job table equal to what the documents say: watch, re-read, plan, apply."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.execution import Fire, Trigger
from service.domain.jobs import Absence, AgentDocument, Desired, Job, Past, StoredJob, stored_of
from service.domain.planning import (
    Action,
    Change,
    Keep,
    Put,
    Remove,
    contested,
    desired_job,
    past_of,
    plan,
)
from service.domain.verdict import Verdict, is_said, verdict_on
from service.health import Health
from service.ports import Agents, Clock, JobTable, Misconfigured, Unavailable, Watch, WatchLost
from service.telemetry import Telemetry

_BATCH = 200
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_PAUSE_AFTER_REFUSAL = 30.0
_SETTLING = timedelta(minutes=1)
"""How long after a skipped slot the document may not yet say all of it."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """A document, what it wants, and what is known of its past."""

    document: AgentDocument
    desired: Desired
    past: Past
    has_job: bool
    """Not where another document has the `agent_id`, or there is none."""
    skipped_slot: datetime | None = None
    untold: Change | None = None
    """What became of the job, to be told when its acceptance is known."""


class Reconciler:
    """Run `watch` and `reconcile` side by side, each as a task, until they are cancelled."""

    def __init__(
        self,
        agents: Agents,
        jobs: JobTable,
        telemetry: Telemetry,
        health: Health,
        clock: Clock,
        *,
        policy: SchedulePolicy,
        resync_interval: timedelta,
        left_behind: Mapping[str, StoredJob],
    ) -> None:
        self._agents = agents
        self._jobs = jobs
        self._telemetry = telemetry
        self._health = health
        self._clock = clock
        self._policy = policy
        self._resync_seconds = resync_interval.total_seconds()
        self._left_behind = left_behind
        self._dirty: dict[DocumentKey, float] = {}
        self._has_dirty = asyncio.Event()
        self._one_pass = asyncio.Lock()
        self._contenders: defaultdict[str, set[DocumentKey]] = defaultdict(set)
        self._requested: dict[DocumentKey, datetime] = {}
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

    def _lost(self, reason: str, detail: str) -> None:
        self._health.watch_is_lost(detail)
        self._telemetry.watch_lost(reason, detail)

    async def _compare_all(self, watch: Watch, reason: str) -> None:
        """List every document; what has a job and is not listed is looked up once more."""
        began, seen = monotonic(), set[DocumentKey]()
        async with self._one_pass:
            self._dirty.clear()  # all that was marked so far is older than the listing
            async for documents in watch.documents():
                await self._reconcile(documents)
                seen.update(document.key for document in documents)
            # A second look also keeps one empty listing from removing everything.
            unseen = [job.key for job in self._jobs.all() if job.key not in seen]
            for start in range(0, len(unseen), _BATCH):
                await self._reconcile(await self._agents.read(unseen[start : start + _BATCH]))
        self._left_behind = {}
        self._health.synced = True
        self._health.watch_is_live()
        self._telemetry.watch_entered(reason, len(seen), monotonic() - began, self._clock())
        self.resynced.set()

    async def _follow(self, watch: Watch) -> None:
        """Mark what changes, until the next full comparison is due."""
        until = monotonic() + self._resync_seconds * random.uniform(0.9, 1.1)
        while monotonic() < until:
            dirty = await watch.changes()
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
                    await self._reconcile(await self._agents.read(list(batch)))
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

    async def _reconcile(self, documents: Sequence[AgentDocument]) -> None:
        """Apply what these documents want, and write the verdicts that they do not carry yet.

        The job comes first, on an assumed acceptance where the document has none; the verdict
        then makes the server say when it was, and the job follows. Raises Unavailable.
        """
        now = self._clock()
        counts = {"changed": 0, "kept": 0, "failed": 0}
        unsaid: list[tuple[_Judged, Verdict]] = []
        departed: list[DocumentKey] = []
        for document in documents:
            try:
                judged = self._apply(document, now, counts)
                if judged is None:
                    if document.fields and "councilor_status" in document.fields:
                        departed.append(document.key)
                    continue
                verdict = verdict_on(judged.desired, judged.past, judged.skipped_slot, now)
                status = document.fields and document.fields.get("councilor_status")
                if not is_said(status, verdict):
                    unsaid.append((judged, verdict))
            except Exception as error:  # noqa: BLE001 one bad document must not stop the others
                counts["failed"] += 1
                self._telemetry.document_failed(document.key, error)
        self._telemetry.reconciled(**counts)
        await self._write(unsaid, departed)

    def _apply(
        self, document: AgentDocument, now: datetime, counts: dict[str, int]
    ) -> _Judged | None:
        """Take the steps for one document; None where it wants no job."""
        desired = desired_job(document, self._policy)
        current = self._jobs.of_document(document.key)
        if isinstance(desired, Absence):
            self._request(desired)
            self._take(plan(desired, current, Past(), now), counts)
            self._forget(document.key, deleted=desired.deleted)
            return None
        if desired.agent_id is not None and self._is_contested(desired):
            no_job = Absence(document.key, None, deleted=False)
            self._take(plan(no_job, current, Past(), now), counts)
            self._contenders[desired.agent_id].add(document.key)
            return _Judged(document, contested(desired), Past(), has_job=False)
        self._request(desired)
        is_told = current is not None and current.problem == desired.problem
        if desired.spec is not None and desired.problem is not None and not is_told:
            self._telemetry.request_rejected(desired.agent_id, desired.problem)
        past = self._past(document, desired, current)
        is_assumed = desired.spec is not None and past.accepted_at is None
        assumed = replace(past, accepted_at=_whole_ms(now)) if is_assumed else past
        actions = plan(desired, current, assumed, now)
        self._take(actions, counts, told=not is_assumed)
        untold = [action.change for action in actions if is_assumed and isinstance(action, Put)]
        has_job = desired.agent_id is not None
        job = self._jobs.of_document(document.key)
        skipped_slot = job.skipped_slot if job is not None else None
        if is_assumed and skipped_slot is not None and skipped_slot > now:
            skipped_slot = None  # it follows from the acceptance, which only the server knows
        return _Judged(
            document, desired, past, has_job, skipped_slot, untold[0] if untold else None
        )

    def _past(self, document: AgentDocument, desired: Desired, current: Job | None) -> Past:
        status = document.fields.get("councilor_status") if document.fields is not None else None
        stored = self._left_behind.get(desired.agent_id or "")
        return past_of(
            status,
            stored_of(current) if current is not None else stored,
            desired,
            are_jobs_lost=not self._health.synced and not self._left_behind,
        )

    def _is_contested(self, desired: Desired) -> bool:
        """Two documents with one `agent_id`: the smaller `_id` has it, and ousts the other."""
        holder = self._jobs.of_agent(desired.agent_id or "")
        if holder is None or holder.key == desired.key:
            return False
        if holder.key < desired.key:
            return True
        self._mark(holder.key)
        return False

    def _take(
        self, actions: Sequence[Action], counts: dict[str, int], *, told: bool = True
    ) -> None:
        for action in actions:
            match action:
                case Put(job, change):
                    self._jobs.put(job)
                    if change is not None and told:
                        self._telemetry.job_changed(change, job)
                case Remove(agent_id):
                    self._jobs.remove(agent_id)
                    self._telemetry.job_removed(agent_id)
                    for key in self._contenders.pop(agent_id, ()):
                        self._mark(key)
            counts["kept" if isinstance(action, Keep) else "changed"] += 1

    def _request(self, desired: Desired | Absence) -> None:
        requested_at = desired.run_requested_at
        if requested_at is None or desired.agent_id is None:
            return
        if self._requested.get(desired.key) != requested_at:
            self._requested[desired.key] = requested_at
            fire = Fire(desired.key, desired.agent_id, requested_at, Trigger.MANUAL)
            self._jobs.request(fire)

    def _forget(self, key: DocumentKey, *, deleted: bool) -> None:
        if deleted:
            self._requested.pop(key, None)

    async def _write(
        self, unsaid: Sequence[tuple[_Judged, Verdict]], departed: Sequence[DocumentKey]
    ) -> None:
        await self._agents.clear_verdicts(departed)
        accepted = await self._agents.write_verdicts(
            [(judged.document, verdict) for judged, verdict in unsaid]
        )
        for judged, _ in unsaid:
            desired = judged.desired
            if not judged.has_job and desired.problem is not None:
                self._telemetry.rejected_without_job(desired.agent_id, desired.problem)
            elif judged.past.accepted_at is None:
                self._accept(judged, accepted.get(judged.document.key))

    def _accept(self, judged: _Judged, accepted_at: datetime | None) -> None:
        """Count the slots from the acceptance that the server has set, and tell of the job."""
        current = self._jobs.of_document(judged.document.key)
        if accepted_at is not None:
            past = replace(judged.past, accepted_at=accepted_at)
            counts = {"changed": 0, "kept": 0, "failed": 0}
            actions = plan(judged.desired, current, past, self._clock())
            self._take(actions, counts, told=False)
            current = self._jobs.of_document(judged.document.key)
        if judged.untold is not None and current is not None:
            self._telemetry.job_changed(judged.untold, current)


def _whole_ms(instant: datetime) -> datetime:
    """MongoDB keeps dates in milliseconds."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
