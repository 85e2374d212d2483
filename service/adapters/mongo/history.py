"""The ledger as people read it: pages of an agent's rows, the latest of many agents, a day's ends.

Every query is bounded: by a limit, by an index, and by the time that the server may take.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pymongo import DESCENDING, ReadPreference
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import Client, translated
from service.adapters.mongo.indexes import FOR_SUMMARIES, restore_indexes
from service.adapters.mongo.keys import LENIENT
from service.adapters.mongo.rows import shown
from service.domain.execution import Status, Trigger
from service.ports import EndedRuns, HistoryQuery, LedgerRow, UnknownRow

_MOST_MS = 4_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_AGENTS_AT_ONCE = 1_000
_PREVIEW = 4_000
"""Characters of an output, or an error, that a page of rows shows; one row shows all."""
_LONG = ("output", "error")
_NOT_UTF8 = 34459
"""What a server answers to `$substrCP` of bytes that are not UTF-8."""
_STARTED = {"status": {"$in": [Status.RUNNING, Status.COMPLETED, Status.ERROR]}}
_BRIEF = dict.fromkeys(
    (
        *("execution_id", "councilor_id", "scheduled_for", "trigger", "status", "severity"),
        *("reason", "started_at", "completed_at", "duration_ms", "lateness_ms", "slots_missed"),
    ),
    1,
)
_ENDED_BY = ("severity", "status", "duration_ms")
_MOST_ENDED = 200_000
"""Rows that are counted, the latest: about half a second of the server's time."""


