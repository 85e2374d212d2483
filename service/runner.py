"""One run from its claim to its closed ledger row: claim, call Conductor, judge, record."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from time import monotonic

import structlog

from service.calling import PROMPT_SECONDS, Called, Caller
from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    Order,
    Outcome,
    Reason,
    Status,
    Trigger,
    interrupted,
)
from service.domain.severity import Severity, SeverityRule, severity_of
from service.patience import PASSING, Patience
from service.ports import Answer, Clock, Ledger, LookAgain, Refused, ServiceError
from service.telemetry import Telemetry

log = structlog.get_logger()

_JUDGED = 64 * 1024
"""How much of a long output's beginning, and of its end, decides about its severity."""
_SHORT = 1_000
"""An output of which it takes longer to give it to a thread."""
_LOOK_AGAIN_SECONDS = 1.0
_STARTS_AT_ONCE = 400
_LATE_MS = 1_000
_ON_TIME = timedelta(seconds=3)
"""Longer than a claim may take: no slot after it can come due meanwhile."""
_NOT_CALLED = "the service stopped before it called Conductor"
_STOPPED = "the service stopped before Conductor answered; what it made of it is not known"


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """What the service's settings say about runs."""

    timeout: timedelta
    max_concurrent: int
    max_output_bytes: int
    severity: SeverityRule


