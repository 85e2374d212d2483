"""What must hold of slots and their rows in the ledger."""

from datetime import datetime, timedelta
from itertools import pairwise

from tests.chaos.history import Agent, Document, History, base_name, clock, has_run

_ROW_WITHIN = timedelta(seconds=3)
"""How old a slot may be, when all is quiet, without having its row."""
_UNSEEN = {"rename back", "insert again", "rename"}
_NOTICED_WITHIN = timedelta(seconds=5)
"""A collection that comes back is listed anew, and a renamed agent is a new one, whom nobody knows
if no replica is there: slots until then came due unseen."""
_ENDED = {
    "completed": {"success", "warning", "error"},
    "error": {"error"},
    "skipped": {"warning"},
    "missed": {"warning"},
}


def no_slot_has_two_rows(history: History) -> list[str]:
    """A slot is either one row's own, or within one row's stretch of missed ones."""
    found: list[str] = []
    for agent_id in sorted({row["councilor_id"] for row in history.rows}):
        rows = history.rows_of(agent_id)
        for stretch in (row for row in rows if row.get("first_slot")):
            found += [
                f"{row['execution_id']}: a row of its own ({row['status']}), and within the "
                f"stretch {clock(stretch['first_slot'])} to {clock(stretch['last_slot'])} of "
                f"{stretch['execution_id']}"
                for row in rows
                if row is not stretch and _covers(stretch, row["scheduled_for"], row["spec_hash"])
            ]
        found += [
            f"{one['execution_id']}, {other['execution_id']}: two rows of one slot"
            for one, other in pairwise(rows)
            if one["scheduled_for"] == other["scheduled_for"]
        ]
    return found


def every_slot_has_a_row(history: History) -> list[str]:
    """Every slot since an agent was last touched has a row, or is within a stretch of one.

    For an agent that nobody touched since it was inserted, those are all since its acceptance.
    """
    found: list[str] = []
    for agent in history.agents:
        since = _certain_since(history, agent)
        if since is not None:
            found += _without_row(history, agent, since)
    return found


def every_request_has_one_row(history: History) -> list[str]:
    """What was asked to run now has one row under each name that the agent has or had, at most.

    A renamed agent is another one, whose document holds a request: a replica that was not there
    when that was answered answers it.
    """
    found: list[str] = []
    for agent in history.agents:
        asked = (agent.document or {}).get("councilor_run_requested_at")
        if agent.is_councilor and asked is not None:
            rows = [row for row in _requests_of(history, agent) if row["scheduled_for"] == asked]
            if not rows or len(rows) > len({row["councilor_id"] for row in rows}):
                names = ", ".join(row["execution_id"] for row in rows) or "none"
                found.append(f"{agent.agent_id}: asked at {clock(asked)}, its rows are: {names}")
    return found


def rows_are_whole(history: History) -> list[str]:
    """Every row has ended, with all that its status promises."""
    found: list[str] = []
    for row in history.rows:
        found += [f"{row['execution_id']} ({row['status']}): {what}" for what in _flaws(row)]
    return found


def rows_do_not_overlap(history: History) -> list[str]:
    """As the ledger tells it, those runs of an agent that were called come one after the other."""
    called = {call.execution_id for call in history.calls if not call.is_refused}
    ran = [row for row in history.rows if has_run(row) and row["execution_id"] in called]
    found: list[str] = []
    for agent_id in sorted({row["councilor_id"] for row in ran}):
        rows = [row for row in ran if row["councilor_id"] == agent_id]
        for one, other in pairwise(sorted(rows, key=lambda row: row["started_at"])):
            if one["completed_at"] is None or other["started_at"] < one["completed_at"]:
                found.append(
                    f"{other['execution_id']}: started at {clock(other['started_at'])}, before "
                    f"{one['execution_id']} ended at {clock(one['completed_at'])}"
                )
    return found


def _requests_of(history: History, agent: Agent) -> list[Document]:
    manual = [row for row in history.rows if row["trigger"] == "manual"]
    name = base_name(agent.agent_id)
    return [row for row in manual if base_name(row["councilor_id"]) == name]


def _covers(row: Document, slot: datetime, spec_hash: object) -> bool:
    """Tell whether a stretch of missed slots has this one in it."""
    first, last, count = row.get("first_slot"), row.get("last_slot"), row.get("slots_missed")
    if first is None or last is None or not first <= slot <= last or row["spec_hash"] != spec_hash:
        return False
    step = (last - first) / (count - 1) if count and count > 1 else timedelta(microseconds=1)
    return bool((slot - first) % step == timedelta())


def _certain_since(history: History, agent: Agent) -> datetime | None:
    """Since when the agent's slots are known for certain; None where they are not."""
    document, interval = history.document_of(agent), agent.interval
    status = (document or {}).get("councilor_status") or {}
    if agent.state != "scheduled" or interval is None or not status.get("accepted_at"):
        return None
    touches = [write for write in history.writes_of(agent.agent_id) if write.touches_schedule]
    if any(write.acked is None for write in touches):
        return None
    accepted: datetime = status["accepted_at"]
    if [write.what for write in touches] == ["insert"]:
        return accepted
    last = [
        write.acked + (_NOTICED_WITHIN if write.what in _UNSEEN else timedelta())
        for write in touches[-1:]
        if write.acked is not None
    ]
    put_off = [agent.schedule["paused_until"]] if agent.schedule.get("paused_until") else []
    since: list[datetime] = [accepted, status["observed_at"], *last, *put_off]
    return max(since)


def _without_row(history: History, agent: Agent, since: datetime) -> list[str]:
    document, interval = history.document_of(agent), agent.interval
    assert document is not None
    assert interval is not None
    rows = history.rows_of(agent.agent_id)
    own = {row["scheduled_for"] for row in rows}
    stretches = [row for row in rows if row.get("first_slot")]
    slot: datetime = document["councilor_status"]["accepted_at"] + interval
    open_slots: list[datetime] = []
    while slot < history.settled - _ROW_WITHIN:
        is_covered = any(row["first_slot"] <= slot <= row["last_slot"] for row in stretches)
        if slot > since and slot not in own and not is_covered:
            open_slots.append(slot)
        slot += interval
    if not open_slots:
        return []
    named = ", ".join(clock(slot) for slot in open_slots[:5])
    return [f"{agent.agent_id}: {len(open_slots)} slots have no row: {named}"]


def _flaws(row: Document) -> list[str]:
    flaws: list[str] = []
    if row["status"] not in _ENDED:
        return [f"has not ended, owner {row['owner']}"]
    if row["severity"] not in _ENDED[row["status"]]:
        flaws.append(f"severity {row['severity']!r}")
    if row["status"] != "completed" and not row["reason"]:
        flaws.append("no reason")
    if row["status"] == "error" and not row["error"]:
        flaws.append("no error text")
    if row["status"] == "completed" and (row["error"] or row["output"] is None):
        flaws.append(f"error {row['error']!r}, output {row['output']!r}")
    if has_run(row) and not row["scheduled_for"] <= row["started_at"] <= row["completed_at"]:
        times = [clock(row[name]) for name in ("scheduled_for", "started_at", "completed_at")]
        flaws.append(f"slot, start and end are {' '.join(times)}")
    return flaws
