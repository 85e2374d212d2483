"""A writer as any other program is one: plain updates of `agents`, plain reads of the rest."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.adapters.mongo.client import Client, connected, translated

_STARTED = {"started_at": {"$ne": None}}
_ROW = [
    "execution_id",
    "councilor_id",
    "scheduled_for",
    "trigger",
    "status",
    "severity",
    "reason",
    "started_at",
    "completed_at",
    "lateness_ms",
]


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger, without what the run said."""

    execution_id: str
    councilor_id: str
    scheduled_for: datetime
    trigger: str
    status: str
    severity: str | None
    reason: str | None
    started_at: datetime | None
    completed_at: datetime | None
    lateness_ms: int


@dataclass(frozen=True, slots=True)
class Standing:
    """A councilor as the documents show it; `error` where its configuration is invalid."""

    agent_id: str
    name: str
    state: str
    explanation: str
    error: str | None
    next_run_at: datetime | None
    last_severity: str | None
    runs: int


class PlainWriter:
    """Knows the documents of the contract and nothing of the service. Raises Unavailable."""

    def __init__(self, client: Client, database: str) -> None:
        self._agents = client[database]["agents"]
        self._rows = client[database]["councilor_executions"]
        self._jobs = client[database]["apscheduler_jobs"]

    async def insert(self, documents: Sequence[Mapping[str, object]]) -> None:
        """Insert agents, promoted or not."""
        with translated():
            await self._agents.insert_many([dict(document) for document in documents])

    async def update(self, agent_id: str, change: Mapping[str, object]) -> bool:
        """Apply `$set`, `$unset` and the like to one agent; False where there is none."""
        with translated():
            result = await self._agents.update_one({"agent_id": agent_id}, change)
        return result.matched_count == 1

    async def find(self, agent_id: str) -> Mapping[str, Any]:
        """The agent's document as it is now; empty where there is none."""
        with translated():
            return await self._agents.find_one({"agent_id": agent_id}) or {}

    async def totals(self) -> Mapping[str, int]:
        """How many runs the statistics of each agent count."""
        with translated():
            counted = self._agents.find({}, {"agent_id": 1, "stats.total_executions": 1})
            return {
                agent["agent_id"]: agent.get("stats", {}).get("total_executions", 0)
                async for agent in counted
            }

    async def standings(self) -> Sequence[Standing]:
        """Every councilor with its verdict, its next run and its last result, by name."""
        with translated():
            wanted = self._agents.find({"is_councilor": True}).sort("name", 1)
            agents = await wanted.to_list(None)
            due = {job["_id"]: job["next_run_time"] async for job in self._jobs.find({})}
            latest = {row["_id"]: row["severity"] async for row in self._latest()}
        return [_standing(agent, due, latest) for agent in agents]

    async def rows(self) -> Sequence[Row]:
        """The whole ledger, in the order of the slots."""
        with translated():
            found = self._rows.find({}, dict.fromkeys(_ROW, 1)).sort("scheduled_for", 1)
            return [Row(**{name: row[name] for name in _ROW}) async for row in found]

    async def output(self, execution_id: str) -> str | None:
        """What a run said, once it has ended."""
        with translated():
            row = await self._rows.find_one({"execution_id": execution_id}, {"output": 1})
        return row["output"] if row is not None else None

    async def starts(self, agent_id: str, since: datetime, until: datetime) -> int:
        """How many of the agent's slots between two instants were started."""
        slots = {"councilor_id": agent_id, "scheduled_for": {"$gte": since, "$lt": until}}
        with translated():
            return await self._rows.count_documents(
                {**slots, **_STARTED, "trigger": {"$ne": "manual"}}
            )

    def _latest(self) -> Any:
        """The severity of each councilor's latest run that has ended."""
        return self._rows.aggregate(
            [
                {"$match": {**_STARTED, "severity": {"$ne": None}}},
                {"$project": {"councilor_id": 1, "severity": 1, "started_at": 1}},
                {"$sort": {"started_at": 1}},
                {"$group": {"_id": "$councilor_id", "severity": {"$last": "$severity"}}},
            ]
        )


@asynccontextmanager
async def plain_writer(url: str, database: str) -> AsyncIterator[PlainWriter]:
    """A writer with a client of its own."""
    async with connected(url) as client:
        yield PlainWriter(client, database)


def _standing(
    agent: Mapping[str, Any], due: Mapping[str, datetime], latest: Mapping[str, str]
) -> Standing:
    agent_id, status = agent["agent_id"], agent.get("councilor_status") or {}
    error = status.get("error")
    return Standing(
        agent_id=agent_id,
        name=agent.get("name") or agent_id,
        state=status.get("state", "unseen"),
        explanation=status.get("explanation") or "",
        error=error["message"] if error else None,
        next_run_at=due.get(agent_id),
        last_severity=latest.get(agent_id),
        runs=agent.get("stats", {}).get("total_executions", 0),
    )
