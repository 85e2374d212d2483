"""One fake per port; each obeys the contract test of its port."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from service.adapters.mongo.keys import key_of
from service.domain.councilor import DocumentKey
from service.domain.digest import Message
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    Fire,
    NotRun,
    Order,
    Outcome,
    Status,
    Trigger,
    milliseconds,
)
from service.domain.jobs import AgentDocument, Job, JobState, Listed, StoredJob, stored_of
from service.domain.notification import Delivery, Entry, Notification, Target
from service.domain.severity import Severity
from service.domain.verdict import (
    REMEMBERED_STATES,
    Verdict,
    error_of,
    explanation_of,
    upcoming_slots,
)
from service.ports import (
    Answer,
    Changed,
    EndedRuns,
    Fired,
    HistoryQuery,
    LedgerRow,
    Refused,
    ServerState,
    ServiceError,
    TakenSlots,
    Told,
    Unavailable,
    UnknownRow,
    WatchLost,
)

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)

_JUDGED = ("agent_id", "is_councilor", "councilor_config")


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def advance(self, duration: timedelta) -> None:
        self.now += duration


class Outage:
    """Makes a fake database unavailable while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False

    def check(self) -> None:
        if self.is_on:
            raise Unavailable("the fake database is down")


def listed(document: AgentDocument) -> Listed:
    """A document as a listing has it."""
    return Listed(document.key, document.digest or b"", lambda: document)


