"""The composition root: builds everything, nests it in the order in which it stops, runs it."""

import asyncio
import hashlib
import os
import platform
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import stamina
import structlog

from service import __version__, garbage
from service.adapters import conductor as conductor_adapter
from service.adapters.apprise import AppriseMessenger, WrongUrls, messenger_from
from service.adapters.apscheduler import TimedJobs
from service.adapters.conductor import Dialect
from service.adapters.mongo.agents import MongoAgents
from service.adapters.mongo.client import Client, connected, require_replica_set
from service.adapters.mongo.history import MongoHistory
from service.adapters.mongo.jobs import MongoStoredJobs
from service.adapters.mongo.journal import MongoJournal
from service.adapters.mongo.ledger import MongoLedger
from service.adapters.mongo.notifications import MongoNotifications
from service.adapters.mongo.privileges import Names, names_of, require_privileges
from service.adapters.mongo.replicas import MongoReplicas
from service.adapters.mongo.urls import check_url, unchecked_in
from service.breaker import Breaker
from service.calling import Caller
from service.cases import Cases
from service.claims import Claims
from service.clock import ComparedClock
from service.decisions import Decisions
from service.domain.councilor import SchedulePolicy
from service.domain.severity import SeverityRule
from service.events import Events
from service.health import Health
from service.inquiry import Inquiry
from service.listing import Listing
from service.loop import measure_lateness
from service.mending import Mending
from service.notifier import Notifier
from service.patience import Patience
from service.ports import Misconfigured, Refused, ServiceError, Unavailable
from service.projection import Projection
from service.reconciler import Reconciler
from service.replicas import Membership
from service.requests import Requests
from service.runner import Runner, RunPolicy
from service.settings import Settings, WrongSettings
from service.settler import Settler
from service.settling import Settling
from service.standby import Standby
from service.telemetry import Telemetry
from service.timeline import Capacity, Timeline
from service.web.live import Live
from service.web.page import add_page
from service.web.probes import Probes
from service.web.routes import Routes
from service.web.server import application, serving

log = structlog.get_logger()

_CERT_FILE, _CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"
_LAST_NOTIFICATIONS = timedelta(seconds=5)
"""How long the end of the service waits for messages, once all runs have ended."""


class TaskEnded(ServiceError):
    """A task that runs for ever has ended: the process must end too, and be started anew."""


def wall_clock() -> datetime:
    """The machine's clock, aware and in UTC; the only place that reads it."""
    return datetime.now(UTC)  # noqa: TID251 the one place that reads the real clock


@dataclass(frozen=True, slots=True)
class Stores:
    """The collections, as the ports see them."""

    agents: MongoAgents
    ledger: MongoLedger
    history: MongoHistory
    journal: MongoJournal
    stored_jobs: MongoStoredJobs
    replicas: MongoReplicas
    notifications: MongoNotifications


def stores_of(
    client: Client, settings: Settings, owner: str, resumed: Callable[[str], None] = lambda _: None
) -> Stores:
    """Everything that is kept in MongoDB, under the names that the settings give.

    `resumed` is told the code of each error after which the watch on `agents` went on.
    """
    database, agents = settings.mongodb_database, settings.scheduler_agents_collection
    return Stores(
        agents=MongoAgents(client, database, agents, seal=_seal_of(settings), resumed=resumed),
        ledger=MongoLedger(client, database, settings.scheduler_executions_collection, agents),
        history=MongoHistory(client, database, settings.scheduler_executions_collection),
        journal=MongoJournal(client, database, settings.scheduler_executions_collection),
        stored_jobs=MongoStoredJobs(
            client, database, settings.scheduler_jobs_collection, owner=owner, clock=wall_clock
        ),
        replicas=MongoReplicas(client, database),
        notifications=MongoNotifications(client, database, owner=owner),
    )


def _seal_of(settings: Settings) -> bytes:
    """Stands for the rules by which documents are judged: under others, all are judged anew."""
    rules = (__version__, schedule_policy(settings))
    return hashlib.sha256(repr(rules).encode()).digest()


def schedule_policy(settings: Settings) -> SchedulePolicy:
    """What the settings say about schedules."""
    return SchedulePolicy(settings.scheduler_timezone, settings.scheduler_min_interval)


def mongodb_url(settings: Settings) -> str:
    """The connection string, which must be there and be one. Raises WrongSettings."""
    if settings.mongodb_url is None:
        raise WrongSettings(
            ["MONGODB_URL: missing; point it at a replica set, or use --embedded for a local one"]
        )
    url = settings.mongodb_url.get_secret_value()
    try:
        check_url(url)
    except ValueError as error:
        raise WrongSettings([f"MONGODB_URL: {error}"]) from None
    return url


