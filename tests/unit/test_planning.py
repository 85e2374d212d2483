"""(document, current job) → action, one row for each sentence of the specification."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.jobs import (
    Absence,
    AgentDocument,
    Desired,
    Job,
    JobState,
    Past,
    StoredJob,
    stored_of,
)
from service.domain.planning import Action, Keep, Put, Remove, contested, desired_job, past_of, plan
from service.domain.verdict import SHOWN_RUNS, error_of, is_said, upcoming_slots, verdict_on

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ACCEPTED_AT = NOW - timedelta(minutes=45)  # every 30 minutes since: 11:45, 12:15, …
KEY, POLICY = DocumentKey(b"1"), SchedulePolicy()


def fields_of(*, agent_id: str = "a", **changes: Any) -> dict[str, Any]:
    """A promoted agent's document; `part__name` changes a field of the schedule or the task."""
    schedule = {"type": "interval", "value": "30m", "enabled": True}
    config = {"schedule": schedule, "task": {"name": "Audit", "prompt": "Look"}}
    fields = {"agent_id": agent_id, "name": "Ada", "is_councilor": True, "councilor_config": config}
    for path, value in changes.items():
        part, _, name = path.partition("__")
        (config[part] if name else fields)[name or part] = value  # type: ignore[index]
    return fields


def desired_of(fields: dict[str, Any] | None, damage: str | None = None) -> Desired | Absence:
    return desired_job(AgentDocument(KEY, fields, damage=damage), POLICY)


def councilor_of(fields: dict[str, Any]) -> Desired:
    desired = desired_of(fields)
    assert isinstance(desired, Desired)
    return desired


def said(fields: dict[str, Any], **changes: object) -> dict[str, Any]:
    """The document with a status for what it says now."""
    desired = councilor_of(fields)
    status = {"state": desired.state.value, "spec_hash": desired.spec_hash}
    times = {"accepted_at": ACCEPTED_AT, "observed_at": ACCEPTED_AT}
    return fields | {"councilor_status": status | times | changes}


def steps(
    fields: dict[str, Any] | None,
    current: Job | None = None,
    stored: StoredJob | None = None,
    damage: str | None = None,
) -> Sequence[Action]:
    desired, past = desired_of(fields, damage), Past()
    if fields is not None and isinstance(desired, Desired):
        known = stored_of(current) if current is not None else stored
        past = past_of(fields.get("councilor_status"), known, desired)
    return plan(desired, current, past, NOW)


def job_of(fields: dict[str, Any]) -> Job:
    (action,) = steps(fields)
    assert isinstance(action, Put)
    return action.job


def in_words(actions: Sequence[Action]) -> str:
    words = []
    for action in actions:
        match action:
            case Put(job, change):
                at = f" {job.next_run_at:%H:%M}" if job.next_run_at is not None else ""
                words.append(f"{change or 'untold'} {job.agent_id}{at}")
            case Remove(agent_id):
                words.append(f"remove {agent_id}")
            case Keep():
                words.append("keep")
    return ", ".join(words)


AGENT = said(fields_of())
JOB = job_of(AGENT)
OPEN = replace(JOB, next_run_at=NOW - timedelta(minutes=15))  # 11:45 is due, not settled yet
PAUSE = said(fields_of(schedule__enabled=False))
PAUSED = job_of(PAUSE)
BROKEN = fields_of(task__prompt="")
INVALID = job_of(BROKEN)
NEW = {"accepted_at": NOW}
HOURLY = said(fields_of(schedule__value="1h"), **NEW)
CRON = fields_of(schedule__type="cron", schedule__value="*/20 * * * *")
QUEUEING = said(fields_of(schedule__overlap="queue_one"))
RENAMED = said(fields_of(agent_id="b"))
DEMOTED = fields_of(is_councilor=False)
EDITED_PAUSE = said(fields_of(schedule__value="1h", schedule__enabled=False))


def until(clock: str) -> dict[str, Any]:
    return said(fields_of(schedule__paused_until=f"2026-11-23T{clock}"))


