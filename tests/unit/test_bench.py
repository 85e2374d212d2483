"""The pure parts of the bench: what it counts, how it reads a log, what it shows."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import orjson
import pytest
from rich.console import Console

from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from service.domain.schedule import Timetable
from tests.bench.__main__ import BENCHMARKS, parsed
from tests.bench.conductor import Calls, Connection
from tests.bench.documents import agent, councilors
from tests.bench.figures import Benchmark, Figures, Row, percentile
from tests.bench.herd import at_minute, coming_minute
from tests.bench.instances import inherited
from tests.bench.journal import Journal, Unmeasured
from tests.bench.pickup import Written, latencies
from tests.bench.report import content_of, curve_of, number, spark, table_of
from tests.bench.watcher import Watcher

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MACHINE: dict[str, str | int] = {"cores": 2}


def nothing(*_: object) -> Iterator[dict[str, float]]:
    return iter(())


SPEED = Benchmark(
    "speed",
    "how fast",
    (10,),
    (
        Row("ours_ms", "one thing", "ms", "O(1)", "stock_ms"),
        Row("alone_ms", "another", "ms", "O(n)", "not noticed"),
        Row("never_ms", "not measured", "ms"),
    ),
    nothing,
    curve="at_",
)
MEASURED = Figures(
    SPEED,
    10,
    [
        {"ours_ms": 3, "stock_ms": 30, "alone_ms": 1, "at_00": 5, "at_10": 7},
        {"ours_ms": 1, "stock_ms": 10, "alone_ms": 1, "at_00": 5, "at_10": 7},
        {"ours_ms": 2, "stock_ms": 20, "alone_ms": 1, "at_00": 5, "at_10": 9},
    ],
)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([], 0.5, 0.0, id="of none"),
        pytest.param([7], 0.99, 7, id="of one"),
        pytest.param([3, 1, 2], 0.5, 2, id="the middle"),
        pytest.param(range(1, 101), 0.99, 99, id="99 of 100"),
        pytest.param(range(1, 101), 1.0, 100, id="the most"),
    ],
)
def test_percentile_is_a_value_that_was_measured(
    values: Any, share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_figures_are_medians_over_the_runs() -> None:
    assert MEASURED.median("ours_ms") == 2
    assert MEASURED.median("never_ms") is None


def test_table_shows_medians_spans_and_stock() -> None:
    shown = StringIO()
    Console(width=120, file=shown).print(table_of(MEASURED))
    said = shown.getvalue()
    assert "median of 3" in said
    assert "1 … 3" in said
    assert "20" in said
    assert "not noticed" in said
    assert "not measured" not in said


def test_json_has_every_run_and_the_stock_figure() -> None:
    [benchmark] = content_of(MACHINE, [MEASURED])["benchmarks"]
    assert benchmark["figures"]["ours_ms"]["runs"] == [3, 1, 2]
    assert benchmark["figures"]["ours_ms"]["apscheduler"] == 20
    assert benchmark["figures"]["alone_ms"]["apscheduler"] == "not noticed"
    assert "never_ms" not in benchmark["figures"]
    assert benchmark["curve"] == [5, 7]


def test_curve_is_in_the_order_of_time_and_as_high_as_its_values() -> None:
    assert curve_of(MEASURED) == [5, 7]
    assert spark([1, 2, 8]) == "▁▂█"
    assert spark([4, 4]) == "▁▁"


def test_numbers_keep_what_means_something() -> None:
    assert [number(v) for v in (0, 0.012345, 12.345, 123.45, 54321.0)] == [
        *("0", "0.0123", "12.3", "123", "54,321")
    ]


def test_everything_is_measured_three_times_unless_told_otherwise() -> None:
    chosen = parsed([])
    assert (chosen.names, chosen.runs, chosen.n) == ([], 3, None)
    chosen = parsed(["herd", "load", "--n", "10_000", "--runs", "5", "--json"])
    assert (chosen.names, chosen.n, chosen.runs, chosen.json) == (["herd", "load"], 10_000, 5, True)


@pytest.mark.parametrize("wrong", [["speed"], ["--n", "0"], ["--runs", "many"]])
def test_wrong_usage_ends_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(wrong)
    assert ended.value.code == 2
    assert "scripts/bench" in capsys.readouterr().err


def test_each_benchmark_has_rows_and_says_how_they_grow() -> None:
    assert all(benchmark.rows and benchmark.sizes for benchmark in BENCHMARKS.values())
    assert all(row.growth for benchmark in BENCHMARKS.values() for row in benchmark.rows)


def test_conductor_counts_who_comes_twice() -> None:
    calls = Calls()
    for at, key in enumerate((b"a", b"b", b"a")):
        calls.count(key, at)
    assert calls.totals() == {"calls": 3, "duplicates": 1, "seconds": 1}
    calls.reset(0.2)
    assert calls.totals()["calls"] == 0
    assert calls.latency_seconds == 0.2


class Told(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += data


def test_conductor_reads_requests_however_they_are_cut() -> None:
    calls, transport = Calls(), Told()
    connection = Connection(calls)
    connection.connection_made(transport)
    one = b"POST /conductor/execute HTTP/1.1\r\nIdempotency-Key: e\r\nContent-Length: 2\r\n\r\n{}"
    for byte in one + one:
        connection.data_received(bytes([byte]))
    connection.data_received(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    assert calls.totals()["duplicates"] == 1
    assert transport.written.count(b'"result":"ok"') == 2
    assert transport.written.endswith(b'{"status":"ok"}')


def logged(path: Path, *events: tuple[str, str, float], tail: bytes = b"") -> Journal:
    with path.open("ab") as log:
        for name, agent_id, at in events:
            time = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
            line = {"agent_id": agent_id, "event": name, "timestamp": time}
            log.write(orjson.dumps(line) + b"\n")
        log.write(tail)
    return Journal(path)


def test_tally_counts_whole_lines_once(tmp_path: Path) -> None:
    half = b'{"event":"run_started"'
    journal = logged(tmp_path / "log", ("run_started", "a", 1.0), tail=half)
    tally = journal.tally("run_started")
    assert (tally.now(), tally.now()) == (1, 1)
    logged(journal.path, tail=b"}\n")
    assert tally.now() == 2


def test_what_does_not_come_is_told_loudly(tmp_path: Path) -> None:
    journal = logged(tmp_path / "log", ("run_started", "a", 1.0))
    with pytest.raises(Unmeasured, match="1 of 2 run_started"):
        journal.tally("run_started").wait(2, 0, alive=lambda: True)


def test_latency_is_from_acknowledgement_to_log_and_never_negative(tmp_path: Path) -> None:
    told = [("job_paused", "a", 10.5), ("job_scheduled", "b", 9.0), ("job_paused", "a", 99.0)]
    journal = logged(tmp_path / "log", *told)
    changes = [Written("a", "job_paused", 10.25), Written("b", "job_scheduled", 9.5)]
    assert latencies(changes, journal, 0) == [0.25, 0.0]


def councilor(document: dict[str, Any]) -> Councilor:
    reading = parse_councilor(document, SchedulePolicy())
    assert isinstance(reading, Councilor)
    return reading


def test_far_councilors_are_valid_and_not_due_soon() -> None:
    documents = councilors(600, NOON)
    read = [councilor(document) for document in documents]
    slots = [Timetable(one.schedule, NOON, one.delay).next_slot(NOON) for one in read]
    assert min(slots) >= NOON + timedelta(minutes=30)
    assert len({document["agent_id"] for document in documents}) == 600
    crons = [one.schedule for one in read if one.schedule.kind == "cron"]
    assert len(crons) == 300
    assert len({cron.identity for cron in crons}) > 100
    assert {cron.zone for cron in crons} == {"UTC", "America/Sao_Paulo", "Europe/Berlin"}


def test_a_herd_is_due_in_a_minute_that_can_be_reached() -> None:
    slot = coming_minute(NOON, 10_000)
    assert timedelta(seconds=20) <= slot - NOON <= timedelta(seconds=105)
    read = councilor(agent(1, at_minute(slot)))
    assert Timetable(read.schedule, NOON, read.delay).next_slot(NOON) == slot


async def test_watcher_sees_a_loop_stand_still() -> None:
    watcher, loop = Watcher(), asyncio.get_running_loop()
    watcher.start()
    await asyncio.sleep(0.01)
    until = loop.time() + 0.05
    while loop.time() < until:  # what stands still
        pass
    await asyncio.sleep(0.01)
    watcher.stop()
    assert watcher.report()["longest_stall_ms"] >= 45
    watcher.reset()
    assert set(watcher.report().values()) == {0}


def test_settings_of_this_process_reach_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHEDULER_TIMEZONE", "Europe/Berlin")
    assert not [name for name in inherited() if name.startswith("SCHEDULER")]


def test_schedules_repeat_in_the_same_order() -> None:
    assert councilors(50, NOON) == councilors(50, NOON)
