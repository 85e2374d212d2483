"""Every fact once: as a structured log event and as Prometheus metrics."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from typing import Any, TextIO, TypeVar

import orjson
import stamina
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from service.console import TIME_FORMAT, LinesForPeople, has_colours
from service.domain.config import Problem
from service.domain.execution import (
    FAILURE_REASONS,
    NOT_RUN_REASONS,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
    milliseconds,
)
from service.domain.jobs import Job, JobState
from service.domain.planning import Change
from service.domain.severity import Severity

log = structlog.get_logger()

_M = TypeVar("_M", Gauge, Counter)

_LATENESS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 600)
_RUN_BUCKETS = (0.1, 0.5, 1, 5, 15, 30, 60, 300, 900, 1800, 3600)
_PICKUP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
# Without the frames' variables: they hold prompts and connection strings.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_RELIST_REASONS = (
    *("startup", "resync", "network", "unavailable", "refused", "ended"),
    *("drop", "rename", "dropDatabase", "invalidate", "stalled", "136", "280", "286"),
)
_QUIET_SECONDS = 10.0
_OPERATIONS = ("insert", "update", "replace", "delete")


def configure_logging(style: str, level: str, stream: TextIO | None = None) -> None:
    """Send log events to `stream` (default: standard output): JSON lines, or for people.

    `style` is `json`, `console` or `auto`: console where the stream is a terminal. Colours are for
    terminals only, unless NO_COLOR or FORCE_COLOR say otherwise.
    """
    target = stream or sys.stdout
    if style == "auto":
        style = "console" if target.isatty() else "json"
    to_json = [_TRACEBACKS, structlog.processors.JSONRenderer(serializer=_json)]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper("iso" if style == "json" else TIME_FORMAT, utc=True),
            *(to_json if style == "json" else _for_people(target)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        # Standard output stays what it is; a stream of a test's is another the next time.
        cache_logger_on_first_use=stream is None,
    )
    _route_library_logs(level)
    # Retries are told of where they matter: `watch_lost`, `database_unavailable`.
    stamina.instrumentation.set_on_retry_hooks([])


def _for_people(target: TextIO) -> list[Any]:
    lines = LinesForPeople(is_coloured=has_colours(os.environ, is_terminal=target.isatty()))
    return [structlog.processors.format_exc_info, lines]


def _json(event: Any, **options: Any) -> str:
    default = options.get("default", str)
    try:
        return orjson.dumps(event, default=default, option=orjson.OPT_UTC_Z).decode()
    except TypeError:  # a number beyond 64 bits, or half of a surrogate pair
        return json.dumps(event, default=str)


class _ToStructlog(logging.Handler):
    """What libraries log, in the same form; their sentences become the field `message`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = {"logger": record.name, "message": record.getMessage()}
            told = structlog.get_logger()
            told.log(record.levelno, "library_log", exc_info=record.exc_info, **fields)
        except Exception:  # noqa: BLE001 a library that logs wrongly must not fail for it
            self.handleError(record)


