"""What every outbox promises: the fake that unit tests trust, and the real collection."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from bson.datetime_ms import DatetimeMS

from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.notifications import MongoNotifications
from service.domain.execution import Reason, Status
from service.domain.notification import Delivery, Entry, Notification
from service.domain.severity import Severity
from service.ports import Misconfigured, Refused, StoredNotifications
from tests.fakes import NOON, FakeNotifications

SECOND = timedelta(seconds=1)
Of = Callable[[str], StoredNotifications]
"""The collection as this owner sees it."""


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.mongo)])
async def of(request: pytest.FixtureRequest) -> AsyncIterator[Of]:
    if request.param == "fake":
        yield FakeNotifications().of
        return
    database = request.getfixturevalue("database")
    async with connected(request.getfixturevalue("replica_set_url")) as client:
        await MongoNotifications(client, database, owner="any").prepare()
        yield lambda owner: MongoNotifications(client, database, owner=owner)


def failure(name: str = "exec_scout_1", **changes: Any) -> Notification:
    told = Notification(
        notification_id=name,
        councilor_id="scout",
        display_name="Scout",
        task_name="look around",
        status=Status.ERROR,
        severity=Severity.ERROR,
        reason=Reason.TIMEOUT,
        message="no answer within 1800 s",
        scheduled_for=NOON,
        completed_at=NOON + SECOND,
        duration_ms=900,
        channels=("panel", "email"),
    )
    return replace(told, **changes)


def entry(
    name: str = "exec_scout_1",
    at: datetime = NOON,
    delivery: Delivery | None = Delivery.PENDING,
    **changes: Any,
) -> Entry:
    return Entry(failure(name, **changes), at, delivery)


async def test_an_ending_is_told_once_whoever_tries(of: Of) -> None:
    assert await of("a").add([entry()]) == [True]
    assert await of("b").add([entry(), entry("exec_scout_2")]) == [False, True]


async def test_what_an_earlier_try_has_written_is_ours_still(of: Of) -> None:
    """Its answer was lost: nobody else will send it."""
    await of("a").add([entry()])
    assert await of("a").add([entry(), entry("exec_scout_2")]) == [True, True]


async def test_the_same_ending_told_again_later_is_not_ours_to_send(of: Of) -> None:
    await of("a").add([entry()])
    assert await of("a").add([entry(at=NOON + SECOND)]) == [False]


@pytest.mark.parametrize("delivery", [Delivery.SENT, Delivery.FAILED])
async def test_what_is_settled_is_pending_no_more(of: Of, delivery: Delivery) -> None:
    await of("a").add([entry(), entry("exec_scout_2")])
    await of("a").settle(["exec_scout_1"], delivery, 2, NOON)
    assert await of("a").owners_of_pending() == {"a"}
    await of("a").settle(["exec_scout_2"], delivery, 2, NOON)
    assert await of("a").owners_of_pending() == frozenset()


async def test_nobody_settles_what_is_somebody_elses(of: Of) -> None:
    await of("a").add([entry()])
    await of("b").settle(["exec_scout_1"], Delivery.SENT, 1, NOON)
    assert await of("b").owners_of_pending() == {"a"}


async def test_what_goes_nowhere_outside_is_not_pending(of: Of) -> None:
    await of("a").add([entry(delivery=None)])
    assert await of("a").owners_of_pending() == frozenset()


async def test_what_a_dead_owner_left_is_adopted_oldest_first_and_as_it_was(of: Of) -> None:
    late = failure("late", reason=None, duration_ms=None, status=Status.MISSED, slots=7)
    await of("a").add([Entry(late, NOON + SECOND, Delivery.PENDING), entry("early")])
    await of("c").add([entry("living")])
    assert await of("b").adopt({"a"}, 1) == [failure("early")]
    assert await of("b").adopt({"a"}, 10) == [late]
    assert await of("b").adopt({"a"}, 10) == []
    assert await of("b").owners_of_pending() == {"b", "c"}


async def test_of_several_that_adopt_at_once_one_gets_each(of: Of) -> None:
    names = {f"exec_scout_{n}" for n in range(50)}
    await of("dead").add([entry(name) for name in sorted(names)])
    adopted = await asyncio.gather(*(of(f"r{n}").adopt({"dead"}, 50) for n in range(4)))
    got = [told.notification_id for part in adopted for told in part]
    assert sorted(got) == sorted(names)


async def test_who_was_taken_for_dead_marks_nothing_that_was_adopted(of: Of) -> None:
    await of("a").add([entry()])
    await of("b").adopt({"a"}, 10)
    await of("a").settle(["exec_scout_1"], Delivery.SENT, 1, NOON)
    assert await of("b").owners_of_pending() == {"b"}


@pytest.mark.mongo
async def test_a_document_has_what_a_page_shows(client: Client, database: str) -> None:
    real = MongoNotifications(client, database, owner="a")
    at = NOON + timedelta(microseconds=1_999)
    await real.add([entry(at=at)])
    await real.settle(["exec_scout_1"], Delivery.SENT, 2, NOON + SECOND)
    assert await client[database]["scheduler_notifications"].find_one() == {
        "_id": "exec_scout_1",
        "notification_id": "exec_scout_1",
        "councilor_id": "scout",
        "execution_id": "exec_scout_1",
        "display_name": "Scout",
        "task_name": "look around",
        "status": "error",
        "severity": "error",
        "reason": "timeout",
        "title": "Scout: failed (timeout)",
        "message": "no answer within 1800 s",
        "scheduled_for": NOON,
        "completed_at": NOON + SECOND,
        "duration_ms": 900,
        "slots": 1,
        "channels": ["panel", "email"],
        "created_at": NOON + timedelta(milliseconds=1),
        "read": False,
        "owner": "a",
        "delivery": "sent",
        "delivered_at": NOON + SECOND,
        "attempts": 2,
    }
    assert await real.add([entry(at=at)]) == [True]  # the server keeps milliseconds


@pytest.mark.mongo
async def test_a_document_that_is_refused_stops_no_other(client: Client, database: str) -> None:
    real = MongoNotifications(client, database, owner="a")
    validator = {"councilor_id": {"$ne": "bad"}}
    await client[database].create_collection("scheduler_notifications", validator=validator)
    surrogate = entry("exec_2", message="half of a pair: \ud83d")
    answers = await real.add([entry("exec_1", councilor_id="bad"), surrogate, entry("exec_3")])
    assert [isinstance(answer, Refused) for answer in answers] == [True, True, False]
    assert answers[2] is True


@pytest.mark.mongo
async def test_notifications_expire_after_thirty_days(client: Client, database: str) -> None:
    real = MongoNotifications(client, database, owner="a")
    for _ in range(2):
        await real.prepare()
    indexes = await client[database]["scheduler_notifications"].index_information()
    assert indexes["expiry"]["expireAfterSeconds"] == 30 * 86_400
    assert indexes["pending"]["partialFilterExpression"] == {"delivery": "pending"}


@pytest.mark.mongo
async def test_an_index_in_the_way_is_told_of(client: Client, database: str) -> None:
    notifications = client[database]["scheduler_notifications"]
    await notifications.create_index("owner", name="pending")
    with pytest.raises(Misconfigured, match="scheduler_notifications"):
        await MongoNotifications(client, database, owner="a").prepare()


@pytest.mark.mongo
async def test_what_is_no_plain_collection_is_told_of(client: Client, database: str) -> None:
    await client[database].create_collection(
        "scheduler_notifications", timeseries={"timeField": "created_at"}
    )
    with pytest.raises(Misconfigured, match="scheduler_notifications"):
        await MongoNotifications(client, database, owner="a").prepare()


@pytest.mark.mongo
async def test_what_others_wrote_there_is_passed_over(client: Client, database: str) -> None:
    real = MongoNotifications(client, database, owner="a")
    foreign = [{"delivery": "pending", "owner": owner} for owner in ("b", 7, None)]
    await client[database]["scheduler_notifications"].insert_many(foreign)
    assert await real.owners_of_pending() == {"b"}
    await real.add([entry()])
    assert await real.adopt({"a", "b"}, 10) == [failure()]


UNREADABLE: dict[str, dict[str, Any]] = {
    "no ending": {"status": "running"},
    "a status of nobody's": {"status": ["error"]},
    "a severity of nobody's": {"severity": None},
    "a reason of nobody's": {"reason": {"a": 1}},
    "a duration that is a text": {"duration_ms": "abc"},
    "a duration that is no number": {"duration_ms": float("nan")},
    "a duration beyond all time": {"duration_ms": 1e300},
    "a duration before the beginning": {"duration_ms": -1},
    "slots that are a text": {"slots": "7"},
    "no slot": {"slots": 0},
    "a truth for a number": {"slots": True},
    "one channel that is no list": {"channels": "email"},
    "channels that are no texts": {"channels": ["email", 7]},
    "no channel outside": {"channels": ["panel"]},
    "somebody else's id": {"notification_id": "exec_other_1"},
    "a date beyond the year 9999": {"completed_at": DatetimeMS(10**15)},
    "a message that is none": {"message": None},
}


@pytest.mark.mongo
@pytest.mark.parametrize("changes", UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_fails_and_keeps_nothing_else_waiting(
    client: Client, database: str, changes: dict[str, Any]
) -> None:
    """Taken over as it is, it would end every replica that tries, one after the other."""
    real = MongoNotifications(client, database, owner="a")
    await MongoNotifications(client, database, owner="dead").add([entry("bad"), entry("good")])
    documents = client[database]["scheduler_notifications"]
    await documents.update_one({"_id": "bad"}, {"$set": changes})
    assert await real.adopt({"dead"}, 10) == [failure("good")]
    found = await documents.find_one({"_id": "bad"}, {"delivery": 1})
    assert found is not None
    assert found["delivery"] == "failed"


@pytest.mark.mongo
async def test_texts_that_others_changed_are_one_line_and_short(
    client: Client, database: str
) -> None:
    real = MongoNotifications(client, database, owner="a")
    await MongoNotifications(client, database, owner="dead").add([entry()])
    await client[database]["scheduler_notifications"].update_one(
        {}, {"$set": {"display_name": "Sc\r\nBcc: all", "message": "x" * 10_000}}
    )
    (told,) = await real.adopt({"dead"}, 10)
    assert told.display_name == "Sc Bcc: all"
    assert len(told.message) == 501
