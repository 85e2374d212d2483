"""The Prometheus metrics: names, labels and buckets; `telemetry.py` says what is counted where."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from service import __version__
from service.domain.digest import MessageKind
from service.domain.execution import FAILURE_REASONS, NOT_RUN_REASONS, Trigger
from service.domain.jobs import JobState
from service.domain.notification import ChannelKind, Delivery
from service.domain.severity import Severity

_M = TypeVar("_M", Gauge, Counter, Histogram)

_LATENESS_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2, 5, 15, 60, 300, 600)
_RUN_BUCKETS = (0.1, 0.5, 1, 5, 15, 30, 60, 300, 900, 1800, 3600)
_PICKUP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_CLAIM_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10)

OPERATIONS = ("insert", "update", "replace", "delete")
RECONCILED = ("changed", "kept", "error")
FIRED = ("started", "lost_race", "overlaps", "put_off", "unavailable", "refused")
DRIFTED = ("missing", "extra", "stale")
NOTIFIED = ("written", "sent", "failed", "dropped")
OTHER = "other"
_FATAL_CODES = ("13", "136", "237", "260", "280", "286", "10334", "40576", "40585", "40615")
# The codes that a server calls resumable, and 43, for which it has no label.
_RESUMABLE_CODES = (
    *("6", "7", "43", "63", "89", "91", "133", "134", "150", "189", "234", "262", "9001"),
    *("10107", "11600", "11602", "13388", "13435", "13436"),
)
_ENDINGS = ("drop", "rename", "dropDatabase", "invalidate", "ended", "stalled")
_TROUBLES = (*_FATAL_CODES, *_ENDINGS, "network", "unavailable", "refused", OTHER)
RELIST_REASONS = ("startup", "resync", *_TROUBLES)
WATCH_ERRORS = (*_TROUBLES, *_RESUMABLE_CODES)


class Metrics:
    """One registry, and what it holds. Each label value starts at zero; there are no others.

    A metric with a label is a mapping from the label's values: to look one up by the library
    costs more than to count.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self.registry)
        self._gauges("build_info", "The version that runs", "version", [__version__])[
            __version__
        ].set(1)
        self._add_watch()
        self._add_changes()
        self._add_runs()
        self._add_surroundings()
        self._add_listeners()

    def exposition(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _add_watch(self) -> None:
        self.watch_up = self._gauge("watch_up", "1 while the change stream is live")
        self.last_read = self._gauge(
            "watch_last_getmore_age_seconds", "Time since the change stream was last answered"
        )
        self.position_lag = self._gauge(
            "watch_position_lag_seconds",
            "How far the change stream is behind the primary's writes, by cluster time",
        )
        self.watch_events = self._counters(
            "watch_events", "Change events delivered", "op", OPERATIONS
        )
        self.relists = self._counters(
            "watch_relists", "Times the collection was listed anew", "reason", RELIST_REASONS
        )
        self.watch_errors = self._counters(
            "watch_errors", "Errors of the change stream, resumed or not", "code", WATCH_ERRORS
        )
        self.resumes = self._counter(
            "watch_resumes", "Times the change stream went on after an error where it was"
        )
        self.resynced = self._gauge(
            "resync_last_success_timestamp_seconds", "When all documents were last compared"
        )
        self.resync_interval = self._gauge(
            "resync_interval_seconds", "How often all documents are compared"
        )
        self.drift = self._counters(
            "resync_drift",
            "Jobs that a comparison had to put right although the change stream was past them",
            "kind",
            DRIFTED,
        )

    def _add_changes(self) -> None:
        self.queue_depth = self._gauge("queue_depth", "Documents that wait to be read again")
        self.queue_oldest_age = self._gauge(
            "queue_oldest_age_seconds", "How long the document that has waited longest has"
        )
        self.queue_adds = self._counter("queue_adds", "Documents put in the queue")
        self.queue_coalesced = self._counter(
            "queue_coalesced", "Changes of documents that were in the queue already"
        )
        self.reconciled = self._counters("reconcile", "Documents reconciled", "result", RECONCILED)
        self.pickup = self._histogram(
            "reconcile_seconds", "From a change read from the stream to its effect", _PICKUP_BUCKETS
        )
        self.jobs = self._gauges("jobs", "Councilors by state", "state", JobState)
        self.without_job = self._gauge(
            "documents_without_job",
            "Promoted documents without an agent_id, or with that of another document",
        )
        self.verdicts_waiting = self._gauge(
            "verdicts_waiting", "Verdicts that are to be written to their documents"
        )
        self.projection_waiting = self._gauge(
            "projection_waiting", "Jobs that are to be written to apscheduler_jobs"
        )

    def _add_runs(self) -> None:
        self.fires = self._counters(
            "fires", "Claims of slots, by what became of them", "outcome", FIRED
        )
        self.claim_seconds = self._histogram(
            "claim_seconds",
            "How long the write takes that claims slots, one or many",
            _CLAIM_BUCKETS,
        )
        self.lateness = self._histograms(
            "lateness_seconds", "From a slot to its start", "trigger", Trigger, _LATENESS_BUCKETS
        )
        self.durations = self._histogram("run_seconds", "How long runs take", _RUN_BUCKETS)
        self.runs = self._counters("runs", "Runs that ended", "severity", Severity)
        self.failures = self._counters("failed_runs", "Runs that failed", "reason", FAILURE_REASONS)
        self.not_run = self._counters(
            "slots_not_run", "Slots without a run", "reason", NOT_RUN_REASONS
        )
        self.running = self._gauge("running", "Runs going on in this replica")
        self.run_places = self._gauge("run_places", "Runs that this replica may have at a time")
        self.overdue = self._gauge(
            "overdue_slots",
            "Agents, up to 1000, whose slot is 15 s late and not settled, and may not wait",
        )
        self.takeovers = self._counter("takeovers", "Runs of dead replicas that went on here")

    def _add_surroundings(self) -> None:
        self.fit = self._gauge("may_start", "1 while this replica may start runs")
        self.fit.set(1)
        self.conductor_up = self._gauge(
            "conductor_up", "0 from calls that found nobody until one is answered"
        )
        self.conductor_up.set(1)
        self.repeats = self._counter(
            "conductor_retries", "Calls of Conductor that failed and may be made again"
        )
        self.retries = self._counter("database_retries", "Steps that the database did not answer")
        self.replicas = self._gauge(
            "members", "Replicas that live, this one included; 0 while it is not heard"
        )
        self.clock_offset = self._gauge(
            "mongo_clock_offset_seconds", "How far the database's clock is ahead of this machine's"
        )
        self.majority_lag = self._gauge(
            "mongo_majority_lag_seconds", "How far the majority is behind the primary's writes"
        )
        self.loop_lag = self._histogram(
            "eventloop_lag_seconds",
            "How late a timer of the event loop is, once a second",
            _LAG_BUCKETS,
        )

    def _add_listeners(self) -> None:
        self.notifications = self._pairs(
            "notifications",
            "Notifications, by where they are told",
            ("channel", "result"),
            product(ChannelKind, NOTIFIED),
        )
        self.messages = self._pairs(
            "notification_messages",
            "Messages to the outside",
            ("kind", "result"),
            product(MessageKind, (Delivery.SENT, Delivery.FAILED)),
        )
        self.listeners = self._gauge("event_listeners", "Clients that listen to /events")
        self.left_behind = self._counter(
            "event_listeners_left_behind", "Clients of /events that were too slow"
        )

    def _pairs(
        self, name: str, text: str, labels: tuple[str, str], values: Iterable[tuple[str, str]]
    ) -> Mapping[tuple[str, str], Counter]:
        family = Counter(f"councilor_{name}", text, labels, registry=self.registry)
        return {pair: family.labels(*pair) for pair in values}

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"councilor_{name}", text, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"councilor_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"councilor_{name}", text, buckets=buckets, registry=self.registry)

    def _gauges(
        self, name: str, text: str, label: str, values: Iterable[str]
    ) -> Mapping[str, Gauge]:
        return _by_value(Gauge(f"councilor_{name}", text, [label], registry=self.registry), values)

    def _counters(
        self, name: str, text: str, label: str, values: Iterable[str]
    ) -> Mapping[str, Counter]:
        family = Counter(f"councilor_{name}", text, [label], registry=self.registry)
        return _by_value(family, values)

    def _histograms(
        self, name: str, text: str, label: str, values: Iterable[str], buckets: Sequence[float]
    ) -> Mapping[str, Histogram]:
        family = Histogram(
            f"councilor_{name}", text, [label], buckets=buckets, registry=self.registry
        )
        return _by_value(family, values)


def _by_value(family: _M, values: Iterable[str]) -> Mapping[str, _M]:
    return {value: family.labels(value) for value in values}