DOCUMENTS: dict[str, tuple[dict[str, Any] | None, Job | None, str]] = {
    "own stats write": (AGENT | {"stats": {"total_executions": 1}}, JOB, "keep"),
    "own status write": (said(fields_of(), observed_at=NOW), JOB, "keep"),
    "unknown fields": (AGENT | {"updated_at": NOW, "x": 1}, JOB, "keep"),
    "a slot is due and not settled yet": (AGENT, OPEN, "keep"),
    "task edited": (said(fields_of(task__prompt="Other")), JOB, "keep"),
    "name edited": (said(fields_of(name="Bob")), JOB, "untold a 12:15"),
    "policy edited while a slot is due": (QUEUEING, OPEN, "untold a 11:45"),
    "promoted": (said(fields_of(), **NEW), None, "job_scheduled a 12:30"),
    "promoted disabled": (PAUSE, None, "job_paused a"),
    "paused": (PAUSE, JOB, "job_paused a"),
    "paused already": (PAUSE, PAUSED, "keep"),
    "resumed: the anchor holds": (AGENT, PAUSED, "job_resumed a 12:15"),
    "schedule edited": (HOURLY, JOB, "job_scheduled a 13:00"),
    "schedule edited while a slot is due": (HOURLY, OPEN, "job_scheduled a 13:00"),
    "edited and resumed": (HOURLY, PAUSED, "job_scheduled a 13:00"),
    "edited while paused": (EDITED_PAUSE, PAUSED, "untold a"),
    "interval made a cron": (said(CRON, **NEW), JOB, "job_scheduled a 12:20"),
    "paused until a slot": (until("13:45"), JOB, "job_scheduled a 13:45"),
    "paused until between slots": (until("13:46"), JOB, "job_scheduled a 14:15"),
    "was paused until a while ago": (until("11:59"), None, "job_scheduled a 12:15"),
    "demoted": (DEMOTED, JOB, "remove a"),
    "never promoted": (DEMOTED, None, "keep"),
    "deleted": (None, JOB, "remove a"),
    "deleted, unknown": (None, None, "keep"),
    "agent_id renamed": (RENAMED, JOB, "remove a, job_scheduled b 12:15"),
    "agent_id lost": (fields_of(agent_id=""), JOB, "remove a"),
    "made invalid": (BROKEN, JOB, "job_rejected a"),
    "invalid already": (BROKEN, INVALID, "keep"),
    "invalid already, name edited": (BROKEN | {"name": "Bob"}, INVALID, "untold a"),
    "otherwise invalid": (fields_of(schedule__value="0m"), INVALID, "job_rejected a"),
    "mended": (AGENT, INVALID, "job_scheduled a 12:15"),
    "mended and paused": (PAUSE, INVALID, "job_paused a"),
}