class Runner:
    """Runs that belong to this replica; at most `max_concurrent` at a time."""

    def __init__(
        self,
        ledger: Ledger,
        caller: Caller,
        patience: Patience,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: RunPolicy,
        owner: str,
        require_fit: Callable[[], None],
    ) -> None:
        self.owner = owner
        self.policy = policy
        self._ledger = ledger
        self._caller = caller
        self._patience = patience
        self._telemetry = telemetry
        self._require_fit = require_fit
        self._clock = clock
        self._places = asyncio.Semaphore(policy.max_concurrent)
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._doubtful: set[str] = set()
        self._draining = False
        self.executions: set[str] = set()
        """The executions that this process is at, from before their claim to their record."""

    @property
    def is_full(self) -> bool:
        """Tell whether whoever wants a place now has to wait for one."""
        return self._places.locked()

    async def take_place(self) -> None:
        """Wait until one more run may start. Give the place back, or `start` a run in it.

        Not many are between their place and their claim: what was read for one that waits there
        would be too old to be relied upon.
        """
        await self._places.acquire()
        try:
            await self._starts.acquire()
        except BaseException:
            self._places.release()
            raise

    def give_place_back(self) -> None:
        """Leave a place to somebody else."""
        self._starts.release()
        self._places.release()

    async def start(
        self,
        execution: Execution,
        key: DocumentKey,
        order: Order,
        *,
        looked_at: float,
        orphan: Execution | None = None,
    ) -> Claim:
        """Claim the slot and, where it is won, run it in the place that was taken.

        `looked_at` is when the document was read, by the monotonic clock. With `orphan`, the claim
        is that run's row, taken over from a dead replica. Answers when the claim is decided, while
        the run goes on; a caller that is cancelled takes nothing back. Raises Unavailable where
        that is not known (then it `is_doubtful`, until it is claimed again), where nothing may be
        started, and while draining; Misconfigured, Refused.
        """
        if execution.execution_id in self.executions:
            self.give_place_back()
            return Claim.TAKEN  # by ourselves: its nonce would make the ledger say that we won
        self.executions.add(execution.execution_id)
        claimed: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        claim = partial(self._claim, execution, order, looked_at, orphan)
        work = self._run(execution, key, order, claim, claimed)
        task = asyncio.create_task(work, name=f"run {execution.execution_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(claimed)

    def is_doubtful(self, execution_id: str) -> bool:
        """Tell whether a row of this may be a claim of ours from which nothing was started."""
        return execution_id in self._doubtful

    def doubt(self, execution_id: str) -> None:
        """Say that a row of this may be ours, and is not what it shall be."""
        self._doubtful.add(execution_id)

    def resolved(self, execution_id: str) -> None:
        """Say that what became of a doubtful claim is on record."""
        self._doubtful.discard(execution_id)

    async def end_of_run(self, agent_id: str) -> bool:
        """Wait for the end of this agent's run; False where none of it goes on in this replica."""
        task = self._going.get(agent_id)
        if task is None:
            return False
        await asyncio.wait([task])
        return True

    async def wait_for_agent(self, agent_id: str) -> None:
        """Wait for the agent's run; where it goes on in another replica, for a while."""
        if not await self.end_of_run(agent_id):
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def drain(self, timeout: timedelta, *, others_live: bool = False) -> None:
        """Let runs end for `timeout`, then record the rest as interrupted. Start nothing more.

        Runs that Conductor has not accepted are left to the other replicas, if there are any.
        """
        self._draining = True
        log.info("drain_started", runs=len(self._tasks))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout.total_seconds())
        await cancelled(self._tasks)
        # Also finds a row whose claim was on its way when its run was cancelled.
        with suppress(*PASSING, Refused):
            for execution in await self._ledger.running_of(self.owner):
                if others_live and execution.is_surely_not_accepted:
                    continue
                was_called = execution.execution_id not in self._doubtful
                said = _STOPPED if was_called else _NOT_CALLED
                await self._record(execution, None, interrupted(execution, self._clock(), said))

    async def _run(
        self,
        execution: Execution,
        key: DocumentKey,
        order: Order,
        claiming: Callable[[], Awaitable[Claim]],
        claimed: "asyncio.Future[Claim]",
    ) -> None:
        try:
            try:
                claim = await claiming()
            finally:
                self._starts.release()
            if claim is Claim.WON:
                await self._run_claimed(self._begun(execution), key, order, claimed)
            else:
                claimed.set_result(claim)
        except Exception as error:  # noqa: BLE001 told, or raised where it was asked for
            if claimed.done():
                _tell_not_recorded(execution, error)
            else:
                claimed.set_exception(error)
                claimed.exception()  # a caller that was cancelled does not ask for it
        finally:
            self.executions.discard(execution.execution_id)
            self._places.release()

    async def _claim(
        self, execution: Execution, order: Order, looked_at: float, orphan: Execution | None
    ) -> Claim:
        if self._draining:
            raise LookAgain("nothing is started any more")
        self._require_fit()
        if orphan is not None:
            # In doubt, the row is found again like that of any run that nobody is at.
            is_ours = await self._ledger.take_over(orphan, execution)
            return Claim.WON if is_ours else Claim.TAKEN
        try:
            claim = await self._ledger.open(execution)
            if claim is Claim.WON and await self._is_covered(execution, order):
                await self._ledger.withdraw(execution)
                claim = Claim.TAKEN
            if claim is Claim.WON:
                self._require_prompt(looked_at)
        except PASSING:
            # The row stays, if it is there: others may have seen it, and gone on. Claimed again,
            # it is known by its nonce.
            self._doubtful.add(execution.execution_id)
            raise
        self.resolved(execution.execution_id)
        return claim

    async def _is_covered(self, execution: Execution, order: Order) -> bool:
        """Tell whether another row stands for this slot among others.

        Another replica may have recorded a stretch of slots as missed while this one was claimed;
        that looks, too, after it has written. A slot that is on time is in no stretch.
        """
        is_on_time = execution.lateness_ms < _LATE_MS
        is_last = order.retry_until - execution.started_at > _ON_TIME
        if execution.trigger is Trigger.MANUAL or (is_on_time and is_last):
            return False
        covering = await self._ledger.covering(execution.agent_id, execution.scheduled_for)
        if not all(slots.is_final(self._clock()) for slots in covering):
            raise LookAgain("others record a stretch of slots, this one among them")
        return bool(covering)

    def _require_prompt(self, looked_at: float) -> None:
        """Return where the claim was acknowledged soon, by a clock that nobody sets.

        Else this process may have been stopped: the others may take it for dead, and the document
        may be another.
        """
        self._require_fit()
        took = monotonic() - looked_at
        if took > PROMPT_SECONDS:
            raise LookAgain(f"the claim was acknowledged {took:.1f} s after the look")

    def _begun(self, execution: Execution) -> Execution:
        """The execution with its true start, once its claim is acknowledged."""
        now = self._clock()
        *earlier, _ = execution.attempts
        started_at = execution.started_at if earlier else now
        return replace(execution, started_at=started_at, attempts=(*earlier, Attempt(now, None)))

    async def _run_claimed(
        self,
        execution: Execution,
        key: DocumentKey,
        order: Order,
        claimed: "asyncio.Future[Claim]",
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._going[execution.agent_id] = task
        claimed.set_result(Claim.WON)
        self._telemetry.run_started(execution)
        try:
            outcome = await self._outcome(execution, order)
            if outcome is None:
                log.warning("run_given_up", execution_id=execution.execution_id)
                return
            try:
                await self._record_surely(execution, key, outcome)
            except Exception as error:  # noqa: BLE001 told, and recorded in its place
                # A row that stays `running` under a living owner would forbid every later run.
                _tell_not_recorded(execution, error)
                await self._record_surely(execution, key, self._crash(outcome.attempts))
        finally:
            # The next run may have begun already: a row is closed before it is counted.
            if self._going.get(execution.agent_id) is task:
                del self._going[execution.agent_id]
            self._telemetry.run_left()

    async def _record_surely(
        self, execution: Execution, key: DocumentKey, outcome: Outcome
    ) -> None:
        """Record an outcome, however long the database is away, also while draining."""
        await self._patience.retried(lambda: self._record(execution, key, outcome))

    async def _outcome(self, execution: Execution, order: Order) -> Outcome | None:
        """How the run ended; None where it turns out to be somebody else's by now."""
        try:
            called = await self._caller.call(execution, order)
            return None if called is None else await self._judged(called)
        except Exception as error:  # a fault of ours ends this run, and no other
            log.exception("run_crashed", execution_id=order.execution_id)
            *earlier, last = execution.attempts
            return self._crash((*earlier, Attempt(last.started_at, type(error).__name__)))

    def _crash(self, attempts: tuple[Attempt, ...]) -> Outcome:
        error = "the scheduler itself failed; its log says why"
        return Outcome(
            status=Status.ERROR,
            severity=Severity.ERROR,
            completed_at=self._clock(),
            output=None,
            error=error,
            summary=error,
            reason=Reason.INTERNAL,
            attempts=attempts,
        )

    async def _judged(self, called: Called) -> Outcome:
        answer = called.answer
        failure = answer.failure
        severity = Severity.ERROR if failure is not None else await self._severity(answer)
        output, is_cut = _cut(answer.output, self.policy.max_output_bytes)
        return Outcome(
            status=Status.COMPLETED if failure is None else Status.ERROR,
            severity=severity,
            completed_at=self._clock(),
            output=output,
            error=failure.text if failure is not None else None,
            summary=failure.summary if failure is not None else None,
            reason=failure.reason if failure is not None else None,
            attempts=called.attempts,
            output_truncated=is_cut,
        )

    async def _severity(self, answer: Answer) -> Severity:
        output, rule = answer.output or "", self.policy.severity
        if len(output) <= _SHORT:
            return severity_of(output, rule)
        if len(output) > 2 * _JUDGED:
            # Regular expressions hold the interpreter: 25 MB of them stopped all timers for 4 s.
            output = f"{output[:_JUDGED]}\n{output[-_JUDGED:]}"
        return await asyncio.to_thread(severity_of, output, rule)

    async def _record(
        self, execution: Execution, key: DocumentKey | None, outcome: Outcome
    ) -> None:
        if await self._ledger.close(execution, key, outcome):
            self._telemetry.run_ended(execution, outcome)
        else:
            log.warning("run_result_refused", execution_id=execution.execution_id)

    @property
    def is_draining(self) -> bool:
        """Tell whether nothing is started any more."""
        return self._draining


def _tell_not_recorded(execution: Execution, error: Exception) -> None:
    """What the driver says of a refused row may quote it: only faults of ours are told whole."""
    if isinstance(error, ServiceError):
        log.error("run_not_recorded", execution_id=execution.execution_id, error=str(error))
    else:
        log.error("run_not_recorded", execution_id=execution.execution_id, exc_info=error)


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def _cut(output: str | None, most_bytes: int) -> tuple[str | None, bool]:
    """Keep the beginning of an output that is too large in UTF-8, cut between characters."""
    if output is None or len(output) * 4 <= most_bytes:
        return output, False
    encoded = output.encode("utf-8", "replace")
    if len(encoded) <= most_bytes:
        return output, False
    return encoded[:most_bytes].decode("utf-8", "ignore"), True
