"""Jobs taken over from where they are stored, without judging their documents anew."""

from datetime import datetime, timedelta
from functools import lru_cache

from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.cron import cron_from
from service.domain.interval import every_from
from service.domain.jobs import Desired, Job, JobSpec, JobState, Past, StoredJob
from service.domain.planning import next_run_of, spec_of


def is_plain(desired: Desired) -> bool:
    """Tell whether the verdict on a document stays the same for as long as the document does."""
    spec = desired.spec
    if spec is None or desired.problem is not None or desired.run_requested_at is not None:
        return False
    return not spec.skip_next and spec.paused_until is None


def restored(stored: StoredJob, key: DocumentKey, digest: bytes, now: datetime) -> Job | None:
    """The job that the document with this digest wants; None where it has to be judged.

    That is so where the document is another than when the job was stored, and where somebody has
    changed what is stored. Its next run follows from the schedule: it may be over, after an outage.
    """
    whole, spec_hash, accepted_at = stored.whole, stored.spec_hash, stored.accepted_at
    if whole is None or whole.digest != digest or accepted_at is None:
        return None
    if whole.proof_with(stored.agent_id, spec_hash, stored.state, accepted_at) != whole.proof:
        return None
    name, kind, value, zone, delay_ms, catch_up, overlap, *_ = whole
    try:
        spec = _spec(kind, value, zone, spec_hash, delay_ms, catch_up, overlap)
    except ValueError:  # a zone, say, that this machine does not know
        return None
    job = Job(
        key,
        stored.agent_id,
        name,
        JobState(stored.state),
        spec.spec_hash,
        spec,
        accepted_at,
        None,
        digest=digest,
        proof=whole.proof,
    )
    timetable = job.timetable
    if timetable is None:
        return job
    past = Past(accepted_at, stored.next_run_at)
    return job.due_next(next_run_of(timetable, None, past, now))


@lru_cache(maxsize=4_096)
def _spec(
    kind: str,
    value: str,
    zone: str | None,
    spec_hash: str,
    delay_ms: int,
    catch_up: str,
    overlap: str,
) -> JobSpec:
    """The same object for equal ones: many councilors have the same schedule."""
    schedule = every_from(value) if kind == "interval" else cron_from(value, zone or "")
    delay = timedelta(milliseconds=delay_ms)
    return spec_of(schedule, spec_hash, delay, None, CatchUp(catch_up), Overlap(overlap))