def messenger_of(settings: Settings) -> AppriseMessenger | None:
    """What sends to the URLs of the settings; None where there are none. Raises WrongSettings."""
    if settings.scheduler_notify_urls is None:
        return None
    try:
        return messenger_from(settings.scheduler_notify_urls.get_secret_value())
    except WrongUrls as error:
        lines = [f"SCHEDULER_NOTIFY_URLS: {problem}" for problem in error.problems]
        raise WrongSettings(lines) from None


def authorities_of(settings: Settings, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    """Who may sign Conductor's certificate, by OpenSSL's own variables. Raises WrongSettings.

    None where they name nobody, or nothing goes by TLS.
    """
    file, folders = (environ.get(name, "").strip() or None for name in (_CERT_FILE, _CERT_DIR))
    by_tls = settings.conductor_api_url.get_secret_value().lower().startswith("https:")
    if not by_tls or not (file or folders):
        return None
    try:
        return conductor_adapter.trust_in(file, folders)
    except OSError as error:
        # A folder's error has its name.
        variable, path = (_CERT_DIR, error.filename) if error.filename else (_CERT_FILE, file)
        raise WrongSettings([f"{variable}: {path}: {error.strerror}"]) from error


class Stop:
    """Why the service stops: asked to, or because a task has ended."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._fault: BaseException | None = None

    def ask(self) -> None:
        """End in good order."""
        self._asked.set()

    def fail(self, fault: BaseException) -> None:
        """End in good order, then raise this."""
        self._fault = self._fault or fault
        self._asked.set()

    async def wait(self) -> None:
        """Return when the service shall stop."""
        await self._asked.wait()

    def raise_fault(self) -> None:
        """Raise what has failed, if anything has."""
        if self._fault is not None:
            raise self._fault


async def serve(settings: Settings, stop: Stop) -> None:
    """Run the service until it is told to stop, then drain.

    Raises WrongSettings, Misconfigured, CannotListen, or what ended a task that must not end.
    """
    garbage.tune(settings.scheduler_max_concurrent_runs)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connected(mongodb_url(settings)))
        await _Service(settings, client, stop).run(stack)
    stop.raise_fault()
    log.info("scheduler_stopped")


@dataclass(frozen=True, slots=True)
class _RunningParts:
    """What runs need, and what settles slots and mends shares with them."""

    breaker: Breaker
    runner: Runner
    cases: Cases


class _Service:
    """The parts of one replica. `run` lists them outermost first: they stop in reverse."""

    def __init__(self, settings: Settings, client: Client, stop: Stop) -> None:
        self._settings = settings
        self._client = client
        self._stop = stop
        self._authorities = authorities_of(settings, os.environ)
        self._id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._facts: dict[str, object] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": __version__,
        }
        self._clock = ComparedClock(wall_clock)
        self._telemetry = Telemetry()
        self._stores = stores_of(client, settings, self._id, self._telemetry.watch_resumed)
        self._telemetry.listener = self._events = Events(self._stores.journal, self._telemetry)
        self._membership = Membership(
            self._stores.replicas,
            self._clock,
            self._telemetry,
            replica_id=self._id,
            facts=self._facts,
            ttl=settings.scheduler_replica_ttl,
        )
        self._health = Health(
            needed={
                "majority": lambda: self._membership.lag_trouble,
                "heartbeat": lambda: self._membership.trouble,
                "verdicts": self._verdict_trouble,
            }
        )
        self._telemetry.stream_answered(lambda: self._health.silent_seconds)
        self._patience = Patience(self._telemetry)
        self._notifier = Notifier(
            self._stores.notifications,
            self._stores.agents,
            messenger_of(settings),
            self._patience,
            self._telemetry,
            self._clock,
            schedules=schedule_policy(settings),
        )
        self._jobs = TimedJobs(self._job_changed, self._clock)
        self._timeline = Timeline(self._stores.history, self._jobs, self._clock, self._capacity)
        self._reconciler: Reconciler | None = None
        self._settler: Settler | None = None
        self._projection = Projection(
            self._stores.stored_jobs, self._jobs, self._telemetry.projection_failed
        )
        self._telemetry.projection_counted(lambda: self._projection.waiting)

    def _verdict_trouble(self) -> str | None:
        return self._reconciler.verdicts.trouble if self._reconciler is not None else None

    def _job_changed(self, agent_id: str) -> None:
        """Pass on what has changed: table, projection, settler and reconciler need each other."""
        self._projection.mark(agent_id)
        if self._settler is not None:
            self._settler.job_changed(agent_id)
        if self._reconciler is not None:
            self._reconciler.reconsider(agent_id)

    async def run(self, stack: AsyncExitStack) -> None:
        port = await stack.enter_async_context(self._web())
        lateness = measure_lateness(self._telemetry.loop_was_late)
        await stack.enter_async_context(self._task(lateness, "measure the event loop"))
        log.info(
            "scheduler_started",
            version=__version__,
            python=platform.python_version(),
            replica=self._id,
            http_host=self._settings.scheduler_http_host,
            http_port=port,
        )
        if unchecked := unchecked_in(mongodb_url(self._settings)):
            log.warning("certificates_not_checked", options=list(unchecked))
        if not await self._database_is_usable():
            return
        await stack.enter_async_context(self._task(self._events.follow(), "follow the ledger"))
        await stack.enter_async_context(self._task(self._timeline.prepare(), "index the ledger"))
        await stack.enter_async_context(self._beating())
        await stack.enter_async_context(self._projecting())
        await stack.enter_async_context(self._notifying())
        parts = await stack.enter_async_context(self._running())
        await stack.enter_async_context(self._mending(parts))
        settler = await stack.enter_async_context(self._settling(parts))
        await stack.enter_async_context(self._jobs.firing(settler.fire))
        await stack.enter_async_context(self._reconciling())
        await self._stop.wait()

    @asynccontextmanager
    async def _web(self) -> AsyncIterator[int]:
        settings, stores = self._settings, self._stores
        token = settings.scheduler_http_token
        app = application(token.get_secret_value() if token is not None else None)
        Probes(
            stores.agents, self._jobs, self._health, self._telemetry, self._clock, self._known_facts
        ).add_to(app)
        Routes(
            self._jobs,
            Listing(stores.agents, stores.history, self._clock),
            stores.history,
            Inquiry(
                stores.agents,
                stores.history,
                self._jobs.of_agent,
                self._clock,
                kept_for=settings.scheduler_execution_ttl,
                run_timeout=settings.scheduler_run_timeout,
            ),
            self._timeline,
        ).add_to(app)
        Live(self._events).add_to(app)
        add_page(app)
        host, port = settings.scheduler_http_host, settings.scheduler_http_port
        async with serving(app, host, port) as port:
            yield port

    def _known_facts(self) -> dict[str, object]:
        living = sorted(self._membership.living)
        places = self._settings.scheduler_max_concurrent_runs
        return {**self._facts, "replica": self._id, "replicas": living, "places": places}

    def _capacity(self) -> Capacity:
        living = max(len(self._membership.living), 1)
        return Capacity(living, living * self._settings.scheduler_max_concurrent_runs)

    async def _database_is_usable(self) -> bool:
        """Wait for a primary, with the probes answering; False where we are told to stop."""
        ready = asyncio.create_task(self._wait_for_database(), name="wait for MongoDB")
        stopped = asyncio.create_task(self._stop.wait(), name="wait for stop")
        await asyncio.wait({ready, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ready.done():
            ready.cancel()
            with suppress(asyncio.CancelledError):
                await ready
            return False
        ready.result()
        return True

    async def _wait_for_database(self) -> None:
        told = False
        async for attempt in stamina.retry_context(
            on=Unavailable, attempts=None, timeout=None, wait_initial=0.2, wait_max=3.0
        ):
            with attempt:
                try:
                    await require_replica_set(self._client, mongodb_url(self._settings))
                    lacking = await require_privileges(self._client, self._names)
                    await self._stores.ledger.prepare(self._settings.scheduler_execution_ttl)
                    await self._membership.join()
                except Unavailable as error:
                    self._health.watch_is_lost(str(error))
                    if not told:
                        log.warning("database_unavailable", error=str(error))
                        told = True
                    raise
        for lack in lacking:
            tell = log.info if lack.is_seldom else log.warning
            tell("privileges_missing", lacking=lack.rights, without=lack.without)

    @property
    def _names(self) -> Names:
        settings = self._settings
        return names_of(
            settings.mongodb_database,
            settings.scheduler_agents_collection,
            settings.scheduler_executions_collection,
            settings.scheduler_jobs_collection,
        )

    @asynccontextmanager
    async def _beating(self) -> AsyncIterator[None]:
        async with self._task(self._membership.beat(), "heartbeat"):
            yield
        with suppress(Unavailable, Misconfigured):
            await self._membership.leave()

    @asynccontextmanager
    async def _projecting(self) -> AsyncIterator[None]:
        async with self._task(self._projection.project(), "projection"):
            yield
        with suppress(Unavailable, Misconfigured, Refused):
            await self._projection.flush()

    @asynccontextmanager
    async def _notifying(self) -> AsyncIterator[None]:
        async with self._task(self._notifier.deliver(), "notifications"):
            try:
                yield
            finally:
                await self._notifier.drain(_LAST_NOTIFICATIONS)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[_RunningParts]:
        settings, ledger = self._settings, self._stores.ledger
        dialect = Dialect(settings.conductor_api_mode)
        async with conductor_adapter.connected(
            settings.conductor_api_url.get_secret_value(),
            dialect,
            settings.conductor_cwd,
            trust=self._authorities,
        ) as conductor:
            breaker = Breaker(
                conductor,
                self._telemetry,
                lost=self._notifier.conductor_lost,
                answered=self._notifier.conductor_answered,
            )
            self._health.others = {
                "conductor": lambda: breaker.trouble if breaker.is_open else None
            }
            caller = Caller(
                conductor,
                ledger,
                breaker,
                self._patience,
                self._telemetry,
                self._clock,
                require_fit=self._membership.require_fit,
            )
            runner = Runner(
                ledger,
                Claims(ledger, self._clock, require_fit=self._membership.require_fit),
                caller,
                self._patience,
                self._notifier,
                self._telemetry,
                self._clock,
                policy=RunPolicy(
                    timeout=settings.scheduler_run_timeout,
                    max_concurrent=settings.scheduler_max_concurrent_runs,
                    max_output_bytes=settings.scheduler_max_output_bytes,
                    severity=SeverityRule(settings.scheduler_severity),
                ),
                owner=self._id,
            )
            cases = Cases(
                self._stores.agents,
                ledger,
                runner,
                self._notifier,
                self._telemetry,
                self._clock,
                policy=schedule_policy(settings),
            )
            async with (
                self._task(breaker.probe(), "ask for Conductor"),
                self._task(garbage.collect_when_quiet(lambda: runner.is_quiet), "collect garbage"),
            ):
                try:
                    yield _RunningParts(breaker, runner, cases)
                finally:
                    await runner.drain(
                        settings.scheduler_drain_timeout, others_live=self._membership.others_live
                    )

    @asynccontextmanager
    async def _mending(self, parts: _RunningParts) -> AsyncIterator[None]:
        ttl = self._settings.scheduler_replica_ttl
        mending = Mending(
            self._stores.ledger,
            self._stores.replicas,
            self._membership,
            self._jobs,
            parts.cases,
            parts.runner,
            parts.breaker,
            self._notifier,
            self._telemetry,
            self._clock,
            is_synced=lambda: self._health.synced,
            every=ttl / 3,
            grace=ttl,
        )
        async with self._task(mending.mend(), "mending"):
            yield

    @asynccontextmanager
    async def _settling(self, parts: _RunningParts) -> AsyncIterator[Settler]:
        standby = Standby(self._stores.ledger, self._membership.rank, self._clock)
        requests = Requests(
            parts.cases,
            self._jobs,
            parts.runner,
            standby,
            parts.breaker,
            self._patience,
            self._clock,
            kept_for=self._settings.scheduler_execution_ttl,
        )
        decisions = Decisions(
            self._stores.agents,
            self._stores.ledger,
            self._jobs,
            parts.runner,
            parts.cases,
            serving_since=self._serving_since(),
        )
        settling = Settling(
            self._stores.ledger,
            self._jobs,
            parts.runner,
            parts.cases,
            decisions,
            standby,
            parts.breaker,
            self._clock,
        )
        self._settler = settler = Settler(
            self._jobs,
            parts.runner,
            parts.cases,
            decisions,
            settling,
            requests,
            standby,
            self._patience,
            self._clock,
            failed=self._stop.fail,
        )
        try:
            yield settler
        finally:
            await settler.stop()

    def _serving_since(self) -> datetime:
        """Now, where this replica comes alone; where others live, there is no outage to end."""
        are_there = self._membership.others_live
        return datetime.min.replace(tzinfo=UTC) if are_there else self._clock()

    @asynccontextmanager
    async def _reconciling(self) -> AsyncIterator[None]:
        reconciler = Reconciler(
            self._stores.agents,
            self._jobs,
            self._stores.stored_jobs,
            self._telemetry,
            self._health,
            self._clock,
            policy=schedule_policy(self._settings),
            resync_interval=self._settings.scheduler_resync_interval,
        )
        self._reconciler = reconciler
        async with (
            self._task(self._projection.compare_all(reconciler.resynced), "projection compare"),
            self._task(reconciler.verdicts.write(), "verdicts"),
            self._task(reconciler.reconcile(), "reconcile"),
            self._task(reconciler.watch(), "watch"),
        ):
            yield

    @asynccontextmanager
    async def _task(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
        """Run a task that must not end by itself; where it does, the service stops."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, ServiceError):
            self._stop.fail(error)
            return
        log.error("task_ended", task=task.get_name(), exc_info=error)
        self._stop.fail(TaskEnded(f"the task {task.get_name()} has ended"))
