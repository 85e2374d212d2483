"""The collection `councilor_executions`: one row a slot; the unique index decides who runs it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from bson.errors import BSONError
from pymongo import ASCENDING, DESCENDING, IndexModel, ReadPreference
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.client import DURABLE, Client, translated, translation_of
from service.adapters.mongo.keys import id_of
from service.adapters.mongo.rows import (
    attempts_of,
    end_of,
    execution_of,
    final_row,
    is_ours,
    running_row,
    shown,
    stretch_of,
    taken_by,
)
from service.adapters.mongo.stats import CountedRun, counted
from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
    Trigger,
)
from service.domain.severity import Severity
from service.ports import LedgerRow, Misconfigured, Refused, TakenSlots, Unavailable

log = structlog.get_logger()

_INDEX_OPTIONS_CONFLICT = 85
_INDEX_CONFLICTS = {_INDEX_OPTIONS_CONFLICT, 86}
_INDEX_IN_THE_WAY = (
    "SCHEDULER_EXECUTIONS_COLLECTION: an index of another kind is in the way; drop it"
)
_DUPLICATES = (
    "SCHEDULER_EXECUTIONS_COLLECTION: the collection holds several rows with one execution_id, "
    "written by another program; rename it, or name another one"
)
_FOREIGN_RUN = {"status": Status.RUNNING.value, "owner": {"$not": {"$type": "string"}}}
_FOREIGN_END = {
    "$set": {
        "status": Status.ERROR.value,
        "severity": Severity.ERROR.value,
        "reason": Reason.INTERRUPTED.value,
        "error": "another program began this run and did not record its end",
    },
    "$currentDate": {"completed_at": True},
}
_NOT_COMMON_YET = "the row is not acknowledged by the majority yet: it may be gone with its primary"
_OF_A_STRETCH = ("provisional", "slots_missed", "first_slot", "last_slot")
_MOST_TAKEN = 1_000
_TAKEN_FIELDS = dict.fromkeys(("scheduled_for", "last_slot", "created_at", "provisional"), 1)
_STARTED = {"status": {"$in": [Status.RUNNING, Status.COMPLETED, Status.ERROR]}}

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
)
"""The first unique index makes one row of a slot (so does `_id`, should somebody drop the
collection and with it the indexes); the second makes an overlap impossible."""


class MongoLedger:
    """The port `Ledger` on a real collection."""

    def __init__(self, client: Client, database: str, executions: str, agents: str) -> None:
        self._rows = client[database].get_collection(
            executions,
            write_concern=DURABLE,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        self._agents = client[database].get_collection(
            agents, write_concern=DURABLE, read_preference=ReadPreference.PRIMARY
        )

    async def prepare(self, keep_for: timedelta | None) -> None:
        """Create the indexes, and the one that expires rows after `keep_for`.

        Runs that another program left without an end are closed first: they would forbid ours.
        Raises Unavailable, and Misconfigured where existing rows or indexes are in the way.
        """
        with translated():
            await self._rows.update_many(_FOREIGN_RUN, _FOREIGN_END)
        await self.restore_indexes()
        with translated():
            await self._expire_after(keep_for)

    async def restore_indexes(self) -> None:
        try:
            # An equal index of another name serves as well; creating ours would fail.
            there = [_essence_of(index) async for index in self._rows.list_indexes()]
            missing = [index for index in INDEXES if _essence_of(index.document) not in there]
            if missing:
                await self._rows.create_indexes(missing)
        except DuplicateKeyError as error:
            raise Misconfigured(_DUPLICATES) from error
        except OperationFailure as error:
            if error.code in _INDEX_CONFLICTS:
                text = (error.details or {}).get("errmsg", "")
                raise Misconfigured(f"{_INDEX_IN_THE_WAY}: {text}") from error
            raise translation_of(error) from error
        except PyMongoError as error:
            raise translation_of(error) from error

    async def _expire_after(self, keep_for: timedelta | None) -> None:
        if keep_for is None:
            if "expiry" in await self._rows.index_information():
                await self._rows.drop_index("expiry")
            return
        seconds = int(keep_for.total_seconds())
        try:
            await self._rows.create_index("created_at", name="expiry", expireAfterSeconds=seconds)
        except OperationFailure as error:
            if error.code != _INDEX_OPTIONS_CONFLICT:
                raise
            await self._rows.drop_index("expiry")
            await self._rows.create_index("created_at", name="expiry", expireAfterSeconds=seconds)

    async def open(self, execution: Execution) -> Claim:
        try:
            await self._rows.insert_one(running_row(execution))
        except BSONError as error:
            raise Refused(f"{type(error).__name__}: the driver refuses this row") from error
        except PyMongoError as error:
            # The row may be there all the same, and be ours: an error says nothing (FAULTS 0.8).
            row = await self._row_of(execution.execution_id)
            if row is not None:
                is_running = row.get("status") == Status.RUNNING
                is_ours = row.get("nonce") == execution.nonce and is_running
                return Claim.WON if is_ours else Claim.TAKEN
            if isinstance(error, DuplicateKeyError) and _is_overlap(error):
                return Claim.OVERLAPS
            if isinstance(error, DuplicateKeyError):
                raise Unavailable(_NOT_COMMON_YET) from error
            raise translation_of(error) from error
        return Claim.WON

    async def note_attempts(self, execution: Execution, attempts: Sequence[Attempt]) -> bool:
        with translated():
            noted = await self._rows.update_one(
                _running(execution), {"$set": {"attempts": attempts_of(attempts)}}
            )
        return noted.matched_count == 1

    async def take_over(self, orphan: Execution, execution: Execution) -> bool:
        ours = {
            "owner": execution.owner,
            "nonce": execution.nonce,
            "attempts": attempts_of(execution.attempts),
        }
        with translated():
            # As it was found: its owner may have woken up, and begun another call.
            found = {**_running(orphan), "attempts": attempts_of(orphan.attempts)}
            taken = await self._rows.update_one(found, {"$set": ours})
        return taken.matched_count == 1

    async def withdraw(self, execution: Execution) -> None:
        with translated():
            await self._rows.delete_one(_running(execution))

    async def record(self, not_run: NotRun) -> bool:
        row = final_row(not_run)
        with translated():
            try:
                await self._rows.insert_one(row)
            except DuplicateKeyError as error:
                del row["_id"]
                if await self._is_rewritten(not_run, row):
                    return True
                if await self._row_of(not_run.execution_id) is None:
                    raise Unavailable(_NOT_COMMON_YET) from error
                return False
        return True

    async def _is_rewritten(self, not_run: NotRun, row: Mapping[str, Any]) -> bool:
        """Write over what this replica has left of a try that seemed lost: a claim, a stretch."""
        ours = {"_id": not_run.execution_id, "owner": not_run.owner}
        claimed = {"status": Status.RUNNING.value, "nonce": not_run.nonce}
        recorded = {"status": row["status"], "reason": row["reason"], "last_slot": None}
        tries = [claimed, {"provisional": True}, *([] if not_run.stretch else [recorded])]
        gone = {name: "" for name in ("nonce", *_OF_A_STRETCH) if name not in row}
        left = await self._rows.update_one(
            {**ours, "$or": tries}, {"$set": row, **({"$unset": gone} if gone else {})}
        )
        return left.matched_count == 1

    async def confirm(self, not_run: NotRun) -> None:
        row = {"execution_id": not_run.execution_id, "owner": not_run.owner}
        with translated():
            await self._rows.update_one(
                {**row, "provisional": True},
                {"$set": stretch_of(not_run.stretch), "$unset": {"provisional": ""}},
            )

    async def discard(self, not_run: NotRun) -> None:
        row = {"execution_id": not_run.execution_id, "owner": not_run.owner}
        with translated():
            await self._rows.delete_one({**row, "status": not_run.status.value})

    async def close(self, execution: Execution, key: DocumentKey | None, outcome: Outcome) -> bool:
        end = {**end_of(execution, outcome), "counted": False}
        with translated():
            closed = await self._rows.update_one(_running(execution), {"$set": end})
            if closed.modified_count == 0:
                # By somebody else's hand, or by ours in a try that seemed lost.
                done = {
                    **_running(execution),
                    "status": outcome.status.value,
                    "completed_at": outcome.completed_at,
                }
                if await self._rows.find_one(done, {"_id": 1}) is None:
                    return False
        run = CountedRun(execution.execution_id, outcome.severity, outcome.completed_at)
        await self._count(execution.agent_id, key, run)
        return True

    async def _count(self, agent_id: str, key: DocumentKey | None, run: CountedRun) -> None:
        """Count a run, once however often this is asked for, then take the mark off its row.

        No transaction: one that a killed process leaves open locks the agent's document for a
        minute, for every writer.
        """
        agent = {"agent_id": agent_id} if key is None else {"_id": id_of(key), "agent_id": agent_id}
        try:
            with translated():
                await self._agents.update_one(agent, counted(run))
        except Refused as refused:
            # A document that refuses its statistics (a validator of the user's) does without.
            log.warning("stats_refused", agent_id=agent_id, error=str(refused))
        with translated():
            row = {"execution_id": run.execution_id}
            await self._rows.update_one(row, {"$unset": {"counted": ""}})

    async def count_forgotten(self, before: datetime) -> int:
        wanted = {
            "counted": False,
            "completed_at": {"$lt": before},
            "councilor_id": {"$type": "string"},
            "execution_id": {"$type": "string"},
            "severity": {"$in": [severity.value for severity in Severity]},
        }
        fields = {"execution_id": 1, "councilor_id": 1, "severity": 1, "completed_at": 1}
        with translated():
            rows = [row async for row in self._rows.find(wanted, fields)]
        for row in rows:
            severity = Severity(row["severity"])
            run = CountedRun(row["execution_id"], severity, row["completed_at"])
            await self._count(row["councilor_id"], None, run)
        return len(rows)

    async def running_owner(self, agent_id: str) -> str | None:
        wanted = {"councilor_id": agent_id, "status": Status.RUNNING.value}
        with translated():
            row = await self._rows.find_one(wanted, {"owner": 1})
        owner = row.get("owner") if row is not None else None
        return owner if isinstance(owner, str) else None

    async def taken(self, agent_id: str, since: datetime) -> Sequence[TakenSlots]:
        wanted = {
            "councilor_id": agent_id,
            "trigger": {"$ne": Trigger.MANUAL.value},
            "scheduled_for": {"$type": "date"},
            "$or": [{"scheduled_for": {"$gte": since}}, {"last_slot": {"$gte": since}}],
        }
        with translated():
            rows = self._rows.find(wanted, _TAKEN_FIELDS)
            earliest = rows.sort("scheduled_for", ASCENDING).limit(_MOST_TAKEN)
            return [taken_by(row) async for row in earliest]

    async def known(self, execution_ids: Sequence[str]) -> frozenset[str]:
        wanted = {"execution_id": {"$in": list(execution_ids)}}
        with translated():
            rows = self._rows.find(wanted, {"execution_id": 1})
            return frozenset([row["execution_id"] async for row in rows])

    async def latest(self, agent_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        found = [await self._latest_start(agent_id) for agent_id in agent_ids]
        return {row.agent_id: row for row in found if row is not None}

    async def _latest_start(self, agent_id: str) -> LedgerRow | None:
        started = {"councilor_id": agent_id, **_STARTED}
        with translated():
            row = await self._rows.find_one(
                started, {"output": 0}, sort=[("started_at", DESCENDING)]
            )
        return None if row is None else shown(row)

    async def history(self, agent_id: str, limit: int) -> Sequence[LedgerRow]:
        with translated():
            rows = self._rows.find({"councilor_id": agent_id})
            latest_first = rows.sort("scheduled_for", DESCENDING).limit(limit)
            return [shown(row) async for row in latest_first]

    async def running_of_others(self, alive: Collection[str]) -> Sequence[Execution]:
        return await self._running_rows({"$type": "string", "$nin": list(alive)})

    async def running_of(self, owner: str) -> Sequence[Execution]:
        return await self._running_rows(owner)

    async def _running_rows(self, owner: object) -> Sequence[Execution]:
        with translated():
            rows = self._rows.find({"status": Status.RUNNING, "owner": owner}, {"output": 0})
            return [execution_of(row) async for row in rows if is_ours(row)]

    async def _row_of(self, execution_id: str) -> Mapping[str, Any] | None:
        with translated():
            return await self._rows.find_one({"execution_id": execution_id})


def _running(execution: Execution) -> dict[str, Any]:
    """Match the row of a run as long as it is running and its owner's."""
    return {
        "execution_id": execution.execution_id,
        "owner": execution.owner,
        "nonce": execution.nonce,
        "status": Status.RUNNING.value,
    }


def _essence_of(index: Mapping[str, Any]) -> tuple[Any, ...]:
    partial = index.get("partialFilterExpression", {})
    return list(index["key"].items()), bool(index.get("unique")), dict(partial)


def _is_overlap(error: DuplicateKeyError) -> bool:
    details = error.details or {}
    return "councilor_id" in details.get("keyPattern", {})
