"""Telling people: documents and messages, each ending once, whatever does not answer."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import _LAST_NOTIFICATIONS
from service.breaker import Breaker, BreakerPolicy
from service.domain.councilor import Notifications, SchedulePolicy
from service.domain.digest import DigestPolicy, MessageKind
from service.domain.execution import NotRun, Outcome, Reason, Status, Stretch, Trigger, interrupted
from service.domain.notification import Audience, Delivery, Entry
from service.domain.severity import Severity
from service.notifier import _LAST_WRITES_SECONDS, Notifier, NotifyPolicy
from service.outlets import DeliveryPolicy
from service.pace import Pace
from service.patience import Patience
from service.ports import Answer, Failure, Misconfigured, Refused, ServiceError, Unavailable
from service.telemetry import Telemetry
from tests.contract.test_ledger import outcome, run_of
from tests.contract.test_notifications import failure
from tests.fakes import (
    HOOK,
    MAIL,
    NOON,
    FakeAgents,
    FakeClock,
    FakeConductor,
    FakeMessenger,
    FakeNotifications,
)
from tests.steps import going, turned, turned_until

SECONDS = timedelta(seconds=5)
EMAIL = Notifications(channels=("panel", "email"))
AT_ONCE = DigestPolicy(collect_seconds=0, pauses_seconds=(0.0,))
QUICK = DeliveryPolicy(tries=3, first_seconds=0.0)
FAILED: dict[str, Any] = {
    "status": Status.ERROR,
    "severity": Severity.ERROR,
    "reason": Reason.FAILED,
    "summary": "status error",
}
DOWN = Failure(Reason.CONDUCTOR_UNAVAILABLE, "cannot connect", is_down=True)


class Side:
    """A notifier on fakes; `seconds` is the clock that nobody sets."""

    def __init__(
        self,
        *,
        stored: FakeNotifications | None = None,
        messenger: FakeMessenger | None = None,
        digests: DigestPolicy = AT_ONCE,
        most: int = 10_000,
    ) -> None:
        self.clock = FakeClock()
        self.seconds = 0.0
        self.stored = stored or FakeNotifications()
        self.messenger = messenger
        self.agents = FakeAgents(self.clock)
        self.telemetry = Telemetry()
        self.notifier = Notifier(
            self.stored,
            self.agents,
            messenger,
            Patience(self.telemetry, longest_seconds=0.001),
            self.telemetry,
            self.clock,
            schedules=SchedulePolicy(),
            policy=NotifyPolicy(digests, QUICK, most, between_batches_seconds=0),
            elapsed_seconds=lambda: self.seconds,
        )

    def ends(
        self,
        agent_id: str = "scout",
        minutes: int = 0,
        told: Notifications = EMAIL,
        **end: Any,
    ) -> None:
        """A run of this agent ends: failed, unless something else is said."""
        self.tell(agent_id, minutes, told, outcome(**{**FAILED, **end}))

    def succeeds(self, agent_id: str = "scout", minutes: int = 1, **told: bool) -> None:
        flags = Notifications(**told, channels=EMAIL.channels)
        self.tell(agent_id, minutes, flags, outcome())

    def tell(self, agent_id: str, minutes: int, told: Notifications, end: Outcome) -> None:
        who = Audience(agent_id.title(), "look around", told)
        self.notifier.run_ended(run_of(agent_id, minutes), end, who)

    def count(self, metric: str, **labels: str) -> float:
        said = self.telemetry.exposition().decode()
        name = f"councilor_{metric}_total"
        (value,) = (
            sample.value
            for family in text_string_to_metric_families(said)
            for sample in family.samples
            if (sample.name, sample.labels) == (name, labels)
        )
        return float(value)

    async def is_written(self, count: int) -> None:
        await turned_until(lambda: len(self.stored.documents) == count)

    async def sent(self, count: int) -> None:
        assert self.messenger is not None
        messenger = self.messenger
        await eventually_sent(messenger, count)


async def eventually_sent(messenger: FakeMessenger, count: int) -> None:
    async with asyncio.timeout(5):
        while len(messenger.sent) < count:  # noqa: ASYNC110 pauses of 0 s are timers all the same
            await asyncio.sleep(0.001)
    await turned()
    assert len(messenger.sent) == count


@pytest.fixture
async def side() -> AsyncIterator[Side]:
    """One that sends mails, and delivers."""
    side = Side(messenger=FakeMessenger(MAIL))
    async with going(side.notifier.deliver()):
        yield side


def deliveries(stored: FakeNotifications) -> list[tuple[Delivery | None, int]]:
    return [(each["delivery"], each["attempts"]) for each in stored.documents.values()]


async def is_marked(side: Side, *expected: tuple[Delivery | None, int]) -> None:
    async with asyncio.timeout(5):
        while deliveries(side.stored) != [*expected]:  # noqa: ASYNC110 see eventually_sent
            await asyncio.sleep(0.001)


async def test_a_failed_run_is_a_document_and_a_message(side: Side) -> None:
    side.ends()
    await side.sent(1)
    await is_marked(side, (Delivery.SENT, 1))
    assert side.messenger is not None
    assert side.messenger.titles == ["Scout: failed"]
    assert side.count("notifications", channel="panel", result="written") == 1
    assert side.count("notifications", channel="email", result="sent") == 1
    assert side.count("notification_messages", kind="single", result="sent") == 1


async def test_a_success_that_nobody_wants_to_hear_of_leaves_nothing(side: Side) -> None:
    side.succeeds()
    await turned()
    assert side.stored.documents == {}


async def test_a_success_is_told_where_that_is_wanted(side: Side) -> None:
    side.succeeds(on_success=True)
    await side.sent(1)
    assert side.messenger is not None
    assert side.messenger.titles == ["Scout: success"]


async def test_the_same_ending_is_told_once(side: Side) -> None:
    side.ends()
    await side.sent(1)
    side.clock.advance(SECONDS)
    side.ends()
    await turned(200)
    assert side.messenger is not None
    assert len(side.messenger.sent) == len(side.stored.documents) == 1


async def test_an_ending_that_is_told_twice_in_one_batch_is_sent_once(side: Side) -> None:
    side.ends()
    side.ends()
    await side.sent(1)
    await is_marked(side, (Delivery.SENT, 1))


async def test_marks_that_are_refused_stop_nothing(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(*_: object) -> None:
        raise Refused("Document failed validation")

    monkeypatch.setattr(side.stored, "settle", settle)
    side.ends()
    await side.sent(1)
    side.ends("other")
    await side.sent(2)


async def test_missed_slots_are_told_and_what_was_asked_for_is_not(side: Side) -> None:
    who = Audience("Scout", "look around", EMAIL)
    row = NotRun("scout", NOON, Trigger.SCHEDULE, Status.MISSED, Reason.OUTAGE, "h", "r", NOON)
    asked = NotRun("a", NOON, Trigger.SCHEDULE, Status.SKIPPED, Reason.SKIP_NEXT, "h", "r", NOON)
    side.notifier.slot_not_run(asked, who)
    side.notifier.slot_not_run(row, who)
    await side.sent(1)
    assert [*side.stored.documents] == [row.execution_id]


async def test_without_urls_nothing_is_pending_and_that_is_told_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    side = Side()
    async with going(side.notifier.deliver()):
        side.ends()
        side.ends("other")
        await side.is_written(2)
    assert deliveries(side.stored) == [(None, 0)] * 2
    assert capsys.readouterr().out.count("notify_urls_missing") == 1


async def test_panel_alone_goes_nowhere_outside(side: Side) -> None:
    side.ends(told=Notifications())
    await side.is_written(1)
    await turned()
    assert deliveries(side.stored) == [(None, 0)]
    assert side.messenger is not None
    assert side.messenger.sent == []


async def test_a_run_of_a_dead_replica_is_told_as_its_document_says(side: Side) -> None:
    config = {
        "schedule": {"type": "interval", "value": "30m"},
        "task": {"name": "look around", "prompt": "look"},
        "notifications": {"channels": ["email"]},
    }
    scout = {"agent_id": "scout", "name": "Ada", "is_councilor": True, "councilor_config": config}
    side.agents.change(1, scout)
    broken = {**config, "schedule": "nonsense"}
    side.agents.change(2, {**scout, "agent_id": "broken", "councilor_config": broken})
    silent = {**config, "notifications": {"on_error": False}}
    side.agents.change(3, {**scout, "agent_id": "silent", "councilor_config": silent})
    side.agents.change(4, {"agent_id": "demoted", "is_councilor": False})
    for agent_id in ("scout", "broken", "silent", "demoted", "deleted"):
        run = run_of(agent_id)
        side.notifier.run_ended(run, interrupted(run, NOON, "it is gone"), None)
    await side.sent(2)
    assert side.messenger is not None
    assert side.messenger.titles == ["Ada: failed (interrupted)"] * 2
    assert len(side.stored.documents) == 2


async def test_while_the_database_is_away_runs_go_on_and_nothing_is_lost(side: Side) -> None:
    side.stored.outage.is_on = True
    for n in range(300):
        side.ends(f"a{n}")
    await turned(200)
    assert side.stored.documents == {}
    side.stored.outage.is_on = False
    async with asyncio.timeout(5):
        while len(side.stored.documents) < 300:  # noqa: ASYNC110 see eventually_sent
            await asyncio.sleep(0.001)


async def test_a_document_that_is_refused_stops_no_other_and_is_sent_all_the_same(
    side: Side,
) -> None:
    side.stored.refused.add(run_of("bad").execution_id)
    side.ends("bad")
    side.ends("good")
    await side.sent(2)
    assert len(side.stored.documents) == 1
    assert side.count("notifications", channel="panel", result="written") == 1


async def test_without_rights_on_the_collection_messages_go_out(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(_: object) -> Any:
        raise Misconfigured("grant the user readWrite")

    monkeypatch.setattr(side.stored, "add", add)
    side.ends()
    await side.sent(1)


async def test_more_than_are_kept_are_counted_and_told_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    side = Side(most=3)
    for n in range(5):
        side.ends(f"a{n}")
    async with going(side.notifier.deliver()):
        await side.is_written(3)
    assert side.count("notifications", channel="email", result="dropped") == 2
    assert capsys.readouterr().out.count("notifications_dropped") == 1


async def test_more_than_a_target_may_be_owed_is_marked_as_failed() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(most=3, messenger=messenger, digests=DigestPolicy(collect_seconds=60))
    async with going(side.notifier.deliver()):
        for n in range(5):
            side.ends(f"a{n}")
            await side.is_written(n + 1)
        await is_marked(side, *[(Delivery.PENDING, 0)] * 3, *[(Delivery.FAILED, 0)] * 2)


async def test_a_message_that_fails_is_tried_again_and_what_comes_meanwhile_is_one_digest() -> None:
    messenger = FakeMessenger(MAIL)
    messenger.fails_first = 1
    messenger.released.clear()
    side = Side(messenger=messenger)
    async with going(side.notifier.deliver()):
        side.ends()
        await turned_until(lambda: messenger.tried > 0)
        for n in range(10):
            side.ends(f"a{n}")
        await side.is_written(11)
        messenger.released.set()
        await eventually_sent(messenger, 2)
        assert messenger.titles[0] == "Scout: failed"
        assert messenger.titles[1].startswith("10 notifications of 10 councilors")
        await turned_until(lambda: all(d is Delivery.SENT for d, _ in deliveries(side.stored)))


async def test_where_the_first_of_a_few_fails_the_others_go_together() -> None:
    """Else each would be tried for a quarter of an hour before the next."""
    messenger = FakeMessenger(MAIL)
    side = Side(messenger=messenger, digests=DigestPolicy(pauses_seconds=(0.0,)))
    async with going(side.notifier.deliver()):
        for n in range(2):
            side.ends(f"a{n}")
        await side.is_written(2)
        await turned()
        messenger.fails_first = 1
        side.seconds = 2
        side.ends("b")  # it is looked at again
        await eventually_sent(messenger, 2)
    assert messenger.titles[0] == "A0: failed"
    assert messenger.titles[1].startswith("2 notifications of 2 councilors")


async def test_after_the_last_try_it_is_marked_as_failed_and_told_without_secrets(
    side: Side, capsys: pytest.CaptureFixture[str]
) -> None:
    assert side.messenger is not None
    side.messenger.down.add(MAIL)
    side.ends()
    await is_marked(side, (Delivery.FAILED, QUICK.tries))
    assert side.messenger.tried == QUICK.tries
    assert side.count("notifications", channel="email", result="failed") == 1
    assert side.count("notification_messages", kind="single", result="failed") == 1
    said = capsys.readouterr().out
    assert "notification_failed" in said
    assert "mailto://mail.example.com" in said


def test_five_tries_take_less_than_a_quarter_of_an_hour() -> None:
    policy = DeliveryPolicy()
    assert sum(policy.pause_after(tries) for tries in range(1, policy.tries)) < 15 * 60


async def test_a_target_that_fails_keeps_no_other_from_its_message() -> None:
    messenger = FakeMessenger(MAIL, HOOK)
    messenger.down.add(MAIL)
    side = Side(messenger=messenger)
    both = Notifications(channels=("email", "webhook"))
    async with going(side.notifier.deliver()):
        side.ends(told=both)
        await eventually_sent(messenger, 1)
        assert messenger.sent[0][0] is HOOK
        await is_marked(side, (Delivery.FAILED, QUICK.tries))


async def test_a_message_that_hangs_holds_nothing_up_but_its_target() -> None:
    messenger = FakeMessenger(MAIL)
    messenger.released.clear()
    side = Side(messenger=messenger)
    async with going(side.notifier.deliver()):
        side.ends()
        await turned_until(lambda: messenger.tried == 1)
        for n in range(500):
            side.ends(f"a{n}")
        async with asyncio.timeout(5):
            while len(side.stored.documents) < 501:  # noqa: ASYNC110 see eventually_sent
                await asyncio.sleep(0.001)
        assert messenger.tried == 1


async def test_five_hundred_failures_are_five_hundred_documents_and_one_message(
    side: Side,
) -> None:
    for n in range(500):
        side.ends(f"a{n}")
    await is_marked(side, *[(Delivery.SENT, 1)] * 500)
    assert side.messenger is not None
    assert len(side.messenger.sent) <= 3  # as many batches are written
    assert side.count("notifications", channel="email", result="sent") == 500


def test_every_channel_and_every_kind_is_counted_from_zero() -> None:
    side = Side()
    for channel in ("panel", "toast", "email", "other"):
        for result in ("written", "sent", "failed", "dropped"):
            assert side.count("notifications", channel=channel, result=result) == 0
    for kind in ("single", "digest", "recovery"):
        for result in ("sent", "failed"):
            assert side.count("notification_messages", kind=kind, result=result) == 0


# Faults of ours, and of others


async def test_a_document_that_nothing_can_be_said_of_keeps_no_other_from_being_told(
    side: Side,
) -> None:
    """What the port promises not to hand out; should it, all replicas would end, one by one."""
    dead = side.stored.of("dead")
    bad = [failure("bad", status=Status.RUNNING), failure("bad 2", duration_ms="abc")]
    await dead.add([Entry(each, NOON, Delivery.PENDING) for each in (*bad, failure("good"))])
    await side.notifier.take_over(all_dead, "replica-1")
    await is_marked(side, (Delivery.FAILED, 0), (Delivery.SENT, 1), (Delivery.SENT, 1))
    assert side.messenger is not None
    assert side.messenger.titles[0] == "1 notification of 1 councilor: 1 error"
    side.ends()
    await side.sent(3)


async def test_in_a_digest_only_what_nothing_can_be_said_of_fails(side: Side) -> None:
    dead = side.stored.of("dead")
    told = [failure("bad", status=Status.RUNNING), *(failure(f"good {n}") for n in range(5))]
    await dead.add([Entry(each, NOON, Delivery.PENDING) for each in told])
    await side.notifier.take_over(all_dead, "replica-1")
    await is_marked(side, (Delivery.FAILED, 0), *[(Delivery.SENT, 1)] * 5)


async def test_a_messenger_that_crashes_has_not_taken_it_and_is_tried_again(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def crash(*_: object) -> None:
        raise LookupError("hunter2")

    with monkeypatch.context() as patch:
        patch.setattr(side.messenger, "send", crash)
        side.ends()
        await is_marked(side, (Delivery.FAILED, QUICK.tries))
    side.ends("other")
    await side.sent(1)
    said = capsys.readouterr().out
    assert "LookupError" in said
    assert "hunter2" not in said


async def test_a_document_that_crashes_the_driver_keeps_no_other_from_being_written(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = side.stored.add

    async def crash_at_bad(entries: Sequence[Entry]) -> Any:
        if any(entry.notification.councilor_id == "bad" for entry in entries):
            raise OverflowError("int too big to convert")
        return await add(entries)

    monkeypatch.setattr(side.stored, "add", crash_at_bad)
    for agent_id in ("one", "bad", "two"):
        side.ends(agent_id)
    await side.is_written(2)
    await turned_until(lambda: side.count("notifications", channel="email", result="sent") == 3)


async def test_a_mark_that_crashes_ends_nothing(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(*_: object) -> None:
        raise OverflowError("int too big to convert")

    monkeypatch.setattr("service.notifier._AFTER_A_CRASH_SECONDS", 3_600)
    monkeypatch.setattr(side.stored, "settle", settle)
    side.ends()
    await side.sent(1)
    side.ends("other")
    await side.sent(2)


async def test_an_ending_that_cannot_be_told_is_no_fault_of_its_run(
    side: Side, capsys: pytest.CaptureFixture[str]
) -> None:
    who = Audience("Scout", 7, EMAIL)  # type: ignore[arg-type]  # a fault of ours
    side.notifier.run_ended(run_of(), outcome(**FAILED), who)
    assert "notification_crashed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "trouble", [Misconfigured("grant the user readWrite"), Unavailable("down"), KeyError("fault")]
)
async def test_where_nothing_can_be_prepared_people_are_told_and_it_is_tried_again(
    trouble: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    side, tried = Side(messenger=FakeMessenger(MAIL)), list[str]()

    async def prepare() -> None:
        tried.append("prepare")
        if len(tried) < 4:
            raise trouble

    monkeypatch.setattr(side.stored, "prepare", prepare)
    async with going(side.notifier.deliver()):
        side.ends()
        await side.sent(1)
        for _ in range(5):
            await side.notifier.take_over(all_dead, "replica-1")
    assert len(tried) == 6  # also after it succeeded: somebody may drop the collection
    said = capsys.readouterr().out
    if isinstance(trouble, ServiceError):
        assert said.count("notifications_unavailable") == 1
        assert str(trouble) in said


async def test_an_outage_after_it_was_prepared_is_no_news_of_notifications(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await side.notifier.take_over(all_dead, "replica-1")

    async def prepare() -> None:
        raise Unavailable("down")

    monkeypatch.setattr(side.stored, "prepare", prepare)
    await side.notifier.take_over(all_dead, "replica-1")
    assert "notifications_unavailable" not in capsys.readouterr().out


async def test_without_rights_to_take_over_that_is_said_once(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def owners_of_pending() -> Any:
        raise Misconfigured("grant the user readWrite")

    monkeypatch.setattr(side.stored, "owners_of_pending", owners_of_pending)
    for _ in range(3):
        await side.notifier.take_over(all_dead, "replica-1")
    assert capsys.readouterr().out.count("notifications_unavailable") == 1


async def test_a_fault_while_taking_over_is_told_of_and_raised_to_nobody(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def owners_of_pending() -> Any:
        raise KeyError("owner")

    monkeypatch.setattr(side.stored, "owners_of_pending", owners_of_pending)
    await side.notifier.take_over(all_dead, "replica-1")
    assert "notification_crashed" in capsys.readouterr().out


async def test_without_rights_to_write_that_is_not_said_for_each(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def add(_: object) -> Any:
        raise Misconfigured("grant the user readWrite")

    monkeypatch.setattr(side.stored, "add", add)
    for n in range(3):
        side.ends(f"a{n}")
        await side.sent(n + 1)
    assert capsys.readouterr().out.count("notifications_not_written") == 1


async def test_a_fault_of_a_task_is_told_of_and_the_task_goes_on(
    side: Side, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service.notifier._AFTER_A_CRASH_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr("service.outlets.DigestPolicy.collect_seconds", None)
        patch.setattr(side.telemetry, "message_sent", None)
        side.ends("lost")
        await turned_until(lambda: "notification_crashed" in capsys.readouterr().out)
    side.ends()
    await turned_until(lambda: side.messenger is not None and len(side.messenger.sent) == 2)


async def test_what_a_target_refuses_is_told_in_numbers_and_holds_nothing_up(side: Side) -> None:
    assert side.messenger is not None
    side.messenger.refuses = "poison"
    for n in range(5):
        side.ends(f"a{n}", summary="poison" if n == 3 else "fine")
    await is_marked(side, *[(Delivery.SENT, 2)] * 5)
    assert side.messenger.tried == 2
    assert side.messenger.titles == ["5 notifications of 5 councilors: 5 errors"]
    assert side.messenger.sent[0][1].body == "5 x failed"


async def test_what_is_not_even_taken_in_numbers_has_failed_at_once(side: Side) -> None:
    assert side.messenger is not None
    side.messenger.refuses = "failed"
    side.ends()
    await is_marked(side, (Delivery.FAILED, 1))
    assert side.messenger.tried == 2


async def test_a_digest_whose_tries_ran_out_is_sent_in_numbers() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(messenger=messenger)
    messenger.fails_first = QUICK.tries
    async with going(side.notifier.deliver()):
        for n in range(5):
            side.ends(f"a{n}")
        await is_marked(side, *[(Delivery.SENT, QUICK.tries + 1)] * 5)
    assert messenger.sent[0][1].body == "5 x failed"


async def test_marks_are_one_update_and_keep_nothing_from_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mail server is down, and so each document is marked as failed when it is written."""
    side = Side(most=1_000, messenger=FakeMessenger(MAIL), digests=DigestPolicy(collect_seconds=60))
    settle, marked = side.stored.settle, list[int]()

    async def settle_and_count(ids: Sequence[str], *rest: Any) -> None:
        marked.append(len(ids))
        await settle(ids, *rest)

    monkeypatch.setattr(side.stored, "settle", settle_and_count)
    async with going(side.notifier.deliver()):
        for part in range(5):
            for n in range(800):
                side.ends(f"a{part}-{n}")
            await side.is_written(800 * (part + 1))
        await turned_until(lambda: sum(marked) == 3_000)
    assert side.count("notifications", channel="panel", result="dropped") == 0
    assert len(marked) <= 5


