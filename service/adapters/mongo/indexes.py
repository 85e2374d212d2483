"""The indexes of `councilor_executions`, and the one that expires its rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from service.adapters.mongo.client import translated, translation_of
from service.domain.execution import Status
from service.ports import Misconfigured

Rows = AsyncIOMotorCollection[dict[str, Any]]

INDEX_CONFLICTS = {
    *(85, 86),  # IndexOptionsConflict, IndexKeySpecsConflict
    *(67, 72, 197),  # CannotCreateIndex, InvalidOptions, InvalidIndexSpecificationOption
    166,  # CommandNotSupportedOnView, and a time-series collection is one
}
"""Waiting helps against none of these."""
_EXPIRY = "expiry"
_INDEX_IN_THE_WAY = (
    "SCHEDULER_EXECUTIONS_COLLECTION: an index of another kind is in the way; drop it"
)
_DUPLICATES = (
    "SCHEDULER_EXECUTIONS_COLLECTION: the collection holds several rows with one execution_id, "
    "written by another program; rename it, or name another one"
)

INDEXES = (
    IndexModel([("execution_id", ASCENDING)], unique=True),
    IndexModel([("councilor_id", ASCENDING), ("started_at", DESCENDING)]),
    IndexModel([("councilor_id", ASCENDING), ("scheduled_for", DESCENDING)]),
    IndexModel(
        [("status", ASCENDING)],
        name="running",
        partialFilterExpression={"status": Status.RUNNING.value},
    ),
    IndexModel(
        [("councilor_id", ASCENDING)],
        name="one_run_at_a_time",
        unique=True,
        partialFilterExpression={"status": Status.RUNNING.value},
    ),
    IndexModel(
        [("counted", ASCENDING)],
        name="not_counted_yet",
        partialFilterExpression={"counted": False},
    ),
    IndexModel(
        [("councilor_id", ASCENDING), ("last_slot", ASCENDING)],
        name="stretches",
        partialFilterExpression={"last_slot": {"$exists": True}},
    ),
)
"""The first unique index makes one row of a slot (so does `_id`, should somebody drop the
collection and with it the indexes); the second makes an overlap impossible."""

FOR_SUMMARIES = (
    IndexModel(
        # All that a day's summary needs, written once, when a row is closed.
        [(name, ASCENDING) for name in ("completed_at", "severity", "status", "duration_ms")],
        name="ended",
        partialFilterExpression={"completed_at": {"$type": "date"}},
    ),
)
"""What no promise rests on: made while the service runs, since a large ledger takes long."""


async def restore_indexes(rows: Rows, indexes: Sequence[IndexModel] = INDEXES) -> bool:
    """Have them all, and tell whether any was missing.

    Raises Unavailable, and Misconfigured where rows or indexes are in the way.
    """
    try:
        # An equal index of another name serves as well; creating ours would fail.
        there = [_essence_of(index) async for index in rows.list_indexes()]
        missing = [index for index in indexes if _essence_of(index.document) not in there]
        if missing:
            await rows.create_indexes(missing)
        return bool(missing)
    except DuplicateKeyError as error:
        raise Misconfigured(_DUPLICATES) from error
    except OperationFailure as error:
        if error.code in INDEX_CONFLICTS:
            text = (error.details or {}).get("errmsg", "")
            raise Misconfigured(f"{_INDEX_IN_THE_WAY}: {text}") from error
        raise translation_of(error) from error
    except PyMongoError as error:
        raise translation_of(error) from error


async def expire_after(rows: Rows, keep_for: timedelta | None, setting: str) -> None:
    """Let rows expire after `keep_for`; None: never. What another index lets expire is its affair.

    Raises Unavailable, and Misconfigured, which names `setting`, where an index is in the way.
    """
    with translated():
        try:
            there = [index async for index in rows.list_indexes()]
            await _let_expire(rows, there, keep_for)
        except OperationFailure as error:
            if error.code not in INDEX_CONFLICTS:
                raise
            text = (error.details or {}).get("errmsg", "")
            raise Misconfigured(f"{setting}: rows cannot be made to expire: {text}") from error
        except _InTheWay as error:
            name = str(error)
            raise Misconfigured(
                f'{setting}: the index "{name}" of {rows.name} is in the way of one that lets rows '
                f'expire by created_at; drop it: db.{rows.name}.dropIndex("{name}")'
            ) from None


class _InTheWay(Exception):
    """An index by this name."""


async def _let_expire(
    rows: Rows, there: Sequence[Mapping[str, Any]], keep_for: timedelta | None
) -> None:
    ours = next((index for index in there if index["name"] == _EXPIRY), None)
    if ours is not None and [*ours["key"]] != ["created_at"]:
        raise _InTheWay(_EXPIRY)
    if keep_for is None:
        if ours is not None:
            await rows.drop_index(_EXPIRY)
        return
    seconds = int(keep_for.total_seconds())
    if ours is not None and "expireAfterSeconds" in ours:
        if ours["expireAfterSeconds"] != seconds:
            change = {"name": _EXPIRY, "expireAfterSeconds": seconds}
            await rows.database.command("collMod", rows.name, index=change)
        return
    of_date = [index for index in there if [*index["key"]] == ["created_at"]]
    if any("expireAfterSeconds" in index for index in of_date):
        return  # somebody has decided when
    for index in of_date:
        if index is ours or _essence_of(index) == _BY_DATE:
            raise _InTheWay(index["name"])
    await rows.create_index("created_at", name=_EXPIRY, expireAfterSeconds=seconds)


def _essence_of(index: Mapping[str, Any]) -> tuple[Any, ...]:
    partial = index.get("partialFilterExpression", {})
    return list(index["key"].items()), bool(index.get("unique")), dict(partial)


_BY_DATE = ([("created_at", ASCENDING)], False, dict[str, Any]())
