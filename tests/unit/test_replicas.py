"""Membership on fakes: who lives, who goes first, and who must not start anything."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import pytest

from service.clock import ComparedClock
from service.ports import ServerState, Unavailable
from service.replicas import Membership
from service.telemetry import Telemetry
from tests.fakes import NOON, FakeClock, FakeReplicas
from tests.steps import going, turned

HOUR = timedelta(hours=1)
NOW = timedelta(0)


class Elapsed:
    """Seconds that go by when they are told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def membership(
    replicas: FakeReplicas,
    ttl: timedelta,
    elapsed: Callable[[], float] = lambda: 0.0,
    telemetry: Telemetry | None = None,
) -> Membership:
    return Membership(
        replicas,
        ComparedClock(FakeClock(), lambda: 0.0),
        telemetry or Telemetry(),
        replica_id="replica-1",
        facts={},
        ttl=ttl,
        elapsed_seconds=elapsed,
    )


async def test_nothing_is_started_before_the_first_heartbeat() -> None:
    with pytest.raises(Unavailable):
        membership(FakeReplicas(FakeClock()), HOUR).require_fit()


async def test_a_replica_that_is_heard_may_start_runs() -> None:
    member = membership(FakeReplicas(FakeClock()), HOUR)
    await member.join()
    member.require_fit()


async def test_a_replica_that_cannot_be_heard_stops_in_time_and_asks_at_once() -> None:
    replicas, elapsed = FakeReplicas(FakeClock()), Elapsed()
    member = membership(replicas, timedelta(seconds=10), elapsed)
    await member.join()
    elapsed.seconds = 7.9
    member.require_fit()
    elapsed.seconds = 8.1  # the others do not take it for dead before 10
    async with going(member.beat()):
        with pytest.raises(Unavailable, match="no heartbeat was acknowledged"):
            member.require_fit()
        await turned()
        member.require_fit()


def counted(telemetry: Telemetry) -> list[str]:
    lines = telemetry.exposition().decode().splitlines()
    return [line.split()[1] for line in lines if line.startswith("councilor_members ")]


async def test_a_replica_that_is_not_heard_counts_nobody() -> None:
    """What it knew would hide, where it is scraped, that the others have lost it."""
    replicas, elapsed, telemetry = FakeReplicas(FakeClock()), Elapsed(), Telemetry()
    await replicas.heartbeat("replica-2", {}, HOUR)
    member = membership(replicas, timedelta(seconds=10), elapsed, telemetry)
    assert counted(telemetry) == ["0.0"]
    await member.join()
    elapsed.seconds = 7.9
    assert counted(telemetry) == ["2.0"]
    elapsed.seconds = 8.1
    assert counted(telemetry) == ["0.0"]
    await member.join()
    assert counted(telemetry) == ["2.0"]


async def beaten(elapsed: Elapsed, replicas: FakeReplicas, *beats: float) -> Membership:
    """A replica with a time-to-live of 10 s, heard at these seconds; another is alive."""
    await replicas.heartbeat("alive", {}, HOUR)
    member = membership(replicas, timedelta(seconds=10), elapsed)
    for elapsed.seconds in beats:
        await member.join()
    return member


@pytest.mark.parametrize(
    ("beats", "dead"),
    [
        pytest.param([0, 3, 6, 9, 12], {"dead"}, id="unbroken for a time-to-live"),
        pytest.param([0, 3, 6, 9], set(), id="too early to say"),
        pytest.param([0, 3, 9, 12, 15], set(), id="broken: the database may have been away"),
        pytest.param([0, 3, 9, 12, 15, 19], {"dead"}, id="unbroken since"),
    ],
)
async def test_who_is_dead_is_known_after_a_time_to_live_of_heartbeats(
    beats: list[float], dead: set[str]
) -> None:
    """After an outage, whoever comes back first would end the others' live runs."""
    member = await beaten(Elapsed(), FakeReplicas(FakeClock()), *beats)
    assert await member.dead_among({"alive", "dead", "replica-1"}) == dead


async def test_an_outage_while_the_living_are_asked_for_is_noticed() -> None:
    elapsed, replicas = Elapsed(), HangingReplicas(FakeClock())
    member = await beaten(elapsed, replicas, 0, 3, 6, 9, 12)
    replicas.hang = lambda: setattr(elapsed, "seconds", 18.0)
    assert await member.dead_among({"dead"}) == frozenset()


