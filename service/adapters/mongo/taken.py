"""Which slots have rows in `councilor_executions`, for many agents at a time."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo import ASCENDING

from service.adapters.mongo.client import translated
from service.adapters.mongo.rows import taken_by
from service.domain.execution import Trigger
from service.ports import ServiceError, TakenSlots

_MOST, _MOST_TOGETHER = 1_000, 4_000
_ABOUT_THE_SAME_SECONDS = 600
_AT_ONCE = 8
_FIELDS = dict.fromkeys(
    ("councilor_id", "scheduled_for", "last_slot", "created_at", "provisional"), 1
)


class TakenRows:
    """Looks in `rows`, which is to be lenient: what other programs wrote there hides nothing."""

    def __init__(self, rows: AsyncIOMotorCollection[dict[str, Any]]) -> None:
        self._rows = rows

    async def since(
        self, asked: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots] | Exception]:
        """For each agent, the slots from an instant on that have rows, in order.

        Those who ask for about the same time ask together: one who asks for long ago would
        have the server read as much of everybody's rows. Answers Unavailable for whom it holds.
        """
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for place, (_, since) in enumerate(asked):
            groups[int(since.timestamp() // _ABOUT_THE_SAME_SECONDS)].append(place)
        answers: list[Sequence[TakenSlots] | Exception] = [()] * len(asked)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def answer(places: Sequence[int]) -> None:
            async with at_once:
                try:
                    found = await self._of([asked[place] for place in places])
                except ServiceError as error:
                    found = [error] * len(places)
            for place, slots in zip(places, found, strict=True):
                answers[place] = slots

        await asyncio.gather(*map(answer, groups.values()))
        return answers

    async def _of(
        self, asked: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots] | Exception]:
        most = _MOST if len(asked) == 1 else _MOST_TOGETHER
        agents = {"councilor_id": {"$in": sorted({agent_id for agent_id, _ in asked})}}
        since = {"$gte": min(since for _, since in asked)}
        wanted = {
            "trigger": {"$ne": Trigger.MANUAL.value},
            # The agents in both: so each has an index that begins where the rows do.
            "$or": [
                {**agents, "scheduled_for": since},
                {**agents, "last_slot": since, "scheduled_for": {"$type": "date"}},
            ],
        }
        with translated():
            found = self._rows.find(wanted, _FIELDS)
            rows = await found.sort("scheduled_for", ASCENDING).limit(most).to_list(None)
        if len(rows) == most and len(asked) > 1:  # some may hide others: in halves, then
            half = len(asked) // 2
            return [*await self._of(asked[:half]), *await self._of(asked[half:])]
        slots = _slots_in(rows)
        return [
            [one for one in slots[agent_id] if max(one.first, one.last) >= since][:_MOST]
            for agent_id, since in asked
        ]

    async def covering(
        self, slots: Sequence[tuple[str, datetime]]
    ) -> Sequence[Sequence[TakenSlots]]:
        """For each slot of an agent, the rows of stretches that it is in. Raises Unavailable."""
        wanted = {
            "councilor_id": {"$in": sorted({agent_id for agent_id, _ in slots})},
            "last_slot": {"$gte": min(slot for _, slot in slots)},
            "scheduled_for": {"$type": "date"},
        }
        with translated():
            rows = self._rows.find(wanted, _FIELDS)
            found = _slots_in(await rows.to_list(None))
        return [
            [stretch for stretch in found[agent_id] if stretch.covers(slot)]
            for agent_id, slot in slots
        ]


def _slots_in(rows: Iterable[Mapping[str, Any]]) -> defaultdict[str, list[TakenSlots]]:
    """The slots that rows stand for, by agent; other programs' rows may lack anything."""
    found: defaultdict[str, list[TakenSlots]] = defaultdict(list)
    for row in rows:
        if isinstance(row["councilor_id"], str) and (slots := taken_by(row)) is not None:
            found[row["councilor_id"]].append(slots)
    return found
