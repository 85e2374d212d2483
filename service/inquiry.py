"""Why did it (not) run? What is known about a slot, gathered from documents and ledger."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from service.domain.execution import STALE_REQUEST
from service.domain.jobs import AgentDocument, Job
from service.domain.why import Known, Why, states_in, why
from service.ports import Agents, Clock, History


class Inquiry:
    """Explains slots. `job_of` gives the job of an agent, if it is a councilor."""

    def __init__(
        self,
        agents: Agents,
        history: History,
        job_of: Callable[[str], Job | None],
        clock: Clock,
        *,
        kept_for: timedelta | None,
        run_timeout: timedelta,
    ) -> None:
        self._agents = agents
        self._history = history
        self._job_of = job_of
        self._clock = clock
        self._kept_for = kept_for
        self._longest_run = run_timeout + STALE_REQUEST

    async def why(self, agent_id: str, at: datetime | None = None) -> Why | None:
        """What became of the slot at or before an instant, now if there is none given.

        None where there is no such agent, nor any row of it. Raises Unavailable.
        """
        # First of all: a slot that it says is open may have its row by the time that is read.
        job = self._job_of(agent_id)
        documents = await self._documents(agent_id, job)
        # Only now: what came due while documents were read is not in question.
        now = self._clock()
        instant = now if at is None else at
        row = await self._history.slot_at(agent_id, instant)
        latest = await self._history.slot_at(agent_id, now)
        since = instant - self._longest_run
        request = await self._history.request_at(agent_id, since, instant)
        if job is None and not documents and latest is None and request is None:
            return None
        status = (documents[0].fields or {}).get("councilor_status") if documents else None
        return why(
            Known(
                at=instant,
                now=now,
                job=job,
                states=states_in(status),
                row=row.fields if row is not None else None,
                request=request.fields if request is not None else None,
                is_last=row is None or latest is None or row.fields == latest.fields,
                is_agent=bool(documents),
                kept_for=self._kept_for,
            )
        )

    async def _documents(self, agent_id: str, job: Job | None) -> Sequence[AgentDocument]:
        if job is None:
            return await self._agents.find([agent_id])
        found = await self._agents.read([job.key])
        return [document for document in found if document.fields is not None]


def explained(agent_id: str, found: Why) -> dict[str, object]:
    """An explanation as CONTRACT section 8 has it."""
    return {
        "agent_id": agent_id,
        "slot": found.slot,
        "outcome": found.fate.value,
        "reason": found.reason,
        "text": found.text,
        "execution": found.row,
    }
