"""Rows of `councilor_executions`, as CONTRACT section 3 has them."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from service.adapters.mongo.bulks import entry_of
from service.domain.execution import (
    Attempt,
    Execution,
    NotRun,
    Outcome,
    Status,
    Stretch,
    Trigger,
    milliseconds,
)
from service.domain.severity import Severity
from service.ports import LedgerRow, TakenSlots


def running_row(execution: Execution) -> dict[str, Any]:
    """The row of a claim. Its `_id` is unique without any index of ours."""
    return {
        "_id": execution.execution_id,
        "execution_id": execution.execution_id,
        "councilor_id": execution.agent_id,
        "display_name": execution.display_name,
        "task_name": execution.task_name,
        "scheduled_for": execution.scheduled_for,
        "trigger": execution.trigger.value,
        "status": Status.RUNNING.value,
        "severity": None,
        "reason": None,
        "started_at": execution.started_at,
        "completed_at": None,
        "created_at": execution.started_at,
        "duration_ms": None,
        "lateness_ms": execution.lateness_ms,
        "output": None,
        "error": None,
        "attempts": attempts_of(execution.attempts),
        "spec_hash": execution.spec_hash,
        "owner": execution.owner,
        "nonce": execution.nonce,
    }


def final_row(not_run: NotRun) -> dict[str, Any]:
    """The row of a slot, or of a stretch of slots, that never ran."""
    row = {
        "_id": not_run.execution_id,
        "execution_id": not_run.execution_id,
        "councilor_id": not_run.agent_id,
        "display_name": not_run.display_name,
        "task_name": not_run.task_name,
        "scheduled_for": not_run.scheduled_for,
        "trigger": not_run.trigger.value,
        "status": not_run.status.value,
        "severity": Severity.WARNING.value,
        "reason": not_run.reason.value,
        "started_at": None,
        "completed_at": not_run.at,
        "created_at": not_run.at,
        "duration_ms": None,
        "lateness_ms": milliseconds(not_run.at - not_run.scheduled_for),
        "output": None,
        "error": None,
        "attempts": [],
        "spec_hash": not_run.spec_hash,
        "owner": not_run.owner,
    }
    if not_run.stretch is not None and not_run.stretch.count > 1:
        row["provisional"] = True
    return row | stretch_of(not_run.stretch)


def stretch_of(stretch: Stretch | None) -> dict[str, Any]:
    """What a row says of the slots that it stands for."""
    if stretch is None:
        return {}
    return {
        "slots_missed": stretch.count,
        "first_slot": stretch.first,
        "last_slot": stretch.last,
    }


def taken_by(row: Mapping[str, Any]) -> TakenSlots | None:
    """The slots that a row stands for; None where it is another program's, and names none."""
    first, last = row.get("scheduled_for"), row.get("last_slot")
    since = row.get("created_at") if row.get("provisional") else None
    if not isinstance(first, datetime):
        return None
    return TakenSlots(
        first,
        last if isinstance(last, datetime) else first,
        since if isinstance(since, datetime) else None,
    )


def end_of(execution: Execution, outcome: Outcome) -> dict[str, Any]:
    """What closes a running row. Its start was a guess until the claim was acknowledged."""
    end = {
        "status": outcome.status.value,
        "severity": outcome.severity.value,
        "reason": outcome.reason.value if outcome.reason is not None else None,
        "started_at": execution.started_at,
        "lateness_ms": execution.lateness_ms,
        "completed_at": outcome.completed_at,
        "duration_ms": milliseconds(outcome.completed_at - execution.started_at),
        "output": outcome.output,
        "error": outcome.error,
        "attempts": attempts_of(outcome.attempts),
    }
    return end | ({"output_truncated": True} if outcome.output_truncated else {})


def running_filter(execution: Execution) -> dict[str, Any]:
    """Match the row of a run as long as it is running and its owner's."""
    return {
        "execution_id": execution.execution_id,
        "owner": execution.owner,
        "nonce": execution.nonce,
        "status": Status.RUNNING.value,
    }


def ended(runs: Sequence[tuple[Execution, Outcome]]) -> list[dict[str, Any]]:
    """Close the rows of these runs, by `_id`; they are to be counted."""
    entry = entry_of(
        [execution.execution_id for execution, _ in runs],
        [{**end_of(execution, outcome), "counted": False} for execution, outcome in runs],
    )
    return [{"$replaceWith": {"$mergeObjects": ["$$ROOT", entry]}}]


def attempts_of(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Calls, as a row has them."""
    return [{"started_at": attempt.started_at, "error": attempt.error} for attempt in attempts]


def is_ours(row: Mapping[str, Any]) -> bool:
    """Tell whether a running row can be one of ours; other programs' may lack anything."""
    texts = ("execution_id", "councilor_id", "owner")
    dates = ("scheduled_for", "started_at")
    return (
        all(isinstance(row.get(name), str) for name in texts)
        and all(isinstance(row.get(name), datetime) for name in dates)
        and row.get("trigger") in set(Trigger)
    )


def execution_of(row: Mapping[str, Any]) -> Execution:
    """The execution that a running row of ours stands for."""
    return Execution(
        execution_id=row["execution_id"],
        agent_id=row["councilor_id"],
        scheduled_for=row["scheduled_for"],
        trigger=Trigger(row["trigger"]),
        spec_hash=row.get("spec_hash") or "",
        owner=row["owner"],
        nonce=row.get("nonce", ""),
        started_at=row["started_at"],
        attempts=tuple(_attempts_in(row.get("attempts"))),
        display_name=_text_of(row.get("display_name")),
        task_name=_text_of(row.get("task_name")),
    )


def _text_of(said: object) -> str:
    return said if isinstance(said, str) else ""


def _attempts_in(said: object) -> Iterator[Attempt]:
    for attempt in said if isinstance(said, list) else ():
        if isinstance(attempt, Mapping) and isinstance(attempt.get("started_at"), datetime):
            error = attempt.get("error")
            yield Attempt(attempt["started_at"], error if error is None else str(error))


def shown(row: Mapping[str, Any]) -> LedgerRow:
    """A row without what is nobody's business."""
    return LedgerRow(row["councilor_id"], shown_fields(row))


def shown_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of such a row."""
    hidden = ("_id", "nonce", "counted", "provisional")
    return {name: value for name, value in row.items() if name not in hidden}
