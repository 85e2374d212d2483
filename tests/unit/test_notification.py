"""Who is told of which ending, where, and what a notification holds: tables."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service.domain.councilor import Notifications
from service.domain.execution import NotRun, Outcome, Reason, Status, Stretch, Trigger, interrupted
from service.domain.notification import (
    Audience,
    Notification,
    Target,
    audience_of,
    line,
    of_run,
    of_slot,
    plain,
    targets_of,
    unknown_of,
)
from service.domain.severity import Severity
from tests.contract.test_ledger import outcome, run_of
from tests.fakes import HOOK, MAIL, NOON

MINUTE = timedelta(minutes=1)
DEFAULT = Notifications()
NOBODY = Notifications(on_success=False, on_warning=False, on_error=False)
EVERYBODY = Notifications(on_success=True)
SLACK = Target(3, "slack", "", frozenset({"slack"}), is_mail=False)
FAILED: dict[str, Any] = {
    "status": Status.ERROR,
    "severity": Severity.ERROR,
    "reason": Reason.FAILED,
    "output": None,
    "error": "status error: you asked me to do this and that",
    "summary": "status error",
}


def audience(told: Notifications = DEFAULT, **changes: Any) -> Audience:
    return replace(Audience("Scout", "look around", told), **changes)


def told_of(end: Outcome, told: Notifications = DEFAULT, prompt: str = "") -> Notification | None:
    return of_run(run_of(), end, audience(told), prompt)


@pytest.mark.parametrize("severity", Severity)
@pytest.mark.parametrize(
    ("told", "severities"),
    [
        pytest.param(DEFAULT, {Severity.WARNING, Severity.ERROR}, id="the defaults"),
        pytest.param(EVERYBODY, set(Severity), id="successes too"),
        pytest.param(NOBODY, set[Severity](), id="none"),
        pytest.param(Notifications(channels=()), set[Severity](), id="no channel"),
        pytest.param(Notifications(channels=("", " ")), set[Severity](), id="no name"),
    ],
)
def test_the_flags_say_who_is_told(
    told: Notifications, severities: set[Severity], severity: Severity
) -> None:
    assert (told_of(outcome(severity=severity), told) is not None) is (severity in severities)


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize("status", [Status.MISSED, Status.SKIPPED])
def test_what_nobody_asked_for_is_told_and_nothing_else(status: Status, reason: Reason) -> None:
    is_told = of_slot(not_run(status, reason), audience()) is not None
    if status is Status.MISSED:
        assert is_told is (reason is not Reason.EDITED)
    else:
        assert is_told is (reason in (Reason.OVERLAP, Reason.INVALID))
    assert of_slot(not_run(status, reason), audience(NOBODY)) is None


def not_run(status: Status, reason: Reason, count: int = 1) -> NotRun:
    stretch = Stretch(NOON, NOON + (count - 1) * MINUTE, count) if count > 1 else None
    row = NotRun("scout", NOON, Trigger.SCHEDULE, status, reason, "h", "replica-1", NOON + MINUTE)
    return replace(row, stretch=stretch)


def test_a_stretch_of_slots_is_one_notification_that_counts_them() -> None:
    told = of_slot(not_run(Status.MISSED, Reason.OUTAGE, 31), audience())
    assert told is not None
    assert (told.slots, told.severity) == (31, Severity.WARNING)
    assert told.message == (
        "the scheduler was down: 31 slots, 2026-11-23 12:00:00 UTC to 2026-11-23 12:30:00 UTC"
    )


def test_a_failed_run_tells_our_summary_and_not_what_conductor_said() -> None:
    """What Conductor says may quote the prompt."""
    told = told_of(outcome(**FAILED))
    assert told == Notification(
        notification_id=run_of().execution_id,
        councilor_id="scout",
        display_name="Scout",
        task_name="look around",
        status=Status.ERROR,
        severity=Severity.ERROR,
        reason=Reason.FAILED,
        message="status error",
        scheduled_for=NOON,
        completed_at=NOON + MINUTE / 2,
        duration_ms=29_993,
        channels=("panel",),
    )


def test_a_run_that_is_interrupted_tells_why() -> None:
    told = told_of(interrupted(run_of(), NOON, "the replica is gone"))
    assert told is not None
    assert (told.reason, told.message) == (Reason.INTERRUPTED, "the replica is gone")


def test_the_output_is_told_without_the_prompt() -> None:
    prompt = "Is the test coverage above 80 %?"
    end = outcome(output=f"You asked: {prompt} It is not.", severity=Severity.WARNING)
    told = told_of(end, prompt=prompt)
    assert told is not None
    assert told.message == "You asked: [prompt] It is not."


def test_a_prompt_of_a_word_or_two_leaves_outputs_alone() -> None:
    end = outcome(output="I looked", severity=Severity.WARNING)
    told = told_of(end, prompt="look")
    assert told is not None
    assert told.message == "I looked"


def test_names_are_one_line_each_whatever_the_document_says() -> None:
    who = audience(display_name="Sc\r\nBcc: all@example.com\nout", task_name="\x1b[31mred\x1b[0m")
    told = of_run(run_of(), outcome(severity=Severity.ERROR), who)
    assert told is not None
    assert told.display_name == "Sc Bcc: all@example.com out"
    assert told.task_name == "red"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("all is well", "all is well"),
        ("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07plain", "red and plain"),
        ("one\r\ntwo\rthree\n", "one\ntwo\nthree"),
        ("a\0b\x08c\u202ed\u2028e\tf", "a b c d e f"),
        ("é ü 漢字 \U0001f600", "é ü 漢字 \U0001f600"),
        ("", ""),
    ],
)
def test_nothing_that_terminals_act_upon_is_left(text: str, kept: str) -> None:
    assert plain(text, 500) == kept


@pytest.mark.parametrize("text", ["x" * 501, "x" * 2_000_000, "\x1b[0m" * 9_000])
def test_a_long_text_is_cut_and_says_so(text: str) -> None:
    assert len(plain(text, 500)) <= 501
    assert plain(text, 500).endswith("…")


def test_a_subject_has_one_line() -> None:
    assert line(" a \n\n b\tc ") == "a b c"


@pytest.mark.parametrize(
    ("channels", "targets"),
    [
        pytest.param(("panel", "toast"), (), id="documents go nowhere"),
        pytest.param(("email",), (MAIL,), id="e-mail goes where mails go"),
        pytest.param(("slack",), (SLACK,), id="a service by its name"),
        pytest.param(("webhook",), (HOOK,), id="a webhook"),
        pytest.param(("slack", "email", "email"), (MAIL, SLACK), id="two of them, each once"),
        pytest.param(("pager", "emial"), (), id="any other name goes nowhere"),
        pytest.param(("pager", "slack"), (SLACK,), id="and keeps no other from its way"),
    ],
)
def test_channels_lead_to_the_targets_made_for_them(
    channels: tuple[str, ...], targets: tuple[Target, ...]
) -> None:
    assert targets_of(channels, [MAIL, HOOK, SLACK]) == targets


def test_email_goes_everywhere_where_nothing_sends_mails() -> None:
    assert targets_of(("email",), [HOOK, SLACK]) == (HOOK, SLACK)


def test_any_channel_outside_goes_to_the_only_target_there_is() -> None:
    assert targets_of(("pager",), [HOOK]) == (HOOK,)
    assert targets_of(("panel", "toast"), [HOOK]) == ()


def test_channels_that_lead_nowhere_are_known() -> None:
    channels = ("panel", "email", "emial", "slack", "pager")
    assert unknown_of(channels, [MAIL, HOOK, SLACK]) == ["emial", "pager"]
    assert unknown_of(channels, [MAIL]) == unknown_of(channels, []) == []


def test_a_prompt_that_is_repeated_leaves_no_part_of_itself() -> None:
    prompt = "do this, and that, " * 520
    end = outcome(output=f"{prompt}\n{prompt}\n{prompt}done", severity=Severity.WARNING)
    told = told_of(end, prompt=prompt)
    assert told is not None
    assert told.message == "[prompt]\n[prompt]\n[prompt]done"


def test_channels_are_told_once_each_in_any_case_and_not_without_end() -> None:
    many = tuple(f"c{n}" for n in range(1_000))
    told = told_of(
        outcome(**FAILED), Notifications(channels=("Panel", "panel", " EMAIL\n", "x" * 51, *many))
    )
    assert told is not None
    assert told.channels[:3] == ("panel", "email", "c0")
    assert len(told.channels) == 20


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"notifications": {"on_warning": False, "channels": ["email"]}}, (False, ("email",))),
        ({"schedule": "nonsense", "notifications": {"on_warning": None}}, (True, ("panel",))),
        ({"notifications": {"on_warning": "no"}}, (True, ("panel",))),
        ({"notifications": [1]}, (True, ("panel",))),
        (None, (True, ("panel",))),
    ],
)
def test_of_a_wrong_configuration_the_notifications_count_where_they_are_right(
    config: object, expected: tuple[bool, tuple[str, ...]]
) -> None:
    who = audience_of(None, "Scout", {"councilor_config": config})
    assert (who.told.on_warning, who.told.channels) == expected
    assert who.display_name == "Scout"
