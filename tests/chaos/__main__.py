"""`python -m tests.chaos`: random faults for a while, then a check of what must hold.

Ends with 0 where all invariants hold, 1 where one is violated, 2 where it was called wrongly.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom
from shutil import rmtree
from tempfile import TemporaryDirectory

from rich.console import Console

from service.domain.interval import ScheduleError, interval_from
from tests.chaos.invariants import violations_of
from tests.chaos.plan import Fault, Kind, plan_of
from tests.chaos.report import Totals, keep, show_plan, show_run, show_totals, totals_of
from tests.chaos.run import Options, history_of

_HERE = Path(__file__).resolve().parents[2]
_BEYOND_SECONDS = 420.0
"""How long a run may take beyond its plan, to start, to heal and to calm down."""


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise ValueError(text)
    return seeds


def _seconds(text: str) -> float:
    try:
        return interval_from(text).total_seconds()
    except ScheduleError as error:
        raise argparse.ArgumentTypeError(f"{error}: {error.hint}") from error


def _kinds(text: str) -> frozenset[Kind]:
    try:
        return frozenset(Kind(name.strip()) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(kind.value for kind in Kind)
        raise argparse.ArgumentTypeError(f"{error}; choose from {known}") from error


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError(text)
    return count


def _service(text: str) -> Path:
    folder = Path(text).resolve()
    if not (folder / "service" / "__main__.py").is_file():
        raise argparse.ArgumentTypeError(f"{folder} has no service/__main__.py")
    return folder


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("scripts/chaos", description=__doc__.partition("\n")[0])
    add = parser.add_argument
    some = SystemRandom().randrange(1_000_000)
    add("--seed", type=_seeds, default=range(some, some + 1), help="N, or N..M for several runs")
    add("--for", type=_seconds, default=60.0, dest="seconds", metavar="60s", help="how long")
    add("--agents", type=_count, default=30, metavar="30")
    add("--replicas", type=_count, default=3, metavar="3")
    add("--only", type=_kinds, default=frozenset(), metavar="KIND,KIND", help="only such faults")
    add("--keep", type=Path, metavar="FOLDER", help="leave logs and the history there")
    add("--service", type=_service, default=_HERE, metavar="FOLDER", help="another copy of it")
    add("--sabotage", choices=["drop-index"], help="break the service, to see it noticed")
    add("--verbose", action="store_true", help="print the plan first")
    return parser.parse_args(arguments)


def _console() -> Console:
    """Wide enough for the tables, also where the output is a file."""
    return Console(width=None if sys.stdout.isatty() else 120)


@contextmanager
def _folder(wanted: Path | None, seed: int) -> Iterator[Path]:
    if wanted is None:
        with TemporaryDirectory(prefix=f"chaos-{seed}-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    else:
        folder_of_run = wanted / str(seed)
        rmtree(folder_of_run, ignore_errors=True)  # of an earlier run with this seed
        folder_of_run.mkdir(parents=True)
        yield folder_of_run


def _drop_data(folder: Path) -> None:
    """Leave the mongods' logs and not their data, which is a gigabyte a run."""
    for log in list(folder.glob("*/mongod.log")):
        log.rename(folder / f"mongod-{log.parent.name}.log")
        rmtree(folder / log.parent.name)


async def _run(plan: Sequence[Fault], seed: int, chosen: argparse.Namespace) -> Totals:
    console = _console()
    options = Options(
        seed=seed,
        seconds=chosen.seconds,
        agents=chosen.agents,
        replicas=chosen.replicas,
        service=chosen.service,
        is_sabotaged=chosen.sabotage is not None,
    )
    with _folder(chosen.keep, seed) as folder:
        async with asyncio.timeout(chosen.seconds + _BEYOND_SECONDS):
            history = await history_of(plan, options, folder)
        if chosen.keep is not None:
            keep(folder, history)
            _drop_data(folder)
    violations = violations_of(history)
    totals = totals_of(seed, history, violations)
    show_run(console, totals, history, violations)
    return totals


def main(arguments: Sequence[str]) -> int:
    """Run each seed in turn; answers the exit code."""
    chosen, console = _arguments(arguments), _console()
    them: list[Totals] = []
    for seed in chosen.seed:
        plan = plan_of(seed, chosen.seconds, replicas=chosen.replicas, only=chosen.only)
        console.print(f"seed {seed}: {len(plan)} faults in {chosen.seconds:g} s", highlight=False)
        if chosen.verbose:
            show_plan(console, plan)
        them.append(asyncio.run(_run(plan, seed, chosen)))
    if len(them) > 1:
        show_totals(console, them)
    return 1 if any(totals.violations for totals in them) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
