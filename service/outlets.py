"""One target outside: what waits to be told there, and the messages that tell it."""

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from service.domain.digest import (
    DigestPolicy,
    Item,
    Message,
    Return,
    Rhythm,
    is_alarm,
    message_of,
    return_message,
)
from service.domain.notification import Delivery, Notification, Target
from service.ports import Messenger, Refused, ServiceError, Unavailable
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


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What one message tells."""

    items: Sequence[Item]
    back: Return | None = None

    @property
    def told(self) -> Sequence[Notification]:
        return [item for item in self.items if isinstance(item, Notification)]

    def message(self, *, is_brief: bool = False) -> Message:
        if self.back is not None:
            return return_message(self.back, self.items, is_brief=is_brief)
        return message_of(self.items, is_brief=is_brief)


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
        self._first_at = math.inf
        """Since when something has been waiting; and something that is no good news."""
        self._first_alarm_at = math.inf
        self._rhythm = Rhythm()
        """Of all messages; and of those that tell of something that is no good news."""
        self._alarms = Rhythm()
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
        self._waiting.append(item)
        self._note_waiting([item], self._elapsed_seconds())
        if self._outage is not None and isinstance(item, Notification) and item.is_of_conductor:
            self._outage.runs += item.slots
        self.idle.clear()
        self._changed.set()
        return True

    def _note_waiting(self, items: Iterable[Item], since: float) -> None:
        self._first_at = min(self._first_at, since)
        if any(is_alarm(item) for item in items):
            self._first_alarm_at = min(self._first_alarm_at, since)

    def conductor_lost(self) -> None:
        """Count from now on what goes wrong for that."""
        if self._outage is None:
            self._outage = _Outage(self._elapsed_seconds())
        self._outage.ended_at = None
        self._changed.set()

    def conductor_answered(self) -> bool:
        """Tell so, if people were told of the outage, or are about to be; answers whether."""
        outage = self._outage
        if outage is None or outage.runs == 0:
            self._outage = None
            return False
        outage.ended_at = self._elapsed_seconds()
        self.idle.clear()
        self._changed.set()
        return True

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
        if self._first_alarm_at < math.inf:
            return self._alarms.due_at(self._first_alarm_at, self._digests)
        if self._waiting:
            return self._rhythm.due_at(self._first_at, self._digests, is_good=True)
        return None

    async def _wait(self, seconds: float | None) -> None:
        """Wait so long, or for a change."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _send_waiting(self) -> None:
        items, self._waiting = self._waiting, []
        since, self._first_at, self._first_alarm_at = self._first_at, math.inf, math.inf
        parcels = deque(self._parcels(items))
        while parcels:
            parcel = parcels.popleft()
            is_taking = await self._see_through(parcel)
            self._note_sending(parcel)
            if parcels and not is_taking:
                rest = [item for other in parcels for item in other.items]
                self._waiting[:0] = rest  # together, then
                self._note_waiting(rest, since)
                break

    def _parcels(self, items: Sequence[Item]) -> Sequence[_Parcel]:
        if (back := self._taken_return()) is not None:
            return [_Parcel(items, back)]
        if self._outage is not None and any(
            isinstance(item, Notification) and item.is_of_conductor for item in items
        ):
            self._outage.was_told = True
        if self._is_hurried:
            return [_Parcel(items)]
        now = self._elapsed_seconds()
        return [_Parcel(part) for part in self._rhythm.parcels(items, now, self._digests)]

    def _note_sending(self, parcel: _Parcel) -> None:
        """No pause between bad news is longer for what was sent of good ones."""
        now = self._elapsed_seconds()
        self._rhythm = self._rhythm.after_sending(now, self._digests)
        if any(is_alarm(item) for item in parcel.items):
            self._alarms = self._alarms.after_sending(now, self._digests)

    def _taken_return(self) -> Return | None:
        outage = self._outage
        if outage is None or outage.ended_at is None:
            return None
        self._outage = None
        return Return(timedelta(seconds=outage.ended_at - outage.since), outage.runs)

    async def _see_through(self, parcel: _Parcel) -> bool:
        """Send this, again where that fails; what is left when the service stops stays pending.

        Tells whether the target takes messages, as far as is known without waiting.
        """
        message = self._rendered(parcel)
        if message is None:
            parcel = self._without_crashing(parcel)
            message = self._rendered(parcel) if parcel.items else None
        if message is None:
            self._settled(parcel.told, Delivery.FAILED, 0)
            return True
        for tries in range(1, self._deliveries.tries + 1):
            trouble = await self._trouble_of(message)
            if trouble is None:
                self._note_sent(parcel, message, tries)
                return tries == 1
            if isinstance(trouble, Refused) or tries == self._deliveries.tries:
                return await self._tell_in_brief(parcel, message, tries, trouble)
            if not await self._may_repeat(self._deliveries.pause_after(tries)):
                break
        return False

    def _rendered(self, parcel: _Parcel) -> Message | None:
        """What there is to say; numbers alone, or nothing, where something is wrong with it."""
        for is_brief in (False, True):
            try:
                return parcel.message(is_brief=is_brief)
            except Exception as error:  # noqa: BLE001 there are others to be told of
                self._telemetry.notification_crashed(error)
        return None

    def _without_crashing(self, parcel: _Parcel) -> _Parcel:
        """What is left where each item of which nothing can be said has failed."""
        crashing = [item for item in parcel.items if self._rendered(_Parcel([item])) is None]
        self._settled(_Parcel(crashing).told, Delivery.FAILED, 0)
        known = {id(item) for item in crashing}
        return replace(parcel, items=[item for item in parcel.items if id(item) not in known])

    async def _trouble_of(self, message: Message) -> ServiceError | None:
        """Send, and tell what is wrong, if anything is."""
        try:
            await self._messenger.send(self.target, message)
        except (Refused, Unavailable) as error:
            return error
        except Exception as error:  # noqa: BLE001 a fault of the messenger's ends no delivery
            self._telemetry.notification_crashed(error)
            return Unavailable(type(error).__name__)
        return None

    async def _tell_in_brief(
        self, parcel: _Parcel, message: Message, tries: int, trouble: ServiceError
    ) -> bool:
        """Send numbers alone before giving up: what one of many says may be what is not taken."""
        is_refused = isinstance(trouble, Refused)
        if is_refused or len(parcel.items) > 1:
            brief = parcel.message(is_brief=True)
            if await self._trouble_of(brief) is None:
                self._note_sent(parcel, brief, tries + 1)
                return True
        self._telemetry.message_failed(self.target, message, str(trouble))
        self._settled(parcel.told, Delivery.FAILED, tries)
        return is_refused

    def _note_sent(self, parcel: _Parcel, message: Message, tries: int) -> None:
        self._telemetry.message_sent(self.target, message, len(parcel.items))
        self._settled(parcel.told, Delivery.SENT, tries)

    async def _may_repeat(self, pause: float) -> bool:
        """Wait before the next try; False where the service stops instead."""
        again_at = self._elapsed_seconds() + pause
        while not self._is_hurried and (left := again_at - self._elapsed_seconds()) > 0:
            self._changed.clear()
            await self._wait(left)
        return not self._is_hurried
