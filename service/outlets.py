"""One target outside: what waits to be told there, and the messages that tell it."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain

from service.domain.digest import (
    DigestPolicy,
    Item,
    Message,
    Return,
    Rhythm,
    message_of,
    return_message,
)
from service.domain.notification import Delivery, Notification, Target
from service.ports import Messenger, Unavailable
from service.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How often a message is tried, and how long apart: each pause is longer by `factor`.

    Five tries take a quarter of an hour.
    """

    tries: int = 5
    first_seconds: float = 10.0
    factor: float = 4.0

    def pause_after(self, tries: int) -> float:
        """How long to wait before the next try; the replicas do not all try at once."""
        longest = self.first_seconds * self.factor ** (tries - 1)
        return random.uniform(0.8 * longest, longest)


@dataclass(slots=True)
class _Outage:
    """Conductor is down; times are those of the clock that nobody sets."""

    since: float
    runs: int = 0
    """Those that failed, or were missed, for it."""
    was_told: bool = False
    """Whether a message has gone out that tells of one."""
    ended_at: float | None = None


Settled = Callable[[Sequence[Notification], Delivery, int], None]
"""Called with what a message has told, what became of it, and how many tries that took."""


class Outlet:
    """Run `deliver` as a task. What is `put` goes out by the policy, or once `hurry` is said.

    A message that fails is tried again while what comes meanwhile is collected for the next.
    """

    def __init__(
        self,
        target: Target,
        messenger: Messenger,
        telemetry: Telemetry,
        elapsed_seconds: Callable[[], float],
        *,
        settled: Settled,
        digests: DigestPolicy,
        deliveries: DeliveryPolicy,
        most: int,
    ) -> None:
        self.target = target
        self._messenger = messenger
        self._telemetry = telemetry
        self._elapsed_seconds = elapsed_seconds
        self._settled = settled
        self._digests = digests
        self._deliveries = deliveries
        self._most = most
        self._waiting: list[Item] = []
        self._first_at = 0.0
        self._rhythm = Rhythm()
        self._outage: _Outage | None = None
        self._is_hurried = False
        self._changed = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while nothing waits and nothing is being sent."""
        self.idle.set()

    def put(self, item: Item) -> bool:
        """Have this told; False where too much waits already."""
        if len(self._waiting) >= self._most:
            return False
        now = self._elapsed_seconds()
        if not self._waiting:
            self._first_at = now
        self._waiting.append(item)
        self._rhythm = self._rhythm.after_arrival(now, self._digests)
        if self._outage is not None and isinstance(item, Notification) and item.is_of_conductor:
            self._outage.runs += item.slots
        self.idle.clear()
        self._changed.set()
        return True

    def conductor_lost(self) -> None:
        """Count from now on what goes wrong for that."""
        if self._outage is None:
            self._outage = _Outage(self._elapsed_seconds())
        self._outage.ended_at = None
        self._changed.set()

    def conductor_answered(self) -> None:
        """Tell so, if people were told of the outage, or are about to be."""
        outage = self._outage
        if outage is None or outage.runs == 0:
            self._outage = None
            return
        outage.ended_at = self._elapsed_seconds()
        self.idle.clear()
        self._changed.set()

    def hurry(self) -> None:
        """Send what waits at once, each message with one try: the service stops."""
        self._is_hurried = True
        self._changed.set()

    async def deliver(self) -> None:
        """Send what waits when its time has come, until cancelled."""
        while True:
            await self._until_due()
            await self._send_waiting()

    async def _until_due(self) -> None:
        while True:
            self._changed.clear()
            due_at = self._due_at()
            if due_at is None:
                self.idle.set()
            now = self._elapsed_seconds()
            if due_at is not None and (due_at <= now or self._is_hurried):
                return
            await self._wait(None if due_at is None else due_at - now)

    def _due_at(self) -> float | None:
        """When to send; None while there is nothing to be sent."""
        outage = self._outage
        if outage is not None and outage.ended_at is not None and outage.was_told:
            # Good news do not wait for their turn among the bad: there are no more of them.
            return outage.ended_at + self._digests.collect_seconds
        return self._rhythm.due_at(self._first_at, self._digests) if self._waiting else None

    async def _wait(self, seconds: float | None) -> None:
        """Wait so long, or for a change."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _send_waiting(self) -> None:
        items, self._waiting = self._waiting, []
        if (back := self._taken_return()) is not None:
            await self._see_through(return_message(back, items), items)
        else:
            parcels = deque(self._parcels(items))
            while parcels:
                parcel = parcels.popleft()
                if not await self._see_through(message_of(parcel), parcel):
                    self._waiting[:0] = chain.from_iterable(parcels)  # together, then
                    break
        self._rhythm = self._rhythm.after_sending(self._elapsed_seconds())

    def _parcels(self, items: Sequence[Item]) -> Sequence[Sequence[Item]]:
        if self._outage is not None and any(
            isinstance(item, Notification) and item.is_of_conductor for item in items
        ):
            self._outage.was_told = True
        return [items] if self._is_hurried else self._rhythm.parcels(items, self._digests)

    def _taken_return(self) -> Return | None:
        outage = self._outage
        if outage is None or outage.ended_at is None:
            return None
        self._outage = None
        return Return(timedelta(seconds=outage.ended_at - outage.since), outage.runs)

    async def _see_through(self, message: Message, items: Sequence[Item]) -> bool:
        """Send this, again where that fails; what is left when the service stops stays pending.

        Tells whether it went out at once.
        """
        told = [item for item in items if isinstance(item, Notification)]
        for tries in range(1, self._deliveries.tries + 1):
            try:
                await self._messenger.send(self.target, message)
            except Unavailable as error:
                if tries == self._deliveries.tries:
                    self._telemetry.message_failed(self.target, message, str(error))
                    self._settled(told, Delivery.FAILED, tries)
                    break
                if not await self._may_repeat(self._deliveries.pause_after(tries)):
                    break
            else:
                self._telemetry.message_sent(self.target, message, len(items))
                self._settled(told, Delivery.SENT, tries)
                return tries == 1
        return False

    async def _may_repeat(self, pause: float) -> bool:
        """Wait before the next try; False where the service stops instead."""
        again_at = self._elapsed_seconds() + pause
        while not self._is_hurried and (left := again_at - self._elapsed_seconds()) > 0:
            self._changed.clear()
            await self._wait(left)
        return not self._is_hurried