class FakeAgents:
    """`agents` in memory. `collection` is what writers see; `change` writes as one of them."""

    def __init__(self, clock: FakeClock) -> None:
        self.collection: dict[DocumentKey, dict[str, Any]] = {}
        self.outage = Outage()
        self.opened = 0
        self.reads: list[DocumentKey] = []
        self.refuses_status = False
        self.position: datetime | None = None
        self.history: dict[DocumentKey, list[tuple[datetime, Mapping[str, Any] | None]]] = {}
        """What each document was, and since when."""
        self._clock = clock
        self._events: asyncio.Queue[Changed | WatchLost] = asyncio.Queue()

    def change(self, document_id: object, fields: Mapping[str, object] | None) -> DocumentKey:
        """Replace a document, or delete it, and let the watch tell of it."""
        key = key_of(document_id)
        if fields is None:
            self.collection.pop(key, None)
        else:
            self.collection[key] = {"_id": document_id, **deepcopy(dict(fields))}
        past = self.history.setdefault(key, [])
        past.append((self._clock(), deepcopy(self.collection.get(key))))
        self._events.put_nowait(Changed(key, "delete" if fields is None else "replace"))
        return key

    def lose_watch(self, reason: str) -> None:
        self._events.put_nowait(WatchLost(reason, f"lost by the test: {reason}"))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator["FakeAgents"]:
        self.outage.check()
        self.opened += 1
        self._events = asyncio.Queue()
        yield self

    async def documents(self) -> AsyncIterator[Sequence[Listed]]:
        self.outage.check()
        for key, fields in list(self.collection.items()):
            concerns_us = {"councilor_status", "councilor_run_requested_at"} & fields.keys()
            if fields.get("is_councilor") not in (None, False) or concerns_us:
                document = self._read(key)
                yield [listed(document)]

    async def changes(self) -> Sequence[Changed]:
        event = await self._events.get()
        if isinstance(event, WatchLost):
            raise event
        return [event]

    async def read(
        self, keys: Sequence[DocumentKey], *, with_stats: bool = False
    ) -> Sequence[AgentDocument]:
        self.outage.check()
        self.reads.extend(keys)
        return [self._read(key) for key in keys]

    async def look(self, keys: Sequence[DocumentKey]) -> Sequence[AgentDocument]:
        return await self.read(keys)

    async def as_of(
        self, asked: Sequence[tuple[AgentDocument, Sequence[datetime]]]
    ) -> Sequence[Sequence[AgentDocument | None]]:
        self.outage.check()
        return [
            [self._as_of(document.key, instant) for instant in instants]
            for document, instants in asked
        ]

    def _as_of(self, key: DocumentKey, instant: datetime) -> AgentDocument | None:
        past = [(at, fields) for at, fields in self.history.get(key, ()) if at < instant]
        if not past:
            return None
        fields = max(past, key=lambda entry: entry[0])[1]
        return AgentDocument(key, None if fields is None else deepcopy(dict(fields)))

    async def find(self, agent_ids: Sequence[str] | None) -> Sequence[AgentDocument]:
        self.outage.check()
        return [
            self._read(key)
            for key, fields in self.collection.items()
            if (agent_ids is None and fields.get("is_councilor") not in (None, False))
            or (agent_ids is not None and fields.get("agent_id") in agent_ids)
        ]

    async def write_verdicts(
        self, verdicts: Sequence[tuple[AgentDocument, Verdict]]
    ) -> Mapping[DocumentKey, Told | None]:
        self.outage.check()
        told: dict[DocumentKey, Told | None] = {}
        for document, verdict in verdicts:
            fields = self.collection.get(document.key)
            if fields is not None and self._revision(fields) == document.revision:
                read = (document.fields or {}).get("councilor_status")
                seen = read if isinstance(read, Mapping) else {}
                fields["councilor_status"] = self._status(fields, verdict, seen)
            status = (fields or {}).get("councilor_status") or {}
            if status.get("spec_hash") == verdict.spec_hash and status["accepted_at"] is not None:
                told[document.key] = Told(self._read(document.key), status["accepted_at"])
        return told

    async def leave_out(self, document: AgentDocument, slot: datetime) -> None:
        self.outage.check()
        if self.refuses_status:
            raise Refused("Document failed validation")
        fields = self.collection.get(document.key)
        if fields is not None and self._revision(fields) == document.revision:
            status = fields.get("councilor_status")
            there = status if isinstance(status, dict) else {}
            fields["councilor_status"] = {**there, "skipped_slot": slot}

    async def clear_verdicts(self, keys: Sequence[DocumentKey]) -> None:
        self.outage.check()
        for key in keys:
            if (fields := self.collection.get(key)) and not fields.get("is_councilor"):
                fields.pop("councilor_status", None)

    async def edit(
        self, agent_id: str, changes: Mapping[str, object], *, councilors_only: bool = False
    ) -> bool:
        self.outage.check()
        for fields in self.collection.values():
            is_wanted = fields.get("is_councilor") or not councilors_only
            if fields.get("agent_id") == agent_id and is_wanted:
                for path, value in {**changes, "updated_at": self._clock()}.items():
                    _set(fields, path.split("."), value)
                return True
        return False

    async def ping(self) -> None:
        self.outage.check()

    def _read(self, key: DocumentKey) -> AgentDocument:
        fields = self.collection.get(key)
        if fields is None:
            return AgentDocument(key, None)
        said = {name: value for name, value in fields.items() if name != "stats"}
        digest = hashlib.sha256(repr(said).encode("utf-8", "backslashreplace")).digest()
        return AgentDocument(key, deepcopy(fields), self._revision(fields), digest=digest)

    def _revision(self, fields: Mapping[str, object]) -> object:
        return deepcopy({name: fields[name] for name in _JUDGED if name in fields})

    def _status(
        self, fields: Mapping[str, Any], verdict: Verdict, read: Mapping[str, Any]
    ) -> dict[str, Any]:
        old = fields.get("councilor_status") or {}
        accepted_at = old.get("accepted_at") if old.get("spec_hash") == verdict.spec_hash else None
        if accepted_at is None:
            accepted_at = verdict.carried_at or (self._clock() if verdict.spec else None)
        runs, skipped = list[datetime](), self._skipped(old, verdict, read)
        if verdict.state is JobState.SCHEDULED and verdict.spec and accepted_at:
            runs = [*upcoming_slots(verdict.spec.timetable(accepted_at), self._clock(), 6)]
            skipped = runs[0] if verdict.skips_first and skipped is None else skipped
        explanation = verdict.explanation
        if verdict.spec and skipped is not None:
            explanation = explanation_of(verdict.spec, skipped, self._clock())
        return {
            "state": verdict.state.value,
            "spec_hash": verdict.spec_hash,
            "accepted_at": accepted_at,
            "error": error_of(verdict.problem),
            "explanation": explanation,
            "timezone": verdict.timezone,
            "next_runs": [slot for slot in runs if slot != skipped][:5],
            **({"skipped_slot": skipped} if skipped is not None else {}),
            "observed_at": self._clock(),
            "history": self._states(old.get("history") or [], verdict),
        }

    def _states(self, there: list[dict[str, Any]], verdict: Verdict) -> list[dict[str, Any]]:
        error = {"error": verdict.problem.message} if verdict.problem is not None else {}
        last = {"error": None, **there[-1]} if there else {}
        if last and (last["state"], last["error"]) == (verdict.state, error.get("error")):
            return there
        since = {"state": verdict.state.value, "since": self._clock(), **error}
        return [*there, since][-REMEMBERED_STATES:]

    def _skipped(
        self, old: Mapping[str, Any], verdict: Verdict, read: Mapping[str, Any]
    ) -> datetime | None:
        there: datetime | None = old.get("skipped_slot")
        if verdict.spec is not None and not verdict.spec.skip_next:
            return None
        is_another = there is not None and there != read.get("skipped_slot")
        return there if is_another else verdict.skipped_slot


