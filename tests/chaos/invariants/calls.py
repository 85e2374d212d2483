"""What must hold of the calls that reached Conductor."""

from collections import defaultdict
from datetime import datetime, timedelta
from itertools import pairwise

from tests.chaos.cast import edition_of
from tests.chaos.history import Call, History, Write, clock

_TOLERANCE = timedelta(milliseconds=20)
_OF_THE_COLLECTION = {"drop", "rename away"}
"""When all is back, nobody who slept meanwhile can know that the agents were gone for a moment:
the server remembers no state of a collection from before it was created or renamed."""
_DONE = {"well", "slow"}
"""The moods in which a call is answered with a result."""


def no_slot_is_started_twice(history: History) -> list[str]:
    """At most one call of an execution may have been accepted."""
    return [
        f"{execution_id}: {len(calls)} calls that Conductor may have accepted, "
        f"at {', '.join(f'{clock(call.arrived)} ({call.answer})' for call in calls)}"
        for execution_id, calls in _accepted(history).items()
        if len(calls) > 1
    ]


def every_call_has_its_row(history: History) -> list[str]:
    """Nothing is asked of Conductor that the ledger does not know of."""
    return [
        f"{call.execution_id}: called at {clock(call.arrived)}, and has no row"
        for call in history.calls
        if call.execution_id not in history.by_id
    ]


def every_completed_run_was_called_once(history: History) -> list[str]:
    """A row that says that a run completed stands for one call, answered with a result."""
    accepted = _accepted(history)
    found: list[str] = []
    for row in history.rows:
        calls = accepted.get(row["execution_id"], [])
        if row["status"] == "completed" and [c.answer in _DONE for c in calls] != [True]:
            said = [call.answer for call in calls]
            found.append(f"{row['execution_id']}: completed, but its calls were answered {said}")
    return found


def no_slot_starts_while_it_must_not(history: History) -> list[str]:
    """What was paused, demoted, deleted or put off before a slot's time does not start it."""
    return [said for is_over, said in _starts_in_pauses(history) if not is_over]


def no_slot_of_a_pause_starts_after_it(history: History) -> list[str]:
    """A slot within a pause does not start late either, when the pause is over by then."""
    return [said for is_over, said in _starts_in_pauses(history) if is_over]


def no_call_is_early(history: History) -> list[str]:
    """No call comes before its slot."""
    return [
        f"{call.execution_id}: called at {clock(call.arrived)}, before its slot {clock(call.slot)}"
        for call in history.calls
        if call.arrived < call.slot - _TOLERANCE
    ]


def no_prompt_is_stale(history: History) -> list[str]:
    """A call carries at least the prompt that was acknowledged before its slot's time."""
    found: list[str] = []
    for call in history.calls:
        writes = history.writes_of(call.agent_id)
        known = [w.edition for w in writes if w.acked is not None and w.acked < call.slot]
        if call.prompt and known and edition_of(call.prompt) < max(known):
            found.append(
                f"{call.execution_id}: called at {clock(call.arrived)} with edition "
                f"{edition_of(call.prompt)}, though {max(known)} was acknowledged before its slot"
            )
    return found


def no_run_overlaps_another(history: History) -> list[str]:
    """No call of an agent arrives before the row of the one before it was closed."""
    by_agent: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if not call.is_refused and call.execution_id in history.by_id:
            by_agent[call.agent_id].append(call)
    found: list[str] = []
    for calls in by_agent.values():
        for one, other in pairwise(sorted(calls, key=lambda call: call.arrived)):
            end = _end_of(history, one)
            if end is None or end > other.arrived + _TOLERANCE:
                found.append(
                    f"{other.execution_id}: called at {clock(other.arrived)}, while "
                    f"{one.execution_id} ran from {clock(one.arrived)} to {clock(end)}"
                )
    return found


def _accepted(history: History) -> dict[str, list[Call]]:
    accepted: defaultdict[str, list[Call]] = defaultdict(list)
    for call in history.calls:
        if not call.is_refused:
            accepted[call.execution_id].append(call)
    return accepted


def _starts_in_pauses(history: History) -> list[tuple[bool, str]]:
    """Calls for slots that were not to start, and whether they might again when they came."""
    found: list[tuple[bool, str]] = []
    for call in history.calls:
        before, since = _writes_around(history, call)
        write = before[-1] if before and not call.is_manual else None
        if write is None or write.acked is None or write.acked >= call.slot:
            continue
        if since and clock(write.acked)[:8] == clock(since[0].sent)[:8]:
            continue  # off and on within one second: states are remembered by the second
        if write.what in _OF_THE_COLLECTION and any(_allows(w, call.arrived) for w in since):
            continue
        if not _allows(write, call.slot):
            later = "".join(f", {w.what!r} was sent at {clock(w.sent)}" for w in since)
            said = (
                f"{call.execution_id}: called at {clock(call.arrived)} for {clock(call.slot)}, "
                f"though {write.what!r} was acknowledged at {clock(write.acked)}{later}"
            )
            found.append((any(_allows(w, call.arrived) for w in since), said))
    return found


def _writes_around(history: History, call: Call) -> tuple[list[Write], list[Write]]:
    """The writes sent before the call's slot, and those between that and the call."""
    sent = [write for write in history.writes_of(call.agent_id) if write.sent <= call.arrived]
    before = [write for write in sent if write.sent <= call.slot]
    return before, sent[len(before) :]


def _allows(write: Write, slot: datetime) -> bool:
    return write.runs and (write.not_before is None or write.not_before <= slot)


def _end_of(history: History, call: Call) -> datetime | None:
    end = history.by_id[call.execution_id]["completed_at"]
    return end if isinstance(end, datetime) else None