@pytest.mark.parametrize(("fields", "current", "expected"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_steps_for_a_document(
    fields: dict[str, Any] | None, current: Job | None, expected: str
) -> None:
    assert in_words(steps(fields, current)) == expected


SEEN = said(fields_of(), observed_at=NOW - timedelta(minutes=40))
LEFT, OTHER = stored_of(OPEN), replace(stored_of(OPEN), spec_hash="other")
ASSUMED = replace(LEFT, accepted_at=NOW - timedelta(minutes=44))
WAS_PAUSED = replace(LEFT, next_run_at=None)
RESTARTS: dict[str, Any] = {
    "a missed slot stays missed": (AGENT, LEFT, "job_scheduled a 11:45"),
    "nothing was missed": (AGENT, stored_of(JOB), "job_scheduled a 12:15"),
    "it was paused when we ended": (AGENT, WAS_PAUSED, "job_scheduled a 12:15"),
    "of another spec: ignored": (said(fields_of(), **NEW), OTHER, "job_scheduled a 12:30"),
    "of another spec, verdict from before": (SEEN, OTHER, "job_scheduled a 12:15"),
    "a copy of another's document, verdict and all": (SEEN, None, "job_scheduled a 12:15"),
    "dropped while paused": (said(fields_of(), state="paused"), None, "job_scheduled a 12:15"),
    "status wiped by replaceOne": (fields_of(), LEFT, "job_scheduled a 11:45"),
    "status broken": (said(fields_of(), accepted_at="x"), LEFT, "job_scheduled a 11:45"),
    "paused during the outage": (PAUSE, LEFT, "job_paused a"),
    "stored on an assumed acceptance": (SEEN, ASSUMED, "job_scheduled a 11:45"),
}


@pytest.mark.parametrize(("fields", "left_behind", "expected"), RESTARTS.values(), ids=RESTARTS)
def test_steps_after_a_restart(
    fields: dict[str, Any], left_behind: StoredJob | None, expected: str
) -> None:
    assert in_words(steps(fields, stored=left_behind)) == expected


@pytest.mark.parametrize(
    ("fields", "next_run"),
    [
        pytest.param(SEEN, "11:45", id="open since the verdict"),
        pytest.param(said(fields_of(), state="paused"), "12:15", id="paused when they were lost"),
    ],
)
def test_where_all_stored_jobs_are_lost_the_verdict_says_what_may_be_open(
    fields: dict[str, Any], next_run: str
) -> None:
    desired = councilor_of(fields)
    past = past_of(fields["councilor_status"], None, desired, are_jobs_lost=True)
    assert in_words(plan(desired, None, past, NOW)) == f"job_scheduled a {next_run}"


def test_anchor_comes_back_from_the_job() -> None:
    """A writer that replaces the whole document wipes the status; the due times stay."""
    desired = councilor_of(fields_of())
    past = past_of(None, stored_of(JOB), desired)
    assert past.accepted_at == verdict_on(desired, past, None, NOW).carried_at == ACCEPTED_AT
    assert plan(desired, JOB, past, NOW) == (Keep(),)


def test_same_schedule_in_other_words_keeps_its_times() -> None:
    (action,) = steps(said(fields_of(schedule__value="1800s")), JOB)
    assert isinstance(action, Put)
    assert (action.job.accepted_at, action.job.next_run_at) == (ACCEPTED_AT, JOB.next_run_at)


def test_damaged_document_is_never_run() -> None:
    (action,) = steps(AGENT, JOB, damage="invalid UTF-8")
    assert isinstance(action, Put)
    assert (action.job.state, action.job.next_run_at) == (JobState.INVALID, None)
    assert "invalid UTF-8" in str(action.job.problem)


def test_second_document_with_an_agent_id_is_told_so() -> None:
    loser = contested(councilor_of(AGENT))
    assert (loser.state, loser.spec) == (JobState.INVALID, None)
    assert loser.problem is not None
    assert loser.problem.field == "agent_id"


CHANGES: list[dict[str, Any]] = [
    *({"schedule__value": "30m"}, {"schedule__value": "1h"}, {"schedule__value": "0m"}),
    *({"schedule__enabled": False}, {"schedule__spread": "5m"}, {"task__prompt": ""}),
    *({"schedule__paused_until": "2026-11-24"}, {"is_councilor": False}, {"agent_id": "b"}),
    *({"schedule__type": "cron", "schedule__value": "0 9 * * 1"}, {"agent_id": ""}, {"name": "x"}),
]
STATUSES: list[dict[str, Any]] = [{}, NEW, {"state": "paused"}]


@st.composite
def versions(draw: st.DrawFn) -> dict[str, Any] | None:
    """A document as some writer leaves it; None where it is deleted."""
    fields = fields_of(**{**draw(st.sampled_from(CHANGES)), **draw(st.sampled_from(CHANGES))})
    if draw(st.integers(0, 9)) == 0:
        return None
    return said(fields, **draw(st.sampled_from(STATUSES))) if fields["is_councilor"] else fields


def reconcile(
    jobs: dict[DocumentKey, Job], key: DocumentKey, fields: dict[str, Any] | None
) -> None:
    """What the reconciler does with one document, on a table that is a dict."""
    current, past = jobs.get(key), Past()
    desired = desired_job(AgentDocument(key, fields), POLICY)
    if fields is not None and isinstance(desired, Desired):
        known = stored_of(current) if current is not None else None
        past = replace(past_of(fields["councilor_status"], known, desired), oldest_open=None)
    for action in plan(desired, current, past, NOW):
        match action:
            case Put(job, _):
                jobs[key] = job
            case Remove(_):
                del jobs[key]
    assert plan(desired, jobs.get(key), past, NOW) == (Keep(),)


KEYS = st.sampled_from([DocumentKey(b"1"), DocumentKey(b"2"), DocumentKey(b"3")])


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, versions()), max_size=8))
def test_planning_is_idempotent_and_a_resync_equals_its_reconciles(
    changes: list[tuple[DocumentKey, dict[str, Any] | None]],
) -> None:
    """Who saw every change, and who lists what there is in the end, hold the same jobs."""
    followed: dict[DocumentKey, Job] = {}
    listed: dict[DocumentKey, Job] = {}
    for key, fields in changes:
        reconcile(followed, key, fields)
    for key, fields in dict(changes).items():
        reconcile(listed, key, fields)
    assert followed == listed


