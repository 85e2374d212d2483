"""This replica among the others: its heartbeat, who else lives, and who goes first."""

import asyncio
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from time import monotonic

import structlog

from service.clock import ComparedClock
from service.domain.ranking import rank_of
from service.ports import Replicas, ServiceError, Unavailable
from service.telemetry import Telemetry

log = structlog.get_logger()

_BEATS_A_TTL = 3
_FIT = 0.8
"""The part of a time-to-live for which a heartbeat lets us start runs: who is late stops before
the others take it for dead."""
_UNBROKEN = 0.5
"""The part of a time-to-live after which a heartbeat is late: the others' may be later still."""
_RETRY_SECONDS = 0.5
_DELIVERY_LAG = timedelta(seconds=10)
"""A majority that is this far behind delivers no changes and acknowledges no claims."""


class Membership:
    """After `join`, run `beat` as a task; `leave` once it has ended."""

    def __init__(
        self,
        replicas: Replicas,
        clock: ComparedClock,
        telemetry: Telemetry,
        *,
        replica_id: str,
        facts: Mapping[str, object],
        ttl: timedelta,
        elapsed_seconds: Callable[[], float] = monotonic,
    ) -> None:
        self._elapsed_seconds = elapsed_seconds
        self.replica_id = replica_id
        self._replicas = replicas
        self._clock = clock
        self._telemetry = telemetry
        self._facts = facts
        self._ttl_seconds = ttl.total_seconds()
        self._ttl = ttl
        self._last_beat = -math.inf
        self._beating_since = math.inf
        self._living: Sequence[str] = ()
        self._majority_lag = timedelta(0)
        self._hurry = asyncio.Event()
        telemetry.fitness(lambda: self.trouble is None)
        # Whoever is not heard does not know, and the others count without it.
        telemetry.replicas_counted(lambda: len(self._living) if self._is_heard else 0)

    async def join(self) -> None:
        """Be known to the others, and know them. Raises Unavailable, Refused."""
        sent = self._elapsed_seconds()
        await self._replicas.heartbeat(self.replica_id, self._facts, self._ttl)
        if sent - self._last_beat > self._ttl_seconds * _UNBROKEN:
            self._beating_since = self._elapsed_seconds()
        # Counted from before it was sent: the others count from when it arrived.
        self._last_beat = sent
        await self._compare_clocks()
        self._living = await self._replicas.alive()

    async def _compare_clocks(self) -> None:
        asked_at = self._clock.uncorrected
        state = await self._replicas.server_state()
        self._clock.compare(state.at, asked_at, self._clock.uncorrected)
        self._majority_lag = state.majority_lag
        self._telemetry.server_compared(self._clock.offset, state)

    async def beat(self) -> None:
        """Say every third of the time-to-live that we live, sooner where that is in doubt."""
        while True:
            await self._until_next(self._ttl_seconds / _BEATS_A_TTL)
            try:
                await self.join()
            except ServiceError as error:
                log.warning("heartbeat_failed", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                self._hurry.set()

    async def _until_next(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return
        finally:
            self._hurry.clear()

    async def leave(self) -> None:
        """Be dead at once, not only when the time-to-live is over. Raises Unavailable."""
        await self._replicas.leave(self.replica_id)

    def rank(self, agent_id: str) -> int:
        """How many living replicas go before this one for an agent."""
        if not self.others_live:
            return 0
        return rank_of(self.replica_id, agent_id, self._living)

    @property
    def living(self) -> Sequence[str]:
        """The replicas that lived when we were last heard, this one included."""
        return self._living

    @property
    def others_live(self) -> bool:
        """Tell whether other replicas lived when we were last heard."""
        return any(name != self.replica_id for name in self._living)

    def require_fit(self) -> None:
        """Return where runs may be started here. Raises Unavailable where they must not, now."""
        trouble = self.trouble
        if trouble is not None:
            self._hurry.set()
            raise Unavailable(trouble)

    @property
    def trouble(self) -> str | None:
        """Why no run may be started here, if none may."""
        if self._is_heard:
            return self._clock.doubt
        silent = self._elapsed_seconds() - self._last_beat
        return f"no heartbeat was acknowledged for {silent:.1f} s: the others may go on without"

    @property
    def _is_heard(self) -> bool:
        return self._elapsed_seconds() - self._last_beat <= self._ttl_seconds * _FIT

    @property
    def lag_trouble(self) -> str | None:
        """Why changes are not delivered although a primary answers, if that is so."""
        if self._majority_lag < _DELIVERY_LAG:
            return None
        seconds = self._majority_lag.total_seconds()
        return f"the majority of the replica set is {seconds:.0f} s behind its primary"

    async def dead_among(self, owners: Collection[str]) -> frozenset[str]:
        """Those of these owners that are dead; none as long as it is too early to say.

        After an outage everybody's time has run out, and whoever comes back first would take the
        others for dead: they get as long to be heard of as we have been heard ourselves. Find out
        first what they own: who begins something after that lives. Raises Unavailable.
        """
        if not owners:
            return frozenset()
        alive = {*await self._replicas.alive(), self.replica_id}
        # Only now: while that was asked, the database may have been away.
        now = self._elapsed_seconds()
        is_late = now - self._last_beat > self._ttl_seconds * _UNBROKEN
        if is_late or now - self._beating_since < self._ttl_seconds:
            return frozenset()
        return frozenset(owners) - alive
