"""`check`: the verdict on a document, without running it."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.checking import Finding, findings_on
from service.domain.advice import Circumstances
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.jobs import AgentDocument, Desired
from service.domain.planning import desired_job

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
Fields = dict[str, Any]


def document(schedule: Fields, **fields: Any) -> AgentDocument:
    config = {"schedule": schedule, "task": {"prompt": "Look"}}
    promoted = {"agent_id": "a", "is_councilor": True, "councilor_config": config}
    return AgentDocument(DocumentKey(b"1"), promoted | fields)


def found(schedule: Fields, at: datetime = AT, count: int = 5, **fields: Any) -> Finding:
    judged = document(schedule, **fields)
    seen = Circumstances(timedelta(minutes=30), at)
    (finding,) = findings_on([judged], SchedulePolicy(), seen, count, are_stored=True)
    return finding


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
        warnings=(),
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
    "rare interval": (interval("2w"), 0.0714),
    "minutely": (cron("* * * * *"), 1440.0),
    "working days": (cron("0 9 * * 1-5"), 0.7149),
    "weekly": (cron("@weekly"), 0.1429),
    "with clock changes": (cron("@daily", timezone="Europe/Berlin"), 1.0),
    "leap days": (cron("0 0 29 2 *"), 0.0007),
}


@pytest.mark.parametrize(("schedule", "runs_per_day"), RATES.values(), ids=RATES)
def test_runs_per_day(schedule: Fields, runs_per_day: float) -> None:
    assert found(schedule).runs_per_day == runs_per_day


BERLIN, HAVANA, LORD_HOWE = "Europe/Berlin", "America/Havana", "Australia/Lord_Howe"
LONGER = "a run may take 30m (SCHEDULER_RUN_TIMEOUT), the next one comes after"
EITHER, BOTH = "days that match either of them", "only on days that match both"
WARNINGS: dict[str, tuple[Fields, list[str]]] = {
    "nothing to say": (cron("0 9 * * 1", timezone=BERLIN), []),
    "as long as a run may take": (cron("*/30 * * * *", timezone=BERLIN), []),
    "shorter than a run may take": (cron("*/29 * * * *"), [LONGER]),
    "shorter, and queued": (cron("*/29 * * * *", overlap="queue_one"), ["during a run waits"]),
    "288 are not many": (interval("5m"), [LONGER]),
    "expensive": (interval("1m"), ["1,440 times a day", LONGER]),
    "either day": (cron("0 9 13 * 5"), [EITHER]),
    "a star in a day field": (cron("0 9 */2 * 5"), [BOTH]),
    "the 31st": (cron("0 9 31 * *"), ["the 31st: months that have none"]),
    "the 31st in a list": (cron("0 9 15,31 * *"), ["the 31st: months that have none"]),
    "the 31st of months that have one": (cron("0 9 31 1,3,5 *"), []),
    "the end of the month, as days": (cron("0 9 25-31 * *"), []),
    "the end of the month": (cron("0 9 L * *"), []),
    "the 30th": (cron("0 9 30 * *"), ["the 30th: months that have none"]),
    "the 30th but in February": (cron("0 9 30 4-10 *"), []),
    "the 29th": (cron("0 9 29 * *"), ["but for leap years"]),
    "every second day": (cron("0 9 */2 * *"), []),
    "in the gap and the overlap": (
        cron("30 2 * * *", timezone=BERLIN),
        [
            "from 02:00 to 03:00 on 2027-03-28: 02:30 is not there that day, it runs at 03:00",
            "from 03:00 to 02:00 on 2027-10-31: 02:30 comes twice that day, it runs the first time",
        ],
    ),
    "in the gap only": (
        cron("0 2 28 3 *", timezone=BERLIN),
        ["on 2027-03-28: 02:00 is not there that day, it runs at 03:00"],
    ),
    "not on a day of change": (cron("30 2 * * 1", timezone=BERLIN), []),
    "steps in the gap and the overlap": (
        cron("*/30 2 * * *", timezone=BERLIN),
        ["nothing runs then", "it runs both times"],
    ),
    "half an hour": (
        cron("45 1 * * *", timezone=LORD_HOWE),
        ["from 02:00 to 01:30 on 2027-04-04: 01:45 comes twice"],
    ),
    "a day without midnight": (
        cron("@daily", timezone=HAVANA),
        ["00:00 is not there that day, it runs at 01:00", "00:00 comes twice"],
    ),
    "a zone that means nothing": (interval("8h", timezone=BERLIN), ["timezone is for crons"]),
    "a spread longer than the gap": (cron("*/30 * * * *", spread="9h"), ["spread delays it by"]),
    "a misspelt field": (cron("0 9 * * 1", timeZone=BERLIN), ["did you mean timezone?"]),
    "another way of writing": (interval("8h", **{"catch-up": "skip"}), ["did you mean catch_up?"]),
    "a field of another part": (
        interval("8h", prompt="Look"),
        ["did you mean councilor_config.task.prompt?"],
    ),
    "fields of somebody else's": (interval("8h", version=2, notes="x"), []),
}


@pytest.mark.parametrize(("schedule", "expected"), WARNINGS.values(), ids=WARNINGS)
def test_what_people_get_wrong_is_a_warning(schedule: Fields, expected: list[str]) -> None:
    warnings = found(schedule).warnings
    assert len(warnings) == len(expected), warnings
    for words, warning in zip(expected, warnings, strict=True):
        assert words in warning


MISSPELT = {
    "is_councillor": ({"is_councillor": True, "is_councilor": None}, "did you mean is_councilor?"),
    "run now": ({"councilor_run_request_at": AT}, "did you mean councilor_run_requested_at?"),
}


@pytest.mark.parametrize(("fields", "words"), MISSPELT.values(), ids=MISSPELT)
def test_fields_of_the_document_that_nobody_reads(fields: Fields, words: str) -> None:
    (warning,) = found(interval("8h"), **fields).warnings
    assert words in warning


def test_misspelt_prompt_is_an_error_and_the_warning_says_why() -> None:
    task = {"name": "Audit", "promt": "Look"}
    finding = found(interval("8h"), councilor_config={"schedule": interval("8h"), "task": task})
    assert finding.error is not None
    assert finding.error["field"] == "councilor_config.task.prompt"
    assert "did you mean prompt?" in finding.warnings[0]


@pytest.mark.parametrize("are_stored", [True, False])
def test_two_documents_with_one_agent_id(are_stored: bool) -> None:
    """In a database the smaller `_id` has it; files need not belong together."""
    both = [
        AgentDocument(DocumentKey(key), document(interval("8h")).fields) for key in (b"2", b"1")
    ]
    seen = Circumstances(timedelta(minutes=30), AT)
    second, first = findings_on(both, SchedulePolicy(), seen, 1, are_stored=are_stored)
    assert (first.state, first.warnings) == ("scheduled", ())
    assert second.state == ("invalid" if are_stored else "scheduled")
    assert (second.error is not None) is are_stored
    assert any("another document" in warning for warning in second.warnings) is not are_stored


def test_skipped_slot_is_none_of_the_next_runs() -> None:
    finding = found(cron("0 9 * * *", skip_next=True), count=2)
    assert finding.next_runs == (AT + 45 * HOUR, AT + 69 * HOUR)
    assert finding.explanation == "Every day at 09:00, UTC, except 2026-11-24 09:00:00 UTC"


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
