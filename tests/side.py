"""What runs slots, put together on fakes: for tests of the settler, the timers and the mending."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from service.batching import BatchPolicy
from service.breaker import Breaker, BreakerPolicy
from service.calling import Caller, RetryPolicy
from service.cases import Cases
from service.claims import Claims
from service.decisions import Decisions
from service.domain.councilor import SchedulePolicy
from service.domain.severity import SeverityRule
from service.notifier import Notifier
from service.pace import Pace
from service.patience import Patience
from service.ports import JobTable, Unavailable
from service.requests import Requests
from service.runner import Runner, RunPolicy
from service.settler import Settler
from service.settling import Settling
from service.standby import Standby
from service.telemetry import Telemetry
from tests.fakes import NOON, FakeAgents, FakeClock, FakeConductor, FakeLedger, FakeNotifications

HALF_HOUR = timedelta(minutes=30)
POLICY = SchedulePolicy()
QUICK_BREAKER = BreakerPolicy(failures=3, first_seconds=0.01, longest_seconds=0.02)
QUICK_RETRIES = RetryPolicy(first=timedelta(milliseconds=1), longest=timedelta(milliseconds=2))
NO_PACE = timedelta(0)
AT_ONCE = BatchPolicy(at_least_seconds=0, distance_seconds=0)


@dataclass
class Parts:
    """One replica but for its change stream, its timers and its heartbeat."""

    jobs: JobTable
    clock: FakeClock
    ledger: FakeLedger
    conductor: FakeConductor
    max_concurrent: int = 10
    pace: Pace = field(default_factory=lambda: Pace(NO_PACE))
    serving_since: datetime = NOON
    faults: list[BaseException] = field(default_factory=list)
    rank: Callable[[str], int] = lambda _: 0
    unfit: str | None = None

    def __post_init__(self) -> None:
        self.agents = FakeAgents(self.clock)
        self.telemetry = Telemetry()
        patience = Patience(self.telemetry, longest_seconds=0.01)
        self.stored = FakeNotifications()
        self.notifier = Notifier(
            self.stored,
            self.agents,
            None,
            patience,
            self.telemetry,
            self.clock,
            schedules=POLICY,
        )
        self.breaker = Breaker(
            self.conductor, self.telemetry, pace=Pace(NO_PACE), policy=QUICK_BREAKER
        )
        caller = Caller(
            self.conductor,
            self.ledger,
            self.breaker,
            patience,
            self.telemetry,
            self.clock,
            require_fit=self._require_fit,
            policy=QUICK_RETRIES,
        )
        self.runner = Runner(
            self.ledger,
            Claims(self.ledger, self.clock, require_fit=self._require_fit),
            caller,
            patience,
            self.notifier,
            self.telemetry,
            self.clock,
            policy=RunPolicy(HALF_HOUR, self.max_concurrent, 100, SeverityRule.WORDS),
            owner="replica-1",
            batches=AT_ONCE,
        )
        self.cases = Cases(
            self.agents,
            self.ledger,
            self.runner,
            self.notifier,
            self.telemetry,
            self.clock,
            policy=POLICY,
            batches=AT_ONCE,
        )
        standby = Standby(self.ledger, self.rank, self.clock, batches=AT_ONCE)
        requests = Requests(
            self.cases,
            self.jobs,
            self.runner,
            standby,
            self.breaker,
            patience,
            self.clock,
            kept_for=timedelta(days=90),
        )
        decisions = Decisions(
            self.agents,
            self.ledger,
            self.jobs,
            self.runner,
            self.cases,
            serving_since=self.serving_since,
        )
        settling = Settling(
            self.ledger,
            self.jobs,
            self.runner,
            self.cases,
            decisions,
            standby,
            self.breaker,
            self.clock,
            catch_up_pace=self.pace,
        )
        self.settler = Settler(
            self.jobs,
            self.runner,
            self.cases,
            decisions,
            settling,
            requests,
            standby,
            patience,
            self.clock,
            failed=self.faults.append,
            batches=AT_ONCE,
        )

    def _require_fit(self) -> None:
        if self.unfit is not None:
            raise Unavailable(self.unfit)
