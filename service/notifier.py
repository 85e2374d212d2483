"""Tells people how runs ended: documents for every UI, messages to the outside."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic

import structlog

from service.domain.councilor import (
    Councilor,
    InvalidCouncilor,
    Notifications,
    SchedulePolicy,
    parse_councilor,
)
from service.domain.digest import DigestPolicy, WellAgain
from service.domain.execution import Execution, NotRun, Outcome
from service.domain.notification import (
    Audience,
    Delivery,
    Entry,
    Notification,
    Target,
    audience_of,
    of_run,
    of_slot,
    targets_of,
    unknown_of,
)
from service.domain.severity import Severity
from service.outbox import Mark, Outbox, Unclear
from service.outlets import DeliveryPolicy, Outlet
from service.patience import Patience
from service.ports import (
    Agents,
    Clock,
    Messenger,
    ServiceError,
    StoredNotifications,
    Unavailable,
)
from service.telemetry import Telemetry

log = structlog.get_logger()

_MOST = 10_000
"""Notifications that wait to be written, or to be sent to one target."""
_ADOPTED_AT_ONCE = 500
_MOST_UNKNOWN = 100
_AFTER_A_CRASH_SECONDS = 1.0
_LAST_WRITES_SECONDS = 2.0
"""How long the end waits for a database that does not take what is told."""


@dataclass(frozen=True, slots=True)
class NotifyPolicy:
    """How much and how often; the defaults are what docs/operations.md promises."""

    digests: DigestPolicy = field(default_factory=DigestPolicy)
    deliveries: DeliveryPolicy = field(default_factory=DeliveryPolicy)
    most: int = _MOST
    between_batches_seconds: float = 0.02
    """Nobody waits for them, and so more are written at once."""


@dataclass(slots=True)
class _Open:
    """A notification that is on its way to so many targets still."""

    targets: int
    has_failed: bool = False
    attempts: int = 0
    """Of the message that took the most of them."""


@dataclass(frozen=True, slots=True)
class _Ailing:
    """A councilor of whose error people outside were told last."""

    display_name: str
    targets: tuple[Target, ...]
    is_of_conductor: bool


class Notifier:
    """Run `deliver` as a task, and `drain` before it is cancelled.

    Telling takes no time and never fails: what is told is written, and sent, by the task. A
    notification is told by one replica, and its message goes out at least once; see the port
    `StoredNotifications`. `messenger` is None where nothing goes outside.
    """

    def __init__(
        self,
        stored: StoredNotifications,
        agents: Agents,
        messenger: Messenger | None,
        patience: Patience,
        telemetry: Telemetry,
        clock: Clock,
        *,
        schedules: SchedulePolicy,
        policy: NotifyPolicy | None = None,
        elapsed_seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._stored = stored
        self._agents = agents
        self._telemetry = telemetry
        self._clock = clock
        self._schedules = schedules
        self._policy = policy or NotifyPolicy()
        self._targets = list(messenger.targets) if messenger is not None else []
        self._outlets = {
            target: Outlet(
                target,
                messenger,
                telemetry,
                elapsed_seconds,
                settled=self._settled,
                digests=self._policy.digests,
                deliveries=self._policy.deliveries,
                most=self._policy.most,
            )
            for target in self._targets
            if messenger is not None
        }
        self._outbox = Outbox(
            stored,
            patience,
            telemetry,
            clarified=self._clarified,
            written=self._send,
            most=self._policy.most,
            between_batches_seconds=self._policy.between_batches_seconds,
        )
        self._open: dict[str, _Open] = {}
        self._ailing: dict[str, _Ailing] = {}
        self._is_draining = False
        self._may_have_lost_some = False
        self._told_of_no_urls = False
        self._told_of_failing: set[str] = set()
        self._unknown: set[str] = set()
        """Channels that lead nowhere, as far as that was told of."""
        self._is_prepared = False

    def run_ended(
        self, execution: Execution, outcome: Outcome, audience: Audience | None, prompt: str = ""
    ) -> None:
        """Tell of a run that has ended; `audience` is None where its document has to say it."""
        is_well = outcome.severity is Severity.SUCCESS
        with self._harmlessly():
            if audience is None:
                self._outbox.put(Unclear(execution, outcome))
            elif not is_well or audience.told.on_success:
                self._tell(of_run(execution, outcome, audience, prompt))
        with self._harmlessly():
            if is_well and execution.agent_id in self._ailing:
                self._tell_well_again(execution.agent_id, audience)

    def slot_not_run(self, not_run: NotRun, audience: Audience) -> None:
        """Tell of a slot, or a stretch of them, that ends without a run."""
        with self._harmlessly():
            self._tell(of_slot(not_run, audience))

    def conductor_lost(self) -> None:
        """Take note that Conductor was found down."""
        with self._harmlessly():
            for outlet in self._outlets.values():
                outlet.conductor_lost()

    def conductor_answered(self) -> None:
        """Tell those who were told of its outage that Conductor has answered a call."""
        with self._harmlessly():
            telling = {
                target for target, outlet in self._outlets.items() if outlet.conductor_answered()
            }
            # One message for all of them, where there is one: their runs do not tell it again.
            for agent_id, ailing in list(self._ailing.items()):
                if ailing.is_of_conductor:
                    self._forget(agent_id, ailing, telling)

    def _forget(self, agent_id: str, ailing: _Ailing, telling: Collection[Target]) -> None:
        """These targets are told that it is well, in whatever words."""
        if left := tuple(target for target in ailing.targets if target not in telling):
            self._ailing[agent_id] = replace(ailing, targets=left)
        else:
            del self._ailing[agent_id]

    async def deliver(self) -> None:
        """Write what is told, and send it outside, until cancelled: no fault ends it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._prepare(), name="prepare notifications")
            tasks.create_task(self._go_on(self._outbox.write), name="write notifications")
            for outlet in self._outlets.values():
                tasks.create_task(self._go_on(outlet.deliver), name="send notifications")

    async def _go_on(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            with self._harmlessly():
                await work()
            await asyncio.sleep(_AFTER_A_CRASH_SECONDS)

    @contextmanager
    def _harmlessly(self) -> Iterator[None]:
        """A fault of ours is told of: what has ended has ended, and what runs goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 nothing here is worth a run
            self._telemetry.notification_crashed(error)

    async def _prepare(self) -> None:
        """Have the indexes; where that cannot be, do without, and see again from time to time."""
        with self._harmlessly():
            try:
                await self._stored.prepare()
            except ServiceError as error:
                if not (self._is_prepared and isinstance(error, Unavailable)):
                    self._note_unavailable("prepare", error)
                return
            self._is_prepared = True
            self._told_of_failing.discard("prepare")

    def _note_unavailable(self, step: str, error: ServiceError) -> None:
        """Say so once, until it succeeds."""
        if step not in self._told_of_failing:
            self._told_of_failing.add(step)
            log.warning("notifications_unavailable", error=str(error))

    async def drain(self, timeout: timedelta) -> None:
        """Write and send what waits, as far as that takes no longer; the rest stays pending.

        What the database does not take soon is sent all the same.
        """
        self._is_draining = True
        self._outbox.hurry()
        for outlet in self._outlets.values():
            outlet.hurry()
        with self._harmlessly(), suppress(TimeoutError):
            async with asyncio.timeout(timeout.total_seconds()):
                is_written = await self._is_written_within(_LAST_WRITES_SECONDS)
                for notification in () if is_written else self._outbox.give_up():
                    self._send(notification)
                for outlet in self._outlets.values():
                    await outlet.idle.wait()
                if is_written:
                    await self._outbox.is_written.wait()

    async def _is_written_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._outbox.is_written.wait()
        except TimeoutError:
            return False
        return True

    async def take_over(
        self, dead_among: Callable[[Collection[str]], Awaitable[frozenset[str]]], owner: str
    ) -> None:
        """Send what dead replicas have left pending, some of it at a time; `owner` is this one.

        Raises Unavailable.
        """
        if self._is_draining:
            return
        await self._prepare()  # again: somebody may have dropped the collection
        if not self._outlets:
            return
        try:
            await self._adopt(dead_among, owner)
        except Unavailable:
            raise
        except ServiceError as error:
            self._note_unavailable("take over", error)
        except Exception as error:  # noqa: BLE001 nothing here is worth what else is mended
            self._telemetry.notification_crashed(error)
        else:
            self._told_of_failing.discard("take over")

    async def _adopt(
        self, dead_among: Callable[[Collection[str]], Awaitable[frozenset[str]]], owner: str
    ) -> None:
        owners = await dead_among(await self._stored.owners_of_pending())
        if self._may_have_lost_some and not self._open and self._outbox.is_written.is_set():
            owners |= {owner}  # nothing of ours is on its way, so all of it was forgotten
        if not owners:
            return
        self._may_have_lost_some = True
        adopted = await self._stored.adopt(owners, _ADOPTED_AT_ONCE)
        self._may_have_lost_some = False
        log.info("notifications_taken_over", count=len(adopted))
        for notification in adopted:
            self._send(notification, is_owed=True)

    def _tell(self, notification: Notification | None) -> None:
        entry = self._entry_of(notification, self._clock())
        if entry is not None:
            self._outbox.put(entry)

    def _entry_of(self, notification: Notification | None, at: datetime) -> Entry | None:
        if notification is None:
            return None
        targets = self._targets_of(notification)
        self._note_health(notification, targets)
        return Entry(notification, at, Delivery.PENDING if targets else None)

    def _targets_of(self, notification: Notification) -> tuple[Target, ...]:
        outside = notification.outside
        if outside and not self._targets and not self._told_of_no_urls:
            self._told_of_no_urls = True
            log.warning("notify_urls_missing", channel=outside[0])
        for channel in unknown_of(outside, self._targets):
            if channel not in self._unknown and len(self._unknown) < _MOST_UNKNOWN:
                self._unknown.add(channel)
                log.warning("channel_unknown", channel=channel)
        return targets_of(outside, self._targets)

    def _note_health(self, notification: Notification, targets: tuple[Target, ...]) -> None:
        """Remember whose error people outside were told of last, of the latest few thousand."""
        if not targets or notification.severity is not Severity.ERROR:
            return  # a warning makes nobody well
        self._ailing.pop(notification.councilor_id, None)
        self._ailing[notification.councilor_id] = _Ailing(
            notification.display_name, targets, notification.is_of_conductor
        )
        if len(self._ailing) > self._policy.most:
            del self._ailing[next(iter(self._ailing))]

    def _tell_well_again(self, agent_id: str, audience: Audience | None) -> None:
        ailing = self._ailing.pop(agent_id)
        told = audience.told if audience is not None else Notifications(channels=())
        # Where the success itself is told, that says enough.
        know = targets_of(told.channels, self._targets) if told.on_success else ()
        for target in ailing.targets:
            if target not in know:
                self._outlets[target].put(WellAgain(agent_id, ailing.display_name))

    async def _clarified(self, unclear: Sequence[Unclear]) -> Sequence[Entry]:
        """Who is told of these, as their documents say it, where those are there still."""
        audiences = await self._audiences({told.execution.agent_id for told in unclear})
        entries = (
            self._entry_of(
                of_run(told.execution, told.outcome, audience), told.outcome.completed_at
            )
            for told in unclear
            if (audience := audiences.get(told.execution.agent_id)) is not None
        )
        return [entry for entry in entries if entry is not None]

    async def _audiences(self, agent_ids: Collection[str]) -> Mapping[str, Audience]:
        audiences = dict[str, Audience]()
        for document in await self._agents.find(list(agent_ids)):
            fields = document.fields or {}
            match parse_councilor(fields, self._schedules):
                case Councilor() as councilor:
                    audiences[councilor.agent_id] = audience_of(councilor, "", fields)
                case InvalidCouncilor(agent_id=str(agent_id), display_name=name):
                    audiences[agent_id] = audience_of(None, name, fields)
                case _:
                    pass  # whoever it was is nobody's councilor any more
        return audiences

    def _send(self, notification: Notification, *, is_owed: bool = False) -> None:
        """Have this sent to where it goes; `is_owed`: it is pending, so that has to end."""
        if notification.notification_id in self._open:
            return  # it is on its way already
        targets = targets_of(notification.channels, self._targets)
        if not targets:
            if is_owed:
                self._mark([notification.notification_id], Delivery.FAILED, 0)
            return
        self._open[notification.notification_id] = _Open(len(targets))
        for target in targets:
            if not self._outlets[target].put(notification):
                self._telemetry.notification_dropped(notification.outside)
                self._settled([notification], Delivery.FAILED, 0)

    def _settled(
        self, notifications: Sequence[Notification], delivery: Delivery, attempts: int
    ) -> None:
        """Take note of what one target was told; the last of all targets has it marked."""
        done: dict[tuple[Delivery, int], list[str]] = {}
        for notification in notifications:
            if (still := self._open.get(notification.notification_id)) is None:
                continue
            still.targets -= 1
            still.has_failed |= delivery is Delivery.FAILED
            still.attempts = max(still.attempts, attempts)
            if still.targets == 0:
                del self._open[notification.notification_id]
                end = Delivery.FAILED if still.has_failed else Delivery.SENT
                done.setdefault((end, still.attempts), []).append(notification.notification_id)
                self._telemetry.notification_settled(notification.outside, end)
        for (end, most), notification_ids in done.items():
            self._mark(notification_ids, end, most)

    def _mark(self, notification_ids: list[str], delivery: Delivery, attempts: int) -> None:
        self._outbox.mark(Mark(notification_ids, delivery, attempts, self._clock()))
