"""One run from its claim to its closed ledger row: claim, call Conductor, judge, record."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import stamina
import structlog

from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Attempt,
    Claim,
    Execution,
    Order,
    Outcome,
    Reason,
    Status,
    interrupted,
)
from service.domain.severity import Severity, SeverityRule, severity_of
from service.ports import Answer, Clock, Conductor, Ledger, Misconfigured, Refused, Unavailable
from service.telemetry import Telemetry

log = structlog.get_logger()

_T = TypeVar("_T")
# Rights that were taken away may come back; a run that has been claimed waits for its record.
_PASSING = (Unavailable, Misconfigured)
_JUDGED = 64 * 1024
"""How much of a long output's beginning, and of its end, decides about its severity."""
_LOOK_AGAIN_SECONDS = 1.0
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
        conductor: Conductor,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: RunPolicy,
        owner: str,
        executions: set[str],
    ) -> None:
        self.owner = owner
        self.policy = policy
        self._ledger = ledger
        self._conductor = conductor
        self._telemetry = telemetry
        self._clock = clock
        self._places = asyncio.Semaphore(policy.max_concurrent)
        self._tasks: set[asyncio.Task[None]] = set()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._doubtful: dict[str, Execution] = {}
        self._draining = False
        self.executions = executions
        """The executions that this process is at, from before their claim to their record."""

    @property
    def is_full(self) -> bool:
        """Tell whether whoever wants a place now has to wait for one."""
        return self._places.locked()

    async def take_place(self) -> None:
        """Wait until one more run may start. Give the place back, or `start` a run in it."""
        await self._places.acquire()

    def give_place_back(self) -> None:
        """Leave a place to somebody else."""
        self._places.release()

    async def start(self, execution: Execution, key: DocumentKey, order: Order) -> Claim:
        """Claim the slot and, where it is won, run it in the place that was taken.

        Answers when the claim is decided, while the run goes on; a caller that is cancelled takes
        nothing back. Raises Unavailable where that is not known (`withdraw_doubtful` before the
        next look) and while draining; Misconfigured, Refused.
        """
        if execution.execution_id in self.executions:
            self.give_place_back()
            return Claim.TAKEN  # by ourselves: its nonce would make the ledger say that we won
        self.executions.add(execution.execution_id)
        claimed: asyncio.Future[Claim] = asyncio.get_running_loop().create_future()
        work = self._run(execution, key, order, claimed)
        task = asyncio.create_task(work, name=f"run {execution.execution_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(claimed)

    async def withdraw_doubtful(self, agent_id: str) -> None:
        """Take back the claim of this agent whose answer was lost. Raises Unavailable."""
        execution = self._doubtful.get(agent_id)
        if execution is not None:
            await self._ledger.withdraw(execution)
            del self._doubtful[agent_id]

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

    async def drain(self, timeout: timedelta) -> None:
        """Let runs end for `timeout`, then record the rest as interrupted. Start nothing more."""
        self._draining = True
        log.info("drain_started", runs=len(self._tasks))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout.total_seconds())
        await cancelled(self._tasks)
        # Also finds a row whose claim was on its way when its run was cancelled.
        with suppress(*_PASSING, Refused):
            for execution in await self._ledger.running_of(self.owner):
                await self._record(execution, None, interrupted(self._clock(), _STOPPED))

    async def _run(
        self,
        execution: Execution,
        key: DocumentKey,
        order: Order,
        claimed: "asyncio.Future[Claim]",
    ) -> None:
        try:
            claim = await self._claim(execution)
            if claim is Claim.WON:
                await self._run_claimed(execution, key, order, claimed)
            else:
                claimed.set_result(claim)
        except Exception as error:
            if claimed.done():
                log.exception("run_not_recorded", execution_id=execution.execution_id)
            else:
                claimed.set_exception(error)
                claimed.exception()  # a caller that was cancelled does not ask for it
        finally:
            self.executions.discard(execution.execution_id)
            self._places.release()

    async def _claim(self, execution: Execution) -> Claim:
        if self._draining:
            raise Unavailable("nothing is started any more")
        try:
            return await self._ledger.open(execution)
        except _PASSING:
            self._doubtful[execution.agent_id] = execution
            raise

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
            outcome = await self._outcome(order)
            try:
                await self._record_surely(execution, key, outcome)
            except Exception:
                # A row that stays `running` under a living owner would forbid every later run.
                log.exception("run_not_recorded", execution_id=execution.execution_id)
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
        await self._retried(lambda: self._record(execution, key, outcome), lambda: False)

    async def _outcome(self, order: Order) -> Outcome:
        began = self._clock()
        try:
            answer = await self._conductor.execute(order)
            return await self._judged(answer, Attempt(began, _message_of(answer)))
        except Exception as error:  # a fault of ours ends this run, and no other
            log.exception("run_crashed", execution_id=order.execution_id)
            return self._crash((Attempt(began, type(error).__name__),))

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

    async def _judged(self, answer: Answer, attempt: Attempt) -> Outcome:
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
            attempts=(attempt,),
            output_truncated=is_cut,
        )

    async def _severity(self, answer: Answer) -> Severity:
        output, rule = answer.output or "", self.policy.severity
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

    async def until_available(self, step: Callable[[], Awaitable[_T]]) -> _T:
        """Take a step again and again while the database does not answer, until draining."""
        return await self._retried(step, lambda: self._draining)

    async def _retried(self, step: Callable[[], Awaitable[_T]], is_over: Callable[[], bool]) -> _T:
        async for attempt in stamina.retry_context(
            on=lambda error: isinstance(error, _PASSING) and not is_over(),
            attempts=None,
            timeout=None,
            wait_initial=0.1,
            wait_max=5.0,
        ):
            with attempt:
                try:
                    result = await step()
                except _PASSING as error:
                    self._telemetry.database_failed(error)
                    raise
        return result


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


def _message_of(answer: Answer) -> str | None:
    return answer.failure.text if answer.failure is not None else None


def _cut(output: str | None, most_bytes: int) -> tuple[str | None, bool]:
    """Keep the beginning of an output that is too large in UTF-8, cut between characters."""
    if output is None or len(output) * 4 <= most_bytes:
        return output, False
    encoded = output.encode("utf-8", "replace")
    if len(encoded) <= most_bytes:
        return output, False
    return encoded[:most_bytes].decode("utf-8", "ignore"), True
