"""What happened in a run: all that the invariants look at, and nothing that they could change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Document = Mapping[str, Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Call:
    """A request that reached Conductor. `is_refused` where the answer said: surely not accepted."""

    execution_id: str
    slot: datetime
    arrived: datetime
    prompt: str = ""
    answer: str = ""
    is_refused: bool = False
    ended: datetime | None = None

    @property
    def agent_id(self) -> str:
        return self.execution_id.removesuffix("_manual").removeprefix("exec_").rpartition("_")[0]

    @property
    def is_manual(self) -> bool:
        return self.execution_id.endswith("_manual")


@dataclass(frozen=True, slots=True)
class Write:
    """A change of an agent's document, with what the document wants after it.

    `acked` is None where nobody knows whether it happened. A slot starts only where it `runs`
    and, if there is one, not before `not_before`.
    """

    agent_id: str
    what: str
    sent: datetime
    acked: datetime | None
    runs: bool
    not_before: datetime | None = None
    edition: int = 0
    """The number in the prompt; it grows with each edit."""
    touches_schedule: bool = True


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was carried out; `failed` says why, where it could not be."""

    kind: str
    began: datetime
    ended: datetime
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Exit:
    """A replica that ended by itself, or not in good order."""

    replica: int
    at: datetime
    code: int
    said: str


@dataclass(frozen=True, slots=True)
class Agent:
    """What the writer believes of one agent at the end.

    `document` is what it last wrote, None where that was a deletion. `is_whole` where the document
    has been the same one, under the same name, from the beginning: its statistics can be counted.
    """

    agent_id: str
    document: Document | None
    is_steady: bool = False
    is_whole: bool = True

    @property
    def schedule(self) -> Document:
        schedule: Document = (self.document or {}).get("councilor_config", {}).get("schedule", {})
        return schedule

    @property
    def is_councilor(self) -> bool:
        return bool(self.document and self.document.get("is_councilor"))

    @property
    def interval(self) -> timedelta | None:
        """None for a cron, and where the schedule is invalid."""
        value = str(self.schedule.get("value", ""))
        is_valid = self.schedule.get("type") == "interval" and value != "0m"
        return timedelta(seconds=int(value.removesuffix("s"))) if is_valid else None

    @property
    def state(self) -> str | None:
        """What the service should say of it; None where it should say nothing."""
        if not self.is_councilor:
            return None
        if self.schedule["value"] == "0m":
            return "invalid"
        return "scheduled" if self.schedule.get("enabled", True) else "paused"


@dataclass(frozen=True, slots=True)
class History:
    """A run from its first write to its last row, all times those of one machine's clock."""

    agents: Sequence[Agent] = ()
    documents: Sequence[Document] = ()
    rows: Sequence[Document] = ()
    jobs: Sequence[Document] = ()
    calls: Sequence[Call] = ()
    writes: Sequence[Write] = ()
    faults: Sequence[Struck] = ()
    exits: Sequence[Exit] = ()
    logs: Sequence[str] = ()
    secrets: Sequence[str] = ()
    not_ready: Sequence[str] = ()
    """What replicas that are not ready say, after the quiet time."""
    not_stopped: Sequence[int] = ()
    """Replicas that had to be killed when they were told to stop."""
    began: datetime = _EPOCH
    healed: datetime = _EPOCH
    """When the last fault was over and the writer stopped."""
    jobs_read: datetime = _EPOCH
    settled: datetime = _EPOCH
    """When the replicas, quiet by then, were told to stop."""
    launches: int = 0
    by_id: Mapping[str, Document] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        rows = {row["execution_id"]: row for row in self.rows}
        object.__setattr__(self, "by_id", rows)

    def rows_of(self, agent_id: str) -> list[Document]:
        """The agent's rows by slot, those of its schedule only."""
        rows = [r for r in self.rows if r["councilor_id"] == agent_id and r["trigger"] != "manual"]
        return sorted(rows, key=lambda row: row["scheduled_for"])

    def document_of(self, agent: Agent) -> Document | None:
        """The agent's document as it was found at the end."""
        return next((d for d in self.documents if d.get("agent_id") == agent.agent_id), None)

    def writes_of(self, agent_id: str) -> list[Write]:
        """The writes under this name, as they were sent."""
        writes = [write for write in self.writes if write.agent_id == agent_id]
        return sorted(writes, key=lambda write: write.sent)


def has_run(row: Document) -> bool:
    """Tell whether a row stands for a run, whatever became of it."""
    return row["status"] in ("running", "completed", "error")


def base_name(agent_id: str) -> str:
    """What stays the same in an agent's name: renaming changes what follows the dot."""
    return agent_id.partition(".")[0]


def clock(instant: datetime | None) -> str:
    """An instant as violations show it."""
    return "never" if instant is None else instant.strftime("%H:%M:%S.%f")[:-3]
