"""What is to be done about slots that have come due: what may start, and why the rest may not."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service.cases import Case, Cases
from service.domain.catch_up import DueSlots, due_slots, first_gap
from service.domain.execution import Fire, Reason, Trigger, execution_id_of
from service.domain.jobs import Desired, JobSpec, JobState, Past, stored_of
from service.domain.planning import past_of
from service.domain.schedule import Timetable
from service.ports import Agents, JobTable, Ledger, LookAgain, Refused
from service.runner import Runner

_REMEMBERED_FROM = timedelta(milliseconds=100)
"""A slot that is settled later than this is held against what the document said when it came."""


@dataclass(frozen=True, slots=True)
class Start:
    """A slot that may start; with its claim, every slot up to `settles` is settled."""

    spec: JobSpec
    slot: datetime
    trigger: Trigger
    settles: datetime
    has_more: bool
    before: datetime
    """The next slot after now."""


class Decisions:
    """Records what does not run. Slots before `serving_since`, when nobody was there, were missed.

    Each method raises Unavailable and Refused.
    """

    def __init__(
        self,
        agents: Agents,
        ledger: Ledger,
        jobs: JobTable,
        runner: Runner,
        cases: Cases,
        *,
        serving_since: datetime,
    ) -> None:
        self.serving_since = serving_since
        self._agents = agents
        self._ledger = ledger
        self._jobs = jobs
        self._runner = runner
        self._cases = cases

    async def plain_starts(self, fires: Sequence[Fire]) -> Sequence[tuple[Case, Start] | None]:
        """What may start of slots that have just come due, where nothing else is to be recorded.

        None for those at which `next_start` has to look closer.
        """
        found: list[tuple[Case, Start] | None] = []
        async for case in self._cases.look_all(fires):
            start = self._plain_start(case)
            found.append(None if start is None else (case, start))
        late = {
            place: (pair[0], pair[1].slot)
            for place, pair in enumerate(found)
            if pair is not None and _is_late(pair[0], pair[1].slot)
        }
        were_off = await self._cases.were_off(list(late.values()))
        for place, was_off in zip(late, were_off, strict=True):
            if was_off:
                found[place] = None
        return found

    def _plain_start(self, case: Case) -> Start | None:
        desired = case.desired
        if not isinstance(desired, Desired) or desired.state is not JobState.SCHEDULED:
            return None
        assert desired.spec is not None
        past = self._past(case, desired)
        if past.accepted_at is None or desired.spec.skip_next:
            return None
        timetable = desired.spec.timetable(past.accepted_at)
        slots = self._decided(case, desired.spec, timetable, past)
        if slots is None or not slots.is_on_time:
            return None
        return self._start(case, desired.spec, timetable, slots)

    async def next_start(
        self, case: Case, queued: datetime | None, held: Reason | None, *, has_turn: bool
    ) -> Start | None:
        """Record what does not run; answers what may start, if anything."""
        desired, fire = case.desired, case.fire
        if not isinstance(desired, Desired) or desired.state is not JobState.SCHEDULED:
            await self._cases.skip_by_document(case, queued or fire.due_at)
            self._jobs.settle(fire.agent_id, queued or fire.due_at)
            return None
        assert desired.spec is not None
        past = self._past(case, desired)
        slots = await self._due_slots(case, desired.spec, past, queued)
        if slots is None and past.accepted_at is not None and fire.due_at > case.now:
            raise LookAgain("the clock was set back: the slot is still to come")
        if slots is None:
            # No slot of what the document says now, after an edit; yet one that waited did come.
            if queued is not None:
                await self._cases.skip(case, queued, Reason.OVERLAP)
            self._jobs.settle(fire.agent_id, queued or fire.due_at)
            return None
        assert past.accepted_at is not None  # else there are no slots
        timetable = desired.spec.timetable(past.accepted_at)
        start = self._start(case, desired.spec, timetable, slots)
        if start is not None and queued is None and _is_undecided(desired.spec, past):
            await self._record_missed(case, timetable, slots, held)
            await self._leave_out(case, start.slot)
            return None
        if start is not None and start.trigger is Trigger.CATCH_UP and not has_turn:
            return start  # to be looked at again when its turn has come
        await self._record_not_run(case, timetable, slots, held)
        if start is not None and _is_late(case, start.slot):
            return await self._unless_off(case, start)
        return start

    async def _unless_off(self, case: Case, start: Start) -> Start | None:
        """A late start, unless the document was paused when its slot came due."""
        if not await self._cases.was_off(case, start.slot):
            return start
        await self._cases.skip(case, start.slot, Reason.PAUSED)
        self._jobs.settle(case.fire.agent_id, start.slot)
        return None

    def _start(
        self, case: Case, spec: JobSpec, timetable: Timetable, slots: DueSlots
    ) -> Start | None:
        if not slots.starts:
            return None
        (slot, trigger), *more = slots.starts
        before = timetable.next_slot(case.now)
        return Start(spec, slot, trigger, slot if more else slots.last, bool(more), before)

    async def _due_slots(
        self, case: Case, spec: JobSpec, past: Past, queued: datetime | None
    ) -> DueSlots | None:
        if past.accepted_at is None:
            return None
        timetable = spec.timetable(past.accepted_at)
        if queued is not None:
            start = (queued, Trigger.SCHEDULE)
            return DueSlots((start,), None, queued) if timetable.has(queued) else None
        slots = self._decided(case, spec, timetable, past)
        if slots is None or slots.is_on_time:
            return slots
        # After an outage, or a long sleep: some of these may have their rows already.
        rows = await self._ledger.taken(case.fire.agent_id, case.fire.due_at)
        taken = [(row.first, row.last) for row in rows if not self._is_doubtful(case, row.first)]
        first, taken_from = first_gap(timetable, case.fire.due_at, taken)
        if first > case.now:
            return DueSlots((), None, slots.last)  # all of them have
        return self._decided(case, spec, timetable, past, first, taken_from)

    def _decided(
        self,
        case: Case,
        spec: JobSpec,
        timetable: Timetable,
        past: Past,
        first: datetime | None = None,
        taken_from: datetime | None = None,
    ) -> DueSlots | None:
        return due_slots(
            spec,
            timetable,
            first or case.fire.due_at,
            now=case.now,
            serving_since=self.serving_since,
            left_out=past.skipped_slot if spec.skip_next else None,
            taken_from=taken_from,
        )

    def _is_doubtful(self, case: Case, slot: datetime) -> bool:
        return self._runner.claims.is_doubtful(
            execution_id_of(case.fire.agent_id, slot, case.fire.trigger)
        )

    def _past(self, case: Case, desired: Desired) -> Past:
        job = self._jobs.of_agent(case.fire.agent_id)
        status = (case.document.fields or {}).get("councilor_status")
        return past_of(status, stored_of(job) if job is not None else None, desired)

    async def _leave_out(self, case: Case, slot: datetime) -> None:
        """Let `skip_next` take out this slot, unless somebody has begun it: the row decides."""
        agent_id = case.fire.agent_id
        if await self._cases.skip(case, slot, Reason.SKIP_NEXT):
            with suppress(Refused):  # a validator of the user's: the job remembers it then
                await self._agents.leave_out(case.document, slot)
            job = self._jobs.of_agent(agent_id)
            if job is not None:
                self._jobs.put(replace(job, skipped_slot=slot))
        self._jobs.settle(agent_id, slot)

    async def _record_missed(
        self, case: Case, timetable: Timetable, slots: DueSlots, held: Reason | None
    ) -> None:
        if slots.missed is not None:
            is_outage = slots.last < self.serving_since
            reason = Reason.OUTAGE if is_outage else held or Reason.OUTAGE
            last = await self._cases.miss_stretch(case, slots.missed, reason, timetable)
            self._jobs.settle(case.fire.agent_id, last)
            if last < slots.missed.last:
                raise LookAgain("others settle some of these slots just now: look again")

    async def _record_not_run(
        self, case: Case, timetable: Timetable, slots: DueSlots, held: Reason | None
    ) -> None:
        agent_id = case.fire.agent_id
        await self._record_missed(case, timetable, slots, held)
        if slots.skipped is not None:
            await self._cases.skip(case, slots.skipped, Reason.SKIP_NEXT)
        if not slots.starts:
            self._jobs.settle(agent_id, slots.last)


def _is_late(case: Case, slot: datetime) -> bool:
    """Tell whether a start is held against what the document said when its slot came due."""
    return case.now - slot > _REMEMBERED_FROM


def _is_undecided(spec: JobSpec, past: Past) -> bool:
    """Tell whether nobody has settled yet on the slot that `skip_next` takes out."""
    return spec.skip_next and past.skipped_slot is None
