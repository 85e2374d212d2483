"""`throughput`: runs a second: steadily for a long time, as many as can be, and beyond that."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from time import monotonic, sleep

from pymongo.collection import Collection
from pymongo.database import Database

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.documents import Document, agent, insert, interval
from tests.bench.figures import Benchmark, Options, Row, Sample, percentile
from tests.bench.instances import Instance, within_time
from tests.bench.journal import Unmeasured
from tests.bench.load import seconds_for

_SECONDS = 20.0
_WARM_SECONDS = 12.0
"""Longer than the period of the steady councilors: each has had its first slot by then."""
_CURVE_SECONDS = 10.0
_OVERLOAD_TIMES = 3
_CEILING_WARM_SECONDS, _CEILING_SECONDS = 20.0, 8.0
"""So long after their acceptance, all new ones have had their first slots."""
_NOT_ACCEPTED = {"councilor_status.accepted_at": None}
_LATE_MS = 1_000.0
"""Slots that start later than this have waited: more is due than can be done."""
_KEPT_UP = 0.98
_DRAINED = {"SCHEDULER_MIN_INTERVAL": "1s", "SCHEDULER_DRAIN_TIMEOUT": "15s"}


def promote(database: Database[Document], n: int, value: str, **more: str) -> None:
    """So many councilors with one interval."""
    schedule = interval(value, **more)
    insert(database["agents"], [agent(number, schedule) for number in range(n)])


def run_rate(instance: Instance, seconds: float) -> float:
    """The runs that are closed and counted in a second, over so many seconds from now."""
    tally = instance.journal.tally("run_finished", instance.journal.size)
    began = monotonic()
    sleep(seconds)
    return tally.now() / (monotonic() - began)


def _ceiling(deployment: Deployment, n: int, options: Options) -> Mapping[str, float]:
    """How much can be due? More and more is, until slots have to wait."""
    database, done = deployment.database(), 0.0
    deployment.forget_calls()
    schedule = interval("10s", spread="10s")
    with deployment.serving(database, _settings(options)) as instance:
        instance.wait_ready(seconds_for(n))
        present, wanted = 0, 2 * n
        while True:
            more = [agent(number, schedule) for number in range(present, wanted)]
            insert(database["agents"], more)
            present = wanted
            within_time(
                lambda: database["agents"].count_documents(_NOT_ACCEPTED, limit=1) == 0,
                "all are accepted",
                within=seconds_for(present),
                every=1.0,
            )
            sleep(_CEILING_WARM_SECONDS)
            offset = instance.journal.size
            per_second = run_rate(instance, _CEILING_SECONDS)
            started = instance.journal.events("run_started", since=offset)
            late_ms = percentile([event.fields["lateness_ms"] for event in started], 0.99)
            done = max(done, per_second)
            if late_ms > _LATE_MS or per_second < _KEPT_UP * present / 10:
                break
            wanted = present + n // 2
        instance.stop()
    return {
        "ceiling_per_second": done,
        "ceiling_duplicates": deployment.calls()["duplicates"],
    }


def _overload(deployment: Deployment, n: int, options: Options) -> Mapping[str, float]:
    """Far more is due than can be done: what is done?"""
    database = deployment.database()
    deployment.forget_calls()
    promote(database, n * _OVERLOAD_TIMES, "3s")
    with deployment.serving(database, _settings(options)) as instance:
        instance.wait_ready(seconds_for(n))
        sleep(_WARM_SECONDS)
        per_second = run_rate(instance, options.seconds or _SECONDS)
        instance.stop()
    return {
        "overload_per_second": per_second,
        "overload_duplicates": deployment.calls()["duplicates"],
    }


def _steady(deployment: Deployment, n: int, options: Options) -> Mapping[str, float]:
    """As much as is due: how late, and how does memory grow?"""
    database, seconds = deployment.database(), options.seconds or _SECONDS
    deployment.forget_calls()
    promote(database, n, "10s", spread="10s")
    with deployment.serving(database, _settings(options)) as instance:
        instance.wait_ready(seconds_for(n))
        sleep(_WARM_SECONDS)
        instance.reset()
        since, offset, rss = wall_clock(), instance.journal.size, [instance.rss_bytes]
        while (wall_clock() - since).total_seconds() < seconds:
            sleep(min(_CURVE_SECONDS, seconds))
            rss.append(instance.rss_bytes)
        until = wall_clock()
        finished = instance.journal.tally("run_finished", offset).now()
        stall_ms = instance.longest_stall_ms
        instance.stop()
    rows = database["councilor_executions"]
    lateness = _lateness_ms(rows, since, until)
    if not lateness:
        raise Unmeasured("nothing has run")
    took = (until - since).total_seconds()
    return {
        "due_per_second": n / 10,
        "steady_per_second": finished / took,
        "late_p50_ms": percentile(lateness, 0.5),
        "late_p99_ms": percentile(lateness, 0.99),
        "late_max_ms": max(lateness),
        "not_run": rows.count_documents({"status": {"$in": ["skipped", "missed"]}}),
        "steady_stall_ms": stall_ms,
        "steady_duplicates": deployment.calls()["duplicates"],
        "rss_growth_mb": (rss[-1] - rss[0]) / 2**20,
        **{f"rss_mb_{n * 10:04}": rss_bytes / 2**20 for n, rss_bytes in enumerate(rss)},
    }


def _lateness_ms(rows: Collection[Document], since: datetime, until: datetime) -> list[float]:
    due = {"scheduled_for": {"$gte": since, "$lt": until}, "lateness_ms": {"$ne": None}}
    return [row["lateness_ms"] for row in rows.find({**due, "started_at": {"$ne": None}})]


def _settings(options: Options) -> dict[str, str]:
    return {**_DRAINED, "SCHEDULER_MAX_CONCURRENT_RUNS": str(options.concurrent)}


def _throughput(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    for _ in range(options.runs):
        yield {
            **_steady(deployment, n, options),
            **_ceiling(deployment, n, options),
            **_overload(deployment, n, options),
        }


THROUGHPUT = Benchmark(
    "throughput",
    "steady: n councilors each 10 s, spread over them; ceiling: 2 n, and n / 2 more again and "
    "again, while 99% start within 1 s; overload: 3 n each 3 s; Conductor answers at once",
    (5_000,),
    (
        Row("due_per_second", "steady: runs due a second", "/s", "given"),
        Row("steady_per_second", "… closed and counted a second", "/s", "as due, wanted"),
        Row("late_p50_ms", "… lateness p50", "ms", "O(1)"),
        Row("late_p99_ms", "… lateness p99", "ms", "O(1)"),
        Row("late_max_ms", "… lateness max", "ms", "O(1)"),
        Row("not_run", "… slots skipped or missed", "", "0"),
        Row("steady_stall_ms", "… longest stall of the loop", "ms", "O(1) wanted"),
        Row("rss_growth_mb", "… memory at the end, less at the start", "MB", "0 wanted"),
        Row("steady_duplicates", "… calls made twice", "", "0"),
        Row("ceiling_per_second", "ceiling: the most closed and counted a second", "/s", "O(1)"),
        Row("ceiling_duplicates", "… calls made twice", "", "0"),
        Row("overload_per_second", "overload: closed and counted a second", "/s", "O(1)"),
        Row("overload_duplicates", "… calls made twice", "", "0"),
    ),
    _throughput,
    curve="rss_mb_",
)
