"""What happens, told to whoever listens: councilors that start and end, jobs that change.

The ledger is followed by a change stream, so that every replica tells of the runs of all of them;
but only while somebody listens, since each stream costs the database.
"""

import asyncio
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic

import structlog

from service.domain.jobs import Job
from service.domain.planning import Change
from service.listeners import LOST, Event, Listener, event_of
from service.ports import (
    Journal,
    Misconfigured,
    OpenJournal,
    Unavailable,
    WatchLost,
)
from service.telemetry import Telemetry

log = structlog.get_logger()

_CAUGHT_UP_AT_ONCE = 4
"""Listeners for whom the ledger is asked what they have missed: each takes a stream for it."""
_TOLD_AT_ONCE = 20
"""Events that are told to all before the event loop may turn to something else."""
_POSITION = re.compile("[0-9A-Fa-f]{2,1024}")
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class EventPolicy:
    """How much is remembered, for listeners that come back and for those that are slow."""

    remembered: int = 2_000
    waiting: int = 2_000
    """Events that wait for one listener; who falls further behind is left behind."""
    linger_seconds: float = 30.0
    """How long the ledger is followed after the last listener has left: it may come back."""
    missed_seconds: float = 5.0
    """How long it may take to find what a listener has missed."""
    open_seconds: float = 3.0


class Events:
    """Run `follow` as a task. Listeners come and go by `listening`."""

    def __init__(
        self, journal: Journal, telemetry: Telemetry, policy: EventPolicy | None = None
    ) -> None:
        self._journal = journal
        self._telemetry = telemetry
        self._policy = policy or EventPolicy()
        self._listeners: set[Listener] = set()
        self._recent: deque[Event] = deque(maxlen=self._policy.remembered)
        self._position: str | None = None
        self._beside = 0
        self._wanted, self._is_open = asyncio.Event(), asyncio.Event()
        self._catching_up = asyncio.Semaphore(_CAUGHT_UP_AT_ONCE)
        self._left_at = monotonic()
        self._is_over = False

    @property
    def listeners(self) -> int:
        """How many listen now."""
        return len(self._listeners)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Listener]:
        """Listen: nothing that happens from here on is overlooked, or it is said to be lost."""
        listener = Listener(self._policy.waiting)
        self._listeners.add(listener)
        self._telemetry.listeners_counted(len(self._listeners))
        self._wanted.set()
        if self._is_over:
            listener.end()
        try:
            listener.is_deaf = not await self._opens()
            yield listener
        finally:
            self._listeners.discard(listener)
            self._telemetry.listeners_counted(len(self._listeners))
            self._left_at = monotonic()

    async def _opens(self) -> bool:
        """Wait until the ledger is followed; without MongoDB there is less to hear."""
        try:
            async with asyncio.timeout(self._policy.open_seconds):
                await self._is_open.wait()
        except TimeoutError:
            return False
        return True

    async def catch_up(self, listener: Listener, last_id: str) -> None:
        """Have it hear first what has happened since the event with this id, told by any replica.

        Where that is not known any more, the first event is `events_lost`.
        """
        missed = self._since(last_id)
        if missed is None:
            missed = await self._missed(last_id)
        listener.catch_up(missed if missed is not None else [LOST])

    def _since(self, last_id: str) -> list[Event] | None:
        """What was told here after this event; None where it was told elsewhere, or long ago."""
        ids = [event.id for event in self._recent]
        if last_id not in ids:
            return None
        place = len(ids) - 1 - ids[::-1].index(last_id)
        return list(self._recent)[place + 1 :]

    async def _missed(self, last_id: str) -> list[Event] | None:
        """What the ledger says has happened since, up to where it is followed now."""
        position, _, _ = last_id.partition("/")
        here = self._position
        if _POSITION.fullmatch(position) is None or here is None or not self._is_open.is_set():
            return None
        try:
            async with asyncio.timeout(self._policy.missed_seconds), self._catching_up:
                return await self._between(position, here)
        except (TimeoutError, WatchLost, Unavailable, Misconfigured):
            return None

    async def _between(self, position: str, here: str) -> list[Event] | None:
        missed: list[Event] = []
        async with self._journal.follow(position) as journal:
            while True:
                entries = await journal.entries()
                missed += map(event_of, entries)
                if len(missed) > self._policy.remembered:
                    return None
                # Positions sort as they come; what comes later, this listener hears by itself.
                if not entries or (journal.position or here) >= here:
                    return missed

    async def follow(self) -> None:
        """Tell what happens while somebody listens, until cancelled."""
        pause = _SHORTEST_PAUSE
        try:
            while True:
                await self._wanted.wait()
                try:
                    async with self._journal.follow(self._position) as journal:
                        pause = _SHORTEST_PAUSE
                        await self._tell_all(journal)
                    continue
                except WatchLost as lost:
                    if lost.reason.isdecimal():  # the server knows no more what came then
                        self._lose()
                except (Unavailable, Misconfigured) as error:
                    log.info("events_interrupted", error=str(error))
                await asyncio.sleep(random.uniform(0, pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._is_over = True
            for listener in self._listeners:
                listener.end()

    async def _tell_all(self, journal: OpenJournal) -> None:
        self._position = journal.position or self._position
        self._is_open.set()
        for listener in self._listeners:
            if listener.is_deaf:
                listener.is_deaf = False
                listener.tell(LOST)
        try:
            while self._is_wanted():
                for place, entry in enumerate(await journal.entries()):
                    if place % _TOLD_AT_ONCE == _TOLD_AT_ONCE - 1:
                        await asyncio.sleep(0)
                    self._position, self._beside = entry.position, 0
                    self._tell(event_of(entry))
                self._position = journal.position or self._position
        finally:
            self._is_open.clear()
        # Whoever comes later begins then.
        self._wanted.clear()
        self._recent.clear()
        self._position = None

    def _is_wanted(self) -> bool:
        lingers = monotonic() - self._left_at < self._policy.linger_seconds
        return bool(self._listeners) or lingers

    def _lose(self) -> None:
        """Go on from now, where the place that we were at is forgotten."""
        if self._position is not None:
            self._tell(LOST)
        self._position = None

    def job_changed(self, change: Change | None, job: Job) -> None:
        """A document has changed what its job is; `change` is None where only details differ."""
        schedule = job.spec.schedule if job.spec is not None else None
        self._tell_beside(
            {
                "agent_id": job.agent_id,
                "change": change.value if change is not None else "job_edited",
                "state": job.state.value,
                "name": job.name,
                "schedule": f"{schedule.kind}={schedule.text}" if schedule is not None else None,
                "next_run_time": job.next_run_at,
                "error": job.problem.message if job.problem is not None else None,
            }
        )

    def job_removed(self, agent_id: str) -> None:
        """An agent is no councilor any more."""
        self._tell_beside({"agent_id": agent_id, "change": "job_removed", "state": None})

    def _tell_beside(self, fields: Mapping[str, object]) -> None:
        """What this replica knows by itself has a place after the last that the ledger said."""
        if not self._listeners:
            return
        self._beside += 1
        place = f"{self._position}/{self._beside}" if self._position is not None else None
        self._tell(Event("job_changed", fields, place))

    def _tell(self, event: Event) -> None:
        self._recent.append(event)
        for listener in list(self._listeners):
            if not listener.is_over and not listener.tell(event):
                self._telemetry.listener_left_behind()
