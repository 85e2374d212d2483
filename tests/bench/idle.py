"""`idle`: what many councilors cost while none of them is due."""

from collections.abc import Iterator, Mapping
from time import monotonic, sleep

from service.app import wall_clock
from tests.bench import machine
from tests.bench.deployment import Deployment
from tests.bench.documents import councilors
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.instances import Instance
from tests.bench.journal import Unmeasured
from tests.bench.load import require_no_run, seconds_for, seed, settle

_SECONDS = 60.0
_RESYNC_SECONDS = 300.0
"""How often the service compares everything where nobody sets it otherwise."""


def _percents(seconds: float, pids: Mapping[str, int]) -> dict[str, float]:
    """The share of a core that each process takes in so many seconds from now."""
    began, before = monotonic(), {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
    sleep(seconds)
    took = monotonic() - began
    spent = {name: machine.cpu_seconds(pid) - before[name] for name, pid in pids.items()}
    return {name: 100 * used / took for name, used in spent.items()}


def _resyncs(instance: Instance, since: int) -> int:
    return sum(1 for _ in instance.journal.events("resync_finished", since=since))


def _quiet(instance: Instance, pids: Mapping[str, int], seconds: float) -> dict[str, float]:
    """The shares over a time without a full comparison."""
    since = instance.journal.size
    percents = _percents(seconds, pids)
    if _resyncs(instance, since):
        raise Unmeasured("a full comparison came into the window without one")
    return percents


def _one_resync(
    instance: Instance, pids: Mapping[str, int], quiet: Mapping[str, float], within: float
) -> dict[str, float]:
    """The processor seconds of one full comparison: those of its window, less the idle ones."""
    since, began = instance.journal.size, monotonic()
    before = {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
    instance.wait_logged("resync_finished", 1, within, since)
    settle(instance, within)
    if _resyncs(instance, since) != 1:
        raise Unmeasured("not exactly one full comparison")
    took = monotonic() - began
    return {
        name: max(machine.cpu_seconds(pid) - before[name] - took * quiet[name] / 100, 0.0)
        for name, pid in pids.items()
    }


def _idle(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    seconds = options.seconds or _SECONDS
    every = round(1.5 * seconds + 30 + n / 2_000)
    database = deployment.database()
    seed(deployment, database, councilors(n, wall_clock(), is_very_far=True))
    for _ in range(options.runs):
        sleep(5)
        alone = _percents(seconds, {"mongod": deployment.mongod_pid})["mongod"]
        settings = {"SCHEDULER_RESYNC_INTERVAL": f"{every}s"}
        with deployment.serving(database, settings, is_watched=False) as instance:
            instance.wait_ready(seconds_for(n))
            settle(instance, seconds_for(n))
            pids = {"service": instance.pid, "mongod": deployment.mongod_pid}
            quiet = _quiet(instance, pids, seconds)
            resync = _one_resync(instance, pids, quiet, every * 2 + seconds_for(n))
            instance.stop()
        require_no_run(database)
        yield {
            "service_percent": quiet["service"],
            "mongod_percent": max(quiet["mongod"] - alone, 0.0),
            "mongod_alone_percent": alone,
            "resync_service_seconds": resync["service"],
            "resync_mongod_seconds": resync["mongod"],
            "with_resync_percent": quiet["service"] + 100 * resync["service"] / _RESYNC_SECONDS,
        }


IDLE = Benchmark(
    "idle",
    "none is due; processor time from /proc over --seconds (60); the comparison of everything is "
    "made sooner than each 5 minutes, to be measured, and then counted as one in 5 minutes",
    (100_000,),
    (
        Row("service_percent", "the service, between comparisons", "% of a core", "O(1)"),
        Row("mongod_percent", "mongod, less what it takes alone", "% of a core", "O(1)"),
        Row("mongod_alone_percent", "mongod with no service attached", "% of a core", "O(1)"),
        Row("resync_service_seconds", "a full comparison: the service", "CPU s", "O(n)"),
        Row("resync_mongod_seconds", "a full comparison: mongod", "CPU s", "O(n)"),
        Row("with_resync_percent", "the service, one in 5 min included", "% of a core", "O(n)"),
    ),
    _idle,
)
