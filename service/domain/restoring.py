"""Jobs taken over from where they are stored, without judging their documents anew."""

from datetime import datetime
from functools import lru_cache

from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.cron import cron_from
from service.domain.interval import ScheduleError, every_from
from service.domain.jobs import (
    Desired,
    Job,
    JobSpec,
    JobState,
    Past,
    StoredJob,
)
from service.domain.planning import next_run_of
from service.domain.schedule import Schedule


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
    whole = stored.whole
    if whole is None or whole.digest != digest:
        return None
    try:
        spec = JobSpec(
            _schedule(whole.kind, whole.value, whole.timezone),
            stored.spec_hash,
            whole.delay,
            None,
            CatchUp(whole.catch_up),
            Overlap(whole.overlap),
        )
        state = JobState(stored.state)
    except ValueError:
        return None
    job = Job(
        key,
        stored.agent_id,
        whole.name,
        state,
        stored.spec_hash,
        spec,
        stored.accepted_at,
        None,
    ).known_by(digest)
    if stored.accepted_at is None or job.proof != whole.proof:
        return None
    timetable = job.timetable
    if timetable is None:
        return job
    past = Past(stored.accepted_at, stored.next_run_at)
    return job.due_next(next_run_of(timetable, None, past, now))


@lru_cache(maxsize=4_096)
def _schedule(kind: str, value: str, zone: str | None) -> Schedule:
    """The same object for equal texts: many councilors have the same ones."""
    if kind == "interval":
        return every_from(value)
    if zone is None:
        raise ScheduleError("a cron without a time zone", "")
    return cron_from(value, zone)
