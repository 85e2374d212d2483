"""Closes rows and counts them in the statistics, many at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import UpdateOne
from pymongo.errors import PyMongoError

from service.adapters.mongo.bulks import Failure, changed_at_once, meaning_of, write_all
from service.adapters.mongo.client import translated, translation_of
from service.adapters.mongo.keys import id_of
from service.adapters.mongo.rows import end_of, ended, running_filter
from service.adapters.mongo.stats import CountedRun, Sums, counted, counted_in, summed
from service.domain.councilor import DocumentKey
from service.domain.execution import Execution, Outcome, Status, milliseconds
from service.ports import Refused

log = structlog.get_logger()

_HEAVIEST = 3_500_000
"""Characters of output that are surely within a command of 16 MB."""

Documents = AsyncIOMotorCollection[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Ending:
    """A run, the document of its agent where that is known, and how it ended."""

    execution: Execution
    key: DocumentKey | None
    outcome: Outcome
    stats: object = None
    """What was seen of the agent's statistics; None where that was nothing."""

    @property
    def weight(self) -> int:
        """About how many bytes it takes to write it."""
        return len(self.outcome.output or "")

    @property
    def run(self) -> CountedRun:
        """What the statistics need of it."""
        outcome = self.outcome
        return CountedRun(self.execution.execution_id, outcome.severity, outcome.completed_at)


@dataclass(frozen=True, slots=True)
class Count:
    """A run, and whose statistics it belongs to."""

    agent_id: str
    key: DocumentKey | None
    run: CountedRun
    stats: object = None


class Endings:
    """Closes rows in `rows`, then counts them in `agents`."""

    def __init__(self, rows: Documents, agents: Documents) -> None:
        self._rows = rows
        self._agents = agents

    async def close_all(self, endings: Sequence[Ending]) -> list[bool | Exception]:
        """Close and count each; False where a row is not running, or not ours, any more.

        A closed row that could not be counted answers Unavailable, like one whose end is unknown.
        """
        answers = await self._closed(endings)
        closed = [place for place, answer in enumerate(answers) if answer is True]
        ends = [endings[place] for place in closed]
        counts = [Count(end.execution.agent_id, end.key, end.run, end.stats) for end in ends]
        for place, trouble in zip(closed, await self.count_all(counts), strict=True):
            if trouble is not None:
                answers[place] = trouble
        return answers

    async def _closed(self, endings: Sequence[Ending]) -> list[bool | Exception]:
        if await self._are_closed_at_once(endings):
            return [True] * len(endings)
        written = await write_all(
            self._rows,
            [
                UpdateOne(
                    running_filter(ending.execution),
                    {"$set": {**end_of(ending.execution, ending.outcome), "counted": False}},
                )
                for ending in endings
            ],
        )
        if written.is_whole and written.matched == len(endings):
            return [True] * len(endings)
        done = await self._done(endings)
        return [
            meaning_of(failure) if failure else ending.execution.execution_id in done
            for ending, failure in zip(endings, written.failures, strict=True)
        ]

    async def _are_closed_at_once(self, endings: Sequence[Ending]) -> bool:
        """Close all of these by one statement; False where that is not known to have been done."""
        (owner, *others) = {ending.execution.owner for ending in endings}
        if others or sum(ending.weight for ending in endings) > _HEAVIEST:
            return False
        runs = [(ending.execution, ending.outcome) for ending in endings]
        ids = [execution.execution_id for execution, _ in runs]
        nonces = [execution.nonce for execution, _ in runs]  # no two executions have the same
        running = {
            "_id": {"$in": ids},
            "owner": owner,
            "nonce": {"$in": nonces},
            "status": Status.RUNNING.value,
        }
        return await changed_at_once(self._rows, running, ended(runs)) == len(endings)

    async def _done(self, endings: Sequence[Ending]) -> set[str]:
        """Those whose rows say this end: by now, or since a try that seemed lost."""
        wanted = {"execution_id": {"$in": [ending.execution.execution_id for ending in endings]}}
        fields = dict.fromkeys(("execution_id", "owner", "nonce", "status", "completed_at"), 1)
        with translated():
            rows = {row["execution_id"]: row async for row in self._rows.find(wanted, fields)}
        return {
            ending.execution.execution_id
            for ending in endings
            if (row := rows.get(ending.execution.execution_id)) is not None
            and row.get("owner") == ending.execution.owner
            and row.get("nonce") == ending.execution.nonce
            and row.get("status") == ending.outcome.status
            and _is_same_ms(row.get("completed_at"), ending.outcome.completed_at)
        }

    async def count_all(self, counts: Sequence[Count]) -> list[Exception | None]:
        """Count runs, once however often this is asked for, then take the marks off their rows.

        No transaction: one that a killed process leaves open locks the agent's document for a
        minute, for every writer.
        """
        if not counts:
            return []
        if await self._are_added(counts):
            failures: Sequence[Failure | None] = [None] * len(counts)
        else:
            # Others have counted since, or what is there is not of ours; or some agent is gone.
            updates = [UpdateOne(_agent_of(count), counted(count.run)) for count in counts]
            failures = (await write_all(self._agents, updates)).failures
        answers: list[Exception | None] = []
        for count, failure in zip(counts, failures, strict=True):
            trouble = meaning_of(failure) if failure else None
            if isinstance(trouble, Refused):
                # A document that refuses its statistics (a user's validator) does without.
                log.warning("stats_refused", agent_id=count.agent_id, error=str(trouble))
                trouble = None
            answers.append(trouble)
        counted_ids = [
            count.run.execution_id
            for count, trouble in zip(counts, answers, strict=True)
            if trouble is None
        ]
        try:
            done = {"execution_id": {"$in": counted_ids}}
            await self._rows.update_many(done, {"$unset": {"counted": ""}})
        except PyMongoError as error:
            return [answer or translation_of(error) for answer in answers]
        return answers

    async def _are_added(self, counts: Sequence[Count]) -> bool:
        """Count these on top of what was seen; False where that is not known to have been done."""
        agents: dict[DocumentKey, tuple[str, Sums]] = {}
        for count in counts:
            if count.key is None:
                return False
            agent_id, earlier = agents.get(count.key, (count.agent_id, None))
            sums = counted_in(earlier.after if earlier else count.stats, count.run)
            if sums is None or sums.after == sums.before or agent_id != count.agent_id:
                return False  # not of our making, counted before, or renamed in between
            agents[count.key] = (agent_id, Sums(earlier.before, sums.after) if earlier else sums)
        added = [(id_of(key), agent_id, sums) for key, (agent_id, sums) in agents.items()]
        wanted = {"_id": {"$in": [document_id for document_id, _, _ in added]}}
        return await changed_at_once(self._agents, wanted, summed(added)) == len(added)


def _agent_of(count: Count) -> dict[str, Any]:
    agent: dict[str, Any] = {"agent_id": count.agent_id}
    return agent if count.key is None else {"_id": id_of(count.key), **agent}


def _is_same_ms(said: object, instant: datetime) -> bool:
    """MongoDB keeps dates in milliseconds."""
    return isinstance(said, datetime) and milliseconds(instant - said) == 0
