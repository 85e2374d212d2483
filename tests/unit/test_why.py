"""Why did it (not) run? Every answer that a row, a state or a schedule can give."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from service.domain.accounts import Fate
from service.domain.config import CatchUp, Overlap, Problem
from service.domain.councilor import DocumentKey
from service.domain.interval import every_from
from service.domain.jobs import Job, JobSpec, JobState
from service.domain.why import Known, StateSince, states_in, why
from tests.fakes import NOON

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
SPEC = JobSpec(every_from("1h"), "h", timedelta(0), None, CatchUp("once"), Overlap("skip"))
KEY = DocumentKey(b"scout")
JOB = Job(KEY, "scout", "Scout", JobState.SCHEDULED, "h", SPEC, NOON - 10 * HOUR, NOON + HOUR)
"""Every hour on the hour, since two o'clock; it is noon, and a bit."""
NOW = NOON + 5 * MINUTE
ALWAYS = (StateSince("scheduled", NOON - 10 * HOUR),)


def row(slot: datetime = NOON, **fields: Any) -> dict[str, Any]:
    ran = {
        "execution_id": "exec_1",
        "scheduled_for": slot,
        "trigger": "schedule",
        "status": "completed",
        "severity": "success",
        "reason": None,
        "started_at": slot + timedelta(milliseconds=12),
        "completed_at": slot + timedelta(seconds=3),
        "duration_ms": 3_000,
        "lateness_ms": 12,
        "owner": "replica-1",
    }
    return {**ran, **fields}


def skipped(slot: datetime = NOON, reason: str = "overlap", **fields: Any) -> dict[str, Any]:
    never = {"started_at": None, "duration_ms": None, "severity": "warning", "completed_at": slot}
    return row(slot, **{"status": "skipped", "reason": reason, **never, **fields})


def missed(first: datetime, last: datetime) -> dict[str, Any]:
    count = (last - first) // HOUR + 1
    stretch = {"first_slot": first, "last_slot": last, "slots_missed": count}
    return skipped(first, "outage", status="missed", **stretch)


def known(at: datetime = NOW, **facts: Any) -> Known:
    usual: dict[str, Any] = {"now": NOW, "job": JOB, "states": ALWAYS, "row": None, "is_last": True}
    return Known(at=at, **{**usual, **facts})


def job(**changes: Any) -> Job:
    return replace(JOB, **changes)


def spec(**changes: Any) -> JobSpec:
    return replace(SPEC, **changes)


BROKEN = Problem("schedule.value", "it is broken", "mend it")
PAUSED_SINCE = (*ALWAYS, StateSince("paused", NOON - MINUTE))
RESUMED = (*PAUSED_SINCE, StateSince("scheduled", NOON + MINUTE))
MENDED = (
    *ALWAYS,
    StateSince("invalid", NOON - MINUTE, "no prompt"),
    StateSince("scheduled", NOON + MINUTE),
)


