"""`load` and `memory`: a cold start on many councilors, and what each of them takes."""

from collections.abc import Iterator, Sequence

from pymongo.database import Database

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.documents import Document, councilors, insert
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.instances import Instance, answer_of, within_time
from tests.bench.journal import Unmeasured

_SIZES = (1_000, 10_000, 100_000)
_SETTLED_CPU = 0.15
"""A core's share below which a service that was started has settled."""


def seconds_for(n: int) -> float:
    """How long to wait at most for something that grows with so many councilors."""
    return 60 + n * 0.01


def seed(
    deployment: Deployment, database: Database[Document], documents: Sequence[Document]
) -> None:
    """Leave documents, verdicts and jobs of these councilors as the service leaves them."""
    n = len(documents)
    insert(database["agents"], documents)
    with deployment.serving(database) as instance:
        instance.wait_ready(seconds_for(n))
        wait_complete(database, n)
        total = instance.got("/jobs?limit=1")["total"]
        if total != n:
            raise Unmeasured(f"the service has {total} of {n} jobs")
        instance.stop()


def wait_complete(database: Database[Document], n: int) -> None:
    """Return when all verdicts and all jobs are written."""
    jobs, agents = database["apscheduler_jobs"], database["agents"]
    verdict = {"councilor_status": {"$exists": True}}

    def is_complete() -> bool:
        has_jobs = jobs.estimated_document_count() == n
        return has_jobs and agents.count_documents(verdict) == n

    within_time(is_complete, f"{n} verdicts and jobs", within=seconds_for(n), every=0.5)


def settle(instance: Instance, within: float) -> None:
    """Return when the service has next to nothing to do for two seconds."""
    seen = [instance.cpu_seconds]

    def is_settled() -> bool:
        seen.append(instance.cpu_seconds)
        return len(seen) > 4 and seen[-1] - seen[-5] < 2 * _SETTLED_CPU

    within_time(is_settled, "the service settles", within=within, every=0.5)


def require_no_run(database: Database[Document]) -> None:
    """Raise Unmeasured where something came due, which would have been measured too."""
    if rows := database["councilor_executions"].estimated_document_count():
        raise Unmeasured(f"{rows} slots came due while nothing should")


def _load(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    empty_bytes = _empty_bytes(deployment)
    database = deployment.database()
    seed(deployment, database, councilors(n, wall_clock()))
    for _ in range(options.runs):
        with deployment.serving(database) as instance:
            ready_seconds = instance.wait_ready(seconds_for(n))
            stall_ms = instance.longest_stall_ms
            settle(instance, seconds_for(n))
            rss_bytes = instance.rss_bytes
            instance.stop()
        require_no_run(database)
        stock = answer_of("tests.bench.stock", "add", str(n), within=seconds_for(n))
        yield {
            "ready_seconds": ready_seconds,
            "stall_ms": stall_ms,
            "rss_mb": rss_bytes / 2**20,
            "kb_each": (rss_bytes - empty_bytes) / n / 1024,
            "stock_seconds": stock["add_seconds"],
            "stock_kb_each": stock["bytes_per_job"] / 1024,
        }


def _empty_bytes(deployment: Deployment) -> int:
    """The memory of a service without a councilor."""
    with deployment.serving(deployment.database()) as instance:
        instance.wait_ready(seconds_for(0))
        settle(instance, seconds_for(0))
        empty = instance.rss_bytes
        instance.stop()
    return empty


_MEMORY = (
    Row("rss_mb", "resident memory, settled", "MB", "O(n)"),
    Row("kb_each", "of that, for each councilor", "KB", "O(1)", "stock_kb_each"),
)
LOAD = Benchmark(
    "load",
    "cold start: documents, verdicts and jobs are there; stock: add_job of as many cron jobs",
    _SIZES,
    (
        Row("ready_seconds", "process start to /readyz 200", "s", "O(n)", "stock_seconds"),
        Row("stall_ms", "longest stall of the loop until then", "ms", "O(1) wanted"),
        *_MEMORY,
    ),
    _load,
)
MEMORY = Benchmark(
    "memory",
    "resident memory after a cold start, less that of a service without councilors",
    _SIZES,
    _MEMORY,
    _load,
)
