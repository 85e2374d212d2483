"""The indexes of `councilor_executions`, and the one that expires its rows."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError

from service.adapters.mongo.client import translation_of
from service.domain.execution import Status
from service.ports import Misconfigured

Rows = AsyncIOMotorCollection[dict[str, Any]]

_INDEX_OPTIONS_CONFLICT = 85
INDEX_CONFLICTS = {_INDEX_OPTIONS_CONFLICT, 86}
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


async def restore_indexes(rows: Rows, indexes: Sequence[IndexModel] = INDEXES) -> None:
    """Have them all. Raises Unavailable, and Misconfigured where rows or indexes are in the way."""
    try:
        # An equal index of another name serves as well; creating ours would fail.
        there = [_essence_of(index) async for index in rows.list_indexes()]
        missing = [index for index in indexes if _essence_of(index.document) not in there]
        if missing:
            await rows.create_indexes(missing)
    except DuplicateKeyError as error:
        raise Misconfigured(_DUPLICATES) from error
    except OperationFailure as error:
        if error.code in INDEX_CONFLICTS:
            text = (error.details or {}).get("errmsg", "")
            raise Misconfigured(f"{_INDEX_IN_THE_WAY}: {text}") from error
        raise translation_of(error) from error
    except PyMongoError as error:
        raise translation_of(error) from error


async def expire_after(rows: Rows, keep_for: timedelta | None) -> None:
    """Let rows expire after `keep_for`; None: never. Raises Unavailable."""
    if keep_for is None:
        if "expiry" in await rows.index_information():
            await rows.drop_index("expiry")
        return
    seconds = int(keep_for.total_seconds())
    try:
        await rows.create_index("created_at", name="expiry", expireAfterSeconds=seconds)
    except OperationFailure as error:
        if error.code != _INDEX_OPTIONS_CONFLICT:
            raise
        await rows.drop_index("expiry")
        await rows.create_index("created_at", name="expiry", expireAfterSeconds=seconds)


def _essence_of(index: Mapping[str, Any]) -> tuple[Any, ...]:
    partial = index.get("partialFilterExpression", {})
    return list(index["key"].items()), bool(index.get("unique")), dict(partial)