def status_of(desired: Desired) -> dict[str, Any]:
    """What the server makes of the verdict."""
    verdict, spec = verdict_on(desired, Past(), None, NOW), desired.spec
    runs: Sequence[datetime] = ()
    if spec is not None and desired.state is JobState.SCHEDULED:
        runs = upcoming_slots(spec.timetable(ACCEPTED_AT), NOW, SHOWN_RUNS)
    return {
        "state": verdict.state.value,
        "spec_hash": verdict.spec_hash,
        "accepted_at": ACCEPTED_AT if spec is not None else None,
        "error": error_of(verdict.problem),
        "explanation": verdict.explanation,
        "timezone": verdict.timezone,
        "next_runs": list(runs),
        "observed_at": NOW,
    }


VERDICTS = {
    "interval": (fields_of(), JobState.SCHEDULED),
    "cron": (CRON, JobState.SCHEDULED),
    "spread": (fields_of(schedule__spread="5m"), JobState.SCHEDULED),
    "paused for a while": (until("18:00"), JobState.SCHEDULED),
    "paused": (PAUSE, JobState.PAUSED),
    "invalid": (BROKEN, JobState.INVALID),
}


@pytest.mark.parametrize(("fields", "state"), VERDICTS.values(), ids=VERDICTS)
def test_verdict_is_said_once(fields: dict[str, Any], state: JobState) -> None:
    """What a status says is not written again, however late it is, until it changes."""
    desired = councilor_of(fields)
    status, verdict = status_of(desired), verdict_on(desired, Past(), None, NOW)
    assert verdict.state is state
    assert is_said(status, verdict)
    later = verdict_on(desired, Past(ACCEPTED_AT), None, NOW + timedelta(days=3))
    is_over = later.explanation != verdict.explanation  # a pause that ends by itself
    assert is_said(status, later) is not is_over
    for name in status.keys() - {"observed_at", "accepted_at"}:
        assert not is_said(status | {name: "something else"}, verdict), name
    nothing: tuple[object, ...] = (None, {}, [], "scheduled")
    assert not any(is_said(status, verdict) for status in nothing)


def test_new_pause_is_a_new_verdict() -> None:
    paused = councilor_of(until("18:00"))
    assert not is_said(status_of(councilor_of(fields_of())), verdict_on(paused, Past(), None, NOW))


def test_verdict_on_a_cron_shows_what_comes() -> None:
    verdict = verdict_on(councilor_of(CRON), Past(), None, NOW)
    assert verdict.upcoming[0] == NOW + timedelta(minutes=20)
    assert len(verdict.upcoming) >= SHOWN_RUNS
    assert (verdict.timezone, verdict.problem) == ("UTC", None)