@pytest.mark.parametrize(
    ("facts", "fate", "reason", "says"),
    [
        pytest.param(
            known(row=row()), Fate.RAN, None, "12 ms after its slot, took 3.0 s", id="ran"
        ),
        pytest.param(
            known(row=row(trigger="catch_up")), Fate.RAN, None, "to catch up", id="caught up"
        ),
        pytest.param(
            known(row=row(status="error", reason="failed", severity="error", error="no tool")),
            *(Fate.FAILED, "failed", "no tool"),
            id="failed",
        ),
        pytest.param(
            known(row=row(status="error", reason="interrupted", error="the replica is gone")),
            *(Fate.FAILED, "interrupted", "was interrupted"),
            id="interrupted",
        ),
        pytest.param(
            known(row=row(status="running", completed_at=None, duration_ms=None)),
            *(Fate.RUNNING, None, "still running"),
            id="running",
        ),
        pytest.param(known(row=skipped()), Fate.SKIPPED, "overlap", "still running", id="overlap"),
        pytest.param(
            known(row=skipped(reason="skip_next")), Fate.SKIPPED, "skip_next", "asked", id="skip"
        ),
        pytest.param(
            known(NOON - HOUR + MINUTE, row=missed(NOON - 3 * HOUR, NOON)),
            *(Fate.MISSED, "outage", "4 slots"),
            id="within a stretch that was missed",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), job=job(next_run_at=NOON)),
            *(Fate.WAITING, None, "has not started yet"),
            id="due and not begun",
        ),
        pytest.param(
            known(NOON + 90 * MINUTE, row=row()), Fate.FUTURE, None, "in the future", id="to come"
        ),
        pytest.param(
            known(NOON + 30 * MINUTE, row=row()), Fate.RAN, None, "It ran", id="nothing until then"
        ),
        pytest.param(
            known(NOON + 90 * MINUTE, job=job(skipped_slot=NOON + HOUR)),
            *(Fate.FUTURE, "skip_next", "will be skipped"),
            id="to come and to be left out",
        ),
        pytest.param(
            known(NOON + 90 * MINUTE, job=job(state=JobState.PAUSED, next_run_at=None)),
            *(Fate.PAUSED, "paused", "until it is resumed"),
            id="to come but for a pause",
        ),
        pytest.param(
            known(NOON + 90 * MINUTE, job=job(spec=spec(paused_until=NOON + 9 * HOUR))),
            *(Fate.PAUSED, "paused", "until 2026-11-23 21:00:00"),
            id="to come but for paused_until",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), job=job(spec=spec(paused_until=NOON + 3 * MINUTE))),
            *(Fate.PAUSED, "paused", "paused_until"),
            id="paused until after the slot",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), states=PAUSED_SINCE, job=job(state=JobState.PAUSED)),
            *(Fate.PAUSED, "paused", "since 2026-11-23 11:59:00"),
            id="paused",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), states=RESUMED),
            *(Fate.PAUSED, "paused", "paused at the time"),
            id="paused then and resumed since",
        ),
        pytest.param(
            known(NOON - 30 * MINUTE, row=row(NOON - HOUR), states=RESUMED),
            *(Fate.RAN, None, "It ran"),
            id="before the pause",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), states=()),
            *(Fate.UNKNOWN, None, "No row says"),
            id="no row and nobody remembers why",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), states=MENDED),
            *(Fate.INVALID, "invalid", "no prompt"),
            id="invalid then and mended since",
        ),
        pytest.param(
            known(row=row(NOON - HOUR), job=job(state=JobState.INVALID, spec=None, problem=BROKEN)),
            *(Fate.UNKNOWN, None, "is not known"),
            id="invalid only since later",
        ),
        pytest.param(
            known(
                row=row(NOON - HOUR),
                states=(*ALWAYS, StateSince("invalid", NOON, "zero")),
                job=job(state=JobState.INVALID, spec=None, problem=BROKEN),
            ),
            *(Fate.INVALID, "invalid", "it is broken"),
            id="invalid",
        ),
        pytest.param(
            known(row=None, states=(), job=job(state=JobState.INVALID, spec=None, problem=BROKEN)),
            *(Fate.INVALID, "invalid", "it is broken"),
            id="never valid",
        ),
        pytest.param(
            known(
                NOON - 30 * MINUTE,
                row=row(NOON - 2 * HOUR),
                states=(
                    *ALWAYS,
                    StateSince("invalid", NOON - HOUR, "zero"),
                    StateSince("scheduled", NOON - MINUTE),
                ),
                job=job(accepted_at=NOON - MINUTE),
            ),
            *(Fate.INVALID, "invalid", "zero"),
            id="invalid until another schedule was accepted",
        ),
        pytest.param(
            known(
                NOON - 30 * MINUTE,
                row=row(NOON - 2 * HOUR),
                states=(
                    *ALWAYS,
                    StateSince("paused", NOON - HOUR),
                    StateSince("scheduled", NOON - MINUTE),
                ),
                job=job(accepted_at=NOON - MINUTE),
            ),
            *(Fate.PAUSED, "paused", "paused at the time"),
            id="paused until another schedule was accepted",
        ),
        pytest.param(
            known(
                NOON - 30 * MINUTE,
                row=skipped(NOON - 50 * MINUTE, "invalid"),
                states=(
                    *ALWAYS,
                    StateSince("invalid", NOON - HOUR, "zero"),
                    StateSince("scheduled", NOON - MINUTE),
                ),
                job=job(accepted_at=NOON - MINUTE),
            ),
            *(Fate.SKIPPED, "invalid", "when the slot came due"),
            id="a row is surer than a state",
        ),
        pytest.param(
            known(
                NOON - 30 * MINUTE,
                states=(*ALWAYS, StateSince("invalid", NOON - 5 * HOUR, "zero")),
                job=job(spec=spec(paused_until=NOON + HOUR)),
            ),
            *(Fate.INVALID, "invalid", "zero"),
            id="what is remembered is surer than paused_until",
        ),
        pytest.param(
            known(NOON - 20 * HOUR), Fate.NOT_PROMOTED, "not_promoted", "Not promoted", id="before"
        ),
        pytest.param(
            known(job=job(accepted_at=NOON - MINUTE)),
            *(Fate.FUTURE, None, "the first one"),
            id="before its first slot",
        ),
        pytest.param(
            known(
                job=job(accepted_at=NOON - MINUTE, spec=spec(paused_until=NOON + 9 * HOUR)),
                states=(),
            ),
            *(Fate.PAUSED, "paused", "until 2026-11-23 21:00:00"),
            id="before its first slot, with a pause until after that",
        ),
        pytest.param(
            known(job=job(accepted_at=NOON - MINUTE, spec=spec(paused_until=NOON + HOUR - MINUTE))),
            *(Fate.FUTURE, None, "the first one"),
            id="before its first slot, with a pause that ends with it",
        ),
        pytest.param(
            known(job=job(accepted_at=NOON - MINUTE, skipped_slot=NOON + HOUR - MINUTE)),
            *(Fate.FUTURE, "skip_next", "will be skipped"),
            id="before its first slot, which will be left out",
        ),
        pytest.param(
            known(job=job(accepted_at=NOON - MINUTE, skipped_slot=NOON + 2 * HOUR - MINUTE)),
            *(Fate.FUTURE, None, "the first one"),
            id="before its first slot, with another to be left out",
        ),
        pytest.param(
            known(job=job(accepted_at=NOON - MINUTE), row=row(NOON - HOUR)),
            *(Fate.RAN, None, "present schedule was accepted"),
            id="a slot of the schedule before",
        ),
        pytest.param(
            known(job=None), Fate.NOT_PROMOTED, "not_promoted", "no councilor", id="no councilor"
        ),
        pytest.param(
            known(job=None, row=row(NOON - HOUR)),
            *(Fate.NOT_PROMOTED, "demoted", "The last slot that has a row: It ran"),
            id="demoted",
        ),
        pytest.param(
            known(NOON - HOUR, job=None, row=row(NOON - HOUR)),
            *(Fate.RAN, None, "It ran"),
            id="ran before it was demoted",
        ),
        pytest.param(
            known(job=None, row=row(NOON - HOUR), is_agent=False),
            *(Fate.NOT_PROMOTED, "deleted", "no such agent"),
            id="deleted",
        ),
        pytest.param(
            known(NOON - 5 * HOUR, kept_for=2 * HOUR),
            *(Fate.UNKNOWN, "expired", "keeps rows for 2h"),
            id="expired",
        ),
        pytest.param(
            known(row=row(status="done")), Fate.UNKNOWN, None, "another program", id="foreign"
        ),
    ],
)
def test_why(facts: Known, fate: Fate, reason: str | None, says: str) -> None:
    found = why(facts)
    assert (found.fate, found.reason) == (fate, reason), found.text
    assert says in found.text


