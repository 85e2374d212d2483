"""What is told on its way into the collection, and what has become of it on its way there, too."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice

import structlog

from service.domain.execution import Execution, Outcome
from service.domain.notification import Delivery, Entry, Notification
from service.patience import Patience
from service.ports import Misconfigured, ServiceError, StoredNotifications
from service.telemetry import Telemetry

log = structlog.get_logger()

_BATCH = 200


@dataclass(frozen=True, slots=True)
class Unclear:
    """The end of a run of which nobody here knows who is told: its document says it."""

    execution: Execution
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Mark:
    """What has become of messages, for their notifications."""

    notification_ids: Sequence[str]
    delivery: Delivery
    attempts: int
    at: datetime


class Outbox:
    """Run `write` as a task: it writes in batches, again and again while the database is away.

    `clarified` makes entries of what is unclear; `written` is called with each notification that
    is ours to send: it is in the collection, or cannot be and is to be sent all the same.
    """

    def __init__(
        self,
        stored: StoredNotifications,
        patience: Patience,
        telemetry: Telemetry,
        *,
        clarified: Callable[[Sequence[Unclear]], Awaitable[Sequence[Entry]]],
        written: Callable[[Notification], None],
        most: int,
        between_batches_seconds: float,
    ) -> None:
        self._stored = stored
        self._patience = patience
        self._telemetry = telemetry
        self._clarified = clarified
        self._was_written = written
        self._most = most
        self._between_batches_seconds = between_batches_seconds
        self._unwritten: deque[Entry | Unclear] = deque()
        self._marks: deque[Mark] = deque()
        self._has_any = asyncio.Event()
        self._is_hurried = False
        self.is_written = asyncio.Event()
        """Set while nothing waits to be written."""
        self.is_written.set()

    def put(self, told: Entry | Unclear) -> None:
        """Have this written; what is too much is dropped, and that is told of."""
        if len(self._unwritten) >= self._most:
            channels = told.notification.channels if isinstance(told, Entry) else ()
            self._telemetry.notification_dropped(channels)
            return
        self._unwritten.append(told)
        self._wake()

    def mark(self, mark: Mark) -> None:
        """Have this noted in the collection."""
        self._marks.append(mark)
        self._wake()

    def hurry(self) -> None:
        """Take no step again from now on, nor wait for more: the service stops."""
        self._is_hurried = True

    def _wake(self) -> None:
        self.is_written.clear()
        self._has_any.set()

    async def write(self) -> None:
        """Write what there is to be written, until cancelled."""
        while True:
            await self._has_any.wait()
            self._has_any.clear()
            while self._unwritten or self._marks:
                await self._write_some()
            self.is_written.set()
            await asyncio.sleep(0 if self._is_hurried else self._between_batches_seconds)

    async def _write_some(self) -> None:
        batch = list(islice(self._unwritten, _BATCH))
        if batch:
            await self._tried(partial(self._write_batch, batch), len(batch))
        for _ in batch:
            self._unwritten.popleft()
        while self._marks:
            mark = self._marks[0]
            await self._tried(partial(self._note, mark), len(mark.notification_ids))
            self._marks.popleft()

    async def _tried(self, step: Callable[[], Awaitable[None]], count: int) -> None:
        try:
            await self._patience.retried(step, lambda: self._is_hurried)
        except ServiceError as error:  # at the end, or refused: there are others to be written
            log.error("notifications_not_written", count=count, error=str(error))  # noqa: TRY400

    async def _write_batch(self, batch: Sequence[Entry | Unclear]) -> None:
        unclear = [told for told in batch if isinstance(told, Unclear)]
        entries = [told for told in batch if isinstance(told, Entry)]
        if unclear:
            entries += await self._clarified(unclear)
        if not entries:
            return
        answers: Sequence[bool | ServiceError]
        try:
            answers = await self._stored.add(entries)
        except Misconfigured as error:  # no rights, say: people outside are told all the same
            answers = [error] * len(entries)
        refused = [answer for answer in answers if isinstance(answer, ServiceError)]
        if refused:
            log.error("notifications_not_written", count=len(refused), error=str(refused[0]))
        for entry, answer in zip(entries, answers, strict=True):
            if answer is True:
                self._telemetry.notification_written(entry.notification.channels)
            if answer is not False:
                self._was_written(entry.notification)

    async def _note(self, mark: Mark) -> None:
        try:
            await self._stored.settle(mark.notification_ids, mark.delivery, mark.attempts, mark.at)
        except Misconfigured as error:
            count = len(mark.notification_ids)
            log.error("notifications_not_marked", count=count, error=str(error))  # noqa: TRY400
