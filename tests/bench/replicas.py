"""`replicas`: do more processes do more, and does each run stay one?"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from time import sleep

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.herd import (
    coming_minute,
    promote_for,
    require_each_once,
    wait_closed,
    wait_for,
)
from tests.bench.instances import Instance
from tests.bench.journal import Unmeasured
from tests.bench.load import seconds_for
from tests.bench.throughput import promote

_MOST = 3
_SECONDS = 20.0
_WARM_SECONDS = 10.0
_LATENCY_MS = 200
_SETTINGS = {
    "SCHEDULER_MIN_INTERVAL": "1s",
    "SCHEDULER_MAX_CONCURRENT_RUNS": "20",
    "SCHEDULER_DRAIN_TIMEOUT": "15s",
}


def _rate(deployment: Deployment, n: int, replicas: int, seconds: float) -> Mapping[str, float]:
    """Runs a second of so many replicas that have more to do than they can."""
    database = deployment.database()
    deployment.forget_calls(latency_ms=_LATENCY_MS)
    promote(database, n, "5s", spread="5s")
    with ExitStack() as stack:
        them = [
            stack.enter_context(deployment.serving(database, _SETTINGS)) for _ in range(replicas)
        ]
        for instance in them:
            instance.wait_ready(seconds_for(n))
        sleep(_WARM_SECONDS)
        tallies = [
            instance.journal.tally("run_finished", instance.journal.size) for instance in them
        ]
        sleep(seconds)
        finished = sum(tally.now() for tally in tallies)
        _stop_all(them)
    duplicates = deployment.calls()["duplicates"]
    return {f"per_second_{replicas}": finished / seconds, f"duplicates_{replicas}": duplicates}


def _stop_all(them: list[Instance]) -> None:
    for instance in them:
        instance.stop()


def _split(deployment: Deployment, n: int) -> Mapping[str, float]:
    """The shares of two replicas in a herd."""
    database = deployment.database()
    deployment.forget_calls(latency_ms=_LATENCY_MS)
    with ExitStack() as stack:
        them = [stack.enter_context(deployment.serving(database, _SETTINGS)) for _ in range(2)]
        for instance in them:
            instance.wait_ready(seconds_for(0))
        slot = coming_minute(wall_clock(), n)
        promote_for(database, slot, n)
        for instance in them:
            instance.wait_logged("job_scheduled", n, (slot - wall_clock()).total_seconds())
        wait_for(slot, seconds_before=1)
        closed = wait_closed(database, n)
        _stop_all(them)
    require_each_once(database, n)
    rows = database["councilor_executions"].find({}, {"owner": 1})
    owners = Counter(row["owner"] for row in rows).most_common()
    if len(owners) > 2:
        raise Unmeasured(f"{len(owners)} owners of two")
    return {
        "larger_share_percent": 100 * owners[0][1] / n,
        "herd_seconds": (closed - slot).total_seconds(),
        "herd_duplicates": deployment.calls()["duplicates"],
    }


def _replicas(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    seconds = options.seconds or _SECONDS
    for _ in range(options.runs):
        sample: dict[str, float] = {}
        for replicas in range(1, _MOST + 1):
            sample |= _rate(deployment, n, replicas, seconds)
        sample |= _split(deployment, n)
        alone = sample["per_second_1"]
        if alone == 0:
            raise Unmeasured("one replica alone does nothing")
        sample |= {f"ratio_{k}": sample[f"per_second_{k}"] / alone for k in range(2, _MOST + 1)}
        sample["duplicates"] = sum(sample[f"duplicates_{k}"] for k in range(1, _MOST + 1))
        yield sample


REPLICAS = Benchmark(
    "replicas",
    f"Conductor takes {_LATENCY_MS} ms, 20 runs at a time in each replica (100 a second at most), "
    "n councilors each 5 s; then a herd of n for two replicas",
    (2_000,),
    (
        Row("per_second_1", "runs a second, one replica", "/s", "O(replicas)"),
        Row("per_second_2", "runs a second, two replicas", "/s", "O(replicas)"),
        Row("per_second_3", "runs a second, three replicas", "/s", "O(replicas)"),
        Row("ratio_2", "two replicas to one", "", "2 wanted"),
        Row("ratio_3", "three replicas to one", "", "3 wanted"),
        Row("duplicates", "calls made twice", "", "0"),
        Row("larger_share_percent", "herd: share of the replica that did more", "%", "50 wanted"),
        Row("herd_seconds", "herd: slot to last row closed, ±0.2 s", "s", "O(n / replicas)"),
        Row("herd_duplicates", "herd: calls made twice", "", "0"),
    ),
    _replicas,
)
