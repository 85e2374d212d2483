"""`python -m tests.bench`: how fast the service is, each figure a median over several runs.

Ends with 0 where everything was measured, 1 where something could not be, 2 where it was called
wrongly.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

import orjson
from rich.console import Console
from rich.markup import escape

from tests.bench import machine
from tests.bench.change import CHANGE
from tests.bench.deployment import deployed
from tests.bench.figures import Benchmark, Figures, Options
from tests.bench.herd import HERD
from tests.bench.idle import IDLE
from tests.bench.journal import Unmeasured
from tests.bench.load import LOAD, MEMORY
from tests.bench.pickup import PICKUP
from tests.bench.promote import BULK_PROMOTE
from tests.bench.replicas import REPLICAS
from tests.bench.report import content_of, show, show_machine
from tests.bench.throughput import THROUGHPUT

_ALL = (PICKUP, LOAD, CHANGE, BULK_PROMOTE, HERD, THROUGHPUT, IDLE, MEMORY, REPLICAS)
BENCHMARKS = {one.name: one for one in _ALL}


def _positive(text: str) -> int:
    if (count := int(text.replace("_", "").replace(",", ""))) < 1:
        raise ValueError(text)
    return count


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """What is wanted: `names`, `n`, `runs`, `seconds`, `json`."""
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    known = ", ".join(BENCHMARKS)
    add("names", nargs="*", metavar="NAME", help=f"{known}; all of them where none is named")
    add("--n", type=_positive, metavar="N", help="one size, in place of each benchmark's own")
    add("--runs", type=_positive, default=3, metavar="3", help="the figures are their medians")
    add("--seconds", type=_positive, metavar="S", help="of throughput (20) and idle (60)")
    concurrent = "SCHEDULER_MAX_CONCURRENT_RUNS of herd and throughput"
    add("--concurrent", type=_positive, default=2_000, metavar="2000", help=concurrent)
    add("--json", action="store_true", help="for programs")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}; choose from {known}")
    return chosen


def figures_of(benchmark: Benchmark, n: int, options: Options) -> Figures:
    """Measure at one size, on a deployment of its own. Raises Unmeasured."""
    with deployed() as deployment:
        return Figures(benchmark, n, list(benchmark.samples(deployment, n, options)))


def main(arguments: Sequence[str]) -> int:
    """Measure one after the other; answers the exit code."""
    chosen = parsed(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # leave nothing behind
    # What is shown on the way must not stand in the JSON.
    console = Console(width=None if sys.stdout.isatty() else 120, stderr=chosen.json)
    about, them, code = machine.description(), list[Figures](), 0
    show_machine(console, about)
    options = Options(chosen.runs, chosen.seconds, chosen.concurrent)
    for name in chosen.names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        for n in [chosen.n] if chosen.n else benchmark.sizes:
            try:
                them.append(figures_of(benchmark, n, options))
            except Unmeasured as error:
                said = f"{name}, n = {n:,}: cannot be measured: {error}"
                console.print(escape(said), style="bold red", highlight=False)
                code = 1
            else:
                show(console, them[-1])
    if chosen.json:
        sys.stdout.buffer.write(orjson.dumps(content_of(about, them)) + b"\n")
    return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
