"""What is measured: a sample for each run, and the rows that show their medians."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from tests.bench.deployment import Deployment

Sample = Mapping[str, float]
"""The figures of one run, by their keys."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: `stock` is the key of the same figure of APScheduler alone, or words."""

    key: str
    label: str
    unit: str
    growth: str = ""
    stock: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How the person who measures wants it."""

    runs: int = 3
    seconds: float | None = None
    concurrent: int = 2_000


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A question with its answer's rows; `samples` measures at one size, `runs` times."""

    name: str
    about: str
    sizes: Sequence[int]
    rows: Sequence[Row]
    samples: Callable[[Deployment, int, Options], Iterable[Sample]]
    curve: str = ""
    """How the keys of figures begin that are one curve over time."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a benchmark gave at one size."""

    benchmark: Benchmark
    n: int
    samples: Sequence[Sample]

    def values(self, key: str) -> Sequence[float]:
        """One value of each run that has this figure, in the order of the runs."""
        return [sample[key] for sample in self.samples if key in sample]

    def median(self, key: str) -> float | None:
        """The median over the runs; None where no run has this figure."""
        values = self.values(key)
        return median(values) if values else None


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed; of none, 0."""
    ordered = sorted(values)
    return ordered[max(ceil(share * len(ordered)), 1) - 1] if ordered else 0.0
