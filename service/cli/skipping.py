"""Leaving out a slot, once more: the flag works once, and is armed again by taking it away."""

import asyncio
from datetime import datetime, timedelta
from time import monotonic

from service.cells import instant
from service.cli.edits import SKIP_NEXT, Agent, Edit, agent_in
from service.domain.config import instant_from
from service.domain.councilor import SchedulePolicy
from service.domain.jobs import JobState
from service.ports import Agents, Clock, History, ServiceError

_LOOK_AGAIN_SECONDS = 0.1


class Skipping:
    """Sets `skip_next` so that it has an effect. `keeps_for`: how long the ledger remembers."""

    def __init__(
        self,
        agents: Agents,
        history: History,
        policy: SchedulePolicy,
        clock: Clock,
        *,
        keeps_for: timedelta | None,
        patience: timedelta = timedelta(seconds=5),
    ) -> None:
        self._agents = agents
        self._history = history
        self._policy = policy
        self._clock = clock
        self._keeps_for = keeps_for
        self._patience = patience

    async def arm(self, agent: Agent) -> Edit:
        """What is to be set once the flag can have an effect: one that had it is taken away first.

        Raises ServiceError where that cannot be, or where nobody has taken notice of it.
        """
        slot, is_set = agent.skipped_slot, agent.schedule.get("skip_next") is True
        if is_set and (slot is None or slot > self._clock()):
            return Edit("next_skipped", f"{_said_of(agent, slot)} already")
        if is_set and slot is not None:
            await self._require_settled(agent.agent_id, slot)
            await self._agents.edit(agent.agent_id, {SKIP_NEXT: False}, councilors_only=True)
        if slot is not None and await self._skipped_slot(agent.agent_id, is_wanted=False):
            raise ServiceError(
                f"{agent.agent_id}: the slot of {instant(slot)} UTC was left out, and no scheduler "
                "has cleared councilor_status.skipped_slot since: try again once one is alive"
            )
        return Edit("next_skipped", _said_of(agent, None), {SKIP_NEXT: True})

    async def confirmed(self, agent: Agent) -> str | None:
        """Which slot is left out now, as the service says; None where it has nothing to say."""
        if agent.state != JobState.SCHEDULED:
            return None
        slot = await self._skipped_slot(agent.agent_id, is_wanted=True)
        doubt = "" if slot is not None else ", once a scheduler has seen it: none has yet"
        return f"{_said_of(agent, slot)}{doubt}"

    async def _require_settled(self, agent_id: str, slot: datetime) -> None:
        """Raise ServiceError while the slot may still start, were the flag taken away."""
        if self._keeps_for is not None and self._clock() - slot > self._keeps_for:
            return  # its row may be gone by now
        row = await self._history.slot_at(agent_id, self._clock())
        latest = instant_from(row.fields.get("scheduled_for")) if row is not None else None
        if latest is not None and latest >= slot:
            return
        raise ServiceError(
            f"{agent_id}: the slot of {instant(slot)} UTC is being left out, and has no row in the "
            "ledger yet: try again in a moment, once a scheduler is alive"
        )

    async def _skipped_slot(self, agent_id: str, *, is_wanted: bool) -> datetime | None:
        """What the document says once it is as wanted, or when patience ends."""
        slot: datetime | None = None
        ends_at = monotonic() + self._patience.total_seconds()
        while True:
            for document in await self._agents.find([agent_id]):
                slot = agent_in(agent_id, document, self._policy).skipped_slot
            if (slot is not None) is is_wanted or monotonic() > ends_at:
                return slot
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def _said_of(agent: Agent, slot: datetime | None) -> str:
    if slot is not None:
        return f"the slot of {instant(slot)} UTC is left out"
    if agent.state == JobState.SCHEDULED:
        return "the next slot is left out"
    mended = "resumed" if agent.state == JobState.PAUSED else "mended"
    return f"the first slot after it is {mended} is left out"
