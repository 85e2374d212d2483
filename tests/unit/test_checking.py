"""`check`: the verdict on a document, without running it."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.checking import Finding, finding_on
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.planning import AgentDocument, Desired, desired_job

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Fields = dict[str, Any]


def document(schedule: Fields, **fields: Any) -> AgentDocument:
    config = {"schedule": schedule, "task": {"prompt": "Look"}}
    promoted = {"agent_id": "a", "is_councilor": True, "councilor_config": config}
    return AgentDocument(DocumentKey(b"1"), promoted | fields)


def found(schedule: Fields, at: datetime = AT, count: int = 5, **fields: Any) -> Finding:
    judged = document(schedule, **fields)
    return finding_on(judged, SchedulePolicy(), timedelta(minutes=30), at, count)


def interval(value: str, **more: object) -> Fields:
    return {"type": "interval", "value": value, **more}


def cron(value: str, **more: object) -> Fields:
    return {"type": "cron", "value": value, **more}


def test_interval_without_an_anchor_counts_from_then() -> None:
    assert found(interval("8h"), count=2) == Finding(
        agent_id="a",
        state="scheduled",
        error=None,
        explanation="Every 8 hours",
        timezone=None,
        next_runs=(AT + 8 * HOUR, AT + 16 * HOUR),
        runs_per_day=3.0,
        warnings=[],
    )


def test_interval_with_an_anchor_counts_from_there() -> None:
    desired = desired_job(document(interval("8h")), SchedulePolicy())
    assert isinstance(desired, Desired)
    status = {"spec_hash": desired.spec_hash, "accepted_at": AT - HOUR}
    anchored = found(interval("8h"), councilor_status=status)
    assert anchored.next_runs[0] == AT + 7 * HOUR
    stale = found(interval("8h"), councilor_status=status | {"spec_hash": "other"})
    assert stale.next_runs[0] == AT + 8 * HOUR


NOTHING = {
    "demoted": ({"is_councilor": False}, "not_councilor"),
    "never promoted": ({"is_councilor": None}, "not_councilor"),
    "no config": ({"councilor_config": None}, "invalid"),
    "no agent_id": ({"agent_id": ""}, "invalid"),
}


@pytest.mark.parametrize(("fields", "state"), NOTHING.values(), ids=NOTHING)
def test_nothing_runs_where_there_is_no_councilor(fields: Fields, state: str) -> None:
    finding = found(interval("8h"), **fields)
    assert (finding.state, finding.is_invalid) == (state, state == "invalid")
    assert (finding.next_runs, finding.runs_per_day, finding.explanation) == ((), None, None)
    assert (finding.error is not None) is finding.is_invalid


def test_invalid_document_is_told_what_to_mend() -> None:
    error = found(cron("0 0 30 2 *")).error
    assert error is not None
    assert error.keys() == {"field", "message", "hint"}
    assert error["field"] == "councilor_config.schedule.value"


def test_paused_councilor_has_no_next_runs() -> None:
    finding = found(interval("8h", enabled=False))
    assert (finding.state, finding.next_runs, finding.runs_per_day) == ("paused", (), 3.0)


RATES = {
    "interval": (interval("90m"), 16.0),
    "rare interval": (interval("2w"), 0.07),
    "minutely": (cron("* * * * *"), 1440.0),
    "working days": (cron("0 9 * * 1-5"), 0.72),
    "weekly": (cron("@weekly"), 0.14),
    "with clock changes": (cron("@daily", timezone="Europe/Berlin"), 1.0),
    "leap days": (cron("0 0 29 2 *"), 0.0),
}


@pytest.mark.parametrize(("schedule", "runs_per_day"), RATES.values(), ids=RATES)
def test_runs_per_day(schedule: Fields, runs_per_day: float) -> None:
    assert found(schedule).runs_per_day == runs_per_day


LONGER = "a run may take longer"
WARNINGS: dict[str, tuple[Fields, list[str]]] = {
    "nothing to say": (cron("0 9 * * 1"), []),
    "as long as a run may take": (cron("*/30 * * * *"), []),
    "shorter than a run may take": (cron("*/29 * * * *"), [LONGER]),
    "expensive": (interval("1m"), ["1,440 times a day", LONGER]),
    "either day": (cron("0 9 13 * 5"), ["both day fields"]),
    "a star in a day field": (cron("0 9 */2 * 5"), []),
    "short months": (cron("0 9 31 * *"), ["the 31st"]),
}


@pytest.mark.parametrize(("schedule", "expected"), WARNINGS.values(), ids=WARNINGS)
def test_what_people_get_wrong_is_a_warning(schedule: Fields, expected: list[str]) -> None:
    warnings = found(schedule).warnings
    assert len(warnings) == len(expected)
    assert all(words in warning for words, warning in zip(expected, warnings, strict=True))


INTERVALS = [interval("8h"), interval("8h", spread="5m"), interval("8h", paused_until="2026-12-24")]
CRONS = [cron("*/20 * * * *"), cron("30 2 * * *", timezone="Europe/Berlin"), cron("0 12 * * *")]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(INTERVALS + CRONS), st.integers(0, 9_600), st.integers(0, 20))
def test_next_runs_come_strictly_after_the_instant(
    schedule: Fields, hours: int, count: int
) -> None:
    at = AT + hours * HOUR
    runs = found(schedule, at, count).next_runs
    assert len(runs) == count
    assert all(earlier < later for earlier, later in pairwise((at, *runs)))
