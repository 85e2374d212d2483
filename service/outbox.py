"""What is told on its way into the collection, and what has become of it on its way there, too."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from service.domain.execution import Execution, Outcome
from service.domain.notification import Delivery, Entry, Notification
from service.patience import Patience
from service.ports import Misconfigured, ServiceError, StoredNotifications, Unavailable
from service.telemetry import Telemetry

_BATCH = 200


@dataclass(frozen=True, slots=True)
class Unclear:
    """The end of a run of which nobody here knows who is told: its document says it."""

    execution: Execution
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Mark:
    """What has become of messages, for their notifications."""

    notification_ids: list[str]
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
        self._in_hand: Sequence[Entry | Unclear] = ()
        """What is being written."""
        self._marks: dict[tuple[Delivery, int], Mark] = {}
        self._has_any = asyncio.Event()
        self._is_hurried = self._is_given_up = False
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
        """Have this noted in the collection, with all that is to be marked the same."""
        sort = (mark.delivery, mark.attempts)
        same = self._marks.setdefault(sort, Mark([], mark.delivery, mark.attempts, mark.at))
        same.notification_ids.extend(mark.notification_ids)
        self._wake()

    def hurry(self) -> None:
        """Take no step again from now on, nor wait for more: the service stops."""
        self._is_hurried = True

    def give_up(self) -> Sequence[Notification]:
        """What is not written yet, and is not `written` any more: the service stops."""
        self._is_given_up = True
        left = [*self._in_hand, *self._unwritten]
        self._unwritten.clear()
        return [told.notification for told in left if isinstance(told, Entry)]

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
        """Write what waits, then mark: by one update each sort, however many there are."""
        if self._unwritten:
            count = min(len(self._unwritten), _BATCH)
            self._in_hand = [self._unwritten.popleft() for _ in range(count)]
            await self._write_together(self._in_hand)
            self._in_hand = ()
        has_room = sum(len(mark.notification_ids) for mark in self._marks.values()) < self._most
        if len(self._unwritten) >= _BATCH and has_room:
            return  # there are so many of them that marks would have some dropped
        marks, self._marks = self._marks, {}
        for mark in marks.values():
            await self._note(mark)

    async def _write_together(self, batch: Sequence[Entry | Unclear]) -> None:
        try:
            await self._patience.retried(
                partial(self._write_batch, batch), lambda: self._is_hurried
            )
        except ServiceError as error:  # at the end, or refused: there are others to be written
            self._telemetry.notifications_not_written(len(batch), error)
            self._pass_on(batch)
        except Exception as error:  # noqa: BLE001 one of them may be what is wrong
            self._telemetry.notification_crashed(error)
            if len(batch) == 1:
                self._pass_on(batch)
                return
            for told in batch:
                await self._write_together([told])

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
            self._telemetry.notifications_not_written(len(refused), refused[0])
        for entry, answer in zip(entries, answers, strict=True):
            if answer is True:
                self._telemetry.notification_written(entry.notification.channels)
        self._pass_on(
            [entry for entry, answer in zip(entries, answers, strict=True) if answer is not False]
        )

    def _pass_on(self, batch: Sequence[Entry | Unclear]) -> None:
        """Pass on what is ours to send, unless that was given up, and is on its way already."""
        for told in batch:
            if isinstance(told, Entry) and not self._is_given_up:
                self._was_written(told.notification)

    async def _note(self, mark: Mark) -> None:
        """Mark; while others wait to be written, what fails waits for its next turn."""
        try:
            await self._patience.retried(
                partial(self._settle, mark), lambda: self._is_hurried or bool(self._unwritten)
            )
        except Unavailable:
            if not self._is_hurried:
                self.mark(mark)
        except ServiceError as error:
            self._telemetry.notifications_not_written(len(mark.notification_ids), error)
        except Exception as error:  # noqa: BLE001 what is not marked is told once more, at worst
            self._telemetry.notification_crashed(error)

    async def _settle(self, mark: Mark) -> None:
        try:
            await self._stored.settle(mark.notification_ids, mark.delivery, mark.attempts, mark.at)
        except Misconfigured as error:
            self._telemetry.notifications_not_written(len(mark.notification_ids), error)