class HangingReplicas(FakeReplicas):
    hang: Callable[[], None] | None = None

    async def alive(self) -> Sequence[str]:
        if self.hang is not None:
            self.hang()
        return await super().alive()


async def test_the_living_share_the_ranks_among_them() -> None:
    replicas = FakeReplicas(FakeClock())
    await replicas.heartbeat("replica-2", {}, HOUR)
    member = membership(replicas, HOUR)
    await member.join()
    assert {member.rank(f"agent-{n}") for n in range(50)} == {0, 1}
    await replicas.leave("replica-2")
    await member.join()
    assert {member.rank(f"agent-{n}") for n in range(50)} == {0}


async def test_a_majority_that_lags_behind_is_told() -> None:
    replicas = FakeReplicas(FakeClock())
    member = membership(replicas, HOUR)
    await member.join()
    before = member.lag_trouble
    replicas.state = ServerState(NOON, timedelta(seconds=12))
    await member.join()
    assert (before, member.lag_trouble) == (
        None,
        "the majority of the replica set is 12 s behind its primary",
    )


async def test_a_heartbeat_in_doubt_does_not_wait_for_its_time() -> None:
    """A stepped clock forbids starts; the comparison that allows them again comes at once."""
    replicas, wall = FakeReplicas(FakeClock()), FakeClock()
    clock = ComparedClock(wall, lambda: 0.0)
    member = Membership(
        replicas, clock, Telemetry(), replica_id="replica-1", facts={}, ttl=timedelta(days=1)
    )
    await member.join()
    async with going(member.beat()):
        await turned()
        wall.now += HOUR
        replicas._clock.now += HOUR
        with pytest.raises(Unavailable, match="compared anew"):
            member.require_fit()
        await turned()
        member.require_fit()


class Boot:
    """Seconds since the machine was started, for a clock that is compared."""

    def __init__(self) -> None:
        self.wall, self.seconds = FakeClock(), 0.0
        self.clock = ComparedClock(self.wall, lambda: self.seconds)

    def goes_on(self, duration: timedelta) -> None:
        self.wall.now += duration
        self.seconds += duration.total_seconds()

    def hears(self, server: datetime, took: timedelta = NOW) -> None:
        asked = self.wall.now
        self.goes_on(took)
        self.clock.compare(server, asked, self.wall.now)


@pytest.mark.parametrize(
    ("ahead", "is_corrected", "is_doubted"),
    [
        pytest.param(timedelta(seconds=0.9), False, False, id="left alone"),
        pytest.param(timedelta(seconds=-3), True, False, id="we are ahead"),
        pytest.param(timedelta(seconds=3), True, False, id="we are behind"),
        pytest.param(timedelta(seconds=-5.1), True, True, id="too far to be relied upon"),
        pytest.param(HOUR, True, True, id="an hour"),
    ],
)
def test_an_offset_is_corrected_and_a_large_one_not_relied_upon(
    ahead: timedelta, is_corrected: bool, is_doubted: bool
) -> None:
    boot = Boot()
    boot.hears(NOON + ahead)
    assert boot.clock() == (NOON + ahead if is_corrected else NOON)
    assert (boot.clock.doubt is not None) is is_doubted


def test_a_step_is_noticed_and_time_that_goes_by_is_none() -> None:
    boot = Boot()
    doubts = [boot.clock.doubt]
    boot.hears(NOON)
    boot.goes_on(HOUR)
    doubts.append(boot.clock.doubt)
    boot.wall.now += timedelta(seconds=2)  # set by hand, or the machine slept
    doubts.append(boot.clock.doubt)
    boot.hears(boot.wall.now)
    doubts.append(boot.clock.doubt)
    assert [doubt is not None for doubt in doubts] == [True, False, True, False]


def test_an_answer_that_took_long_says_nothing() -> None:
    boot = Boot()
    boot.hears(NOON + HOUR, took=timedelta(seconds=1.5))
    assert boot.clock.doubt is not None
    assert boot.clock() == boot.wall.now


def test_the_time_of_the_answer_is_the_middle_of_asking() -> None:
    boot = Boot()
    boot.hears(NOON + timedelta(seconds=10), took=timedelta(seconds=0.8))
    assert boot.clock.offset == timedelta(seconds=9.6)
