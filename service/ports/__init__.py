"""What the use cases need from the outside, in terms of the domain, and the errors that cross."""

from service.ports.agents import (
    Agents,
    Changed,
    Told,
    Watch,
)
from service.ports.conductor import (
    Answer,
    Conductor,
    Failure,
)
from service.ports.errors import (
    LookAgain,
    Misconfigured,
    Refused,
    ServiceError,
    Unavailable,
    WatchLost,
)
from service.ports.history import (
    EndedRuns,
    History,
    HistoryQuery,
    Journal,
    JournalEntry,
    LedgerEntry,
    NotificationEntry,
    OpenJournal,
    UnknownRow,
)
from service.ports.jobs import (
    Clock,
    Fired,
    JobTable,
    StoredJobs,
)
from service.ports.ledger import (
    Ledger,
    LedgerRow,
    TakenSlots,
)
from service.ports.notifications import (
    Messenger,
    StoredNotifications,
)
from service.ports.replicas import (
    Replicas,
    ServerState,
)

__all__ = [
    "Agents",
    "Answer",
    "Changed",
    "Clock",
    "Conductor",
    "EndedRuns",
    "Failure",
    "Fired",
    "History",
    "HistoryQuery",
    "JobTable",
    "Journal",
    "JournalEntry",
    "Ledger",
    "LedgerEntry",
    "LedgerRow",
    "LookAgain",
    "Messenger",
    "Misconfigured",
    "NotificationEntry",
    "OpenJournal",
    "Refused",
    "Replicas",
    "ServerState",
    "ServiceError",
    "StoredJobs",
    "StoredNotifications",
    "TakenSlots",
    "Told",
    "Unavailable",
    "UnknownRow",
    "Watch",
    "WatchLost",
]
