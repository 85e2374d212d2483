"""Makes the job table and the verdicts equal to what some documents say."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

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
    job_left_for,
    past_of,
    plan,
)
from service.domain.verdict import Verdict, is_said, verdict_on
from service.ports import Agents, Clock, JobTable
from service.telemetry import Telemetry


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


class Reconciliation:
    """Plans and applies, document by document.

    `mark` is called with the key of each document that has to be looked at once more.
    """

    def __init__(
        self,
        agents: Agents,
        jobs: JobTable,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: SchedulePolicy,
        mark: Callable[[DocumentKey], None],
    ) -> None:
        self._agents = agents
        self._jobs = jobs
        self._telemetry = telemetry
        self._clock = clock
        self._policy = policy
        self._left_behind: Mapping[str, StoredJob] = {}
        self._are_jobs_lost = False
        self._mark = mark
        self._contenders: defaultdict[str, set[DocumentKey]] = defaultdict(set)
        self._requested: dict[DocumentKey, datetime] = {}

    def begin(self, left_behind: Mapping[str, StoredJob], *, is_startup: bool) -> None:
        """Take into account what is stored, of an earlier process or of other replicas.

        Until `everything_was_seen`: then each of these jobs is in the table, or gone.
        """
        self._left_behind = left_behind
        self._are_jobs_lost = is_startup and not left_behind

    def everything_was_seen(self) -> None:
        """Forget what was stored."""
        self._left_behind, self._are_jobs_lost = {}, False

    async def reconcile(self, documents: Sequence[AgentDocument]) -> None:
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
        left_behind = self._left_behind.get(desired.agent_id or "")
        own = stored_of(current) if current is not None else None
        return past_of(
            status,
            job_left_for(desired, own, left_behind),
            desired,
            are_jobs_lost=self._are_jobs_lost,
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
