"""Every invariant of the chaos tester finds what violates it, and nothing in what does not."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.chaos.cast import PROMPT_MARK
from tests.chaos.history import Agent, Call, History, Write
from tests.chaos.invariants import INVARIANTS, Invariant, calls, slots, state, violations_of
from tests.chaos.plan import Kind, plan_of

SLOT = datetime(2030, 1, 1, 12, 0, 10, tzinfo=UTC)
ACCEPTED = SLOT - timedelta(seconds=10)
SETTLED = SLOT + timedelta(seconds=6)


def at(seconds: float) -> datetime:
    """An instant by its distance from the slot that all these histories are about."""
    return SLOT + timedelta(seconds=seconds)


def key(seconds: float = 0) -> str:
    return f"exec_scout_{round(at(seconds).timestamp() * 1_000)}"


def call(seconds: float = 0, **changed: Any) -> Call:
    """A call that was answered well, for the slot at that time."""
    slot = at(seconds)
    one = Call(key(seconds), slot, slot + timedelta(milliseconds=5), answer="well", ended=slot)
    return replace(one, **changed)


def row(seconds: float = 0, **changed: Any) -> dict[str, Any]:
    """The row of a run that went well, for the slot at that time."""
    slot = at(seconds)
    return {
        "execution_id": key(seconds),
        "councilor_id": "scout",
        "scheduled_for": slot,
        "trigger": "schedule",
        "status": "completed",
        "severity": "success",
        "reason": None,
        "error": None,
        "output": "fine",
        "started_at": slot + timedelta(milliseconds=4),
        "completed_at": slot + timedelta(seconds=1),
        "lateness_ms": 4,
        "attempts": [],
        "spec_hash": "s",
        "owner": "a",
        **changed,
    }


def stretch(first: float, last: float, count: int) -> dict[str, Any]:
    """The row of slots that nobody ran."""
    ends = {"first_slot": at(first), "last_slot": at(last), "slots_missed": count}
    ended = {"status": "missed", "severity": "warning", "reason": "outage", "output": None}
    return row(first, **ends, **ended, started_at=None)


def write(what: str, sent: float, acked: float | None, **changed: Any) -> Write:
    """A write that lets the agent run, unless told otherwise."""
    known = None if acked is None else at(acked)
    return replace(Write("scout", what, at(sent), known, runs=True), **changed)


def document(**changed: Any) -> dict[str, Any]:
    """A councilor that has run at the one slot that has come."""
    schedule = {"type": "interval", "value": "10s", "enabled": True}
    return {
        "_id": "document",
        "agent_id": "scout",
        "is_councilor": True,
        "councilor_config": {"schedule": schedule, "task": {"prompt": PROMPT_MARK}},
        **changed,
    }


STATUS = {"state": "scheduled", "error": None, "accepted_at": ACCEPTED, "observed_at": ACCEPTED}
STATS = {
    "total_executions": 1,
    "successful_executions": 1,
    "success_rate": 100.0,
    "last_execution": at(1),
}
FOUND = document(councilor_status=STATUS, stats=STATS)
JOB = {"_id": "scout", "next_run_time": at(10), "job_state": {"state": "scheduled"}}
GOOD = History(
    agents=[Agent("scout", document(), is_steady=True)],
    documents=[FOUND],
    rows=[row()],
    jobs=[JOB],
    calls=[call(prompt=f"{PROMPT_MARK}, edition 2")],
    writes=[write("insert", -20, -19, edition=2)],
    logs=['{"event": "run_started"}'],
    secrets=[PROMPT_MARK],
    began=at(-20),
    healed=at(3),
    jobs_read=SETTLED,
    settled=SETTLED,
)

VIOLATED: Mapping[str, tuple[Invariant, dict[str, Any]]] = {
    "two accepted calls": (calls.no_slot_is_started_twice, {"calls": [call(), call()]}),
    "a call without a row": (calls.every_call_has_its_row, {"rows": []}),
    "a run without a call": (calls.every_completed_run_was_called_once, {"calls": []}),
    "a failed run as a completed one": (
        calls.every_completed_run_was_called_once,
        {"calls": [call(answer="error")]},
    ),
    "paused before the slot": (
        calls.no_slot_starts_while_it_must_not,
        {"writes": [write("pause", -2, -1, runs=False), write("resume", 0.1, 0.2)]},
    ),
    "resumed after the slot, and called then": (
        calls.no_slot_of_a_pause_starts_after_it,
        {
            "writes": [write("pause", -2, -1, runs=False), write("resume", 0.1, 0.2)],
            "calls": [call(arrived=at(0.3))],
        },
    ),
    "put off beyond the slot": (
        calls.no_slot_starts_while_it_must_not,
        {"writes": [write("pause until", -2, -1, not_before=at(1))]},
    ),
    "a call before its slot": (calls.no_call_is_early, {"calls": [call(arrived=at(-0.1))]}),
    "the prompt before the last": (
        calls.no_prompt_is_stale,
        {"writes": [write("insert", -9, -8, edition=2), write("edit", -2, -1, edition=3)]},
    ),
    "a call before the other's end": (
        calls.no_run_overlaps_another,
        {"rows": [row(), row(0.5)], "calls": [call(), call(0.5)]},
    ),
    "a call while the other goes on": (
        calls.no_run_overlaps_another,
        {"rows": [row(completed_at=None), row(2)], "calls": [call(), call(2)]},
    ),
    "two rows of a slot": (
        slots.no_slot_has_two_rows,
        {"rows": [row(), row(execution_id="exec_other")]},
    ),
    "a row within a stretch": (
        slots.no_slot_has_two_rows,
        {"rows": [row(), stretch(-10, 10, 3)]},
    ),
    "a slot without a row": (slots.every_slot_has_a_row, {"rows": []}),
    "a slot after the last touch without a row": (
        slots.every_slot_has_a_row,
        {"rows": [], "writes": [write("insert", -20, -19), write("resume", -9, -8)]},
    ),
    "a request without a row": (
        slots.every_request_has_one_row,
        {"agents": [Agent("scout", document(councilor_run_requested_at=at(1)))]},
    ),
    "a row that still runs": (slots.rows_are_whole, {"rows": [row(status="running")]}),
    "an error without its text": (
        slots.rows_are_whole,
        {"rows": [row(status="error", severity="error", reason="failed")]},
    ),
    "an end before the start": (slots.rows_are_whole, {"rows": [row(completed_at=at(0))]}),
    "rows at the same time": (
        slots.rows_do_not_overlap,
        {"rows": [row(), row(0.5)], "calls": [call(), call(0.5)]},
    ),
    "a councilor without a job": (state.jobs_equal_documents, {"jobs": []}),
    "a job without a councilor": (state.jobs_equal_documents, {"agents": []}),
    "a job of another state": (
        state.jobs_equal_documents,
        {"jobs": [{**JOB, "job_state": {"state": "paused"}}]},
    ),
    "a job that is over": (
        state.jobs_equal_documents,
        {"jobs": [{**JOB, "next_run_time": at(0)}]},
    ),
    "a job between two slots": (
        state.jobs_equal_documents,
        {"jobs": [{**JOB, "next_run_time": at(9)}]},
    ),
    "a councilor without a verdict": (
        state.verdicts_equal_documents,
        {"documents": [document()]},
    ),
    "a run that was not counted": (
        state.statistics_equal_the_ledger,
        {"documents": [document(councilor_status=STATUS)]},
    ),
    "a run that was counted twice": (
        state.statistics_equal_the_ledger,
        {"documents": [{**FOUND, "stats": {**STATS, "total_executions": 2}}]},
    ),
    "a field of the user's that changed": (
        state.users_fields_are_untouched,
        {"documents": [{**FOUND, "name": "Scout"}]},
    ),
    "a document that is gone": (state.users_fields_are_untouched, {"documents": []}),
    "a replica that is not ready": (state.no_replica_is_stuck, {"not_ready": ["replica 1"]}),
    "a replica that does not stop": (state.no_replica_is_stuck, {"not_stopped": [1]}),
    "an agent that runs no more": (state.no_agent_is_stuck, {"settled": at(60)}),
    "a prompt in the log": (state.logs_keep_secrets, {"logs": [f"failed: {PROMPT_MARK}"]}),
}
HELD: Mapping[str, tuple[Invariant, dict[str, Any]]] = {
    "called again after a refusal": (
        calls.no_slot_is_started_twice,
        {"calls": [call(answer="503", is_refused=True), call()]},
    ),
    "paused after the slot": (
        calls.no_slot_starts_while_it_must_not,
        {"writes": [write("pause", -0.1, 0.1, runs=False)]},
    ),
    "resumed before the slot, perhaps": (
        calls.no_slot_starts_while_it_must_not,
        {"writes": [write("pause", -5, -4, runs=False), write("resume", -0.1, None)]},
    ),
    "put off until the slot": (
        calls.no_slot_starts_while_it_must_not,
        {"writes": [write("pause until", -2, -1, not_before=at(0))]},
    ),
    "a request while paused": (
        calls.no_slot_starts_while_it_must_not,
        {
            "calls": [call(execution_id=f"{key()}_manual")],
            "writes": [write("pause", -5, -4, runs=False)],
        },
    ),
    "a request under the name before": (
        slots.every_request_has_one_row,
        {
            "agents": [Agent("scout.2", document(councilor_run_requested_at=at(1)))],
            "rows": [row(1, trigger="manual")],
        },
    ),
    "a stretch in place of the slot": (
        slots.every_slot_has_a_row,
        {"rows": [stretch(-10, 10, 3)]},
    ),
    "a slot beside another schedule's stretch": (
        slots.no_slot_has_two_rows,
        {"rows": [row(), stretch(-5, 2, 2)]},
    ),
    "a slot too young to have a row": (
        slots.every_slot_has_a_row,
        {"rows": [], "settled": at(1)},
    ),
    "one run after the other": (
        slots.rows_do_not_overlap,
        {"rows": [row(), row(1)], "calls": [call(), call(1)]},
    ),
    "a claim that arrived late, and led to no call": (
        slots.rows_do_not_overlap,
        {"rows": [row(), row(0.5)], "calls": [call()]},
    ),
    "statistics of a document that was replaced": (
        state.statistics_equal_the_ledger,
        {"documents": [document()], "agents": [Agent("scout", document(), is_whole=False)]},
    ),
}


@pytest.mark.parametrize("invariant", [pytest.param(i, id=i.__name__) for i in INVARIANTS])
def test_good_history_violates_nothing(invariant: Invariant) -> None:
    assert invariant(GOOD) == []


@pytest.mark.parametrize(("invariant", "changed"), VIOLATED.values(), ids=VIOLATED.keys())
def test_violation_is_found(invariant: Invariant, changed: dict[str, Any]) -> None:
    assert len(invariant(replace(GOOD, **changed))) == 1


@pytest.mark.parametrize(("invariant", "changed"), HELD.values(), ids=HELD.keys())
def test_what_is_allowed_is_no_violation(invariant: Invariant, changed: dict[str, Any]) -> None:
    assert invariant(replace(GOOD, **changed)) == []


def test_every_invariant_is_seen_to_fail() -> None:
    assert {invariant for invariant, _ in VIOLATED.values()} == set(INVARIANTS)
    assert violations_of(GOOD).keys() == {invariant.__name__ for invariant in INVARIANTS}


def test_plan_is_the_same_for_the_same_seed() -> None:
    plan = plan_of(7, 60, replicas=3)
    assert plan == plan_of(7, 60, replicas=3) != plan_of(8, 60, replicas=3)
    assert {fault.kind for seed in range(20) for fault in plan_of(seed, 60, replicas=3)} == set(
        Kind
    )


def test_plan_keeps_to_the_kinds_that_are_wanted() -> None:
    plan = plan_of(7, 60, replicas=3, only={Kind.CUT})
    assert {fault.kind for fault in plan} == {Kind.CUT}
