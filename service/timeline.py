"""A day around now: what has run, what will run, and how that compares with what may run."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

import structlog

from service.domain.execution import Status
from service.domain.forecast import Forecast, forecast
from service.ports import Clock, EndedRuns, History, JobTable, ServiceError

log = structlog.get_logger()

_HALF_A_DAY = timedelta(hours=12)
_BUCKET = timedelta(minutes=15)
_PAST_SECONDS, _FUTURE_SECONDS = 2.0, 30.0
"""How old an answer may be: a page that is live asks again and again."""
_LOOK_AGAIN_SECONDS = 300.0
_RUN_TIME = timedelta(seconds=30)
"""How long a run takes, where nothing has run yet."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many runs may go on at once, in all replicas that live."""

    replicas: int
    places: int


class Timeline:
    """Answers what `/timeline` shows; what it costs does not depend on how often it is asked."""

    def __init__(
        self,
        history: History,
        jobs: JobTable,
        clock: Clock,
        capacity: Callable[[], Capacity],
    ) -> None:
        self._history = history
        self._jobs = jobs
        self._clock = clock
        self._capacity = capacity
        self._one_at_a_time = asyncio.Lock()
        self._past: tuple[float, Sequence[EndedRuns]] = (-_PAST_SECONDS, ())
        self._future: tuple[float, Forecast] = (-_FUTURE_SECONDS, Forecast((), False))

    async def prepare(self) -> None:
        """Have what makes it cheap, and have it again should somebody take it away; for ever."""
        while True:
            try:
                await self._history.prepare()
            except ServiceError as error:
                log.warning("timeline_slow", error=str(error))
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    async def around_now(self) -> Mapping[str, object]:
        """Twelve hours of what has ended and twelve of what is to come. Raises Unavailable."""
        async with self._one_at_a_time:
            now = self._clock()
            begin = _bucket_of(now)
            ended = await self._ended(begin - _HALF_A_DAY)
            run_time = _mean_of(ended)
            to_come = await self._to_come(begin, run_time)
        capacity = self._capacity()
        return {
            "now": now,
            "bucket_seconds": int(_BUCKET.total_seconds()),
            "past": _buckets(ended, begin - _HALF_A_DAY, begin),
            "future": [
                {"at": load.at, "starts": load.starts, "at_once": load.at_once}
                for load in to_come.loads
            ],
            "is_estimate": to_come.is_estimate,
            "run_seconds": round(run_time.total_seconds(), 1),
            "replicas": capacity.replicas,
            "places": capacity.places,
        }

    async def _ended(self, since: datetime) -> Sequence[EndedRuns]:
        read_at, ended = self._past
        if monotonic() - read_at > _PAST_SECONDS:
            until = self._clock() + _BUCKET  # another replica's clock may be ahead
            seconds = int(_BUCKET.total_seconds())
            ended = await self._history.ended(since, until, seconds)
            self._past = (monotonic(), ended)
        return ended

    async def _to_come(self, begin: datetime, run_time: timedelta) -> Forecast:
        read_at, to_come = self._future
        if monotonic() - read_at > _FUTURE_SECONDS:
            minutes, bucket = (int(t / timedelta(minutes=1)) for t in (_HALF_A_DAY, _BUCKET))
            # In a thread, where timers are kept meanwhile.
            to_come = await asyncio.to_thread(
                forecast, self._jobs.all(), begin, minutes, bucket, run_time
            )
            self._future = (monotonic(), to_come)
        return to_come


def _bucket_of(instant: datetime) -> datetime:
    seconds = int(_BUCKET.total_seconds())
    return datetime.fromtimestamp(int(instant.timestamp()) // seconds * seconds, UTC)


def _mean_of(ended: Sequence[EndedRuns]) -> timedelta:
    """How long runs take, by those that have run."""
    runs = [group for group in ended if group.status in (Status.COMPLETED, Status.ERROR)]
    count = sum(group.count for group in runs)
    if not count:
        return _RUN_TIME
    return timedelta(milliseconds=sum(group.duration_ms for group in runs) / count)


def _buckets(
    ended: Sequence[EndedRuns], since: datetime, until: datetime
) -> Sequence[Mapping[str, object]]:
    counts: defaultdict[datetime, dict[str, int]] = defaultdict(dict)
    for group in ended:
        ran = group.status in (Status.COMPLETED, Status.ERROR)
        name = group.severity if ran else "not_run"
        counts[group.at][name] = counts[group.at].get(name, 0) + group.count
    names = ("success", "warning", "error", "not_run")
    buckets = []
    at = since
    while at <= until:
        buckets.append({"at": at, **{name: counts[at].get(name, 0) for name in names}})
        at += _BUCKET
    return buckets
