"""When messages go out and what they say: tables, and simulated hours."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from service.domain.digest import (
    DigestPolicy,
    Item,
    MessageKind,
    Return,
    Rhythm,
    WellAgain,
    message_of,
    return_message,
)
from service.domain.execution import Reason, Status
from service.domain.severity import Severity
from tests.contract.test_notifications import failure

POLICY = DigestPolicy()
WARNING = failure(
    "w", status=Status.COMPLETED, severity=Severity.WARNING, reason=None, councilor_id="other"
)


def messages(arrivals: Iterable[float], policy: DigestPolicy = POLICY) -> list[tuple[float, int]]:
    """When messages go out and how many notifications each has, if these come at these seconds."""
    rhythm, first_at, waiting, sent = Rhythm(), 0.0, list[Item](), list[tuple[float, int]]()

    def send_until(now: float) -> None:
        nonlocal rhythm, waiting
        if waiting and (due_at := rhythm.due_at(first_at, policy)) <= now:
            parcels = rhythm.parcels(waiting, due_at, policy)
            sent.extend((due_at, len(parcel)) for parcel in parcels)
            for _ in parcels:
                rhythm = rhythm.after_sending(due_at, policy)
            waiting = []

    for at in arrivals:
        send_until(at)
        first_at = first_at if waiting else at
        waiting.append(failure(f"at {at}"))
    send_until(float("inf"))
    return sent


def most_within(sent: Sequence[tuple[float, int]], seconds: float) -> int:
    """The most messages in any stretch of this length."""
    times = [at for at, _ in sent]
    return max(sum(at <= other < at + seconds for other in times) for at in times)


def test_few_are_told_each_on_its_own_shortly_after() -> None:
    assert messages([0]) == [(2, 1)]
    assert messages([0, 1, 1.9]) == [(2, 1)] * 3


def test_more_than_three_are_one_message() -> None:
    assert messages([0, 0.1, 0.2, 0.3]) == [(2, 4)]


def test_five_hundred_in_a_minute_make_a_handful_of_messages() -> None:
    sent = messages(n * 60 / 500 for n in range(500))
    assert [at for at, _ in sent] == [2, 7, 22, 82]
    assert sum(count for _, count in sent) == 500


@pytest.mark.parametrize("first", [1, 3])
def test_a_minute_that_begins_slowly_makes_a_handful(first: int) -> None:
    sent = messages([*([0.0] * first), *(3 + n * 57 / 497 for n in range(497))])
    assert len(sent) <= 5


FLOODS = {
    "5,000 an hour": [n * 0.72 for n in range(5_000)],
    "three at once, then 5,000": [0.0] * 3 + [3 + n * 0.72 for n in range(5_000)],
    "one a minute": [60.0 * n for n in range(60)],
    "one every two minutes": [120.0 * n for n in range(30)],
    "now and then, then more and more": [*(600.0 * n for n in range(6)), *range(3_600, 7_200)],
}


@pytest.mark.parametrize("arrivals", FLOODS.values(), ids=FLOODS)
def test_whatever_comes_there_are_five_messages_in_ten_minutes_and_ten_an_hour(
    arrivals: Sequence[float],
) -> None:
    sent = messages(arrivals)
    assert most_within(sent, 600) <= 5
    assert most_within(sent, 3_600) <= 10
    assert sum(count for _, count in sent) == len(arrivals)


@pytest.mark.parametrize("apart", [600, 900, 1_200, 3_600])
def test_where_there_is_no_trouble_each_failure_is_told_within_seconds_for_ever(apart: int) -> None:
    arrivals = [n * apart for n in range(500)]
    assert messages(arrivals) == [(at + 2, 1) for at in arrivals]


def test_two_that_come_close_together_are_both_told_within_seconds() -> None:
    assert messages([0, 3]) == [(2, 1), (7, 1)]


def test_the_pause_is_over_when_the_trouble_is() -> None:
    busy = [0.1 * n for n in range(100)]
    sent = messages([*busy, 3_000, 6_000])
    assert [at for at, _ in sent[-2:]] == [3_002, 6_002]


def test_good_news_wait_longer_than_bad_ones() -> None:
    rhythm = Rhythm().after_sending(0, POLICY)
    assert rhythm.due_at(0, POLICY) == 5
    assert rhythm.due_at(0, POLICY, is_good=True) == 60


def test_one_ending_is_told_with_what_is_to_be_known() -> None:
    message = message_of([failure(message="no answer within 1800 s")])
    assert (message.kind, message.severity) == (MessageKind.SINGLE, Severity.ERROR)
    assert message.title == "Scout: failed (timeout)"
    assert message.body == (
        "no answer within 1800 s\n"
        "\n"
        "Task: look around\n"
        "Due: 2026-11-23 12:00:00 UTC\n"
        "Took: less than a second\n"
        "Execution: exec_scout_1"
    )


@pytest.mark.parametrize(
    ("told", "title"),
    [
        (failure(reason=Reason.FAILED), "Scout: failed"),
        (WARNING, "Scout: warning"),
        (replace(WARNING, severity=Severity.SUCCESS), "Scout: success"),
        (
            failure(status=Status.SKIPPED, reason=Reason.OVERLAP, duration_ms=None),
            "Scout: skipped (overlap)",
        ),
        (
            failure(status=Status.MISSED, reason=Reason.OUTAGE, slots=1_200),
            "Scout: 1,200 slots missed (outage)",
        ),
    ],
)
def test_the_title_says_what_has_become_of_it(told: Item, title: str) -> None:
    assert message_of([told]).title == title


def test_a_digest_counts_and_lists_the_first_ten() -> None:
    errors = [failure(f"e{n}", councilor_id=f"c{n}") for n in range(480)]
    message = message_of([*errors, *[WARNING] * 20])
    lines = message.body.split("\n")
    assert (message.kind, message.severity) == (MessageKind.DIGEST, Severity.ERROR)
    assert message.title == "500 notifications of 481 councilors: 480 errors, 20 warnings"
    assert lines[:3] == ["480 x failed (timeout)", "20 x warning", ""]
    assert lines[3] == (
        "- Scout: failed (timeout) (due 2026-11-23 12:00:00 UTC): no answer within 1800 s"
    )
    assert lines[-1] == "and 490 more"
    assert len(lines) == 3 + 10 + 1


def test_a_digest_lists_what_is_alarming_first() -> None:
    fine = [replace(WARNING, severity=Severity.SUCCESS)] * 20
    body = message_of([*fine, failure()]).body
    assert "- Scout: failed (timeout)" in body


@pytest.mark.parametrize("count", [1, 20])
def test_in_brief_there_are_numbers_and_nothing_that_anybody_wrote(count: int) -> None:
    told = [failure(display_name="quoted", message="quoted")] * count
    for message in (
        message_of(told, is_brief=True),
        return_message(Return(timedelta(minutes=1), 1), told, is_brief=True),
    ):
        assert "quoted" not in message.title + message.body
        assert f"{count} x failed (timeout)" in message.body


def test_a_digest_is_short_whatever_was_said() -> None:
    long = failure(message="word " * 100 + "\nsecond line", display_name="n" * 120)
    stretches = [replace(long, status=Status.MISSED, slots=n) for n in range(2, 500)]
    assert len(message_of(stretches).body) < 4_000


def test_councilors_that_are_well_again_are_part_of_it() -> None:
    well = WellAgain("scout", "Scout")
    alone = message_of([well])
    assert (alone.kind, alone.title) == (MessageKind.RECOVERY, "Scout is well again")
    both = message_of([failure(), well])
    assert both.title == "2 notifications of 1 councilor: 1 error, 1 well again"
    assert "- Scout is well again" in both.body
    only = message_of([well, well])
    assert (only.title, only.severity) == (
        "2 notifications of 1 councilor: 2 well again",
        Severity.SUCCESS,
    )


@pytest.mark.parametrize(
    ("back", "said"),
    [
        (Return(timedelta(minutes=12), 37), "after 12m; 37 runs failed or were missed meanwhile."),
        (Return(timedelta(seconds=0.2), 1), "after less than a second; 1 run failed or was missed"),
        (Return(timedelta(hours=2, seconds=59), 2), "after 2h; 2 runs failed"),
    ],
)
def test_that_conductor_answers_again_is_said_with_what_it_cost(back: Return, said: str) -> None:
    message = return_message(back, [])
    assert message.kind is MessageKind.RECOVERY
    assert message.body.startswith("Conductor answers again, ")
    assert said in message.body


def test_what_was_not_told_of_before_goes_with_it() -> None:
    waiting: Sequence[Item] = [failure(f"e{n}") for n in range(12)]
    message = return_message(Return(timedelta(minutes=1), 12), waiting)
    assert message.title == "Conductor answers again, after 1m; 12 errors"
    assert message.severity is Severity.ERROR
    body = message.body
    assert "12 x failed (timeout)" in body
    assert body.endswith("and 2 more")
