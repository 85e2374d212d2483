"""`bulk-promote`: a hundred thousand agents are promoted at once, while the service runs."""

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import monotonic

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.documents import councilors, insert
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.instances import Instance, status_of
from tests.bench.journal import Unmeasured
from tests.bench.load import require_no_run, seconds_for, wait_complete

_ASK_SECONDS = 0.05


@contextmanager
def asked_whether_it_lives(instance: Instance) -> Iterator[list[float]]:
    """Ask /livez 20 times a second; gives how many seconds each answer took."""
    took, is_over, faults = list[float](), threading.Event(), list[BaseException]()

    def ask() -> None:
        try:
            with closing(instance.connection()) as connection:
                while not is_over.wait(_ASK_SECONDS):
                    asked = monotonic()
                    if status_of(connection, "/livez") != 200:
                        raise Unmeasured("/livez does not answer with 200")  # noqa: TRY301
                    took.append(monotonic() - asked)
        except BaseException as fault:  # noqa: BLE001 raised again below
            faults.append(fault)

    thread = threading.Thread(target=ask, name="ask whether it lives")
    thread.start()
    try:
        yield took
    finally:
        is_over.set()
        thread.join()
    if faults:
        raise faults[0]


def _promote(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    for _ in range(options.runs):
        database = deployment.database()
        documents = councilors(n, wall_clock())
        with deployment.serving(database) as instance:
            instance.wait_ready(seconds_for(0))
            instance.reset()
            with asked_whether_it_lives(instance) as answers:
                began = monotonic()
                insert(database["agents"], documents)
                acknowledged = monotonic()
                # Told of each once its verdict is acknowledged: asking would cost the service.
                instance.wait_logged("job_scheduled", n, seconds_for(n))
                in_effect = monotonic()
                wait_complete(database, n)
                complete = monotonic()
            stall_ms = instance.longest_stall_ms
            total = instance.got("/jobs?limit=1")["total"]
            instance.stop()
        if total != n:
            raise Unmeasured(f"the service has {total} of {n} jobs")
        require_no_run(database)
        yield {
            "insert_seconds": acknowledged - began,
            "in_effect_seconds": in_effect - acknowledged,
            "complete_seconds": complete - acknowledged,
            "per_second": n / (in_effect - began),
            "stall_ms": stall_ms,
            "slowest_livez_ms": max(answers, default=0.0) * 1_000,
        }


BULK_PROMOTE = Benchmark(
    "bulk-promote",
    "agents are inserted promoted, 1,000 at a time, while the service runs; stock: not noticed",
    (100_000,),
    (
        Row("insert_seconds", "first insert to last acknowledgement", "s", "O(n)"),
        Row("in_effect_seconds", "from there until all are scheduled", "s", "O(n)"),
        Row("complete_seconds", "… all verdicts and jobs are written, ±0.5 s", "s", "O(n)"),
        Row("per_second", "scheduled a second, since the first insert", "/s", "O(1)"),
        Row("stall_ms", "longest stall of the loop", "ms", "O(1) wanted"),
        Row("slowest_livez_ms", "slowest answer of /livez", "ms", "O(1) wanted"),
    ),
    _promote,
)
