"""Log lines and metrics, as people and machines read them."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import stamina
import structlog
from prometheus_client.parser import text_string_to_metric_families

from service import __version__
from service.domain.config import CatchUp, Overlap, Problem
from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Claim,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
    Stretch,
    Trigger,
)
from service.domain.interval import every_from
from service.domain.jobs import Job, JobSpec, JobState
from service.domain.planning import Change
from service.domain.severity import Severity
from service.ports import (
    LookAgain,
    Misconfigured,
    Refused,
    ServerState,
    ServiceError,
    Unavailable,
)
from service.telemetry import Telemetry, configure_logging

SECOND = timedelta(seconds=1)
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SPEC = JobSpec(every_from("30m"), "h", timedelta(0), None, CatchUp.ONCE, Overlap.SKIP)
JOB = Job(DocumentKey(b"1"), "a", "Ada", JobState.SCHEDULED, "h", SPEC, NOON, NOON)
PROBLEM = Problem("councilor_config.task.prompt", "is empty", "write one")
BROKEN = replace(JOB, state=JobState.INVALID, spec=None, next_run_at=None, problem=PROBLEM)
RUN = Execution("exec_a_1", "a", NOON, Trigger.SCHEDULE, "h", "me", "n", NOON)
LATER = NOON + timedelta(milliseconds=1_500)
DONE = Outcome(Status.COMPLETED, Severity.WARNING, LATER, "out", None, None)
QUOTED = "status error: you asked me to look around"
FAILED = Outcome(
    Status.ERROR, Severity.ERROR, LATER, None, QUOTED, Reason.FAILED, summary="status error"
)
SKIPPED = NotRun("a", NOON, Trigger.SCHEDULE, Status.SKIPPED, Reason.OVERLAP, "h", "me", NOON)
STRETCH = Stretch(NOON, LATER, 7)
MISSED = replace(SKIPPED, status=Status.MISSED, reason=Reason.OUTAGE, stretch=STRETCH)

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stream() -> Iterator[StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture
def lines(stream: StringIO) -> Lines:
    configure_logging("json", "debug", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


SCHEDULED = {"schedule": "interval=30m", "next_run_time": "2026-11-23T12:00:00Z"}
REJECTED = {"error": "is empty", "field": "councilor_config.task.prompt"}
STARTED = {"execution_id": "exec_a_1", "trigger": "schedule", "lateness_ms": 0}
FINISHED = {"severity": "warning", "duration_ms": 1_500}
WRONG = {"severity": "error", "reason": "failed", "error": "status error"}
OF_A = {"agent_id": "a"}
INFO, WARNING = "info", "warning"
FACTS: dict[str, tuple[Callable[[Telemetry], None], str, Mapping[str, object]]] = {
    "job_scheduled": (lambda t: t.job_changed(Change.SCHEDULED, JOB), INFO, OF_A | SCHEDULED),
    "job_paused": (lambda t: t.job_changed(Change.PAUSED, JOB), INFO, OF_A),
    "job_resumed": (lambda t: t.job_changed(Change.RESUMED, JOB), INFO, OF_A),
    "job_rejected": (lambda t: t.job_changed(Change.REJECTED, BROKEN), WARNING, OF_A | REJECTED),
    "job_removed": (lambda t: t.job_removed("a"), INFO, OF_A),
    "run_started": (lambda t: t.run_started(RUN), INFO, OF_A | STARTED),
    "run_finished": (lambda t: t.run_ended(RUN, DONE), INFO, OF_A | FINISHED),
    "run_failed": (lambda t: t.run_ended(RUN, FAILED), WARNING, OF_A | WRONG),
    "run_skipped": (lambda t: t.not_run(SKIPPED), INFO, OF_A | {"reason": "overlap"}),
    "run_missed": (lambda t: t.not_run(MISSED), INFO, OF_A | {"slots_missed": 7}),
    "watch_lost": (lambda t: t.watch_lost("286", "gone"), WARNING, {"reason": "286"}),
    "resync_finished": (lambda t: t.watch_entered("resync", 3, 1, NOON), INFO, {"documents": 3}),
}


@pytest.mark.parametrize(
    ("event", "tell", "level", "fields"),
    [(event, *fact) for event, fact in FACTS.items()],
    ids=FACTS,
)
def test_fact_is_one_json_object_on_one_line(
    event: str,
    tell: Callable[[Telemetry], None],
    level: str,
    fields: Mapping[str, object],
    lines: Lines,
) -> None:
    tell(Telemetry())
    (line,) = lines()
    assert (line["level"], line["event"]) == (level, event)
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert fields.items() <= line.items()
    assert "look around" not in str(line)  # what Conductor says may quote the prompt


def test_watch_that_was_lost_is_resumed(lines: Lines) -> None:
    Telemetry().watch_entered("286", 3, 0.1, NOON)
    assert [line["event"] for line in lines()] == ["watch_resumed", "resync_finished"]


def test_libraries_speak_in_the_same_form(lines: Lines) -> None:
    logging.getLogger("pymongo").warning("slow:\n%s", "primary")
    (line,) = lines()
    assert (line["event"], line["logger"], line["level"]) == ("library_log", "pymongo", "warning")
    assert line["message"] == "slow:\nprimary"


def test_fault_that_a_library_logs_keeps_its_traceback(lines: Lines) -> None:
    try:
        _fail("")
    except RuntimeError:
        logging.getLogger("apscheduler").exception("Error submitting job")
    assert "0 characters" in json.dumps(lines())


def test_level_is_kept(stream: StringIO) -> None:
    configure_logging("json", "warning", stream)
    Telemetry().job_removed("a")
    logging.getLogger("any").info("chatter")
    assert not stream.getvalue()


def _fail(prompt: str) -> None:
    raise RuntimeError(f"{len(prompt)} characters")


@pytest.mark.parametrize("style", ["json", "console", "auto"])
def test_traceback_shows_no_variables(style: str, stream: StringIO) -> None:
    """Frames hold prompts and connection strings."""
    configure_logging(style, "info", stream)
    try:
        _fail("".join(["hun", "ter2"]))
    except RuntimeError as error:
        Telemetry().document_failed(b"1", error)
    text = stream.getvalue()
    assert "7 characters" in text
    assert "_fail" in text
    assert "hunter2" not in text
    assert style == "console" or len(text.splitlines()) == 1


def samples(telemetry: Telemetry) -> dict[str, dict[str, float]]:
    """Values by name, without the prefix, and by the value of their only label."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(telemetry.exposition().decode()):
        for sample in family.samples:
            label = next(iter(sample.labels.values()), "")
            found.setdefault(sample.name.removeprefix("councilor_"), {})[label] = sample.value
    return found


