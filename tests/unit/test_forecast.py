"""The load to come: starts in each stretch of time, and the most runs at once."""

from datetime import UTC, datetime, timedelta

import pytest

from service.domain.config import CatchUp, Overlap
from service.domain.councilor import DocumentKey
from service.domain.cron import cron_from
from service.domain.forecast import forecast
from service.domain.interval import every_from
from service.domain.jobs import Job, JobSpec, JobState

SINCE = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NO_TIME = timedelta(seconds=1)


def job(text: str, number: int = 0, since: timedelta = MINUTE, state: str = "scheduled") -> Job:
    """A job with this schedule, accepted so long before the forecast begins."""
    schedule = cron_from(text, "UTC") if " " in text else every_from(text)
    once, skip = CatchUp("once"), Overlap("skip")
    spec = JobSpec(schedule, "hash", timedelta(0), None, once, skip)
    agent_id = f"agent {number}"
    key = DocumentKey(agent_id.encode())
    accepted_at = SINCE - since
    return Job(key, agent_id, agent_id, JobState(state), "hash", spec, accepted_at, None)


def loads(
    jobs: list[Job], run_time: timedelta = NO_TIME, minutes: int = 60
) -> list[tuple[int, int]]:
    found = forecast(jobs, SINCE, minutes, 15, run_time)
    assert [load.at for load in found.loads] == [
        SINCE + n * 15 * MINUTE for n in range(minutes // 15)
    ]
    assert not found.is_estimate
    return [(load.starts, load.at_once) for load in found.loads]


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        pytest.param([], [(0, 0)] * 4, id="nothing"),
        pytest.param([job("30 12 * * *")], [(0, 0), (0, 0), (1, 1), (0, 0)], id="one cron"),
        pytest.param([job("*/5 * * * *")], [(3, 1)] * 4, id="a cron, the first slot included"),
        pytest.param([job("10m")], [(1, 1), (2, 1), (1, 1), (2, 1)], id="an interval"),
        pytest.param([job("20s")], [(45, 1)] * 4, id="several a minute"),
        pytest.param([job("10m", state="paused")], [(0, 0)] * 4, id="paused"),
    ],
)
def test_starts_are_counted_where_they_come(
    jobs: list[Job], expected: list[tuple[int, int]]
) -> None:
    assert loads(jobs) == expected


def test_crons_of_one_minute_are_all_at_once_and_intervals_are_not() -> None:
    crons = [job("30 12 * * *", n) for n in range(40)]
    spread = [job("15m", n, MINUTE * 15 - timedelta(minutes=3, seconds=n)) for n in range(40)]
    assert loads(crons)[2] == (40, 40)
    assert loads(spread, timedelta(seconds=3))[2] == (40, 2)


def test_long_runs_are_still_there_when_the_next_ones_come() -> None:
    assert loads([job("* * * * *")], timedelta(minutes=5))[1] == (15, 6)


def test_more_than_can_be_counted_is_estimated_and_said_to_be() -> None:
    jobs = [job("60s", n, timedelta(milliseconds=n)) for n in range(1_000)]
    found = forecast(jobs, SINCE, 720, 15, NO_TIME)
    assert found.is_estimate
    total = sum(load.starts for load in found.loads)
    assert total == pytest.approx(720 * 1_000, rel=0.02)


def test_crons_that_are_written_alike_are_counted_once_for_all() -> None:
    """A hundred thousand of them take no longer than one."""
    jobs = [job("* * * * *", n, timedelta(milliseconds=n)) for n in range(5_000)]
    found = forecast(jobs, SINCE, 720, 15, NO_TIME)
    assert not found.is_estimate
    assert [load.at_once for load in found.loads] == [5_000] * 48