def _set(fields: dict[str, Any], path: Sequence[str], value: object) -> None:
    for name in path[:-1]:
        fields = fields.setdefault(name, {})
    if value is None:
        fields.pop(path[-1], None)
    else:
        fields[path[-1]] = value


class FakeLedger:
    """`councilor_executions` in memory, with both unique indexes."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.counted: list[tuple[str, Severity]] = []
        self.outage = Outage()
        self.noted: list[list[str | None]] = []
        """The errors of the attempts, each time that they were put on record."""
        self.recorded: Callable[[], None] | None = None
        """Called when a row was recorded, before the answer arrives."""
        self.opened: Callable[[], None] | None = None
        """Called when a claim is won, before its answer arrives."""

    async def open_all(self, executions: Sequence[Execution]) -> Sequence[Claim | ServiceError]:
        answers: list[Claim | ServiceError] = []
        for execution in executions:
            try:
                answers.append(await self.open(execution))
            except ServiceError as error:
                answers.append(error)
        return answers

    async def open(self, execution: Execution) -> Claim:
        """What becomes of one; tests put their own in its place."""
        self.outage.check()
        if (row := self.rows.get(execution.execution_id)) is not None:
            is_ours = row.get("nonce") == execution.nonce and row["status"] == Status.RUNNING
            return Claim.WON if is_ours else Claim.TAKEN
        if any(
            row["status"] == Status.RUNNING and row["councilor_id"] == execution.agent_id
            for row in self.rows.values()
        ):
            return Claim.OVERLAPS
        self.rows[execution.execution_id] = {
            "execution_id": execution.execution_id,
            "councilor_id": execution.agent_id,
            "scheduled_for": execution.scheduled_for,
            "trigger": execution.trigger,
            "status": Status.RUNNING,
            "severity": None,
            "reason": None,
            "started_at": execution.started_at,
            "owner": execution.owner,
            "nonce": execution.nonce,
            "spec_hash": execution.spec_hash,
            "attempts": execution.attempts,
        }
        if self.opened is not None:
            self.opened()
        return Claim.WON

    async def note_attempts(self, execution: Execution, attempts: Sequence[Attempt]) -> bool:
        self.outage.check()
        row = self._running_row(execution)
        if row is not None:
            row["attempts"] = tuple(attempts)
            self.noted.append([attempt.error for attempt in attempts])
        return row is not None

    async def take_over(self, orphan: Execution, execution: Execution) -> bool:
        self.outage.check()
        row = self._running_row(orphan)
        if row is not None and row["attempts"] != orphan.attempts:
            return False
        if row is not None:
            row |= {"owner": execution.owner, "nonce": execution.nonce}
            row["attempts"] = execution.attempts
        return row is not None

    def _running_row(self, execution: Execution) -> dict[str, Any] | None:
        row = self.rows.get(execution.execution_id, {})
        is_its = (row.get("owner"), row.get("nonce")) == (execution.owner, execution.nonce)
        return row if is_its and row["status"] == Status.RUNNING else None

    async def withdraw(self, execution: Execution) -> None:
        self.outage.check()
        row = self.rows.get(execution.execution_id, {})
        if row.get("nonce") == execution.nonce and row["status"] == Status.RUNNING:
            del self.rows[execution.execution_id]

    async def record(self, not_run: NotRun) -> bool:
        self.outage.check()
        there = self.rows.get(not_run.execution_id)
        if there is not None:
            is_claim = there["status"] == Status.RUNNING and there["nonce"] == not_run.nonce
            is_same = (there["status"], there["reason"]) == (not_run.status, not_run.reason)
            is_single = not_run.stretch is None and "last_slot" not in there
            is_left = is_claim or there.get("provisional", False) or (is_same and is_single)
            if there["owner"] != not_run.owner or not is_left:
                return False
        row: dict[str, Any] = {
            "execution_id": not_run.execution_id,
            "councilor_id": not_run.agent_id,
            "scheduled_for": not_run.scheduled_for,
            "trigger": not_run.trigger,
            "status": not_run.status,
            "severity": Severity.WARNING,
            "reason": not_run.reason,
            "started_at": None,
            "owner": not_run.owner,
            "at": not_run.at,
        }
        if (stretch := not_run.stretch) is not None:
            row |= {"slots_missed": stretch.count, "first_slot": stretch.first}
            row |= {"last_slot": stretch.last, "provisional": stretch.count > 1}
        self.rows[not_run.execution_id] = row
        if self.recorded is not None:
            self.recorded()
        return True

    async def close(
        self,
        execution: Execution,
        key: DocumentKey | None,
        outcome: Outcome,
        stats: object = None,
    ) -> bool:
        self.outage.check()
        row = self.rows.get(execution.execution_id)
        if row is None or (row.get("owner"), row.get("nonce")) != (
            execution.owner,
            execution.nonce,
        ):
            return False
        if row["status"] != Status.RUNNING:
            return bool(row["completed_at"] == outcome.completed_at)
        row |= {
            "status": outcome.status,
            "severity": outcome.severity,
            "reason": outcome.reason,
            "completed_at": outcome.completed_at,
            "duration_ms": milliseconds(outcome.completed_at - execution.started_at),
            "output": outcome.output,
            "error": outcome.error,
            "attempts": outcome.attempts,
        }
        self.counted.append((execution.agent_id, outcome.severity))
        return True

    async def count_forgotten(self, before: datetime) -> int:
        self.outage.check()
        return 0  # nothing dies between the two steps of a fake

    async def restore_indexes(self) -> None:
        self.outage.check()

    async def running_owner(self, agent_id: str) -> str | None:
        self.outage.check()
        owners = [row["owner"] for row in self._running() if row["councilor_id"] == agent_id]
        return owners[0] if owners else None

    async def taken(self, agent_id: str, since: datetime) -> Sequence[TakenSlots]:
        self.outage.check()
        slots = [
            TakenSlots(
                row["scheduled_for"],
                row.get("last_slot") or row["scheduled_for"],
                row["at"] if row.get("provisional") else None,
            )
            for row in self.rows.values()
            if row["councilor_id"] == agent_id and row["trigger"] != Trigger.MANUAL
        ]
        return sorted((s for s in slots if s.last >= since), key=lambda slots: slots.first)

    async def covering(
        self, slots: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots]]:
        return [
            [row for row in await self.taken(agent_id, slot) if row.covers(slot)]
            for agent_id, slot in slots
        ]

    async def discard(self, not_run: NotRun) -> None:
        self.outage.check()
        row = self.rows.get(not_run.execution_id, {})
        if (row.get("owner"), row.get("status")) == (not_run.owner, not_run.status):
            del self.rows[not_run.execution_id]

    async def confirm(self, not_run: NotRun) -> None:
        self.outage.check()
        row = self.rows.get(not_run.execution_id, {})
        if row.get("owner") != not_run.owner or not_run.stretch is None:
            return
        if row.pop("provisional", False):
            row |= {"slots_missed": not_run.stretch.count, "last_slot": not_run.stretch.last}

    async def known(self, execution_ids: Sequence[str]) -> frozenset[str]:
        self.outage.check()
        return frozenset(execution_ids) & self.rows.keys()

    async def prepare(self) -> None:
        self.outage.check()

    async def page(self, agent_id: str, query: HistoryQuery) -> Sequence[LedgerRow]:
        self.outage.check()
        rows = [
            row
            for row in sorted(self._rows_of([agent_id]), key=_by_slot, reverse=True)
            if query.status in (None, row["status"]) and query.severity in (None, row["severity"])
        ]
        if query.after is not None:
            ids = [row["execution_id"] for row in rows]
            if query.after not in ids:
                raise UnknownRow(query.after)
            rows = rows[ids.index(query.after) + 1 :]
        look = _shown if query.is_whole else _preview
        return [look(row) for row in rows[: query.limit]]

    async def row(self, agent_id: str, execution_id: str) -> LedgerRow | None:
        self.outage.check()
        row = self.rows.get(execution_id)
        return _shown(row) if row is not None and row["councilor_id"] == agent_id else None

    async def slot_at(self, agent_id: str, instant: datetime) -> LedgerRow | None:
        return self._latest_slot(agent_id, instant, is_manual=False)

    async def request_at(
        self, agent_id: str, since: datetime, instant: datetime
    ) -> LedgerRow | None:
        row = self._latest_slot(agent_id, instant, is_manual=True)
        is_recent = (
            row is not None and self.rows[str(row.fields["execution_id"])]["scheduled_for"] >= since
        )
        return row if is_recent else None

    def _latest_slot(
        self, agent_id: str, instant: datetime, *, is_manual: bool
    ) -> LedgerRow | None:
        self.outage.check()
        rows = [
            row
            for row in sorted(self._rows_of([agent_id]), key=_by_slot, reverse=True)
            if row["scheduled_for"] <= instant and (row["trigger"] == Trigger.MANUAL) is is_manual
        ]
        return _shown(rows[0]) if rows else None

    async def latest(self, agent_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        self.outage.check()
        latest: dict[str, LedgerRow] = {}
        for row in sorted(self._rows_of(agent_ids), key=lambda row: str(row["started_at"])):
            if row["started_at"] is not None:
                latest[row["councilor_id"]] = _shown(row)
        return latest

    async def recent(
        self, agent_ids: Sequence[str], count: int
    ) -> Mapping[str, Sequence[LedgerRow]]:
        self.outage.check()
        rows = sorted(self._rows_of(agent_ids), key=_by_slot, reverse=True)
        return {
            agent_id: [_shown(row) for row in rows if row["councilor_id"] == agent_id][:count]
            for agent_id in agent_ids
        }

    async def ended(
        self, since: datetime, before: datetime, bucket_seconds: int
    ) -> Sequence[EndedRuns]:
        self.outage.check()
        counts: Counter[tuple[datetime, str, str]] = Counter()
        durations: Counter[tuple[datetime, str, str]] = Counter()
        for row in self.rows.values():
            ended_at = row.get("completed_at") or row.get("at")
            if ended_at is not None and since <= ended_at < before:
                first = int(ended_at.timestamp()) // bucket_seconds * bucket_seconds
                key = (datetime.fromtimestamp(first, UTC), row["status"], row["severity"])
                counts[key] += 1
                durations[key] += row.get("duration_ms") or 0
        return [EndedRuns(*key, count, durations[key]) for key, count in counts.items()]

    async def running_of_others(self, alive: Collection[str]) -> Sequence[Execution]:
        self.outage.check()
        return [_execution(row) for row in self._running() if row["owner"] not in alive]

    async def running_of(self, owner: str) -> Sequence[Execution]:
        self.outage.check()
        return [_execution(row) for row in self._running() if row["owner"] == owner]

    def _rows_of(self, agent_ids: Sequence[str]) -> list[dict[str, Any]]:
        return [row for row in self.rows.values() if row["councilor_id"] in agent_ids]

    def _running(self) -> list[dict[str, Any]]:
        return [row for row in self.rows.values() if row["status"] == Status.RUNNING]


def _by_slot(row: Mapping[str, Any]) -> tuple[datetime, str]:
    return row["scheduled_for"], row["execution_id"]


def _preview(row: Mapping[str, Any]) -> LedgerRow:
    output = row.get("output")
    return _shown({**row, **({"output": output[:4_000]} if output else {})})


def _shown(row: Mapping[str, Any]) -> LedgerRow:
    fields = {name: value for name, value in row.items() if name != "nonce"}
    return LedgerRow(row["councilor_id"], fields)


def _execution(row: Mapping[str, Any]) -> Execution:
    return Execution(
        execution_id=row["execution_id"],
        agent_id=row["councilor_id"],
        scheduled_for=row["scheduled_for"],
        trigger=row["trigger"],
        spec_hash=row["spec_hash"],
        owner=row["owner"],
        nonce=row["nonce"],
        started_at=row["started_at"],
        attempts=row["attempts"],
    )


class FakeStoredJobs:
    """`apscheduler_jobs` in memory."""

    def __init__(self) -> None:
        self.jobs: dict[str, StoredJob] = {}
        self.outage = Outage()

    async def load(self) -> dict[str, StoredJob]:
        self.outage.check()
        return dict(self.jobs)

    async def save(self, jobs: Sequence[Job], removed: Sequence[str]) -> None:
        self.outage.check()
        for job in jobs:
            self.jobs[job.agent_id] = stored_of(job)
        for agent_id in removed:
            self.jobs.pop(agent_id, None)

    async def keep_only(self, agent_ids: Collection[str]) -> Collection[str]:
        self.outage.check()
        for stranger in self.jobs.keys() - set(agent_ids):
            del self.jobs[stranger]
        return set(agent_ids) - self.jobs.keys()


class FakeJobTable:
    """Jobs without timers: the test fires what is due."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: list[Fire] = []
        self.puts: list[str] = []
        self.fired: Fired | None = None

    def put(self, job: Job, *, is_stored: bool = False) -> None:
        self.puts.append(job.agent_id)
        self.jobs[job.agent_id] = job

    def remove(self, agent_id: str) -> None:
        self.jobs.pop(agent_id, None)

    def of_agent(self, agent_id: str) -> Job | None:
        return self.jobs.get(agent_id)

    def of_document(self, key: DocumentKey) -> Job | None:
        return next((job for job in self.jobs.values() if job.key == key), None)

    def all(self) -> Sequence[Job]:
        return list(self.jobs.values())

    def counts(self) -> Mapping[JobState, int]:
        return Counter(job.state for job in self.jobs.values())

    def overdue(self, since: datetime) -> int:
        return 0

    @property
    def is_behind(self) -> bool:
        return False

    def settle(self, agent_id: str, slot: datetime) -> None:
        job = self.jobs.get(agent_id)
        if job is None or job.next_run_at is None or job.next_run_at > slot:
            return
        assert job.timetable is not None
        self.jobs[agent_id] = replace(job, next_run_at=job.timetable.next_slot(slot))

    def request(self, fire: Fire) -> None:
        self.requests.append(fire)


