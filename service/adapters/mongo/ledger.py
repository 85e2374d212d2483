"""The collection `councilor_executions`: one row a slot; the unique index decides who runs it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import InsertOne, ReadPreference, UpdateOne
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from service.adapters.mongo.bulks import UNWRITABLE, Failure, meaning_of, write_all
from service.adapters.mongo.client import DURABLE, Client, translated
from service.adapters.mongo.endings import Count, Ending, Endings
from service.adapters.mongo.indexes import INDEX_CONFLICTS, expire_after, restore_indexes
from service.adapters.mongo.keys import LENIENT
from service.adapters.mongo.rows import (
    attempts_of,
    execution_of,
    final_row,
    is_ours,
    running_filter,
    running_row,
    stretch_of,
)
from service.adapters.mongo.stats import CountedRun
from service.adapters.mongo.taken import TakenRows
from service.batching import Batcher, BatchPolicy
from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    NotRun,
    Outcome,
    Reason,
    Status,
)
from service.domain.severity import Severity
from service.ports import Misconfigured, ServiceError, TakenSlots, Unavailable

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
_NO_COLLECTION = (
    "SCHEDULER_EXECUTIONS_COLLECTION: this is a view, or a time-series collection; name another one"
)
_OF_A_STRETCH = ("provisional", "slots_missed", "first_slot", "last_slot")
_SINGLES_AT_ONCE = 8
_CLOSINGS = BatchPolicy(distance_seconds=0.02)
"""Each batch takes three commands, more where it fails, and nobody waits for it."""


class MongoLedger:
    """The port `Ledger` on a real collection."""

    def __init__(self, client: Client, database: str, executions: str, agents: str) -> None:
        self._rows = client[database].get_collection(
            executions,
            write_concern=DURABLE,
            read_concern=ReadConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )
        # So that one row of another program's, which cannot be decoded, hides no other.
        self._read = self._rows.with_options(codec_options=LENIENT)
        self._agents = client[database].get_collection(
            agents, write_concern=DURABLE, read_preference=ReadPreference.PRIMARY
        )
        self._keep_for: timedelta | None = None
        self._expiry_is_lost = False
        self._endings = Endings(self._rows, self._agents)
        # What many slots ask for at the same time is sent as one (DESIGN decision 12).
        self._inserts: Batcher[dict[str, Any], None] = Batcher(self._insert_all)
        self._closings = Batcher(
            self._endings.close_all, weight=lambda ending: ending.weight, policy=_CLOSINGS
        )
        self._lookups = Batcher(self._look_up)
        self._owners = Batcher(self._running_owners)
        self._taken = TakenRows(self._read)
        self._earliest = Batcher(self._taken.since)
        self._confirmations = Batcher(self._confirm_all)
        self._notes = Batcher(self._note_one, most=1, at_once=_SINGLES_AT_ONCE)

    async def prepare(self, keep_for: timedelta | None) -> None:
        """Create the indexes, and the one that expires rows after `keep_for`.

        Runs that another program left without an end are closed first: they would forbid ours.
        Raises Unavailable, and Misconfigured where existing rows or indexes are in the way.
        """
        with translated():
            try:
                await self._rows.update_many(_FOREIGN_RUN, _FOREIGN_END)
            except OperationFailure as error:
                if error.code not in INDEX_CONFLICTS:
                    raise
                raise Misconfigured(_NO_COLLECTION) from error
        self._keep_for, self._expiry_is_lost = keep_for, True
        await self.restore_indexes()

    async def restore_indexes(self) -> None:
        # Not where the expiry alone is gone: a replica under newer settings may have ended it.
        self._expiry_is_lost |= await restore_indexes(self._rows)
        if self._expiry_is_lost:
            await expire_after(self._rows, self._keep_for, "SCHEDULER_EXECUTION_TTL")
            self._expiry_is_lost = False

    async def open_all(self, executions: Sequence[Execution]) -> list[Claim | ServiceError]:
        written = await write_all(
            self._rows, [InsertOne(running_row(execution)) for execution in executions]
        )
        if written.is_whole:
            return [Claim.WON] * len(executions)
        failed = [
            execution.execution_id
            for execution, failure in zip(executions, written.failures, strict=True)
            if isinstance(failure, PyMongoError)
        ]
        try:
            # A row may be there all the same, and be ours: an error says nothing (FAULTS 0.8).
            rows = dict(zip(failed, await self._look_up(failed), strict=True))
        except ServiceError as error:
            return [error if failure else Claim.WON for failure in written.failures]
        return [
            _claim_of(execution, failure, rows.get(execution.execution_id))
            for execution, failure in zip(executions, written.failures, strict=True)
        ]

    async def _insert_all(self, rows: Sequence[dict[str, Any]]) -> Sequence[Exception | None]:
        written = await write_all(self._rows, [InsertOne(row) for row in rows])
        return written.failures

    async def note_attempts(self, execution: Execution, attempts: Sequence[Attempt]) -> bool:
        return await self._notes.ask((execution, attempts))

    async def _note_one(
        self, asked: Sequence[tuple[Execution, Sequence[Attempt]]]
    ) -> Sequence[bool]:
        ((execution, attempts),) = asked
        with translated():
            noted = await self._rows.update_one(
                running_filter(execution), {"$set": {"attempts": attempts_of(attempts)}}
            )
        return [noted.matched_count == 1]

    async def take_over(self, orphan: Execution, execution: Execution) -> bool:
        ours = {
            "owner": execution.owner,
            "nonce": execution.nonce,
            "attempts": attempts_of(execution.attempts),
        }
        with translated():
            # As it was found: its owner may have woken up, and begun another call.
            found = {**running_filter(orphan), "attempts": attempts_of(orphan.attempts)}
            taken = await self._rows.update_one(found, {"$set": ours})
        return taken.matched_count == 1

    async def withdraw(self, execution: Execution) -> None:
        with translated():
            await self._rows.delete_one(running_filter(execution))

    async def record(self, not_run: NotRun) -> bool:
        row = final_row(not_run)
        try:
            await self._inserts.ask(row)
        except DuplicateKeyError as error:
            del row["_id"]
            with translated():
                if await self._is_rewritten(not_run, row):
                    return True
            if await self._lookups.ask(not_run.execution_id) is None:
                raise Unavailable(_NOT_COMMON_YET) from error
            return False
        except (PyMongoError, *UNWRITABLE) as error:
            raise meaning_of(error) from error
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
        await self._confirmations.ask(not_run)

    async def _confirm_all(self, rows: Sequence[NotRun]) -> Sequence[ServiceError | None]:
        updates = [
            UpdateOne(
                {"execution_id": row.execution_id, "owner": row.owner, "provisional": True},
                {"$set": stretch_of(row.stretch), "$unset": {"provisional": ""}},
            )
            for row in rows
        ]
        written = await write_all(self._rows, updates)
        return [meaning_of(failure) if failure else None for failure in written.failures]

    async def discard(self, not_run: NotRun) -> None:
        row = {"execution_id": not_run.execution_id, "owner": not_run.owner}
        with translated():
            await self._rows.delete_one({**row, "status": not_run.status.value})

    async def close(
        self,
        execution: Execution,
        key: DocumentKey | None,
        outcome: Outcome,
        stats: object = None,
    ) -> bool:
        return await self._closings.ask(Ending(execution, key, outcome, stats))

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
        counts = [
            Count(
                row["councilor_id"],
                None,
                CountedRun(row["execution_id"], Severity(row["severity"]), row["completed_at"]),
            )
            for row in rows
        ]
        for trouble in await self._endings.count_all(counts):
            if trouble is not None:
                raise trouble
        return len(rows)

    async def running_owner(self, agent_id: str) -> str | None:
        return await self._owners.ask(agent_id)

    async def _running_owners(self, agent_ids: Sequence[str]) -> Sequence[str | None]:
        wanted = {"councilor_id": {"$in": list(agent_ids)}, "status": Status.RUNNING.value}
        with translated():
            rows = self._read.find(wanted, {"councilor_id": 1, "owner": 1})
            owners = {str(row["councilor_id"]): row.get("owner") async for row in rows}
        said = (owners.get(agent_id) for agent_id in agent_ids)
        return [owner if isinstance(owner, str) else None for owner in said]

    async def taken(self, agent_id: str, since: datetime) -> Sequence[TakenSlots]:
        return await self._earliest.ask((agent_id, since))

    async def known(self, execution_ids: Sequence[str]) -> frozenset[str]:
        wanted = {"execution_id": {"$in": list(execution_ids)}}
        with translated():
            rows = self._rows.find(wanted, {"execution_id": 1})
            return frozenset([row["execution_id"] async for row in rows])

    async def running_of_others(self, alive: Collection[str]) -> Sequence[Execution]:
        return await self._running_rows({"$type": "string", "$nin": list(alive)})

    async def running_of(self, owner: str) -> Sequence[Execution]:
        return await self._running_rows(owner)

    async def _running_rows(self, owner: object) -> Sequence[Execution]:
        with translated():
            rows = self._rows.find({"status": Status.RUNNING, "owner": owner}, {"output": 0})
            return [execution_of(row) async for row in rows if is_ours(row)]

    async def _look_up(self, execution_ids: Sequence[str]) -> Sequence[Mapping[str, Any] | None]:
        wanted = {"execution_id": {"$in": list(execution_ids)}}
        with translated():
            fields = dict.fromkeys(("execution_id", "status", "nonce"), 1)
            found = self._read.find(wanted, fields)
            rows = {str(row["execution_id"]): row async for row in found}
        return [rows.get(execution_id) for execution_id in execution_ids]

    async def covering(
        self, slots: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots]]:
        return await self._taken.covering(slots)


def _claim_of(
    execution: Execution, failure: Failure | None, row: Mapping[str, Any] | None
) -> Claim | ServiceError:
    """What became of a claim; where it was answered by an error, from the row that is there."""
    if failure is None:
        return Claim.WON
    if row is not None:
        is_running = row.get("status") == Status.RUNNING
        is_ours = row.get("nonce") == execution.nonce and is_running
        return Claim.WON if is_ours else Claim.TAKEN
    if isinstance(failure, DuplicateKeyError):
        return Claim.OVERLAPS if _is_overlap(failure) else Unavailable(_NOT_COMMON_YET)
    return meaning_of(failure)


def _is_overlap(error: DuplicateKeyError) -> bool:
    details = error.details or {}
    return "councilor_id" in details.get("keyPattern", {})
