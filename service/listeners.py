"""What listeners of `/events` hear: one event each, in order, none twice."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from service.domain.execution import Status
from service.ports import JournalEntry, LedgerEntry, NotificationEntry

_RUN = ("councilor_id", "task_name", "display_name", "execution_id", "started_at")
_END = (*_RUN, "status", "severity", "reason", "completed_at", "duration_ms", "trigger")
_NOT_RUN = (
    *("councilor_id", "task_name", "display_name", "execution_id", "scheduled_for", "status"),
    *("severity", "reason", "slots_missed", "first_slot", "last_slot"),
)
_LONGEST_ERROR = 2_000


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """One thing that has happened. With its `id`, a listener may go on after it elsewhere."""

    name: str
    fields: Mapping[str, object]
    id: str | None = None


LOST = Event("events_lost", {})
"""What has happened is not known any more: whoever keeps a picture has to look anew."""


class Listener:
    """What one listener is to hear. Ends where it is left behind, or the service stops."""

    def __init__(self, waiting: int) -> None:
        self._most = waiting
        self._events: deque[Event] = deque()
        self._has_any = asyncio.Event()
        self._told: set[str] = set()
        self.is_over = False
        self.is_deaf = False
        """Whether the ledger was not followed yet when it came."""

    def tell(self, event: Event) -> bool:
        """Have it heard; False where this listener is too far behind, which ends it."""
        if event.id is not None and event.id in self._told:
            return True  # it heard that while it was caught up
        self._events.append(event)
        if len(self._events) > self._most:
            self.end()
            return False
        self._has_any.set()
        return True

    def catch_up(self, missed: Sequence[Event]) -> None:
        """Have these heard first, and none of them twice."""
        self._told = {event.id for event in missed if event.id is not None}
        first = set(missed)
        waiting = [
            event for event in self._events if event not in first and event.id not in self._told
        ]
        self._events = deque([*missed, *waiting])
        if self._events:
            self._has_any.set()

    def end(self) -> None:
        """Let it hear nothing more."""
        self.is_over = True
        self._events.clear()
        self._has_any.set()

    async def heard(self, within: float) -> Sequence[Event]:
        """What there is to hear, at once or as soon as there is some; nothing after `within` s."""
        try:
            async with asyncio.timeout(within):
                await self._has_any.wait()
        except TimeoutError:
            return ()
        events = list(self._events)
        self._events.clear()
        if not self.is_over:
            self._has_any.clear()
        return events


def event_of(entry: JournalEntry) -> Event:
    """What is told of something that was written, by the predecessor's names."""
    fields = entry.fields
    match entry:
        case NotificationEntry():
            return Event("councilor_notification", fields, entry.position)
        case LedgerEntry():
            name, shown = _ROWS.get(str(fields.get("status")), ("councilor_completed", _END))
            told = {field: fields.get(field) for field in shown if field in fields or field in _RUN}
            if name == "councilor_error":
                told["error"] = str(fields.get("error") or "")[:_LONGEST_ERROR]
            return Event(name, told, entry.position)


_ROWS: Mapping[str, tuple[str, Sequence[str]]] = {
    Status.RUNNING: ("councilor_started", _RUN),
    Status.COMPLETED: ("councilor_completed", _END),
    Status.ERROR: ("councilor_error", _END),
    Status.SKIPPED: ("councilor_skipped", _NOT_RUN),
    Status.MISSED: ("councilor_skipped", _NOT_RUN),
}
