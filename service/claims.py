"""Claims of slots: who runs them is decided by the ledger, for many of them in one write."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic

from service.calling import PROMPT_SECONDS
from service.domain.councilor import DocumentKey
from service.domain.execution import Claim, Execution, Order, Trigger
from service.domain.notification import Audience
from service.patience import PASSING
from service.ports import Clock, Ledger, LookAgain, ServiceError, Unavailable

_LATE_MS = 1_000
_ON_TIME = timedelta(seconds=3)
"""Longer than a claim may take: no slot after it can come due meanwhile."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A run that shall be claimed, and begun where the claim is won."""

    execution: Execution
    key: DocumentKey
    order: Order
    looked_at: float
    """When the document was read, by the monotonic clock, in seconds."""
    stats: object = None
    """What of the agent's statistics others follow from, as it was then, if it was there."""
    orphan: Execution | None = None
    """The run of a dead replica that this one goes on with: its row is taken over."""
    audience: Audience | None = None
    """Who is told how it ends."""


Answered = Claim | ServiceError


class Claims:
    """The claims of this replica, and which of them nobody knows to have arrived."""

    def __init__(self, ledger: Ledger, clock: Clock, *, require_fit: Callable[[], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._require_fit = require_fit
        self._doubtful: set[str] = set()

    def is_doubtful(self, execution_id: str) -> bool:
        """Tell whether a row of this may be a claim of ours from which nothing was started."""
        return execution_id in self._doubtful

    def doubt(self, execution_id: str) -> None:
        """Say that a row of this may be ours, and is not what it shall be."""
        self._doubtful.add(execution_id)

    def resolved(self, execution_id: str) -> None:
        """Say that what became of a doubtful claim is on record."""
        self._doubtful.discard(execution_id)

    async def claim_all(self, launches: Sequence[Launch]) -> Sequence[Answered]:
        """Claim each slot, or take its row over; what became of each.

        Unavailable where that is not known (then it `is_doubtful`, until it is claimed again), or
        where nothing may be started; Misconfigured, Refused.
        """
        try:
            self._require_fit()
        except Unavailable as error:
            return [error] * len(launches)
        taken_over = [
            await self._taken_over(launch, launch.orphan)
            for launch in launches
            if launch.orphan is not None
        ]
        # Last, since these are won only if that is known soon.
        opened = await self._opened([launch for launch in launches if launch.orphan is None])
        fresh, others = iter(opened), iter(taken_over)
        return [next(fresh if launch.orphan is None else others) for launch in launches]

    async def _taken_over(self, launch: Launch, orphan: Execution) -> Answered:
        try:
            # In doubt, the row is found again like that of any run that nobody is at.
            is_ours = await self._ledger.take_over(orphan, launch.execution)
        except ServiceError as error:
            return error
        return Claim.WON if is_ours else Claim.TAKEN

    async def _opened(self, launches: Sequence[Launch]) -> Sequence[Answered]:
        if not launches:
            return []
        answers = list(await self._ledger.open_all([launch.execution for launch in launches]))
        await self._give_covered_back(launches, answers)
        answers = [
            self._if_prompt(launch) if answer is Claim.WON else answer
            for launch, answer in zip(launches, answers, strict=True)
        ]
        for launch, answer in zip(launches, answers, strict=True):
            if isinstance(answer, PASSING):
                # The row stays, if it is there: others may have seen it, and gone on. Claimed
                # again, it is known by its nonce.
                self.doubt(launch.execution.execution_id)
            elif isinstance(answer, Claim):
                self.resolved(launch.execution.execution_id)
        return answers

    async def _give_covered_back(self, launches: Sequence[Launch], answers: list[Answered]) -> None:
        """Withdraw claims whose slots another row stands for, among others.

        Another replica may have recorded a stretch of slots as missed while this one was claimed;
        that looks, too, after it has written.
        """
        won = [
            place
            for place, launch in enumerate(launches)
            if answers[place] is Claim.WON and _may_be_covered(launch)
        ]
        if not won:
            return
        executions = [launches[place].execution for place in won]
        try:
            covering = await self._ledger.covering(
                [(execution.agent_id, execution.scheduled_for) for execution in executions]
            )
        except ServiceError as error:
            for place in won:
                answers[place] = error
            return
        for place, execution, stretches in zip(won, executions, covering, strict=True):
            if not all(slots.is_final(self._clock()) for slots in stretches):
                said = "others record a stretch of slots, this one among them"
                answers[place] = LookAgain(said)
            elif stretches:
                answers[place] = await self._withdrawn(execution)

    async def _withdrawn(self, execution: Execution) -> Answered:
        try:
            await self._ledger.withdraw(execution)
        except ServiceError as error:
            return error
        return Claim.TAKEN

    def _if_prompt(self, launch: Launch) -> Answered:
        """A claim that was won, where it was acknowledged soon, by a clock that nobody sets.

        Else this process may have been stopped: the others may take it for dead, and the document
        may be another.
        """
        try:
            self._require_fit()
        except Unavailable as error:
            return error
        took = monotonic() - launch.looked_at
        if took > PROMPT_SECONDS:
            return LookAgain(f"the claim was acknowledged {took:.1f} s after the look")
        return Claim.WON


def _may_be_covered(launch: Launch) -> bool:
    """Tell whether a stretch may stand for this slot: one that is on time is in none."""
    execution = launch.execution
    is_on_time = execution.lateness_ms < _LATE_MS
    is_last = launch.order.retry_until - execution.started_at > _ON_TIME
    return execution.trigger is not Trigger.MANUAL and not (is_on_time and is_last)
