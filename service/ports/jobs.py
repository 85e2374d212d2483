"""The job table, its projection, and the clock that it goes by."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from service.domain.councilor import DocumentKey
from service.domain.execution import (
    Fire,
)
from service.domain.jobs import Job, JobState, StoredJob

Clock = Callable[[], datetime]
"""The wall clock: aware, in UTC."""


class JobTable(Protocol):
    """The jobs of this process, with their timers."""

    def put(self, job: Job, *, is_stored: bool = False) -> None:
        """Add or replace the job of this `agent_id`; `is_stored` where nobody need be told."""

    def remove(self, agent_id: str) -> None:
        """Take a job away, if it is there."""

    def of_agent(self, agent_id: str) -> Job | None:
        """The job of this agent. `next_run_at` includes a slot that is due and not settled."""

    def of_document(self, key: DocumentKey) -> Job | None:
        """The job that comes from this document."""

    def all(self) -> Sequence[Job]:
        """Every job, in no order."""

    def counts(self) -> Mapping[JobState, int]:
        """How many jobs there are in each state, at no cost."""

    def overdue(self, since: datetime) -> int:
        """How many agents have a slot from before `since` that is not settled, and may not wait.

        Those that may, by their documents, are left out: for the run before, or for their turn to
        catch up. A thousand is as many as are counted.
        """

    @property
    def is_behind(self) -> bool:
        """Tell whether slots have come due that `Fired` has not been told of yet."""

    def settle(self, agent_id: str, slot: datetime) -> None:
        """Say that every slot up to this one has its ledger row."""

    def request(self, fire: Fire) -> None:
        """Let a run that was asked for come due at once."""


class StoredJobs(Protocol):
    """The collection `apscheduler_jobs`: a projection of the job table, for people and restarts."""

    async def load(self) -> dict[str, StoredJob]:
        """The jobs that are stored, foreign documents left out. Raises Unavailable."""

    async def save(self, jobs: Sequence[Job], removed: Sequence[str]) -> None:
        """Store these jobs and remove those. Raises Unavailable."""

    async def keep_only(self, agent_ids: Collection[str]) -> Collection[str]:
        """Remove what is stored for anybody else; answers those that are not stored.

        Raises Unavailable.
        """


Fired = Callable[[Fire], None]
"""Called when a slot comes due; returns at once."""
