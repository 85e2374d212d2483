"""What must hold whatever goes wrong: each function answers with its violations, as sentences."""

from collections.abc import Callable, Mapping

from tests.chaos.history import History
from tests.chaos.invariants import calls, slots, state

Invariant = Callable[[History], list[str]]

INVARIANTS: tuple[Invariant, ...] = (
    calls.no_slot_is_started_twice,
    calls.every_call_has_its_row,
    calls.every_completed_run_was_called_once,
    calls.no_slot_starts_while_it_must_not,
    calls.no_slot_of_a_pause_starts_after_it,
    calls.no_call_is_early,
    calls.no_prompt_is_stale,
    calls.no_run_overlaps_another,
    slots.no_slot_has_two_rows,
    slots.every_slot_has_a_row,
    slots.every_request_has_one_row,
    slots.rows_are_whole,
    slots.rows_do_not_overlap,
    state.jobs_equal_documents,
    state.verdicts_equal_documents,
    state.statistics_equal_the_ledger,
    state.users_fields_are_untouched,
    state.no_replica_is_stuck,
    state.no_agent_is_stuck,
    state.logs_keep_secrets,
)


def violations_of(history: History) -> Mapping[str, list[str]]:
    """All violations, by the name of what is violated; empty lists where all is well."""
    return {invariant.__name__: invariant(history) for invariant in INVARIANTS}
