"""What is due, what of it starts, and what it is called."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import perf_counter
from typing import Any

import pytest

from service.domain.catch_up import DueSlots, due_slots, first_gap
from service.domain.config import CatchUp, Overlap
from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from service.domain.cron import Cron, cron_from
from service.domain.execution import (
    Execution,
    Stretch,
    Trigger,
    epoch_ms,
    execution_id_of,
    order_for,
)
from service.domain.interval import Every, every_from
from service.domain.jobs import JobSpec
from service.domain.schedule import Timetable

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LONG_AGO = NOON - timedelta(days=400)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
MINUTELY, HALF_HOURLY, HOURLY = every_from("1m"), every_from("30m"), every_from("1h")
HOURLY_CRON = cron_from("@hourly", "UTC")
ONCE, SKIP, ALL = CatchUp.ONCE, CatchUp.SKIP, CatchUp.ALL


def decided(
    schedule: Every | Cron,
    catch_up: CatchUp,
    due: datetime,
    now: datetime,
    *,
    serving_since: datetime | None = None,
    accepted_at: datetime = LONG_AGO,
    paused_until: datetime | None = None,
) -> DueSlots | None:
    """As decided by a process that has just started, unless it is `serving_since`."""
    spec = JobSpec(schedule, "hash", timedelta(0), paused_until, catch_up, Overlap.SKIP)
    return due_slots(spec, spec.timetable(accepted_at), due, now, serving_since or now)


def due(starts: list[float], missed: tuple[float, float, int] | None, last: float) -> DueSlots:
    """Catch-ups so many hours after noon, and a stretch from and to such hours."""
    stretch = None
    if missed is not None:
        stretch = Stretch(NOON + missed[0] * HOUR, NOON + missed[1] * HOUR, missed[2])
    slots = tuple((NOON + start * HOUR, Trigger.CATCH_UP) for start in starts)
    return DueSlots(slots, stretch, NOON + last * HOUR)


@pytest.mark.parametrize("catch_up", CatchUp)
@pytest.mark.parametrize("late_seconds", [0, 0.003, 14])
def test_slot_that_is_punctual_starts(catch_up: CatchUp, late_seconds: float) -> None:
    now = NOON + late_seconds * SECOND
    slots = decided(HOURLY, catch_up, NOON, now, serving_since=LONG_AGO)
    assert slots == DueSlots(((NOON, Trigger.SCHEDULE),), None, NOON)
    assert slots.is_on_time


OUTAGES = {
    "once runs the latest": (HALF_HOURLY, ONCE, due([2], (0, 1.5, 4), 2)),
    "skip runs none": (HALF_HOURLY, SKIP, due([], (0, 2, 5), 2)),
    "all runs each, oldest first": (HALF_HOURLY, ALL, due([0, 0.5, 1, 1.5, 2], None, 2)),
    "once, a single slot": (HALF_HOURLY, ONCE, due([0], None, 0)),
    "skip, a single slot": (HALF_HOURLY, SKIP, due([], (0, 0, 1), 0)),
    "cron, once": (HOURLY_CRON, ONCE, due([3], (0, 2, 3), 3)),
    "cron, skip": (HOURLY_CRON, SKIP, due([], (0, 3, 4), 3)),
    "cron, all": (HOURLY_CRON, ALL, due([0, 1], None, 1)),
}


@pytest.mark.parametrize(("schedule", "catch_up", "expected"), OUTAGES.values(), ids=OUTAGES)
def test_catch_up_decides_after_an_outage(
    schedule: Every | Cron, catch_up: CatchUp, expected: DueSlots
) -> None:
    slots = decided(schedule, catch_up, NOON, expected.last + 20 * MINUTE)
    assert slots == expected
    assert not slots.is_on_time


RECENT = {
    "interval: its period": (every_from("45m"), 45 * MINUTE - SECOND),
    "interval: an hour": (every_from("2h"), HOUR),
    "cron: half the gap": (HOURLY_CRON, 30 * MINUTE),
    "rare cron: twelve hours": (cron_from("@monthly", "UTC"), 12 * HOUR),
}


@pytest.mark.parametrize(("schedule", "recent"), RECENT.values(), ids=RECENT)
def test_once_runs_only_what_is_recent(schedule: Every | Cron, recent: timedelta) -> None:
    slot = schedule.next_slot(NOON, LONG_AGO)
    assert decided(schedule, ONCE, slot, slot + recent) == DueSlots(
        ((slot, Trigger.CATCH_UP),), None, slot
    )
    if schedule != every_from("45m"):  # whose next slot is due by then
        later = decided(schedule, ONCE, slot, slot + recent + SECOND)
        assert later == DueSlots((), Stretch(slot, slot, 1), slot)


def test_slot_just_before_a_start_is_missed() -> None:
    """Whoever chose `skip` wants no run for what came due while nobody was there."""
    assert decided(HOURLY, SKIP, NOON, NOON + 5 * SECOND) == due([], (0, 0, 1), 0)
    assert decided(HOURLY, ONCE, NOON, NOON + 5 * SECOND) == due([0], None, 0)


def test_slot_that_was_held_up_is_missed() -> None:
    """The loop was blocked, or no place was free: it starts as a catch-up, if at all."""
    held_up = NOON + 16 * SECOND
    assert decided(HOURLY, ONCE, NOON, held_up, serving_since=LONG_AGO) == due([0], None, 0)
    assert decided(HOURLY, SKIP, NOON, held_up, serving_since=LONG_AGO) == due([], (0, 0, 1), 0)


BEFORE = {
    "once": (ONCE, [], (-2, -1, 2)),
    "skip": (SKIP, [], (-2, -1, 2)),
    "all": (ALL, [-2, -1], None),
}


@pytest.mark.parametrize(("catch_up", "earlier", "missed"), BEFORE.values(), ids=BEFORE)
def test_punctual_slot_stands_for_those_missed_before(
    catch_up: CatchUp, earlier: list[float], missed: tuple[float, float, int] | None
) -> None:
    slots = decided(HOURLY, catch_up, NOON - 2 * HOUR, NOON + SECOND, serving_since=LONG_AGO)
    caught_up = due(earlier, missed, 0)
    assert slots == replace(caught_up, starts=(*caught_up.starts, (NOON, Trigger.SCHEDULE)))


def test_all_runs_the_latest_hundred() -> None:
    slots = decided(MINUTELY, ALL, NOON, NOON + 149 * MINUTE + 20 * SECOND)
    assert slots is not None
    assert [slot for slot, _ in slots.starts] == [NOON + n * MINUTE for n in range(50, 150)]
    assert slots.missed == Stretch(NOON, NOON + 49 * MINUTE, 50)


@pytest.mark.parametrize("schedule", [MINUTELY, cron_from("* * * * *", "America/New_York")])
@pytest.mark.parametrize("catch_up", [ONCE, SKIP])
def test_month_of_missed_minutes_is_one_stretch_and_cheap(
    schedule: Every | Cron, catch_up: CatchUp
) -> None:
    first, began = NOON - 720 * HOUR, perf_counter()
    slots = decided(schedule, catch_up, first, NOON + 20 * SECOND)
    assert perf_counter() - began < 0.5
    assert slots is not None
    assert slots.missed is not None
    assert slots.missed.first == first
    assert slots.missed.count + len(slots.starts) == 720 * 60 + 1


@pytest.mark.parametrize("early", [SECOND, 72 * HOUR])
def test_nothing_is_due_before_its_time(early: timedelta) -> None:
    assert decided(HOURLY, ALL, NOON, NOON - early) is None


@pytest.mark.parametrize("schedule", [HOURLY, HOURLY_CRON])
def test_slots_before_the_acceptance_are_not_missed(schedule: Every | Cron) -> None:
    """An edit never fires, or records, the past of the new schedule."""
    slots = decided(schedule, SKIP, NOON - 24 * HOUR, NOON + 2.5 * HOUR, accepted_at=NOON)
    assert slots == due([], (1, 2, 2), 2)


@pytest.mark.parametrize("schedule", [HOURLY, HOURLY_CRON])
def test_edit_after_the_slot_leaves_nothing_due(schedule: Every | Cron) -> None:
    assert decided(schedule, ALL, NOON, NOON + 5 * MINUTE, accepted_at=NOON + SECOND) is None


def test_slots_inside_a_pause_are_not_missed() -> None:
    slots = decided(HOURLY, SKIP, NOON, NOON + 5.4 * HOUR, paused_until=NOON + 4 * HOUR)
    assert slots == due([], (4, 5, 2), 5)


@pytest.mark.parametrize("trigger", Trigger)
def test_execution_id_names_agent_and_slot(trigger: Trigger) -> None:
    """A caught-up slot is the same slot; a run that was asked for is another thing."""
    suffix = "_manual" if trigger is Trigger.MANUAL else ""
    slot = NOON + timedelta(milliseconds=7)
    assert execution_id_of("a/1", slot, trigger) == f"exec_a/1_1795435200007{suffix}"


def test_milliseconds_are_exact() -> None:
    """As floats, some instants would lose one."""
    for ms in range(1_795_435_200_000, 1_795_435_201_000):
        assert epoch_ms(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)) == ms


def test_order_is_what_the_document_says_when_the_run_starts() -> None:
    task = {"name": "Audit", "prompt": "Look", "context_files": ["a.py"]}
    config = {"schedule": {"type": "interval", "value": "1h"}, "task": task}
    document: dict[str, Any] = {"agent_id": "a", "name": "Ada", "is_councilor": True}
    document |= {"councilor_config": config, "cwd": "/repo", "ai_provider": "claude"}
    councilor = parse_councilor(document, SchedulePolicy())
    assert isinstance(councilor, Councilor)
    started_at = NOON + 1.5 * SECOND
    run = Execution("exec_a_1", "a", NOON, Trigger.SCHEDULE, "hash", "me", "nonce", started_at)
    order = order_for(councilor, config, run, 30 * MINUTE, None)
    assert (order.execution_id, order.agent_id, order.agent_name) == ("exec_a_1", "a", "Ada")
    assert (order.task.prompt, order.task.context_files) == ("Look", ("a.py",))
    assert (order.cwd, order.ai_provider, order.config) == ("/repo", "claude", config)
    assert order.instance_id == f"councilor_a_{epoch_ms(NOON)}"
    assert run.lateness_ms == 1_500
    assert order_for(councilor, "broken", run, MINUTE, None).config == {}


@pytest.mark.parametrize(
    ("next_slot", "retry_until"),
    [
        pytest.param(None, NOON + 30 * MINUTE, id="no next slot"),
        pytest.param(NOON + MINUTE, NOON + MINUTE, id="the next slot comes first"),
        pytest.param(NOON + 60 * MINUTE, NOON + 30 * MINUTE, id="the time is over first"),
    ],
)
def test_no_call_is_repeated_past_the_next_slot_or_the_run_timeout(
    next_slot: datetime | None, retry_until: datetime
) -> None:
    config = {"schedule": {"type": "interval", "value": "1h"}, "task": {"prompt": "Look"}}
    document = {"agent_id": "a", "is_councilor": True, "councilor_config": config}
    councilor = parse_councilor(document, SchedulePolicy())
    assert isinstance(councilor, Councilor)
    run = Execution("exec_a_1", "a", NOON, Trigger.SCHEDULE, "hash", "me", "nonce", NOON)
    order = order_for(councilor, config, run, 30 * MINUTE, next_slot)
    assert (order.ends_at, order.retry_until) == (NOON + 30 * MINUTE, retry_until)


@pytest.mark.parametrize(
    ("taken", "gap"),
    [
        pytest.param([], (0, None), id="nothing"),
        pytest.param([(0, 0)], (1, None), id="the first"),
        pytest.param([(2, 2)], (0, 2), id="a later one"),
        pytest.param([(0, 3), (4, 4), (6, 6)], (5, 6), id="between two"),
        pytest.param([(-3, 1), (2, 2)], (3, None), id="a stretch that began before"),
        pytest.param([(-3, -2)], (0, None), id="all before"),
    ],
)
def test_slots_between_two_that_have_rows_are_not_jumped_over(
    taken: list[tuple[int, int]], gap: tuple[int, int | None]
) -> None:
    timetable = Timetable(every_from("1m"), NOON)
    rows = [(NOON + (1 + a) * MINUTE, NOON + (1 + b) * MINUTE) for a, b in taken]
    first, end = first_gap(timetable, NOON + MINUTE, rows)
    assert first == NOON + (1 + gap[0]) * MINUTE
    assert end == (None if gap[1] is None else NOON + (1 + gap[1]) * MINUTE)
