"""Three replicas, schedules of a second, and fifteen seconds of trouble: no slot starts twice."""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from time import monotonic
from typing import Any

import pytest

from service.app import wall_clock
from tests.faults.keeper import Cluster
from tests.faults.steps import promote
from tests.flow.conftest import Database, TestConductor, rows_of
from tests.flow.process import Launch, Replica
from tests.steps import eventually

pytestmark = pytest.mark.mongo
SEED = 20
TROUBLE_SECONDS = 14.0
SETTLED_SECONDS = 15.0
SECOND = timedelta(seconds=1)
AGENTS = ("anna", "bert", "cleo")
LOST = {"interrupted", "outage", "overlap"}


class Trouble:
    """Strikes one replica or the primary at a time, by a seed."""

    def __init__(
        self, cluster: Cluster, db: Database, launched: Callable[[], Awaitable[Replica]]
    ) -> None:
        self._db = db
        self._cluster = cluster
        self._launched = launched
        self._choose = random.Random(SEED)
        self.replicas: list[Replica] = []
        self.told: Counter[str] = Counter()

    async def go_on(self, seconds: float) -> None:
        """Each kind in turn, so that each has happened, on replicas by chance."""
        until = monotonic() + seconds
        kinds: Sequence[Callable[[Replica], Awaitable[None]]]
        kinds = (self._pause, self._kill, self._step_down)
        while monotonic() < until:
            for kind in self._choose.sample(kinds, len(kinds)):
                await kind(self._choose.choice(self.replicas))
                self.told[kind.__name__] += 1
                # The time between two faults is part of the experiment.
                await asyncio.sleep(self._choose.uniform(0.3, 1.2))

    async def _pause(self, replica: Replica) -> None:
        if replica.process.returncode is not None:
            pytest.fail(f"a replica has ended by itself: {replica.events[-3:]}")
        replica.process.send_signal(signal.SIGSTOP)
        # Longer than its time-to-live: the others take it for dead, and it does not know.
        await asyncio.sleep(self._choose.uniform(1.0, 3.0))
        replica.process.send_signal(signal.SIGCONT)

    async def _kill(self, _: Replica) -> None:
        """In the middle of a run, so that one is lost."""
        replica: Replica = await eventually(self._at_work, saying="a replica at work")
        replica.kill()
        self.replicas.remove(replica)
        self.replicas.append(await self._launched())

    async def _at_work(self) -> Replica | None:
        running = {"status": "running"}
        rows = self._db["councilor_executions"].find(running).sort("started_at", -1)
        owners = [row["owner"] async for row in rows]
        at_work = [
            replica
            for owner in owners
            for replica in self.replicas
            if f"-{replica.process.pid}-" in owner
        ]
        return at_work[0] if at_work else None

    async def _step_down(self, _: Replica) -> None:
        await self._cluster.step_down()


def slots_of(row: dict[str, Any]) -> set[datetime]:
    """The due times that a row accounts for."""
    first, last = row.get("first_slot"), row.get("last_slot")
    if first is None or last is None:
        return {row["scheduled_for"]}
    return {first + n * SECOND for n in range((last - first) // SECOND + 1)}


def gaps_of(rows: Sequence[dict[str, Any]]) -> list[datetime]:
    """The due times between the first and the last that no row accounts for."""
    told = set().union(*(slots_of(row) for row in rows))
    first, last = min(told), max(told)
    wanted = [first + n * SECOND for n in range((last - first) // SECOND + 1)]
    return [slot for slot in wanted if slot not in told]


def line_of(row: dict[str, Any]) -> str:
    """A row for people who look for what went wrong."""
    names = ("scheduled_for", "last_slot", "trigger", "status", "reason", "started_at", "owner")
    return " ".join(str(row.get(name)) for name in names)


async def rows_until(db: Database, agent_id: str, until: datetime) -> list[dict[str, Any]]:
    return [row for row in await rows_of(db, agent_id) if row["scheduled_for"] <= until]


async def is_settled(db: Database, until: datetime) -> bool:
    """Tell whether replicas have caught up with what came due until then; some rows wait."""
    for agent_id in AGENTS:
        rows = await rows_until(db, agent_id, until)
        is_late = max(set().union(*map(slots_of, rows))) < until - SECOND
        if is_late or gaps_of(rows) or any(row["status"] == "running" for row in rows):
            return False
    return True


async def test_no_slot_starts_twice_and_every_lost_one_is_told(
    cluster: Cluster, db: Database, conductor: TestConductor, launch: Launch
) -> None:
    """T20: replicas are paused and killed, primaries step down; the ledger tells all of it."""

    async def launched() -> Replica:
        return await launch(CONDUCTOR_API_URL=conductor.url)

    trouble = Trouble(cluster, db, launched)
    trouble.replicas = list(await asyncio.gather(*(launched() for _ in range(3))))
    await promote(db, *AGENTS, value="1s", prompt="slow")
    await eventually(lambda: asyncio.sleep(0, len(conductor.calls) >= len(AGENTS)))
    await trouble.go_on(TROUBLE_SECONDS)
    assert min(trouble.told.values()) >= 1
    until = wall_clock()
    with suppress(TimeoutError):  # what is missing then is told below, with the rows around it
        async with asyncio.timeout(SETTLED_SECONDS):
            await eventually(lambda: is_settled(db, until), within=2 * SETTLED_SECONDS)
    starts = Counter(call.headers["Idempotency-Key"] for call in conductor.calls)
    assert [key for key, count in starts.items() if count > 1] == []
    rows = {agent_id: await rows_until(db, agent_id, until) for agent_id in AGENTS}
    for its_rows in rows.values():
        told(its_rows, set(starts))
    reasons = {row["reason"] for its_rows in rows.values() for row in its_rows}
    assert "interrupted" in reasons


def told(rows: Sequence[dict[str, Any]], started: set[str]) -> None:
    """Every slot has a row; what completed was started; what was lost says why."""
    gaps = gaps_of(rows)
    assert not gaps, f"no row for {gaps} among:\n" + "\n".join(map(line_of, rows))
    for row in rows:
        if row["status"] == "completed":
            assert row["execution_id"] in started
        else:
            assert row["reason"] in LOST, line_of(row)
