"""One run from its place to its closed ledger row: claim, call Conductor, judge, record."""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, TypeVar

import structlog

from service.batching import Batcher, BatchPolicy
from service.calling import Called, Caller
from service.claims import Answered, Claims, Launch
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
from service.notifier import Notifier
from service.patience import PASSING, Patience
from service.ports import Answer, Clock, Ledger, LookAgain, Refused, ServiceError
from service.telemetry import Telemetry

log = structlog.get_logger()

_T = TypeVar("_T")

_JUDGED = 64 * 1024
"""How much of a long output's beginning, and of its end, decides about its severity."""
_SHORT = 1_000
"""An output of which it takes longer to give it to a thread."""
_LOOK_AGAIN_SECONDS = 1.0
_STARTS_AT_ONCE = 600
_GATHERING_SECONDS = 0.005
_BEGUN_AT_ONCE = 4
"""Runs that begin before the event loop may turn to something else."""
_QUIET = 20
"""So many runs on their way are few."""
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
        claims: Claims,
        caller: Caller,
        patience: Patience,
        notifier: Notifier,
        telemetry: Telemetry,
        clock: Clock,
        *,
        policy: RunPolicy,
        owner: str,
        batches: BatchPolicy | None = None,
    ) -> None:
        self.owner = owner
        self.policy = policy
        self.claims = claims
        self._ledger = ledger
        self._caller = caller
        self._patience = patience
        self._notifier = notifier
        self._telemetry = telemetry
        self._clock = clock
        self._places = asyncio.Semaphore(policy.max_concurrent)
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        # What many start at the same time is claimed as one (DESIGN decision 12).
        self._launches = Batcher(self.start_all, policy=batches)
        self._tasks: set[asyncio.Task[object]] = set()
        self._going: dict[str, asyncio.Task[None]] = {}
        self._draining = False
        telemetry.places(policy.max_concurrent)
        self.executions: set[str] = set()
        """The executions that this process is at, from before their claim to their record."""

    @property
    def is_full(self) -> bool:
        """Tell whether whoever wants a place now has to wait for one."""
        return self._places.locked()

    @property
    def is_quiet(self) -> bool:
        """Tell whether few runs are on their way."""
        return len(self.executions) <= _QUIET

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

    async def take_places(self, most: int) -> int:
        """Wait until one more run may start, then take as many places as are free; how many.

        Those that get free in the next few milliseconds, too: what starts together costs less.
        """
        await self.take_place()
        taken = 1
        for pause in (0.0, _GATHERING_SECONDS):
            if pause and taken < most:
                await asyncio.sleep(pause)
            while taken < most and not self._places.locked() and not self._starts.locked():
                await self.take_place()
                taken += 1
        return taken

    def give_place_back(self) -> None:
        """Leave a place to somebody else."""
        self._starts.release()
        self._places.release()

    async def start(self, launch: Launch) -> Claim:
        """Do what `start_all` does for one run; raises what became of it where that is no claim."""
        return await asyncio.shield(self._launches.ask(launch))

    async def start_all(self, launches: Sequence[Launch]) -> Sequence[Answered]:
        """Claim slots and, where they are won, run them in the places that were taken.

        Answers what became of each, as `Claims` says, when the claims are decided, while the runs
        go on; Unavailable for all while draining. A caller that is cancelled takes nothing back.
        """
        return await asyncio.shield(self._seen_to(self._claimed_and_begun(launches), "claim"))

    def runs(self, agent_id: str) -> bool:
        """Tell whether a run of this agent goes on here."""
        return agent_id in self._going

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
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                while self._tasks:  # a claim that is on its way may become a run
                    await asyncio.wait(self._tasks)
        while self._tasks:
            await cancelled(self._tasks)
        # Also finds a row whose claim was on its way when its run was cancelled.
        with suppress(*PASSING, Refused):
            for execution in await self._ledger.running_of(self.owner):
                if others_live and execution.is_surely_not_accepted:
                    continue
                was_called = not self.claims.is_doubtful(execution.execution_id)
                said = _STOPPED if was_called else _NOT_CALLED
                await self._record_interrupted(execution, said)

    async def _record_interrupted(self, execution: Execution, said: str) -> None:
        outcome = interrupted(execution, self._clock(), said)
        if await self._record(execution, None, outcome):
            self._notifier.run_ended(execution, outcome, None)

    def _seen_to(self, work: Coroutine[Any, Any, _T], name: str) -> "asyncio.Task[_T]":
        """Do this in a task that `drain` waits for."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _claimed_and_begun(self, launches: Sequence[Launch]) -> Sequence[Answered]:
        """Claim these, but for those that are here already, and begin those that are won."""
        fresh = [place for place, launch in enumerate(launches) if self._is_new(launch)]
        answers: list[Answered] = [Claim.TAKEN] * len(launches)
        # By ourselves, the others: their nonces would make the ledger say that we won.
        begun = 0
        try:
            claims = await self._claims_of([launches[place] for place in fresh])
            for place, answer in zip(fresh, claims, strict=True):
                answers[place] = answer
                if answer is Claim.WON:
                    self._begin(launches[place])
                else:
                    self._forget(launches[place].execution)
                self._starts.release()
                begun += 1
                if begun % _BEGUN_AT_ONCE == 0:
                    await asyncio.sleep(0)
        finally:
            for place in fresh[begun:]:  # a fault of ours, or the end
                self.claims.doubt(launches[place].execution.execution_id)
                self._forget(launches[place].execution)
                self._starts.release()
        return answers

    def _is_new(self, launch: Launch) -> bool:
        execution_id = launch.execution.execution_id
        if execution_id in self.executions:
            self.give_place_back()
            return False
        self.executions.add(execution_id)
        return True

    async def _claims_of(self, launches: Sequence[Launch]) -> Sequence[Answered]:
        if self._draining:
            return [LookAgain("nothing is started any more")] * len(launches)
        asked = monotonic()
        answers = await self.claims.claim_all(launches)
        self._telemetry.claimed(answers, monotonic() - asked)
        return answers

    def _begin(self, launch: Launch) -> None:
        """Run what was claimed; its claim is acknowledged, and so this is its true start."""
        execution = launch.execution.begun(self._clock())
        run = self._run(execution, launch)
        self._going[execution.agent_id] = self._seen_to(run, f"run {execution.execution_id}")
        self._telemetry.run_started(execution)

    def _forget(self, execution: Execution) -> None:
        self.executions.discard(execution.execution_id)
        self._places.release()

    async def _run(self, execution: Execution, launch: Launch) -> None:
        task = asyncio.current_task()
        try:
            outcome = await self._outcome(execution, launch.order)
            if outcome is None:
                log.warning("run_given_up", execution_id=execution.execution_id)
                return
            try:
                await self._record_surely(execution, launch, outcome)
            except Exception as error:  # noqa: BLE001 told, and recorded in its place
                # A row that stays `running` under a living owner would forbid every later run.
                _tell_not_recorded(execution, error)
                await self._record_surely(execution, launch, self._crash(outcome.attempts))
        except Exception as error:  # noqa: BLE001 told
            _tell_not_recorded(execution, error)
        finally:
            # The next run may have begun already: a row is closed before it is counted.
            if self._going.get(execution.agent_id) is task:
                del self._going[execution.agent_id]
            self._telemetry.run_left()
            self._forget(execution)

    async def _record_surely(self, execution: Execution, launch: Launch, outcome: Outcome) -> None:
        """Record an outcome, however long the database is away, also while draining."""
        is_recorded = await self._patience.retried(
            lambda: self._record(execution, launch.key, outcome, launch.stats)
        )
        if is_recorded:
            prompt = launch.order.task.prompt
            self._notifier.run_ended(execution, outcome, launch.audience, prompt)

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
        self,
        execution: Execution,
        key: DocumentKey | None,
        outcome: Outcome,
        stats: object = None,
    ) -> bool:
        """Close the row; False where it is somebody else's by now."""
        if await self._ledger.close(execution, key, outcome, stats):
            self._telemetry.run_ended(execution, outcome)
            return True
        log.warning("run_result_refused", execution_id=execution.execution_id)
        return False

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


async def cancelled(tasks: Iterable[asyncio.Task[Any]]) -> None:
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
