"""Makes the job table and the verdicts equal to what some documents say."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from service import garbage
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.execution import Fire, Trigger
from service.domain.jobs import (
    Absence,
    AgentDocument,
    Desired,
    Job,
    JobState,
    Listed,
    Past,
    StoredJob,
    stored_of,
)
from service.domain.planning import (
    Action,
    Keep,
    Put,
    Remove,
    contested,
    desired_job,
    job_left_for,
    past_of,
    plan,
)
from service.domain.restoring import is_plain, restored
from service.domain.verdict import is_said, verdict_on
from service.ports import Agents, Clock, JobTable, Told
from service.telemetry import Telemetry
from service.verdicts import Judged, Verdicts


class Reconciliation:
    """Plans and applies, document by document. Run `verdicts.write` as a task beside it.

    `mark` is called with the key of each document that has to be looked at once more; `is_busy`
    tells whether many more wait.
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
        is_busy: Callable[[], bool],
    ) -> None:
        self.verdicts = Verdicts(agents, telemetry, self._told, is_busy)
        self._jobs = jobs
        self._telemetry = telemetry
        self._clock = clock
        self._policy = policy
        self._left_behind: dict[str, StoredJob] = {}
        self._left_by_digest: dict[bytes, StoredJob] = {}
        self._are_jobs_lost = False
        self._mark = mark
        self._contenders: defaultdict[str, set[DocumentKey]] = defaultdict(set)
        self._requested: dict[DocumentKey, datetime] = {}
        self.without_job: set[DocumentKey] = set()
        """Councilors that have none: without an `agent_id`, or with that of another document."""
        telemetry.documents_without_job(lambda: len(self.without_job))

    def begin(self, left_behind: dict[str, StoredJob], *, is_startup: bool) -> None:
        """Take into account what is stored, of an earlier process or of other replicas.

        Until `everything_was_seen`: then each of these jobs is in the table, or gone.
        """
        self._left_behind = left_behind
        self._left_by_digest = {
            stored.whole.digest: stored
            for stored in left_behind.values()
            if stored.whole is not None
        }
        self._are_jobs_lost = is_startup and not left_behind

    def everything_was_seen(self) -> None:
        """Forget what was stored."""
        self._left_behind, self._left_by_digest, self._are_jobs_lost = {}, {}, False

    def is_known(self, listed: Listed) -> bool:
        """Tell whether a document is, to the byte, what its job came from: no need to read it.

        Where that job is stored, and not in the table yet, it is there now.
        """
        job = self._jobs.of_document(listed.key)
        if job is not None:
            has_timer = job.state is not JobState.SCHEDULED or job.next_run_at is not None
            return has_timer and job.digest == listed.digest
        # Taken out: what is not needed any more makes room for the jobs.
        stored = self._left_by_digest.pop(listed.digest, None)
        if stored is None or self._jobs.of_agent(stored.agent_id) is not None:
            return False
        job = restored(stored, listed.key, listed.digest, self._clock())
        if job is None:
            return False
        self._left_behind.pop(job.agent_id, None)
        self._jobs.put(job, is_stored=job.next_run_at == stored.next_run_at)
        return True

    def reconcile(self, documents: Sequence[AgentDocument]) -> None:
        """Apply what these documents want, and have those verdicts written that they do not carry.

        The job comes first, on an assumed acceptance where the document has none; the verdict
        then makes the server say when it was, and the job follows.
        """
        now = self._clock()
        counts = {"changed": 0, "kept": 0, "failed": 0}
        for document in documents:
            try:
                self._apply(document, now, counts)
            except Exception as error:  # noqa: BLE001 one bad document must not stop the others
                counts["failed"] += 1
                self._telemetry.document_failed(document.key, error)
        self._telemetry.reconciled(**counts)
        garbage.spare(counts["changed"])

    def _apply(self, document: AgentDocument, now: datetime, counts: dict[str, int]) -> None:
        """Take the steps for one document."""
        self.verdicts.forget(document.key)
        self.without_job.discard(document.key)
        desired = desired_job(document, self._policy)
        current = self._jobs.of_document(document.key)
        if isinstance(desired, Absence):
            self._request(desired)
            self._take(plan(desired, current, Past(), now), counts)
            self._forget(document.key, deleted=desired.deleted)
            if document.fields and "councilor_status" in document.fields:
                self.verdicts.clear(document.key)
            return
        if desired.agent_id is not None and self._is_contested(desired):
            no_job = Absence(document.key, None, deleted=False)
            self._take(plan(no_job, current, Past(), now), counts)
            self._contenders[desired.agent_id].add(document.key)
            self.without_job.add(document.key)
            self._judge(Judged(document, contested(desired), Past(), now, has_job=False))
            return
        self._request(desired)
        is_told = current is not None and current.problem == desired.problem
        if desired.spec is not None and desired.problem is not None and not is_told:
            self._telemetry.request_rejected(desired.agent_id, desired.problem)
        past = self._past(document, desired, current)
        is_assumed = desired.spec is not None and past.accepted_at is None
        assumed = past.accepted(_guess(desired, current, now)) if is_assumed else past
        actions = plan(desired, current, assumed, now, is_assumed=is_assumed)
        self._take(actions, counts)
        job = self._jobs.of_document(document.key)
        skipped_slot = job.skipped_slot if job is not None else None
        if is_assumed and skipped_slot is not None and skipped_slot > now:
            skipped_slot = None  # it follows from the acceptance, which only the server knows
        has_job = desired.agent_id is not None
        if not has_job:
            self.without_job.add(document.key)
        self._judge(Judged(document, desired, past, now, skipped_slot, has_job=has_job))

    def _judge(self, judged: Judged) -> None:
        status = (judged.document.fields or {}).get("councilor_status")
        if isinstance(status, Mapping) and is_said(status, judged.verdict):
            self._recognize(judged.document, judged.desired)
        else:
            self.verdicts.say(judged)

    def _told(self, judged: Judged, told: Told | None) -> None:
        """A verdict was written, or refused: the job follows from what the server has accepted."""
        desired = judged.desired
        if not judged.has_job and desired.problem is not None:
            self._telemetry.rejected_without_job(desired.agent_id, desired.problem)
        current = self._jobs.of_document(judged.document.key)
        if not judged.has_job or current is None:
            return
        if told is None:
            if current.is_assumed:  # nobody will ever know better
                self._jobs.put(replace(current, is_assumed=False))
            return
        is_another = current.is_assumed or current.accepted_at != told.accepted_at
        if desired.spec is not None and is_another:
            past = judged.past.accepted(told.accepted_at)
            if judged.past.accepted_at is None and past.oldest_open is None:
                past = replace(past, oldest_open=told.accepted_at)  # one may be due already
            for action in plan(desired, current, past, self._clock()):
                if isinstance(action, Put):
                    self._jobs.put(action.job)
        self._recognize_told(judged, told)

    def _recognize_told(self, judged: Judged, told: Told) -> None:
        job = self._jobs.of_document(told.document.key)
        if job is None or _but_status(told.document) != _but_status(judged.document):
            return  # it is another by now, and will be judged anew
        if judged.desired.spec is not None and job.accepted_at != told.accepted_at:
            return
        past = judged.past.accepted(told.accepted_at)
        verdict = verdict_on(judged.desired, past, None, self._clock())
        if is_said((told.document.fields or {}).get("councilor_status"), verdict):
            self._recognize(told.document, judged.desired)

    def _recognize(self, document: AgentDocument, desired: Desired) -> None:
        """Let the job know its document by the digest, where that says it all."""
        job = self._jobs.of_document(document.key)
        if document.digest is None or not is_plain(desired):
            return
        if job is not None and job.digest != document.digest:
            self._jobs.put(job.known_by(document.digest))

    def _past(self, document: AgentDocument, desired: Desired, current: Job | None) -> Past:
        status = document.fields.get("councilor_status") if document.fields is not None else None
        left_behind = self._left_behind.get(desired.agent_id or "")
        own = stored_of(current) if current is not None else None
        if own is not None and current is not None and current.is_assumed:
            own = replace(own, accepted_at=None)
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

    def _take(self, actions: Sequence[Action], counts: dict[str, int]) -> None:
        for action in actions:
            match action:
                case Put(job, change):
                    self._jobs.put(job)
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


def _guess(desired: Desired, current: Job | None, now: datetime) -> datetime:
    """When the server may accept it, until it says so: the same each time that is asked."""
    is_same = current is not None and current.spec_hash == desired.spec_hash
    if current is not None and is_same and current.is_assumed and current.accepted_at is not None:
        return current.accepted_at
    return _whole_ms(now)


def _but_status(document: AgentDocument) -> dict[str, object]:
    fields = document.fields or {}
    return {name: fields[name] for name in fields if name != "councilor_status"}


def _whole_ms(instant: datetime) -> datetime:
    """MongoDB keeps dates in milliseconds."""
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
