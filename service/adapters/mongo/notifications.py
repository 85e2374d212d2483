"""The collection `scheduler_notifications`: what people are told, and what is still to be sent."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pymongo import ASCENDING, IndexModel, InsertOne, ReadPreference
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.bulks import meaning_of, write_all
from service.adapters.mongo.client import DURABLE, Client, translated
from service.adapters.mongo.indexes import INDEX_CONFLICTS, expire_after
from service.adapters.mongo.keys import LENIENT
from service.domain.digest import message_of
from service.domain.execution import Reason, Status
from service.domain.notification import (
    LONGEST_MESSAGE,
    Delivery,
    Entry,
    Notification,
    line,
    outside_of,
    plain,
)
from service.domain.severity import Severity
from service.ports import Misconfigured, Refused, ServiceError

log = structlog.get_logger()

_KEPT_FOR = timedelta(days=30)
_PENDING = IndexModel(
    [("delivery", ASCENDING), ("owner", ASCENDING)],
    name="pending",
    partialFilterExpression={"delivery": Delivery.PENDING.value},
)
_IN_THE_WAY = "scheduler_notifications: an index of another kind is in the way; drop it"
_MARKED_AT_ONCE = 1_000
_TEXTS = ("notification_id", "councilor_id", "display_name", "task_name", "message")
_LONGEST_NAME, _MOST_CHANNELS = 1_000, 20
_LONGEST_MS, _MOST_SLOTS = 10**12, 10**9
"""Beyond these no run of ours has lasted, and no stretch of slots was."""


class MongoNotifications:
    """The port `StoredNotifications` on a real collection."""

    def __init__(self, client: Client, database: str, *, owner: str) -> None:
        self._notifications = client[database].get_collection(
            "scheduler_notifications",
            write_concern=DURABLE,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self._read = self._notifications.with_options(codec_options=LENIENT)
        self._owner = owner

    async def prepare(self) -> None:
        """Create the indexes; one lets notifications expire. Raises Unavailable, Misconfigured."""
        with translated():
            try:
                await self._notifications.create_indexes([_PENDING])
            except OperationFailure as error:
                if error.code in INDEX_CONFLICTS:
                    raise Misconfigured(_IN_THE_WAY) from error
                raise
        await expire_after(self._notifications, _KEPT_FOR, "scheduler_notifications")

    async def add(self, entries: Sequence[Entry]) -> Sequence[bool | ServiceError]:
        inserts = [InsertOne(_document(entry, self._owner)) for entry in entries]
        written = await write_all(self._notifications, inserts)
        if written.is_whole:
            return [True] * len(entries)
        there = [
            entry
            for entry, failure in zip(entries, written.failures, strict=True)
            if isinstance(failure, DuplicateKeyError)
        ]
        ours = await self._ours(there) if there else frozenset[str]()
        answers: list[bool | ServiceError] = []
        for entry, failure in zip(entries, written.failures, strict=True):
            if failure is None or isinstance(failure, DuplicateKeyError):
                answers.append(failure is None or entry.notification.notification_id in ours)
                continue
            meaning = meaning_of(failure)
            if not isinstance(meaning, Refused):
                raise meaning from failure
            answers.append(meaning)
        return answers

    async def _ours(self, entries: Sequence[Entry]) -> frozenset[str]:
        """Those that an earlier try has written, of which nobody knew whether it had arrived."""
        created = {entry.notification.notification_id: entry.created_at for entry in entries}
        wanted = {"_id": {"$in": list(created)}, "owner": self._owner}
        with translated():
            found = [row async for row in self._read.find(wanted, {"created_at": 1})]
        return frozenset(
            str(row["_id"]) for row in found if row.get("created_at") == _to_ms(created[row["_id"]])
        )

    async def settle(
        self, notification_ids: Sequence[str], delivery: Delivery, attempts: int, at: datetime
    ) -> None:
        marks: dict[str, Any] = {"delivery": delivery.value, "attempts": attempts}
        if delivery is Delivery.SENT:
            marks["delivered_at"] = at
        for start in range(0, len(notification_ids), _MARKED_AT_ONCE):
            ids = list(notification_ids[start : start + _MARKED_AT_ONCE])
            pending = {"_id": {"$in": ids}, "owner": self._owner, "delivery": Delivery.PENDING}
            with translated():
                await self._notifications.update_many(pending, {"$set": marks})

    async def owners_of_pending(self) -> frozenset[str]:
        with translated():
            owners = await self._read.distinct("owner", {"delivery": Delivery.PENDING})
        return frozenset(owner for owner in owners if isinstance(owner, str))

    async def adopt(self, owners: Collection[str], most: int) -> Sequence[Notification]:
        left = {"delivery": Delivery.PENDING, "owner": {"$in": list(owners)}}
        with translated():
            oldest = self._read.find(left, {"_id": 1}).sort("created_at", ASCENDING).limit(most)
            ids = {"$in": [row["_id"] async for row in oldest]}
            await self._notifications.update_many(
                {**left, "_id": ids}, {"$set": {"owner": self._owner}}
            )
            ours = {"_id": ids, "owner": self._owner, "delivery": Delivery.PENDING}
            found = self._read.find(ours).sort("created_at", ASCENDING)
            rows = [row async for row in found]
            told = [_notification(row) for row in rows]
            unreadable = [row["_id"] for row, one in zip(rows, told, strict=True) if one is None]
            if unreadable:
                await self._give_up(unreadable)
        return [notification for notification in told if notification is not None]

    async def _give_up(self, unreadable: Sequence[Any]) -> None:
        """Leave nothing pending that no replica will ever be able to send."""
        log.error("notifications_unreadable", count=len(unreadable))
        pending = {"_id": {"$in": unreadable}, "owner": self._owner, "delivery": Delivery.PENDING}
        failed = {"$set": {"delivery": Delivery.FAILED.value}}
        await self._notifications.update_many(pending, failed)


def _document(entry: Entry, owner: str) -> dict[str, Any]:
    """A notification as CONTRACT section 4 promises one."""
    told = entry.notification
    return {
        "_id": told.notification_id,
        "notification_id": told.notification_id,
        "councilor_id": told.councilor_id,
        "execution_id": told.notification_id,
        "display_name": told.display_name,
        "task_name": told.task_name,
        "status": told.status.value,
        "severity": told.severity.value,
        "reason": told.reason.value if told.reason is not None else None,
        "title": message_of([told]).title,
        "message": told.message,
        "scheduled_for": told.scheduled_for,
        "completed_at": told.completed_at,
        "duration_ms": told.duration_ms,
        "slots": told.slots,
        "channels": list(told.channels),
        "created_at": _to_ms(entry.created_at),
        "read": False,
        "owner": owner,
        "delivery": entry.delivery.value if entry.delivery is not None else None,
        "delivered_at": None,
        "attempts": 0,
    }


def _notification(row: Mapping[str, Any]) -> Notification | None:
    """The notification of a document; None where another program has made something else of it."""
    if not _is_readable(row):
        return None
    try:
        status, severity = Status(row["status"]), Severity(row["severity"])
        reason = Reason(row["reason"]) if row["reason"] is not None else None
    except (KeyError, TypeError, ValueError):
        return None
    if status is Status.RUNNING:
        return None  # no ending
    return Notification(
        notification_id=row["notification_id"],
        councilor_id=row["councilor_id"],
        display_name=line(row["display_name"]),
        task_name=line(row["task_name"]),
        status=status,
        severity=severity,
        reason=reason,
        message=plain(row["message"], LONGEST_MESSAGE),
        scheduled_for=row["scheduled_for"],
        completed_at=row["completed_at"],
        duration_ms=row.get("duration_ms"),
        channels=tuple(row["channels"]),
        slots=row["slots"],
    )


def _is_readable(row: Mapping[str, Any]) -> bool:
    """Tell whether each field holds what `_document` wrote there, or might have."""
    texts = (row.get(name) for name in _TEXTS)
    dates = (row.get(name) for name in ("scheduled_for", "completed_at"))
    duration_ms = row.get("duration_ms")
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(date, datetime) for date in dates)
        and row["notification_id"] == row["_id"]
        and len(row["_id"]) <= _LONGEST_NAME
        and (duration_ms is None or _counts(duration_ms, 0, _LONGEST_MS))
        and _counts(row.get("slots"), 1, _MOST_SLOTS)
        and _are_channels(row.get("channels"))
    )


def _counts(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _are_channels(value: Any) -> bool:
    """Tell whether this is what `_document` wrote, and led outside."""
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_CHANNELS:
        return False
    return all(isinstance(each, str) for each in value) and bool(outside_of(value))


def _to_ms(instant: datetime) -> datetime:
    """MongoDB keeps dates in milliseconds."""
    return instant.replace(microsecond=instant.microsecond // 1_000 * 1_000)