TROUBLES = [
    *("network", "unavailable", "refused", "ended", "other"),
    *("drop", "rename", "dropDatabase", "invalidate", "stalled"),
    *("13", "136", "237", "260", "280", "286", "10334", "40576", "40585", "40615"),
]
RESUMABLE = [
    *("6", "7", "43", "63", "89", "91", "133", "134", "150", "189", "234", "262", "9001"),
    *("10107", "11600", "11602", "13388", "13435", "13436"),
]
LABELS: dict[str, list[str]] = {
    "watch_events_total": ["insert", "update", "replace", "delete"],
    "watch_relists_total": ["startup", "resync", *TROUBLES],
    "watch_errors_total": [*TROUBLES, *RESUMABLE],
    "watch_resumes_total": [""],
    "watch_position_lag_seconds": [""],
    "resync_drift_total": ["missing", "extra", "stale"],
    "reconcile_total": ["changed", "kept", "error"],
    "queue_adds_total": [""],
    "queue_coalesced_total": [""],
    "jobs": list(JobState),
    "documents_without_job": [""],
    "fires_total": ["started", "lost_race", "overlaps", "put_off", "unavailable", "refused"],
    "lateness_seconds_count": list(Trigger),
    "claim_seconds_count": [""],
    "eventloop_lag_seconds_count": [""],
    "runs_total": list(Severity),
    "overdue_slots": [""],
    "watch_up": [""],
    "running": [""],
}