class MongoHistory:
    """The port `History` on a real collection."""

    def __init__(self, client: Client, database: str, executions: str) -> None:
        # What another program wrote, and cannot be decoded strictly, hides no other row.
        self._rows = client[database].get_collection(
            executions,
            codec_options=LENIENT,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
        )

    async def prepare(self) -> None:
        """Have the index that summaries need. Raises Unavailable, Misconfigured."""
        await restore_indexes(self._rows, FOR_SUMMARIES)

    async def page(self, agent_id: str, query: HistoryQuery) -> Sequence[LedgerRow]:
        wanted = _filter_of(agent_id, query)
        with translated():
            rows: list[Mapping[str, Any]] = []
            if query.after is not None:
                cursor = await self._cursor(agent_id, query.after)
                slot = cursor.get("scheduled_for")
                same = {**wanted, "scheduled_for": slot, "_id": {"$lt": cursor["_id"]}}
                rows += await self._of_one_slot(same, query)
                wanted |= _earlier_than(slot)
            rows += await self._latest_slots(wanted, query)
        return [shown(row) for row in rows[: query.limit]]

    async def _cursor(self, agent_id: str, execution_id: str) -> Mapping[str, Any]:
        row = await self._rows.find_one(
            {"execution_id": execution_id, "councilor_id": agent_id}, {"scheduled_for": 1}
        )
        if row is None:
            raise UnknownRow(execution_id)
        return row

    async def _latest_slots(
        self, wanted: Mapping[str, Any], query: HistoryQuery
    ) -> Sequence[Mapping[str, Any]]:
        """By the index alone, which does not know the order of rows of one slot: that is ours."""
        found = await self._shown(wanted, {"scheduled_for": DESCENDING}, query.limit + 1, query)
        if len(found) <= query.limit or found[-1].get("scheduled_for") != found[-2].get(
            "scheduled_for"
        ):
            return found
        last = found[-1].get("scheduled_for")
        before = [row for row in found if row.get("scheduled_for") != last]
        return [*before, *await self._of_one_slot({**wanted, "scheduled_for": last}, query)]

    async def _of_one_slot(
        self, wanted: Mapping[str, Any], query: HistoryQuery
    ) -> Sequence[Mapping[str, Any]]:
        return await self._shown(wanted, {"_id": DESCENDING}, query.limit, query)

    async def _shown(
        self, wanted: Mapping[str, Any], order: Mapping[str, int], limit: int, query: HistoryQuery
    ) -> Sequence[Mapping[str, Any]]:
        rows: list[dict[str, Any]] = [{"$match": wanted}, {"$sort": order}, {"$limit": limit}]
        if query.is_whole:
            return await self._found(rows)
        try:
            return await self._found([*rows, {"$set": {name: _preview(name) for name in _LONG}}])
        except OperationFailure as error:
            if error.code != _NOT_UTF8:
                raise
            return await self._found([*rows, {"$unset": list(_LONG)}])

    async def _found(self, stages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return await self._rows.aggregate(stages, maxTimeMS=_MOST_MS).to_list(None)

    async def _beyond(self, agent_id: str, execution_id: str) -> dict[str, Any]:
        row = await self._rows.find_one(
            {"execution_id": execution_id, "councilor_id": agent_id}, {"scheduled_for": 1}
        )
        if row is None:
            raise UnknownRow(execution_id)
        slot = row.get("scheduled_for")
        earlier = [
            {"scheduled_for": {"$lt": slot}},
            {"scheduled_for": slot, "_id": {"$lt": row["_id"]}},
        ]
        return {"$or": earlier}

    async def row(self, agent_id: str, execution_id: str) -> LedgerRow | None:
        wanted = {"execution_id": execution_id, "councilor_id": agent_id}
        with translated():
            row = await self._rows.find_one(wanted, max_time_ms=_MOST_MS)
        return None if row is None else shown(row)

    async def slot_at(self, agent_id: str, instant: datetime) -> LedgerRow | None:
        return await self._latest_slot(agent_id, _EPOCH, instant, {"$ne": Trigger.MANUAL.value})

    async def request_at(
        self, agent_id: str, since: datetime, instant: datetime
    ) -> LedgerRow | None:
        return await self._latest_slot(agent_id, since, instant, Trigger.MANUAL.value)

    async def _latest_slot(
        self, agent_id: str, since: datetime, until: datetime, trigger: object
    ) -> LedgerRow | None:
        slots = {"$gte": since, "$lte": until}
        with translated():
            row = await self._rows.find_one(
                {"councilor_id": agent_id, "scheduled_for": slots, "trigger": trigger},
                {"output": 0},
                sort=[("scheduled_for", DESCENDING)],
                max_time_ms=_MOST_MS,
            )
        # A list of dates is within those bounds, too.
        is_slot = row is not None and isinstance(row.get("scheduled_for"), datetime)
        return shown(row) if row is not None and is_slot else None

    async def latest(self, agent_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        rows = await self._looked_up(
            agent_ids, [{"$match": _STARTED}, {"$sort": {"started_at": DESCENDING}}, {"$limit": 1}]
        )
        return {agent_id: found[0] for agent_id, found in rows.items() if found}

    async def recent(
        self, agent_ids: Sequence[str], count: int
    ) -> Mapping[str, Sequence[LedgerRow]]:
        return await self._looked_up(
            agent_ids, [{"$sort": {"scheduled_for": DESCENDING}}, {"$limit": count}]
        )

    async def _looked_up(
        self, agent_ids: Sequence[str], stages: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Sequence[LedgerRow]]:
        """What these stages find among each agent's rows, by one walk of an index for each."""
        found: dict[str, Sequence[LedgerRow]] = {}
        for start in range(0, len(agent_ids), _AGENTS_AT_ONCE):
            portion = agent_ids[start : start + _AGENTS_AT_ONCE]
            lookup = {
                "from": self._rows.name,
                "localField": "agent_id",
                "foreignField": "councilor_id",
                "pipeline": [*stages, {"$project": _BRIEF}],
                "as": "rows",
            }
            # From one row that is there, whichever: `$documents` takes none, but the right to read
            # everything in the database. As literals: an id may begin with `$`.
            asked = {"_id": 0, "agent_id": {"$literal": list(portion)}}
            each: list[dict[str, Any]] = [
                {"$limit": 1},
                {"$project": asked},
                {"$unwind": "$agent_id"},
            ]
            with translated():
                cursor = self._rows.aggregate([*each, {"$lookup": lookup}], maxTimeMS=_MOST_MS)
                async for group in cursor:
                    found[group["agent_id"]] = [shown(row) for row in group["rows"]]
        return found

    async def ended(
        self, since: datetime, before: datetime, bucket_seconds: int
    ) -> Sequence[EndedRuns]:
        width = bucket_seconds * 1000
        bucket = {"$subtract": ["$completed_at", {"$mod": [{"$toLong": "$completed_at"}, width]}]}
        with translated():
            found = await self._found(
                [
                    # Both conditions: the index has only rows whose `completed_at` is a date.
                    {"$match": {"completed_at": {"$gte": since, "$lt": before, "$type": "date"}}},
                    {"$sort": {"completed_at": DESCENDING}},
                    {"$limit": _MOST_ENDED},
                    # Nothing but what the index has: no row is fetched.
                    {"$project": {"_id": 0, "completed_at": 1, **dict.fromkeys(_ENDED_BY, 1)}},
                    {
                        "$group": {
                            "_id": {"at": bucket, "status": "$status", "severity": "$severity"},
                            "count": {"$sum": 1},
                            "duration_ms": {"$sum": "$duration_ms"},
                        }
                    },
                ]
            )
        return [
            EndedRuns(
                at=group["_id"]["at"],
                status=str(group["_id"].get("status")),
                severity=str(group["_id"].get("severity")),
                count=group["count"],
                duration_ms=int(group["duration_ms"]),
            )
            for group in found
        ]


def _earlier_than(slot: object) -> dict[str, Any]:
    """What comes after this slot, latest first; another program's rows may name none at all."""
    if slot is None:
        return {"_id": {"$in": []}}
    if not isinstance(slot, datetime):
        return {"scheduled_for": {"$lt": slot}}
    return {"$or": [{"scheduled_for": {"$lt": slot}}, {"scheduled_for": None}]}


def _filter_of(agent_id: str, query: HistoryQuery) -> dict[str, Any]:
    wanted: dict[str, Any] = {"councilor_id": agent_id}
    if query.status is not None:
        wanted["status"] = query.status.value
    if query.severity is not None:
        wanted["severity"] = query.severity.value
    return wanted


def _preview(name: str) -> dict[str, Any]:
    """The beginning of a text; what is no text stays as it is."""
    text = f"${name}"
    is_text = {"$eq": [{"$type": text}, "string"]}
    return {"$cond": [is_text, {"$substrCP": [text, 0, _PREVIEW]}, text]}
