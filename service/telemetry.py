"""Every fact once: as a structured log event and as Prometheus metrics."""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from time import monotonic
from traceback import walk_tb
from typing import Any, Protocol, TextIO

import orjson
import stamina
import structlog

from service.console import TIME_FORMAT, LinesForPeople, has_colours
from service.domain.config import Problem
from service.domain.digest import Message
from service.domain.execution import (
    Claim,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
    milliseconds,
)
from service.domain.jobs import Job, JobState
from service.domain.notification import Delivery, Target, kind_of
from service.domain.planning import Change
from service.metrics import OTHER, Metrics
from service.ports import LookAgain, Refused, ServerState, ServiceError

log = structlog.get_logger()

# Without the frames' variables: they hold prompts and connection strings.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_QUIET_SECONDS = 10.0
_OUTCOMES = {Claim.WON: "started", Claim.TAKEN: "lost_race", Claim.OVERLAPS: "overlaps"}
"""What became of a slot that was claimed, in the words of `metrics.FIRED`."""


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


class JobListener(Protocol):
    """Somebody else who is told of jobs that documents have changed."""

    def job_changed(self, change: Change | None, job: Job) -> None:
        """A job is another; `change` is None where only details differ."""

    def job_removed(self, agent_id: str) -> None:
        """A job is gone."""