async def test_marks_that_fail_for_ever_keep_nothing_from_being_written(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def settle(*_: object) -> None:
        raise Unavailable("no primary")

    with monkeypatch.context() as patch:
        patch.setattr(side.stored, "settle", settle)
        for n in range(5):
            side.ends(f"a{n}")
            await side.sent(n + 1)
        await side.is_written(5)
    await is_marked(side, *[(Delivery.SENT, 1)] * 5)


async def test_successes_keep_no_error_waiting() -> None:
    messenger = FakeMessenger(MAIL)
    hourly = DigestPolicy(collect_seconds=0, pauses_seconds=(3_600,))
    side = Side(messenger=messenger, digests=hourly)
    async with going(side.notifier.deliver()):
        side.succeeds("a", on_success=True)
        await side.sent(1)
        side.succeeds("b", on_success=True)
        await side.is_written(2)
        side.ends()
        await side.sent(2)
    assert messenger.titles[1] == "2 notifications of 2 councilors: 1 error, 1 success"


async def test_a_channel_that_leads_nowhere_is_told_of_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    messenger = FakeMessenger(MAIL, HOOK)
    side = Side(messenger=messenger)
    async with going(side.notifier.deliver()):
        for n in range(200):
            side.ends(told=Notifications(channels=("emial", f"c{n}")), minutes=n)
        await side.is_written(200)
    assert messenger.sent == []
    assert deliveries(side.stored) == [(None, 0)] * 200
    said = capsys.readouterr().out
    assert said.count("channel=emial") == 1
    assert said.count("channel_unknown") == 100


async def test_what_is_taken_over_and_leads_nowhere_here_is_pending_no_more() -> None:
    side = Side(messenger=FakeMessenger(MAIL, HOOK))
    dead = side.stored.of("dead")
    await dead.add([Entry(failure(channels=("pager",)), NOON, Delivery.PENDING)])
    async with going(side.notifier.deliver()):
        await side.notifier.take_over(all_dead, "replica-1")
        await is_marked(side, (Delivery.FAILED, 0))


# Well again


async def test_a_success_after_an_error_is_told_once(side: Side) -> None:
    side.ends()
    await side.sent(1)
    side.succeeds(minutes=1)
    side.succeeds(minutes=2)
    await side.sent(2)
    assert side.messenger is not None
    assert side.messenger.titles[1] == "Scout is well again"
    assert len(side.stored.documents) == 1
    assert side.count("notification_messages", kind="recovery", result="sent") == 1


@pytest.mark.parametrize(
    "before",
    [
        pytest.param({"told": Notifications()}, id="nobody outside was told"),
        pytest.param(
            {"severity": Severity.WARNING, "status": Status.COMPLETED, "reason": None},
            id="it was a warning",
        ),
    ],
)
async def test_nobody_hears_of_a_recovery_from_what_nobody_heard_of(
    side: Side, before: dict[str, Any]
) -> None:
    side.ends(**before)
    await side.is_written(1)
    side.succeeds()
    await turned(200)
    assert side.messenger is not None
    assert "Scout is well again" not in side.messenger.titles


async def test_a_success_that_is_told_itself_says_enough(side: Side) -> None:
    side.ends()
    side.succeeds(on_success=True)
    await side.sent(2)
    assert side.messenger is not None
    assert side.messenger.titles == ["Scout: failed", "Scout: success"]


async def test_a_warning_makes_nobody_well(side: Side) -> None:
    side.ends()
    side.ends(minutes=1, severity=Severity.WARNING, status=Status.COMPLETED, reason=None)
    await turned(200)
    side.succeeds(minutes=2)
    await turned(200)
    assert side.messenger is not None
    assert "Scout is well again" in side.messenger.titles


async def test_who_is_not_told_of_the_success_itself_hears_that_it_is_well(side: Side) -> None:
    side.ends()
    await side.sent(1)
    told = Notifications(on_success=True, channels=("panel",))
    side.tell("scout", 1, told, outcome())
    await side.sent(2)
    assert side.messenger is not None
    assert side.messenger.titles[1] == "Scout is well again"


# Conductor


async def test_who_was_told_before_the_breaker_opened_hears_that_it_is_well(side: Side) -> None:
    unavailable(side, 0)
    await side.sent(1)
    side.notifier.conductor_lost()
    side.notifier.conductor_answered()  # nobody was told of anything in between
    side.succeeds("a0")
    await side.sent(2)
    assert side.messenger is not None
    assert side.messenger.titles[1] == "A0 is well again"


def unavailable(side: Side, n: int, told: Notifications = EMAIL) -> None:
    side.ends(f"a{n}", told=told, reason=Reason.CONDUCTOR_UNAVAILABLE, summary="cannot connect")


async def test_that_conductor_answers_again_is_one_message() -> None:
    messenger = FakeMessenger(MAIL, HOOK)
    side = Side(messenger=messenger)
    async with going(side.notifier.deliver()):
        side.notifier.conductor_lost()
        unavailable(side, 0)
        await eventually_sent(messenger, 1)
        side.seconds = 720
        for n in range(1, 5):
            unavailable(side, n)
        await turned_until(lambda: len(messenger.sent) == 2)
        side.notifier.conductor_answered()
        await eventually_sent(messenger, 3)
        side.notifier.conductor_answered()
        for n in range(5):
            side.succeeds(f"a{n}")
        await turned(200)
    assert messenger.titles[2:] == ["Conductor answers again, after 12m"]
    assert "5 runs failed or were missed meanwhile" in messenger.sent[2][1].body
    assert {target for target, _ in messenger.sent} == {MAIL}  # as nobody told the other of it


async def test_good_news_do_not_wait_for_the_pause_between_bad_ones() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(
        messenger=messenger, digests=DigestPolicy(collect_seconds=0, pauses_seconds=(3_600,))
    )
    async with going(side.notifier.deliver()):
        side.notifier.conductor_lost()
        unavailable(side, 0)
        await eventually_sent(messenger, 1)
        unavailable(side, 1)
        await side.is_written(2)
        await turned()
        side.notifier.conductor_answered()
        await eventually_sent(messenger, 2)
    assert messenger.sent[1][1].kind is MessageKind.RECOVERY
    assert "- A1: failed (conductor unavailable)" in messenger.sent[1][1].body


async def test_an_outage_that_nobody_was_told_of_ends_unsaid(side: Side) -> None:
    side.notifier.conductor_lost()
    unavailable(side, 0, Notifications())
    side.ends("other")
    await side.sent(1)
    side.notifier.conductor_answered()
    await turned(200)
    assert side.messenger is not None
    assert len(side.messenger.sent) == 1


async def test_a_conductor_that_falls_again_at_once_is_not_said_to_answer() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(messenger=messenger, digests=DigestPolicy(collect_seconds=2))
    async with going(side.notifier.deliver()):
        side.notifier.conductor_lost()
        unavailable(side, 0)
        await side.is_written(1)
        side.notifier.conductor_answered()
        side.notifier.conductor_lost()
        side.seconds = 2
        unavailable(side, 1)
        await eventually_sent(messenger, 2)
    assert {message.kind for _, message in messenger.sent} == {MessageKind.SINGLE}


async def test_people_are_told_when_a_call_is_answered_and_not_when_health_is() -> None:
    told, conductor = list[str](), FakeConductor()
    breaker = Breaker(
        conductor,
        Telemetry(),
        lost=lambda: told.append("lost"),
        answered=lambda: told.append("answered"),
        pace=Pace(timedelta(0)),
        policy=BreakerPolicy(failures=2, first_seconds=0.001, longest_seconds=0.001),
    )
    breaker.saw(Answer("fine"))
    for _ in range(3):
        breaker.saw(Answer(None, DOWN))
    async with going(breaker.probe()):
        await breaker.let_through()
        assert told == ["lost"]
        breaker.saw(Answer(None, DOWN))  # half-open, and down again: the same outage
        await breaker.let_through()
        breaker.saw(Answer("fine"))
        breaker.saw(Answer("fine"))
    assert told == ["lost", "answered"]


# Stops and crashes


async def test_at_the_end_what_waits_is_sent_at_once_in_one_message() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(messenger=messenger, digests=DigestPolicy(collect_seconds=3_600))
    async with going(side.notifier.deliver()):
        for n in range(3):
            side.ends(f"a{n}")
        await side.notifier.drain(SECONDS)
    assert len(messenger.sent) == 1
    assert deliveries(side.stored) == [(Delivery.SENT, 1)] * 3


async def test_the_end_sends_what_a_database_that_hangs_does_not_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messenger, hangs = FakeMessenger(MAIL), asyncio.Event()
    side = Side(messenger=messenger, digests=DigestPolicy(collect_seconds=3_600))
    side.ends("told before")
    async with going(side.notifier.deliver()):
        await side.is_written(1)

        async def add(_: object) -> Any:
            await hangs.wait()

        monkeypatch.setattr(side.stored, "add", add)
        monkeypatch.setattr("service.notifier._LAST_WRITES_SECONDS", 0.05)
        for n in range(3):
            side.ends(f"a{n}")
        drained = asyncio.create_task(side.notifier.drain(SECONDS))
        await turned()
        assert messenger.titles == ["Told Before: failed"]  # without waiting for the database
        await drained
    assert messenger.titles[1] == "3 notifications of 3 councilors: 3 errors"


async def test_the_end_waits_for_nothing_where_nothing_is_to_be_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Marks alone are not worth more than a moment."""
    side = Side(messenger=FakeMessenger(MAIL))

    async def settle(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(side.stored, "settle", settle)
    monkeypatch.setattr("service.notifier._LAST_WRITES_SECONDS", 0.01)
    async with going(side.notifier.deliver()):
        side.ends()
        await side.sent(1)
        async with asyncio.timeout(2):
            await side.notifier.drain(timedelta(minutes=1))


def test_the_end_waits_two_seconds_for_the_database_at_most() -> None:
    assert _LAST_WRITES_SECONDS <= 2
    assert timedelta(seconds=5) >= _LAST_NOTIFICATIONS


async def test_what_cannot_be_sent_at_the_end_stays_pending() -> None:
    messenger = FakeMessenger(MAIL)
    messenger.down.add(MAIL)
    side = Side(messenger=messenger, digests=DigestPolicy(collect_seconds=3_600))
    async with going(side.notifier.deliver()):
        side.ends()
        await side.notifier.drain(SECONDS)
    assert messenger.tried == 1
    assert deliveries(side.stored) == [(Delivery.PENDING, 0)]


async def test_the_end_does_not_wait_for_a_server_that_hangs() -> None:
    messenger = FakeMessenger(MAIL)
    messenger.released.clear()
    side = Side(messenger=messenger)
    async with going(side.notifier.deliver()), asyncio.timeout(5):
        side.ends()
        await side.notifier.drain(timedelta(milliseconds=20))
    assert deliveries(side.stored) == [(Delivery.PENDING, 0)]


async def test_the_end_does_not_wait_for_a_database_that_is_away() -> None:
    side = Side(messenger=FakeMessenger(MAIL))
    side.stored.outage.is_on = True
    async with going(side.notifier.deliver()), asyncio.timeout(5):
        side.ends()
        await side.notifier.drain(timedelta(minutes=1))
    assert side.stored.documents == {}


async def all_dead(owners: Collection[str]) -> frozenset[str]:
    return frozenset(owners) & {"dead"}


async def test_what_a_dead_replica_left_is_sent_by_one_other() -> None:
    dead = Side(stored=FakeNotifications("dead"), messenger=FakeMessenger(MAIL))
    dead.messenger.released.clear()  # type: ignore[union-attr]  # it has one
    async with going(dead.notifier.deliver()):
        dead.ends()
        await dead.is_written(1)
    others = [Side(stored=dead.stored.of(f"r{n}"), messenger=FakeMessenger(MAIL)) for n in range(2)]
    async with going(*(other.notifier.deliver() for other in others)):
        for n, other in enumerate(others):
            await other.notifier.take_over(all_dead, f"r{n}")
        await others[0].sent(1)
        await is_marked(others[0], (Delivery.SENT, 1))
    assert others[1].messenger is not None
    assert others[1].messenger.sent == []


async def test_what_living_replicas_have_pending_is_theirs() -> None:
    async def none_dead(_: Collection[str]) -> frozenset[str]:
        return frozenset()

    stored = FakeNotifications("alive")
    side = Side(stored=stored.of("replica-1"), messenger=FakeMessenger(MAIL))
    alive = Side(stored=stored, messenger=FakeMessenger(MAIL), digests=DigestPolicy())
    async with going(alive.notifier.deliver(), side.notifier.deliver()):
        alive.ends()
        await alive.is_written(1)
        await side.notifier.take_over(none_dead, "replica-1")
        await turned()
    assert side.messenger is not None
    assert side.messenger.sent == []


async def test_an_adoption_whose_answer_was_lost_is_found_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = FakeNotifications("dead")
    dead = Side(stored=stored, messenger=FakeMessenger(MAIL), digests=DigestPolicy())
    async with going(dead.notifier.deliver()):
        dead.ends()
        await dead.is_written(1)
    ours = stored.of("replica-1")
    side = Side(stored=ours, messenger=FakeMessenger(MAIL))
    adopt = ours.adopt

    async def adopt_and_lose_the_answer(owners: Collection[str], most: int) -> Any:
        await adopt(owners, most)
        ours.outage.is_on = True
        ours.outage.check()

    monkeypatch.setattr(ours, "adopt", adopt_and_lose_the_answer)
    async with going(side.notifier.deliver()):
        with pytest.raises(Exception, match="down"):
            await side.notifier.take_over(all_dead, "replica-1")
        monkeypatch.setattr(ours, "adopt", adopt)
        ours.outage.is_on = False
        await side.notifier.take_over(all_dead, "replica-1")
        await side.sent(1)


async def test_a_replica_without_urls_leaves_what_is_pending_to_others() -> None:
    stored = FakeNotifications("dead")
    dead = Side(stored=stored, messenger=FakeMessenger(MAIL), digests=DigestPolicy())
    async with going(dead.notifier.deliver()):
        dead.ends()
        await dead.is_written(1)
    await Side(stored=stored.of("replica-1")).notifier.take_over(all_dead, "replica-1")
    assert await stored.owners_of_pending() == {"dead"}


async def test_a_stretch_counts_as_the_slots_that_it_is() -> None:
    messenger = FakeMessenger(MAIL)
    side = Side(messenger=messenger)
    who = Audience("Scout", "look around", EMAIL)
    slots = Stretch(NOON, NOON + timedelta(minutes=36), 37)
    reason = Reason.CONDUCTOR_UNAVAILABLE
    row = NotRun("scout", NOON, Trigger.SCHEDULE, Status.MISSED, reason, "h", "r", NOON, slots)
    async with going(side.notifier.deliver()):
        side.notifier.conductor_lost()
        side.notifier.slot_not_run(row, who)
        await eventually_sent(messenger, 1)
        side.notifier.conductor_answered()
        await eventually_sent(messenger, 2)
    assert "37 runs failed or were missed meanwhile" in messenger.sent[1][1].body