@pytest.mark.parametrize("number", [10**400, -(10**30), 10**15, True])
def test_no_number_is_too_large_to_be_told(number: int) -> None:
    odd = row(duration_ms=number, lateness_ms=number, slots_missed=number, error="x" * 10**6)
    for status in ("completed", "error", "missed", "skipped", "running"):
        assert len(why(known(row={**odd, "status": status})).text) < 2_000


def test_a_slot_within_a_stretch_is_named() -> None:
    """The row stands for all of them, the answer is about one."""
    stretch = missed(NOON - 3 * HOUR, NOON)
    assert why(known(NOON - HOUR + MINUTE, row=stretch)).slot == NOON - HOUR
    assert why(known(row=stretch)).slot == NOON
    for other in (job(state=JobState.PAUSED), job(spec=spec(paused_until=NOON + HOUR))):
        found = why(known(NOON - HOUR + MINUTE, row=stretch, job=other))
        assert (found.fate, found.slot) == (Fate.MISSED, NOON - HOUR)
    assert why(known(row=stretch)).row is stretch


def test_a_run_that_was_asked_for_is_the_answer_while_it_lasts() -> None:
    asked_at = NOON + 2 * MINUTE
    request = row(asked_at, trigger="manual", completed_at=asked_at + 2 * MINUTE)
    of_slot = row()
    during, after = asked_at + MINUTE, asked_at + 3 * MINUTE - timedelta(seconds=1)
    assert why(known(during, row=of_slot, request=request)).row is request
    assert "somebody asked" in why(known(during, row=of_slot, request=request)).text
    assert why(known(after, row=of_slot, request=request)).row is of_slot
    long = row(NOON - 2 * MINUTE, trigger="manual", completed_at=NOON + 4 * MINUTE)
    assert why(known(NOON + MINUTE, row=skipped(), request=long)).reason == "overlap"


def test_states_are_read_whatever_somebody_wrote_there() -> None:
    entry = {"state": "paused", "since": NOON}
    assert states_in({"history": [entry]}) == [StateSince("paused", NOON)]
    histories: list[object] = [None, 5, [], [5, None, {}]]
    for status in (None, 5, {}, *({"history": said} for said in histories)):
        assert states_in(status) == []
    assert states_in({"history": [{"since": "x"}, {**entry, "error": 5}]}) == [
        StateSince("paused", NOON)
    ]