class FakeReplicas:
    """`scheduler_replicas` in memory, on a clock that stands for the server's."""

    def __init__(self, clock: FakeClock) -> None:
        self.replicas: dict[str, datetime] = {}
        self.outage = Outage()
        self.state = ServerState(NOON, timedelta(0))
        self._clock = clock

    async def server_state(self) -> ServerState:
        self.outage.check()
        return replace(self.state, at=self._clock())

    async def heartbeat(self, replica_id: str, facts: Mapping[str, object], ttl: timedelta) -> None:
        self.outage.check()
        self.replicas[replica_id] = self._clock() + ttl

    async def alive(self) -> Sequence[str]:
        self.outage.check()
        return [name for name, until in self.replicas.items() if until > self._clock()]

    async def leave(self, replica_id: str) -> None:
        self.outage.check()
        self.replicas.pop(replica_id, None)

    async def forget_dead(self) -> None:
        self.outage.check()
        long_ago = self._clock() - timedelta(days=1)
        self.replicas = {name: until for name, until in self.replicas.items() if until > long_ago}


class FakeNotifications:
    """`scheduler_notifications` in memory, as `owner` sees it; `of` shares it with another."""

    def __init__(self, owner: str = "replica-1") -> None:
        self.documents: dict[str, dict[str, Any]] = {}
        self.outage = Outage()
        self.refused: set[str] = set()
        """The notifications that the server refuses."""
        self.owner = owner

    def of(self, owner: str) -> "FakeNotifications":
        """The same collection, as another replica sees it."""
        other = FakeNotifications(owner)
        other.documents = self.documents
        return other

    async def prepare(self) -> None:
        self.outage.check()

    async def add(self, entries: Sequence[Entry]) -> Sequence[bool | ServiceError]:
        self.outage.check()
        return [self._added(entry) for entry in entries]

    def _added(self, entry: Entry) -> bool | ServiceError:
        name = entry.notification.notification_id
        if name in self.refused:
            return Refused("Document failed validation")
        new = {
            "told": entry.notification,
            "created_at": entry.created_at,
            "delivery": entry.delivery,
            "delivered_at": None,
            "attempts": 0,
            "owner": self.owner,
        }
        there = self.documents.setdefault(name, new)
        return (there["owner"], there["created_at"]) == (self.owner, entry.created_at)

    async def settle(
        self, notification_ids: Sequence[str], delivery: Delivery, attempts: int, at: datetime
    ) -> None:
        self.outage.check()
        for name in notification_ids:
            document = self.documents.get(name, {"delivery": None})
            if document["delivery"] is Delivery.PENDING and document["owner"] == self.owner:
                document |= {"delivery": delivery, "attempts": attempts}
                document["delivered_at"] = at if delivery is Delivery.SENT else None

    async def owners_of_pending(self) -> frozenset[str]:
        self.outage.check()
        return frozenset(document["owner"] for document in self._pending())

    async def adopt(self, owners: Collection[str], most: int) -> Sequence[Notification]:
        self.outage.check()
        left = [document for document in self._pending() if document["owner"] in owners]
        adopted = sorted(left, key=lambda document: document["created_at"])[:most]
        for document in adopted:
            document["owner"] = self.owner
        return [document["told"] for document in adopted]

    def _pending(self) -> list[dict[str, Any]]:
        return [d for d in self.documents.values() if d["delivery"] is Delivery.PENDING]


