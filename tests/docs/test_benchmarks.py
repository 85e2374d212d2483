"""The page on benchmarks names those that there are, and calls them as they want to be called."""

import shlex

import pytest

from tests.bench.__main__ import BENCHMARKS, parsed
from tests.docs.pages import ROOT, block
from tests.docs.tables import codes

CALLS = block("benchmarks-run").splitlines()


@pytest.mark.parametrize("call", CALLS)
def test_every_call_is_understood(call: str) -> None:
    script, *arguments = shlex.split(call, comments=True)
    assert (ROOT / script).is_file()
    assert parsed(arguments).names == [name for name in arguments if name in BENCHMARKS]


def test_every_benchmark_has_its_row() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    _, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    firsts = [codes(row.split("|")[1]) for row in rows]
    assert {name for first in firsts for name in first} == set(BENCHMARKS)
