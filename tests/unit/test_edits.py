"""What commands write, and say: a wish that changes nothing is told so, a vain one too."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from service.cli.common import instant_argument, unknown_among
from service.cli.completion import is_safe
from service.cli.edits import (
    Agent,
    Edit,
    agent_in,
    asking_for_run,
    demoting,
    edited,
    pausing,
    promoting,
    resuming,
    told_of,
)
from service.cli.skipping import Skipping
from service.domain.councilor import DocumentKey, SchedulePolicy
from service.domain.execution import NotRun, Reason, Status, Trigger
from service.domain.jobs import AgentDocument
from service.ports import ServiceError
from tests.fakes import NOON, FakeAgents, FakeClock, FakeLedger
from tests.steps import going

POLICY = SchedulePolicy()
HOUR = timedelta(hours=1)
ENABLED, UNTIL, SKIP = (
    f"councilor_config.schedule.{name}" for name in ("enabled", "paused_until", "skip_next")
)
BROKEN = '"0m" is no time at all'
Fields = dict[str, Any]


def fields_of(value: str = "30m", **schedule: object) -> Fields:
    return {
        "agent_id": "scout",
        "is_councilor": True,
        "councilor_config": {
            "schedule": {"type": "interval", "value": value, **schedule},
            "task": {"name": "look", "prompt": "look around"},
        },
    }


def agent(fields: Fields) -> Agent:
    return agent_in("scout", AgentDocument(DocumentKey(b"1"), fields), POLICY)


def run_now(agent: Agent, *, is_running: bool = False, is_anybody_there: bool = True) -> Edit:
    return asking_for_run(agent, NOON, is_running=is_running, is_anybody_there=is_anybody_there)


LATER = NOON + HOUR
PLAIN: Fields = {"agent_id": "scout"}
REQUEST = {"councilor_run_requested_at": NOON}
DEMOTION = {"is_councilor": False, "councilor_config": None}
STOPPED = f"; it is invalid: {BROKEN}; nothing runs until that is mended"
Case = tuple[Callable[[Agent], Edit], Fields, Fields, str]
CASES: dict[str, Case] = {
    "pause": (lambda a: pausing(a, None), fields_of(), {ENABLED: False}, "paused"),
    "pause, paused": (
        lambda a: pausing(a, None),
        fields_of(enabled=False),
        {},
        "was paused already",
    ),
    "pause, invalid": (
        lambda a: pausing(a, None),
        fields_of("0m"),
        {ENABLED: False},
        f"paused{STOPPED}",
    ),
    "pause, paused for a while": (
        lambda a: pausing(a, None),
        fields_of(paused_until=LATER),
        {ENABLED: False},
        "paused",
    ),
    "pause until": (
        lambda a: pausing(a, LATER),
        fields_of(paused_until=NOON),
        {UNTIL: LATER},
        "paused until 2026-11-23 13:00:00 UTC",
    ),
    "pause until, so already": (
        lambda a: pausing(a, LATER),
        fields_of(paused_until="2026-11-23T14:00:00+01:00"),
        {},
        "was paused until 2026-11-23 13:00:00 UTC already",
    ),
    "pause until, paused": (
        lambda a: pausing(a, LATER),
        fields_of(enabled=False),
        {},
        "was paused already, without an end: resume it first",
    ),
    "resume": (lambda a: resuming(a, NOON), fields_of(enabled=False), {ENABLED: True}, "resumed"),
    "resume, not paused": (lambda a: resuming(a, NOON), fields_of(), {}, "was not paused"),
    "resume, null": (lambda a: resuming(a, NOON), fields_of(enabled=None), {}, "was not paused"),
    "resume, paused for a while": (
        lambda a: resuming(a, NOON),
        fields_of(paused_until=LATER),
        {UNTIL: None},
        "resumed",
    ),
    "resume, paused twice": (
        lambda a: resuming(a, NOON),
        fields_of(enabled=False, paused_until=LATER),
        {ENABLED: True, UNTIL: None},
        "resumed",
    ),
    "resume, a pause that is over": (
        lambda a: resuming(a, NOON),
        fields_of(paused_until=NOON),
        {},
        "was not paused",
    ),
    "resume, invalid": (
        lambda a: resuming(a, NOON),
        fields_of("0m"),
        {},
        f"was not paused{STOPPED}",
    ),
    "resume mends": (
        lambda a: resuming(a, NOON),
        fields_of(enabled="no"),
        {ENABLED: True},
        "resumed",
    ),
    "run now": (run_now, fields_of(), REQUEST, "asked for a run"),
    "run now, paused": (
        run_now,
        fields_of(enabled=False),
        REQUEST,
        "asked for a run, although it is paused, and stays so",
    ),
    "run now, running": (
        lambda a: run_now(a, is_running=True),
        fields_of(),
        REQUEST,
        "asked for a run, which starts when the present one has ended",
    ),
    "run now, invalid": (
        run_now,
        fields_of("0m"),
        REQUEST,
        f"asked for a run, which will be skipped: it is invalid: {BROKEN}",
    ),
    "run now, nobody there": (
        lambda a: run_now(a, is_anybody_there=False),
        fields_of(),
        REQUEST,
        "asked for a run; no scheduler is alive: it runs if one is within the hour",
    ),
    "demote": (demoting, fields_of(), DEMOTION, "demoted"),
    "demote, never promoted": (demoting, PLAIN, {}, "was no councilor"),
    "demote, half": (demoting, fields_of() | {"is_councilor": False}, DEMOTION, "demoted"),
    "promote": (
        lambda a: promoting(a, fields_of("1h"), {}),
        PLAIN,
        fields_of("1h"),
        "promoted",
    ),
    "promote, so already": (
        lambda a: promoting(a, {}, {"councilor_config.schedule.value": "30m"}),
        fields_of(),
        {},
        "was promoted already, just so",
    ),
    "promote, otherwise": (
        lambda a: promoting(a, {}, {"councilor_config.schedule.value": "1h"}),
        fields_of(),
        {"is_councilor": True, "councilor_config.schedule.value": "1h"},
        "was promoted already; changed",
    ),
    "promote, and another field is wrong": (
        lambda a: promoting(a, {}, {"councilor_config.schedule.value": "1h"}),
        fields_of(spread="wide"),
        {"is_councilor": True, "councilor_config.schedule.value": "1h"},
        'was promoted already; changed; it is invalid: "wide" is not an interval; '
        "nothing runs until that is mended",
    ),
}


@pytest.mark.parametrize(("wish", "fields", "changes", "said"), CASES.values(), ids=CASES)
def test_a_wish_is_told_as_what_comes_of_it(
    wish: Callable[[Agent], Edit], fields: Fields, changes: Fields, said: str
) -> None:
    before = agent(fields)
    edit = wish(before)
    assert (edit.changes, told_of(edit, edited(before, edit, POLICY))) == (changes, said)


@pytest.mark.parametrize("wish", [lambda a: pausing(a, None), lambda a: resuming(a, NOON), run_now])
def test_an_ordinary_agent_has_to_be_promoted_first(wish: Callable[[Agent], Edit]) -> None:
    with pytest.raises(ServiceError, match="scout is no councilor: promote it first"):
        wish(agent(PLAIN))


@pytest.mark.parametrize("config", [1, None, {"schedule": "30m"}])
def test_a_schedule_that_is_not_there_is_not_made_up(config: object) -> None:
    with pytest.raises(ServiceError, match="scout has no schedule: councilor_config"):
        pausing(agent(fields_of() | {"councilor_config": config}), None)


def test_the_state_is_that_after_the_edit() -> None:
    paused = agent(fields_of(enabled=False))
    assert edited(paused, resuming(paused, NOON), POLICY).state == "scheduled"
    assert edited(paused, demoting(paused), POLICY).state == "not_councilor"
    assert paused.state == "paused"


class Skips:
    """A councilor, a scheduler that answers for it or not, and somebody who skips."""

    def __init__(self, fields: Fields) -> None:
        self.clock = FakeClock()
        self.agents, self.ledger = FakeAgents(self.clock), FakeLedger()
        self.key = self.agents.change(1, fields)
        self.skipping = Skipping(
            self.agents,
            self.ledger,
            POLICY,
            self.clock,
            keeps_for=None,
            patience=timedelta(seconds=0.3),
        )

    @property
    def document(self) -> Fields:
        return self.agents.collection[self.key]

    @property
    def flag(self) -> object:
        return self.document["councilor_config"]["schedule"].get("skip_next")

    async def arm(self) -> Edit:
        return await self.skipping.arm(agent(self.document))

    async def scheduler(self) -> None:
        """What the service does about the flag."""
        while True:
            await asyncio.sleep(0)
            status = self.document.setdefault("councilor_status", {})
            if self.flag is not True:
                status.pop("skipped_slot", None)
            else:
                status.setdefault("skipped_slot", LATER)

    async def record(self, slot_row: Trigger = Trigger.SCHEDULE) -> None:
        skipped = (Status.SKIPPED, Reason.SKIP_NEXT, "h", "me", NOON)
        await self.ledger.record(NotRun("scout", NOON, slot_row, *skipped))


def marked(flag: bool, slot: object) -> Fields:
    return fields_of(skip_next=flag) | {"councilor_status": {"skipped_slot": slot}}


async def test_the_next_slot_is_left_out_and_named() -> None:
    skips = Skips(fields_of())
    edit = await skips.arm()
    assert (edit.changes, edit.said) == ({SKIP: True}, "the next slot is left out")
    await skips.agents.edit("scout", edit.changes)
    async with going(skips.scheduler()):
        said = await skips.skipping.confirmed(agent(skips.document))
    assert said == "the slot of 2026-11-23 13:00:00 UTC is left out"


async def test_a_flag_that_waits_for_its_slot_is_left_alone() -> None:
    edit = await Skips(marked(True, LATER)).arm()
    assert (edit.changes, edit.said) == (
        {},
        "the slot of 2026-11-23 13:00:00 UTC is left out already",
    )
    assert (await Skips(fields_of(skip_next=True)).arm()).changes == {}


async def test_a_flag_that_is_used_up_is_armed_again() -> None:
    skips = Skips(marked(True, NOON))
    await skips.record()
    async with going(skips.scheduler()):
        edit = await skips.arm()
    assert (skips.flag, edit.changes) == (False, {SKIP: True})
    assert "skipped_slot" not in skips.document["councilor_status"]


@pytest.mark.parametrize("has_other_row", [False, True])
async def test_the_slot_that_is_being_left_out_now_does_not_start_for_it(
    has_other_row: bool,
) -> None:
    """Without a row of its own it may still start, were the flag taken away."""
    skips = Skips(marked(True, NOON))
    if has_other_row:
        await skips.record(Trigger.MANUAL)
    async with going(skips.scheduler()):
        with pytest.raises(ServiceError, match="is being left out, and has no row"):
            await skips.arm()
    assert skips.flag is True


@pytest.mark.parametrize("flag", [True, False])
async def test_where_no_scheduler_clears_the_mark_it_is_said(flag: bool) -> None:
    skips = Skips(marked(flag, NOON))
    await skips.record()
    with pytest.raises(ServiceError, match="no scheduler has cleared"):
        await skips.arm()
    assert skips.flag is False


async def test_where_no_scheduler_confirms_it_is_said() -> None:
    skips = Skips(fields_of(skip_next=True))
    said = await skips.skipping.confirmed(agent(skips.document))
    assert said == "the next slot is left out, once a scheduler has seen it: none has yet"


async def test_a_paused_councilor_skips_its_first_slot_afterwards() -> None:
    skips = Skips(fields_of(enabled=False))
    assert (await skips.arm()).said == "the first slot after it is resumed is left out"
    assert await skips.skipping.confirmed(agent(skips.document)) is None


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("coverage-scut", "; did you mean coverage-scout?"),
        ("COVERAGE-SCOUT", "; did you mean coverage-scout?"),
        ("night-watch", "; did you mean Night-Watch or night-watcher?"),
        ("cover", "; did you mean coverage-scout?"),
        ("nobody", ""),
    ],
)
def test_an_agent_that_may_have_been_meant_is_named(typed: str, said: str) -> None:
    known = ["coverage-scout", "Night-Watch", "night-watcher", "good", "x" * 1_000]
    assert str(unknown_among(typed, known)) == f"there is no agent {typed}{said}"


SAFE = {"coverage-scout": True, "team:a/b_c.d@1": True, "日本語": True, "-rf": False}
UNSAFE = (
    "a b",
    "a;b",
    "$(id)",
    "`id`",
    "a'b",
    'a"b',
    "a\\b",
    "a*",
    "a\nb",
    "a\u202eb",
    "a|b",
    "~a",
)


@pytest.mark.parametrize(("agent_id", "answer"), [*SAFE.items(), *((u, False) for u in UNSAFE)])
def test_shells_are_offered_nothing_that_they_would_evaluate(agent_id: str, answer: bool) -> None:
    assert is_safe(agent_id) is answer


def test_an_instant_is_in_utc_where_it_names_no_zone() -> None:
    assert instant_argument("2026-11-23T12:00") == NOON
    assert instant_argument("2026-11-23T13:00+01:00") == NOON