@pytest.mark.parametrize("name", LABELS)
def test_every_label_value_starts_at_zero(name: str) -> None:
    assert samples(Telemetry())[name] == dict.fromkeys(LABELS[name], 0.0)


def test_every_reason_is_counted_from_zero() -> None:
    found = samples(Telemetry())
    reasons = found["failed_runs_total"] | found["slots_not_run_total"]
    assert reasons == dict.fromkeys(Reason, 0.0)


ANSWERS: Mapping[str, Claim | ServiceError] = {
    "started": Claim.WON,
    "lost_race": Claim.TAKEN,
    "overlaps": Claim.OVERLAPS,
    "put_off": LookAgain("too late to be relied upon"),
    "unavailable": Unavailable("no primary"),
    "refused": Refused("a validator"),
}


def test_what_becomes_of_claims_is_counted_by_outcome() -> None:
    telemetry = Telemetry()
    telemetry.claimed([*ANSWERS.values(), Misconfigured("rights"), Claim.WON], 0.02)
    found = samples(telemetry)
    assert found["fires_total"] == dict.fromkeys(ANSWERS, 1) | {"started": 2, "unavailable": 2}
    assert (found["claim_seconds_count"][""], found["claim_seconds_sum"][""]) == (1, 0.02)


def test_an_error_that_nobody_has_thought_of_makes_no_new_series(lines: Lines) -> None:
    telemetry = Telemetry()
    before = telemetry.exposition().count(b"\n")
    telemetry.watch_lost("999999", "news")
    telemetry.watch_entered("999999", 3, 0.1, NOON)
    telemetry.watch_resumed("10107")
    found = samples(telemetry)
    assert (found["watch_errors_total"]["other"], found["watch_relists_total"]["other"]) == (1, 1)
    assert (found["watch_errors_total"]["10107"], found["watch_resumes_total"][""]) == (1, 1)
    assert telemetry.exposition().count(b"\n") == before
    assert [line["event"] for line in lines()].count("watch_lost") == 1


def test_the_stream_lags_by_what_the_primary_has_written_since() -> None:
    telemetry = Telemetry()
    telemetry.stream_reached(NOON)
    telemetry.stream_reached(None)  # a token of another form
    telemetry.server_compared(timedelta(0), ServerState(NOON, timedelta(0), NOON + 7 * SECOND))
    assert samples(telemetry)["watch_position_lag_seconds"][""] == 7
    telemetry.stream_reached(NOON + 8 * SECOND)
    assert samples(telemetry)["watch_position_lag_seconds"][""] == 0


def test_the_version_and_the_process_are_told() -> None:
    found = samples(Telemetry())
    assert found["build_info"] == {__version__: 1}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes"} <= found.keys()


def test_facts_are_counted(lines: Lines) -> None:
    telemetry = Telemetry()
    telemetry.run_started(RUN)
    telemetry.run_ended(RUN, FAILED)
    telemetry.not_run(MISSED)
    telemetry.jobs_counted({JOB.state: 1, BROKEN.state: 2}, overdue=3)
    telemetry.reconciled(changed=2, kept=1, failed=0)
    telemetry.watch_entered("startup", 3, 0.1, NOON)
    found = samples(telemetry)
    assert found["running"][""] == found["runs_total"]["error"] == found["watch_up"][""] == 1
    assert (found["failed_runs_total"]["failed"], found["slots_not_run_total"]["outage"]) == (1, 7)
    assert (found["jobs"]["invalid"], found["reconcile_total"]["changed"]) == (2, 2)
    assert found["run_seconds_sum"][""] == 1.5
    assert (found["lateness_seconds_count"]["schedule"], found["overdue_slots"][""]) == (1, 3)
    assert found["resync_last_success_timestamp_seconds"][""] == NOON.timestamp()
    assert len(lines()) == 4