def _route_library_logs(level: str) -> None:
    logging.basicConfig(handlers=[_ToStructlog()], level=level.upper(), force=True)
    for chatty in ("apscheduler", "pymongo", "aiohttp.access", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class Telemetry:
    """Tells what happened. `registry` holds the metrics; each label value starts at zero."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._watch_up = self._gauge("watch_up", "1 while the change stream is live")
        self._watch_events = self._counter(
            "watch_events", "Change events delivered", "op", _OPERATIONS
        )
        self._relists = self._counter(
            "watch_relists", "Times the collection was listed anew", "reason", _RELIST_REASONS
        )
        self._reconciled = self._counter(
            "reconcile", "Documents reconciled", "result", ("changed", "kept", "error")
        )
        self._jobs = self._gauge("jobs", "Councilors by state", "state", JobState)
        self._runs = self._counter("runs", "Runs that ended", "severity", Severity)
        self._failures = self._counter("failed_runs", "Runs that failed", "reason", FAILURE_REASONS)
        self._not_run = self._counter(
            "slots_not_run", "Slots without a run", "reason", NOT_RUN_REASONS
        )
        self._retries = Counter(
            "councilor_database_retries",
            "Steps that the database did not answer",
            registry=self.registry,
        )
        self._told_of_failure = -_QUIET_SECONDS
        self._repeats = Counter(
            "councilor_conductor_retries",
            "Calls of Conductor that failed and may be made again",
            registry=self.registry,
        )
        self._takeovers = Counter(
            "councilor_takeovers",
            "Runs of dead replicas that went on here",
            registry=self.registry,
        )
        self._conductor_up = self._gauge("conductor_up", "0 while starts are held back")
        self._conductor_up.set(1)
        self._replicas = self._gauge("members", "Replicas that live, this one included")
        self._clock_offset = self._gauge(
            "mongo_clock_offset_seconds", "How far the database's clock is ahead of this machine's"
        )
        self._majority_lag = self._gauge(
            "mongo_majority_lag_seconds", "How far the majority is behind the primary's writes"
        )
        self._last_read = self._gauge(
            "watch_last_getmore_age_seconds", "Time since the change stream was last answered"
        )
        self._last_read.set(0)
        self._running = self._gauge("running", "Runs going on in this replica")
        self._pickup = self._histogram(
            "reconcile_seconds", "From a change read from the stream to its effect", _PICKUP_BUCKETS
        )
        self._lateness = self._histogram(
            "lateness_seconds", "From a slot to its start", _LATENESS_BUCKETS
        )
        self._durations = self._histogram("run_seconds", "How long runs take", _RUN_BUCKETS)
        self._resynced = self._gauge(
            "resync_last_success_timestamp_seconds", "When all documents were last compared"
        )

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def job_changed(self, change: Change, job: Job) -> None:
        fields: dict[str, Any] = {"agent_id": job.agent_id}
        if job.spec is not None:
            fields["schedule"] = f"{job.spec.schedule.kind}={job.spec.schedule.text}"
        if job.next_run_at is not None:
            fields["next_run_time"] = job.next_run_at
        if job.problem is not None:
            fields |= {"error": job.problem.message, "field": job.problem.field}
        level = logging.WARNING if change is Change.REJECTED else logging.INFO
        log.log(level, change.value, **fields)

    def rejected_without_job(self, agent_id: str | None, problem: Problem) -> None:
        """A document that has no job of its own to be told of."""
        fields = {"agent_id": agent_id, "error": problem.message, "field": problem.field}
        log.warning(Change.REJECTED.value, **fields)

    def request_rejected(self, agent_id: str | None, problem: Problem) -> None:
        """A run was asked for in a way that nobody understands; the schedule goes on."""
        log.warning(
            "request_rejected", agent_id=agent_id, error=problem.message, field=problem.field
        )

    def job_removed(self, agent_id: str) -> None:
        log.info("job_removed", agent_id=agent_id)

    def document_failed(self, key: bytes, error: Exception) -> None:
        """A document met a fault of ours; the others go on."""
        log.error("reconcile_failed", document_key=key.hex(), exc_info=error)

    def jobs_counted(self, counts: Mapping[JobState, int]) -> None:
        for state in JobState:
            self._jobs.labels(state).set(counts.get(state, 0))

    def changes_seen(self, operations: Mapping[str, int]) -> None:
        for operation, count in operations.items():
            self._watch_events.labels(operation).inc(count)

    def reconciled(self, *, changed: int, kept: int, failed: int) -> None:
        for result, count in (("changed", changed), ("kept", kept), ("error", failed)):
            self._reconciled.labels(result).inc(count)

    def took_effect(self, seconds: float) -> None:
        self._pickup.observe(seconds)

    def watch_lost(self, reason: str, detail: str) -> None:
        self._watch_up.set(0)
        log.warning("watch_lost", reason=reason, error=detail)

    def watch_entered(self, reason: str, documents: int, seconds: float, at: datetime) -> None:
        self._watch_up.set(1)
        self._relists.labels(reason).inc()
        self._resynced.set(at.timestamp())
        if reason not in ("startup", "resync"):
            log.info("watch_resumed", reason=reason)
        log.info("resync_finished", reason=reason, documents=documents, seconds=round(seconds, 3))

    def database_failed(self, error: Exception) -> None:
        """The database did not answer and is asked again: counted, and told of now and then."""
        self._retries.inc()
        if monotonic() - self._told_of_failure > _QUIET_SECONDS:
            self._told_of_failure = monotonic()
            log.warning("database_unavailable", error=str(error))

    def replicas_counted(self, living: int) -> None:
        self._replicas.set(living)

    def server_compared(self, clock_offset: timedelta, majority_lag: timedelta) -> None:
        self._clock_offset.set(clock_offset.total_seconds())
        self._majority_lag.set(majority_lag.total_seconds())

    def stream_answered(self, age: Callable[[], float]) -> None:
        self._last_read.set_function(age)

    def conductor_lost(self, trouble: str) -> None:
        self._conductor_up.set(0)
        log.warning("conductor_unavailable", error=trouble)

    def conductor_returned(self) -> None:
        self._conductor_up.set(1)
        log.info("conductor_available")

    def call_failed(self, execution: Execution, summary: str) -> None:
        """A call came to nothing, and may be made again."""
        self._repeats.inc()
        log.info(
            "call_failed",
            agent_id=execution.agent_id,
            execution_id=execution.execution_id,
            error=summary,
        )

    def run_taken_over(self, orphan: Execution) -> None:
        self._takeovers.inc()
        log.info(
            "run_taken_over",
            agent_id=orphan.agent_id,
            execution_id=orphan.execution_id,
            owner=orphan.owner,
        )

    def projection_failed(self, error: str) -> None:
        log.warning("projection_failed", error=error)

    def run_started(self, execution: Execution) -> None:
        self._running.inc()
        self._lateness.observe(max(execution.lateness_ms, 0) / 1000)
        log.info(
            "run_started",
            agent_id=execution.agent_id,
            execution_id=execution.execution_id,
            trigger=execution.trigger.value,
            lateness_ms=execution.lateness_ms,
        )

    def run_left(self) -> None:
        self._running.dec()

    def run_ended(self, execution: Execution, outcome: Outcome) -> None:
        self._runs.labels(outcome.severity).inc()
        duration = outcome.completed_at - execution.started_at
        self._durations.observe(max(duration.total_seconds(), 0))
        fields = {
            "agent_id": execution.agent_id,
            "execution_id": execution.execution_id,
            "severity": outcome.severity.value,
            "duration_ms": milliseconds(duration),
        }
        if outcome.status is Status.COMPLETED:
            log.info("run_finished", **fields)
            return
        reason = outcome.reason or Reason.FAILED
        self._failures.labels(reason).inc()
        log.warning("run_failed", **fields, reason=reason.value, error=outcome.summary)

    def not_run(self, not_run: NotRun) -> None:
        stretch = not_run.stretch
        self._not_run.labels(not_run.reason).inc(stretch.count if stretch is not None else 1)
        fields: dict[str, Any] = {"agent_id": not_run.agent_id, "reason": not_run.reason.value}
        fields["scheduled_for"] = not_run.scheduled_for
        if stretch is not None:
            fields |= {"slots_missed": stretch.count, "last_slot": stretch.last}
        log.info("run_missed" if not_run.status is Status.MISSED else "run_skipped", **fields)

    def _gauge(self, name: str, text: str, label: str = "", values: Iterable[str] = ()) -> Gauge:
        return self._metric(Gauge, name, text, label, values)

    def _counter(self, name: str, text: str, label: str, values: Iterable[str]) -> Counter:
        return self._metric(Counter, name, text, label, values)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"councilor_{name}", text, buckets=buckets, registry=self.registry)

    def _metric(
        self, kind: type[_M], name: str, text: str, label: str, values: Iterable[str]
    ) -> _M:
        labels = [label] if label else []
        metric = kind(f"councilor_{name}", text, labels, registry=self.registry)
        for value in values:
            metric.labels(value)
        return metric