class Telemetry:
    """Tells what happened: one method for each fact, or for what is to be asked at each scrape."""

    def __init__(self) -> None:
        self.listener: JobListener | None = None
        self._metrics = Metrics()
        self._told_of_failure = -_QUIET_SECONDS
        self._position: datetime | None = None
        self._written_at: datetime | None = None
        self._dropped, self._told_of_dropped = 0, -_QUIET_SECONDS
        self._not_written, self._told_of_not_written = 0, -_QUIET_SECONDS

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return self._metrics.exposition()

    def job_changed(self, change: Change | None, job: Job) -> None:
        """A document has changed a job; `change` is None where only details differ."""
        if self.listener is not None:
            self.listener.job_changed(change, job)
        if change is None:
            return
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
        if self.listener is not None:
            self.listener.job_removed(agent_id)
        log.info("job_removed", agent_id=agent_id)

    def document_failed(self, key: bytes, error: Exception) -> None:
        """A document met a fault of ours; the others go on."""
        log.error("reconcile_failed", document_key=key.hex(), exc_info=error)

    def jobs_counted(self, counts: Mapping[JobState, int], *, overdue: int) -> None:
        for state in JobState:
            self._metrics.jobs[state].set(counts.get(state, 0))
        self._metrics.overdue.set(overdue)

    def documents_without_job(self, count: Callable[[], int]) -> None:
        self._metrics.without_job.set_function(count)

    def changes_seen(self, operations: Mapping[str, int]) -> None:
        for operation, count in operations.items():
            self._metrics.watch_events[operation].inc(count)

    def queue_measured(self, depth: Callable[[], int], oldest_age: Callable[[], float]) -> None:
        self._metrics.queue_depth.set_function(depth)
        self._metrics.queue_oldest_age.set_function(oldest_age)

    def queued(self, *, is_new: bool) -> None:
        (self._metrics.queue_adds if is_new else self._metrics.queue_coalesced).inc()

    def reconciled(self, *, changed: int, kept: int, failed: int) -> None:
        for result, count in (("changed", changed), ("kept", kept), ("error", failed)):
            self._metrics.reconciled[result].inc(count)

    def took_effect(self, seconds: float) -> None:
        self._metrics.pickup.observe(seconds)

    def verdicts_counted(self, waiting: Callable[[], int]) -> None:
        self._metrics.verdicts_waiting.set_function(waiting)

    def projection_counted(self, waiting: Callable[[], int]) -> None:
        self._metrics.projection_waiting.set_function(waiting)

    def watch_lost(self, reason: str, detail: str) -> None:
        self._metrics.watch_up.set(0)
        self._watch_failed(reason)
        log.warning("watch_lost", reason=reason, error=detail)

    def watch_resumed(self, code: str) -> None:
        """The change stream went on after an error, and nothing was lost."""
        self._watch_failed(code)
        self._metrics.resumes.inc()

    def _watch_failed(self, code: str) -> None:
        errors = self._metrics.watch_errors
        errors[code if code in errors else OTHER].inc()

    def watch_entered(self, reason: str, documents: int, seconds: float, at: datetime) -> None:
        relists = self._metrics.relists
        self._metrics.watch_up.set(1)
        relists[reason if reason in relists else OTHER].inc()
        self._metrics.resynced.set(at.timestamp())
        if reason not in ("startup", "resync"):
            log.info("watch_resumed", reason=reason)
        log.info("resync_finished", reason=reason, documents=documents, seconds=round(seconds, 3))

    def resyncs_every(self, interval: timedelta) -> None:
        self._metrics.resync_interval.set(interval.total_seconds())

    def drift_found(self, kinds: Mapping[str, str]) -> None:
        """Documents, by their keys in hex, whose changes the stream was past and never told of."""
        for kind, count in Counter(kinds.values()).items():
            self._metrics.drift[kind].inc(count)
        log.error("drift_found", documents=kinds)

    def stream_reached(self, position: datetime | None) -> None:
        """Everything up to this cluster time was read."""
        if position is not None:
            self._position = position
            self._compare_positions()

    def _compare_positions(self) -> None:
        if self._position is not None and self._written_at is not None:
            lag = (self._written_at - self._position).total_seconds()
            self._metrics.position_lag.set(max(lag, 0))

    def database_failed(self, error: Exception) -> None:
        """The database did not answer and is asked again: counted, and told of now and then."""
        self._metrics.retries.inc()
        if monotonic() - self._told_of_failure > _QUIET_SECONDS:
            self._told_of_failure = monotonic()
            log.warning("database_unavailable", error=str(error))

    def replicas_counted(self, living: Callable[[], int]) -> None:
        self._metrics.replicas.set_function(living)

    def fitness(self, may_start: Callable[[], bool]) -> None:
        self._metrics.fit.set_function(may_start)

    def server_compared(self, clock_offset: timedelta, state: ServerState) -> None:
        self._metrics.clock_offset.set(clock_offset.total_seconds())
        self._metrics.majority_lag.set(state.majority_lag.total_seconds())
        self._written_at = state.written_at
        self._compare_positions()

    def stream_answered(self, age: Callable[[], float]) -> None:
        self._metrics.last_read.set_function(age)

    def loop_was_late(self, seconds: float) -> None:
        self._metrics.loop_lag.observe(seconds)

    def conductor_lost(self, trouble: str) -> None:
        """Calls found nobody: an outage has begun."""
        self._metrics.conductor_up.set(0)
        log.warning("conductor_unavailable", error=trouble)

    def conductor_returned(self) -> None:
        """A call was answered: the outage is over."""
        self._metrics.conductor_up.set(1)
        log.info("conductor_available")

    def call_failed(self, execution: Execution, summary: str) -> None:
        """A call came to nothing, and may be made again."""
        self._metrics.repeats.inc()
        log.info(
            "call_failed",
            agent_id=execution.agent_id,
            execution_id=execution.execution_id,
            error=summary,
        )

    def run_taken_over(self, orphan: Execution) -> None:
        self._metrics.takeovers.inc()
        log.info(
            "run_taken_over",
            agent_id=orphan.agent_id,
            execution_id=orphan.execution_id,
            owner=orphan.owner,
        )

    def projection_failed(self, error: str) -> None:
        log.warning("projection_failed", error=error)

    def places(self, most: int) -> None:
        self._metrics.run_places.set(most)

    def claimed(self, answers: Sequence[Claim | ServiceError], seconds: float) -> None:
        """What became of slots that were claimed together, and how long that took."""
        self._metrics.claim_seconds.observe(seconds)
        for outcome, count in Counter(map(_outcome_of, answers)).items():
            self._metrics.fires[outcome].inc(count)

    def run_started(self, execution: Execution) -> None:
        self._metrics.running.inc()
        self._metrics.lateness[execution.trigger].observe(max(execution.lateness_ms, 0) / 1000)
        log.info(
            "run_started",
            agent_id=execution.agent_id,
            execution_id=execution.execution_id,
            trigger=execution.trigger.value,
            lateness_ms=execution.lateness_ms,
        )

    def run_left(self) -> None:
        self._metrics.running.dec()

    def run_ended(self, execution: Execution, outcome: Outcome) -> None:
        self._metrics.runs[outcome.severity].inc()
        duration = outcome.completed_at - execution.started_at
        self._metrics.durations.observe(max(duration.total_seconds(), 0))
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
        self._metrics.failures[reason].inc()
        log.warning("run_failed", **fields, reason=reason.value, error=outcome.summary)

    def not_run(self, not_run: NotRun) -> None:
        stretch = not_run.stretch
        slots = stretch.count if stretch is not None else 1
        self._metrics.not_run[not_run.reason].inc(slots)
        fields: dict[str, Any] = {"agent_id": not_run.agent_id, "reason": not_run.reason.value}
        fields["scheduled_for"] = not_run.scheduled_for
        if stretch is not None:
            fields |= {"slots_missed": stretch.count, "last_slot": stretch.last}
        log.info("run_missed" if not_run.status is Status.MISSED else "run_skipped", **fields)

    def listeners_counted(self, listeners: int) -> None:
        self._metrics.listeners.set(listeners)

    def listener_left_behind(self) -> None:
        """A client of `/events` was too slow."""
        self._metrics.left_behind.inc()

    def notification_written(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._metrics.notifications[kind_of(channel), "written"].inc()

    def notification_settled(self, outside: Iterable[str], delivery: Delivery) -> None:
        """All messages that it was part of have gone out, or one of them never will."""
        for channel in outside:
            self._metrics.notifications[kind_of(channel), delivery].inc()

    def notification_dropped(self, channels: Iterable[str]) -> None:
        """More wait than are kept: counted, and told of now and then."""
        for channel in channels:
            self._metrics.notifications[kind_of(channel), "dropped"].inc()
        self._dropped += 1
        if monotonic() - self._told_of_dropped > _QUIET_SECONDS:
            log.error("notifications_dropped", count=self._dropped)
            self._dropped, self._told_of_dropped = 0, monotonic()

    def notifications_not_written(self, count: int, error: Exception) -> None:
        """The collection does not take them: told of now and then, as it may not for long."""
        self._not_written += count
        if monotonic() - self._told_of_not_written > _QUIET_SECONDS:
            log.error("notifications_not_written", count=self._not_written, error=str(error))
            self._not_written, self._told_of_not_written = 0, monotonic()

    def notification_crashed(self, error: Exception) -> None:
        """A fault of ours, or of a document of somebody else's; what it says may be a secret."""
        log.error("notification_crashed", error=type(error).__name__, where=_place_of(error))

    def message_sent(self, target: Target, message: Message, count: int) -> None:
        self._metrics.messages[message.kind, Delivery.SENT].inc()
        kind = message.kind.value
        log.info("notification_sent", target=target.text, kind=kind, count=count)

    def message_failed(self, target: Target, message: Message, error: str) -> None:
        """A message was tried for the last time."""
        self._metrics.messages[message.kind, Delivery.FAILED].inc()
        kind = message.kind.value
        log.error("notification_failed", target=target.text, kind=kind, error=error)


def _outcome_of(answer: Claim | ServiceError) -> str:
    if isinstance(answer, Claim):
        return _OUTCOMES[answer]
    if isinstance(answer, LookAgain):
        return "put_off"
    return "refused" if isinstance(answer, Refused) else "unavailable"


def _place_of(error: Exception) -> str:
    """Where it was raised."""
    places = [f"{frame.f_code.co_name}:{line}" for frame, line in walk_tb(error.__traceback__)]
    return places[-1] if places else ""