MAIL = Target(1, "mailto", "mail.example.com", frozenset({"mailto", "mailtos", "e-mail"}), True)
HOOK = Target(2, "json", "hooks.example.com", frozenset({"json", "jsons", "webhook"}), False)


class FakeMessenger:
    """Keeps what it is given, but for targets in `down`; `released` holds messages back."""

    def __init__(self, *targets: Target) -> None:
        self.targets: Sequence[Target] = targets
        self.sent: list[tuple[Target, Message]] = []
        self.tried = 0
        self.down: set[Target] = set()
        self.refuses = ""
        """No message that holds this text is taken, ever."""
        self.fails_first = 0
        """So many messages fail, whatever the target."""
        self.released = asyncio.Event()
        self.released.set()

    async def send(self, target: Target, message: Message) -> None:
        self.tried += 1
        await self.released.wait()
        self.fails_first -= 1
        if target in self.down or self.fails_first >= 0:
            raise Unavailable("it was not taken")
        if self.refuses and self.refuses in message.title + message.body:
            raise Refused("400")
        self.sent.append((target, message))

    @property
    def titles(self) -> list[str]:
        return [message.title for _, message in self.sent]


class FakeConductor:
    """Answers what it is told to; `hold` keeps answers back until it is set."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.answer: Answer | Exception = Answer(output="all is well")
        self.answers: list[Answer] = []
        """Given first, one after the other."""
        self.is_well = True
        self.asked = 0
        self.called = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()

    async def execute(self, order: Order) -> Answer:
        self.orders.append(order)
        self.called.set()
        await self.released.wait()
        if self.answers:
            return self.answers.pop(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def is_there(self) -> bool:
        self.asked += 1
        return self.is_well
