"""A slot together with its document as it is now: looked at, then claimed or recorded."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic

from service.batching import Batcher, BatchPolicy
from service.claims import Launch
from service.domain.config import instant_from
from service.domain.councilor import Councilor, SchedulePolicy, parse_councilor
from service.domain.execution import (
    LONGEST_NAME,
    Attempt,
    Execution,
    Fire,
    NotRun,
    Reason,
    Status,
    Stretch,
    Trigger,
    execution_id_of,
    order_for,
)
from service.domain.jobs import Absence, AgentDocument, Desired, JobState
from service.domain.notification import audience_of, is_surprise
from service.domain.planning import desired_by
from service.domain.schedule import Timetable
from service.notifier import Notifier
from service.ports import Agents, Clock, Ledger, TakenSlots
from service.runner import Runner
from service.telemetry import Telemetry

_TICK = timedelta(microseconds=1)
_LOOKS, _LOOK_AGAIN_SECONDS = 20, 0.1
_AT_ONCE = 10
"""Documents that are read before the event loop may turn to something else."""


@dataclass(frozen=True, slots=True)
class Case:
    """A slot, with the document as it is now and what that wants."""

    fire: Fire
    document: AgentDocument
    councilor: Councilor | None
    desired: Desired | Absence
    now: datetime
    looked_at: float
    """The same instant by the monotonic clock, in seconds."""


class Cases:
    """What settling a slot takes. Each method raises Unavailable."""

    def __init__(
        self,
        agents: Agents,
        ledger: Ledger,
        runner: Runner,
        notifier: Notifier,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: SchedulePolicy,
        batches: BatchPolicy | None = None,
    ) -> None:
        self._agents = agents
        self._ledger = ledger
        self._runner = runner
        self._notifier = notifier
        self._telemetry = telemetry
        self._clock = clock
        self._policy = policy
        # What many slots ask for at the same time is sent as one (DESIGN decision 12).
        self._reads = Batcher(agents.look, policy=batches)
        self._memories = Batcher(agents.as_of, policy=batches)
        self._stretches = Batcher(ledger.covering, policy=batches)

    async def look(self, fire: Fire) -> Case:
        """Read the document again, on the primary: what was paused before its slot never runs.

        What the document wanted for slots that came due while it was read, nobody has looked at.
        """
        now, looked_at = self._clock(), monotonic()
        return self._case(fire, await self._reads.ask(fire.key), now, looked_at)

    async def look_all(self, fires: Sequence[Fire]) -> AsyncIterator[Case]:
        """The same for many, in their order."""
        now, looked_at = self._clock(), monotonic()
        documents = await self._agents.look([fire.key for fire in fires])
        for place, (fire, document) in enumerate(zip(fires, documents, strict=True)):
            if place % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            yield self._case(fire, document, now, looked_at)

    def _case(self, fire: Fire, document: AgentDocument, now: datetime, looked_at: float) -> Case:
        fields = document.fields or {}
        reading = parse_councilor(fields, self._policy)
        desired = desired_by(fire.key, reading, document.damage)
        if document.fields is None or desired.agent_id != fire.agent_id:
            desired = Absence(fire.key, fire.agent_id, deleted=True)
        is_ours = isinstance(desired, Desired)  # and not somebody else's since a rename
        councilor = reading if is_ours and isinstance(reading, Councilor) else None
        return Case(fire, document, councilor, desired, now, looked_at)

    async def was_off(self, case: Case, slot: datetime) -> bool:
        """Tell whether the document wanted no run when the slot came due, as far as is known.

        For slots that are settled late: a pause before them and a resumption after them would not
        be seen in the document as it is now. Known are its states at whole seconds of the server's
        clock, before the first write of each: at the slot's own, where it has one; else it was off
        if it was so at the second after the slot, or at the one before and not seen on since then.
        """
        instants = _instants_around(case, slot)
        if not instants:
            return False
        return self._is_any_off(case, await self._memories.ask((case.document, instants)))

    async def were_off(self, asked: Sequence[tuple[Case, datetime]]) -> Sequence[bool]:
        """The same for many."""
        around = [_instants_around(case, slot) for case, slot in asked]
        if not any(around):
            return [False] * len(asked)
        states = await self._agents.as_of(
            [(case.document, instants) for (case, _), instants in zip(asked, around, strict=True)]
        )
        return [
            self._is_any_off(case, documents)
            for (case, _), documents in zip(asked, states, strict=True)
        ]

    def _is_any_off(self, case: Case, states: Sequence[AgentDocument | None]) -> bool:
        return any(document is not None and self._is_off(case, document) for document in states)

    def _is_off(self, case: Case, document: AgentDocument) -> bool:
        if document is case.document:
            return False  # it is on as it is now
        reading = parse_councilor(document.fields or {}, self._policy)
        desired = desired_by(document.key, reading, document.damage)
        return not isinstance(desired, Desired) or desired.state is not JobState.SCHEDULED

    def launch(
        self, case: Case, slot: datetime, trigger: Trigger, next_slot: datetime | None
    ) -> Launch:
        """What the runner needs to claim this slot, and to run it. Raises nothing."""
        assert case.councilor is not None
        execution_id = execution_id_of(case.fire.agent_id, slot, trigger)
        now = self._clock()
        execution = Execution(
            execution_id=execution_id,
            agent_id=case.fire.agent_id,
            scheduled_for=slot,
            trigger=trigger,
            spec_hash=case.councilor.spec_hash,
            owner=self._runner.owner,
            nonce=self._nonce(execution_id),
            started_at=now,
            attempts=(Attempt(now, None),),
            display_name=case.councilor.display_name[:LONGEST_NAME],
            task_name=case.councilor.task.name[:LONGEST_NAME],
        )
        return self._launch_of(case, execution, next_slot, None)

    def resumption(self, case: Case, orphan: Execution, next_slot: datetime | None) -> Launch:
        """The same to go on with a run that a dead replica had not begun yet."""
        execution = replace(
            orphan,
            owner=self._runner.owner,
            nonce=self._nonce(orphan.execution_id),
            attempts=(*orphan.attempts, Attempt(self._clock(), None)),
        )
        return self._launch_of(case, execution, next_slot, orphan)

    def _launch_of(
        self,
        case: Case,
        execution: Execution,
        next_slot: datetime | None,
        orphan: Execution | None,
    ) -> Launch:
        assert case.councilor is not None
        fields = case.document.fields or {}
        config, timeout = fields.get("councilor_config"), self._runner.policy.timeout
        order = order_for(case.councilor, config, execution, timeout, next_slot)
        stats = fields.get("stats")
        audience = audience_of(case.councilor, "", fields)
        return Launch(execution, case.fire.key, order, case.looked_at, stats, orphan, audience)

    def _nonce(self, execution_id: str) -> str:
        """The same for every try of this process: a claim that seemed lost is known again."""
        return hashlib.sha256(f"{self._runner.owner} {execution_id}".encode()).hexdigest()[:32]

    async def skip(self, case: Case, slot: datetime, reason: Reason) -> bool:
        """Record that this slot does not run; False where it has a row. Raises Refused."""
        return await self._record(case, slot, Status.SKIPPED, reason)

    async def skip_by_document(self, case: Case, slot: datetime) -> None:
        """Record that this slot does not run, for what the document says. Raises Refused."""
        await self.skip(case, slot, _reason_of(case.desired))

    async def miss(self, case: Case, slot: datetime, reason: Reason) -> None:
        """Record that this slot was missed. Raises Refused."""
        await self._record(case, slot, Status.MISSED, reason)

    async def miss_stretch(
        self, case: Case, stretch: Stretch, reason: Reason, timetable: Timetable
    ) -> datetime:
        """Record that these slots were missed; answers the last for which that holds.

        Slots that somebody else settles at this moment end the stretch. Each looks, after it has
        written, whether the other is there; the row says that it is provisional until then.
        Raises Refused.
        """
        row = self._not_run(case, stretch.first, Status.MISSED, reason, stretch)
        if row.execution_id in self._runner.executions:
            return stretch.first  # it runs here
        known = await self._ledger.taken(row.agent_id, stretch.first)
        ends = [slots.last for slots in known if slots.covers(stretch.first)]
        if ends and all(slots.is_final(self._clock()) for slots in known):
            return min(max(ends), stretch.last)
        stretch = _before_others(stretch, known, timetable)
        row = replace(row, stretch=stretch)
        self._runner.claims.doubt(
            row.execution_id
        )  # until it is final: it is decided on again else
        is_recorded = await self._ledger.record(row) and not await self._gave_way(row)
        if is_recorded and stretch.count > 1:
            known = await self._ledger.taken(row.agent_id, stretch.first)
            row = replace(row, stretch=_before_others(stretch, known, timetable))
            await self._ledger.confirm(row)
        self._runner.claims.resolved(row.execution_id)
        if not is_recorded or row.stretch is None:
            return stretch.first
        self._tell(case, row)
        return row.stretch.last

    async def _record(self, case: Case, slot: datetime, status: Status, reason: Reason) -> bool:
        row = self._not_run(case, slot, status, reason, None)
        if row.execution_id in self._runner.executions:
            return False  # it runs here
        is_recorded = await self._ledger.record(row)
        self._runner.claims.resolved(row.execution_id)
        if not is_recorded or await self._gave_way(row):
            return False
        self._tell(case, row)
        return True

    def _tell(self, case: Case, row: NotRun) -> None:
        self._telemetry.not_run(row)
        if is_surprise(row) and isinstance(case.desired, Desired):
            fields = case.document.fields or {}
            self._notifier.slot_not_run(row, audience_of(case.councilor, case.desired.name, fields))

    async def _gave_way(self, row: NotRun) -> bool:
        """Take a row back whose slot is in a stretch that was recorded at the same time.

        A stretch that is provisional ends before the slot, if its writer has seen this row.
        """
        if row.trigger is Trigger.MANUAL:
            return False
        slot = row.scheduled_for
        for _ in range(_LOOKS):
            covering = await self._stretches.ask((row.agent_id, slot))
            if all(slots.is_final(self._clock()) for slots in covering):
                break
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        if covering:
            await self._ledger.discard(row)
        return bool(covering)

    def _not_run(
        self, case: Case, slot: datetime, status: Status, reason: Reason, stretch: Stretch | None
    ) -> NotRun:
        row = NotRun(
            agent_id=case.fire.agent_id,
            scheduled_for=slot,
            trigger=case.fire.trigger,
            status=status,
            reason=reason,
            spec_hash=case.desired.spec_hash if isinstance(case.desired, Desired) else None,
            owner=self._runner.owner,
            at=case.now,
            stretch=stretch,
            display_name=case.desired.name[:LONGEST_NAME]
            if isinstance(case.desired, Desired)
            else "",
            task_name=case.councilor.task.name[:LONGEST_NAME] if case.councilor is not None else "",
        )
        return replace(row, nonce=self._nonce(row.execution_id))


def _before_others(stretch: Stretch, known: Sequence[TakenSlots], timetable: Timetable) -> Stretch:
    """The beginning of a stretch, up to the first slot that another row stands for."""
    others = [slots.first for slots in known if stretch.first < slots.first <= stretch.last]
    if not others:
        return stretch
    last = timetable.latest_slot(others[0] - _TICK) or stretch.first
    return Stretch(stretch.first, last, timetable.count(stretch.first, last))


def _instants_around(case: Case, slot: datetime) -> Sequence[datetime]:
    before = slot.replace(microsecond=0)
    if before == slot:
        return [slot]
    after = before + timedelta(seconds=1)
    instants = [] if _is_seen_on(case.document, before, slot) else [before]
    return [*instants, after] if case.now > after else instants


def _is_seen_on(document: AgentDocument, since: datetime, until: datetime) -> bool:
    """Tell whether a verdict of this time says that the document is scheduled."""
    status = (document.fields or {}).get("councilor_status")
    if not isinstance(status, Mapping) or status.get("state") != JobState.SCHEDULED:
        return False
    observed_at = instant_from(status.get("observed_at"))
    return observed_at is not None and since <= observed_at <= until


def _reason_of(desired: Desired | Absence) -> Reason:
    if isinstance(desired, Absence):
        return Reason.DELETED if desired.deleted else Reason.DEMOTED
    return Reason.PAUSED if desired.state is JobState.PAUSED else Reason.INVALID
