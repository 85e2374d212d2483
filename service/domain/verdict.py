"""The verdict on a councilor: what `councilor_status` should say, and whether it says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.domain.config import Problem
from service.domain.cron import Cron
from service.domain.interval import interval_text
from service.domain.jobs import Desired, JobSpec, JobState, Past
from service.domain.schedule import Timetable

SHOWN_RUNS = 5
"""How many next runs a verdict shows."""
REMEMBERED_STATES = 20
"""How many states, and since when, `councilor_status.history` remembers."""
_VERDICT_FIELDS = ("state", "spec_hash", "error", "explanation", "timezone", "skipped_slot")
_ALMOST_A_SECOND = timedelta(milliseconds=999)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `councilor_status` says; times that only the server knows are added by it."""

    state: JobState
    spec_hash: str
    problem: Problem | None
    explanation: str | None
    timezone: str | None
    spec: JobSpec | None
    carried_at: datetime | None
    """The acceptance that was lost with the document's status, where a job still knows it."""
    now: datetime
    skipped_slot: datetime | None
    """The slot that `skip_next` takes out; the first one, where none has been accepted yet."""

    @property
    def upcoming(self) -> tuple[datetime, ...]:
        """The next slots of a cron; those of an interval depend on the acceptance.

        A few more than are shown: the server drops those that are over by its clock.
        """
        if self.spec is None or not isinstance(self.spec.schedule, Cron):
            return ()
        timetable = self.spec.timetable(self.carried_at or self.now)
        return upcoming_slots(timetable, self.now, SHOWN_RUNS + 3)

    @property
    def skips_first(self) -> bool:
        """Tell whether the slot to be taken out follows from an acceptance that is to come."""
        is_wanted = self.spec is not None and self.spec.skip_next
        return is_wanted and self.skipped_slot is None and self.carried_at is None


def verdict_on(
    desired: Desired, past: Past, skipped_slot: datetime | None, now: datetime
) -> Verdict:
    """The verdict that the document should carry."""
    spec = desired.spec
    return Verdict(
        state=desired.state,
        spec_hash=desired.spec_hash,
        problem=desired.problem,
        explanation=explanation_of(spec, None, now) if spec is not None else None,
        timezone=spec.schedule.zone if spec is not None else None,
        spec=spec,
        carried_at=past.accepted_at,
        now=now,
        skipped_slot=skipped_slot,
    )


SKIPPED_FORMAT = ", except %Y-%m-%d %H:%M:%S UTC"


def explanation_of(spec: JobSpec, skipped_slot: datetime | None, now: datetime) -> str:
    """When a councilor runs, in plain English; what is over by now is not mentioned."""
    text = spec.schedule.explanation
    if spec.delay and isinstance(spec.schedule, Cron):
        text += f", {interval_text(spec.delay + _ALMOST_A_SECOND)} later"
    if spec.paused_until is not None and spec.paused_until > now:
        text += f", not before {spec.paused_until:%Y-%m-%d %H:%M:%S} UTC"
    return _with_exception(text, skipped_slot, now)


def _with_exception(explanation: str, skipped_slot: datetime | None, now: datetime) -> str:
    if skipped_slot is None or skipped_slot <= now:
        return explanation
    return f"{explanation}{skipped_slot:{SKIPPED_FORMAT}}"


def upcoming_slots(
    timetable: Timetable, after: datetime, count: int, skipped_slot: datetime | None = None
) -> tuple[datetime, ...]:
    """The next slots strictly after an instant, without the one that is skipped."""
    slots: list[datetime] = []
    while len(slots) < count:
        after = timetable.next_slot(after)
        if after != skipped_slot:
            slots.append(after)
    return tuple(slots)


def is_said(status: object, verdict: Verdict) -> bool:
    """Tell whether a document's `councilor_status` already says this verdict."""
    if not isinstance(status, Mapping):
        return False
    said = {name: status.get(name) for name in _VERDICT_FIELDS}
    explanation = verdict.explanation
    if explanation is not None:
        explanation = _with_exception(explanation, verdict.skipped_slot, verdict.now)
    return _shows_next_runs(status, verdict) and said == {
        "state": verdict.state,
        "spec_hash": verdict.spec_hash,
        "error": error_of(verdict.problem),
        "explanation": explanation,
        "timezone": verdict.timezone,
        "skipped_slot": verdict.skipped_slot,
    }


def _shows_next_runs(status: Mapping[str, object], verdict: Verdict) -> bool:
    """The runs that were next when the verdict was written; a new `paused_until` moves them."""
    runs, spec = status.get("next_runs"), verdict.spec
    if spec is None:
        return runs == []
    accepted_at, observed_at = (
        value if isinstance(value := status.get(name), datetime) else None
        for name in ("accepted_at", "observed_at")
    )
    if accepted_at is None or observed_at is None:
        return False
    if verdict.state is JobState.PAUSED:
        return runs == []
    first = upcoming_slots(spec.timetable(accepted_at), observed_at, 1, verdict.skipped_slot)
    return isinstance(runs, list) and runs[:1] == [*first]


def error_of(problem: Problem | None) -> dict[str, str] | None:
    """A problem as documents and answers show it."""
    if problem is None:
        return None
    return {"field": problem.field, "message": problem.message, "hint": problem.hint}
