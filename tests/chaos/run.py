"""One run: everything starts, faults strike, everything heals, and what happened is read."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from service.app import wall_clock
from tests.chaos.cast import PROMPT_MARK
from tests.chaos.conductor import JournalingConductor
from tests.chaos.faults import Faults
from tests.chaos.history import Document, History
from tests.chaos.plan import Fault
from tests.chaos.replicas import Replica, supervised
from tests.chaos.writer import Client, Writer, writing_client
from tests.cluster import replica_set

DATABASE = "chaos"
# The smallest oplog that is never outrun by members that are away for some seconds.
_MEMBER_OPTIONS = ("--oplogSize", "8", "--syncdelay", "1")
_QUIET_SECONDS = 15.0
_READY_SECONDS = 45.0
_ASK_SECONDS = 0.5
_HEAL_SECONDS = 60.0
_SABOTAGE_SECONDS = 0.2
_PASSWORD, _TOKEN = "PASSWORD-OF-CONDUCTOR", "TOKEN-OF-HTTP"
_SETTINGS = {
    "MONGODB_DATABASE": DATABASE,
    "SCHEDULER_MIN_INTERVAL": "1s",
    "SCHEDULER_REPLICA_TTL": "3s",
    "SCHEDULER_RESYNC_INTERVAL": "20s",
    "SCHEDULER_RUN_TIMEOUT": "10s",
    "SCHEDULER_DRAIN_TIMEOUT": "3s",
    "SCHEDULER_MAX_CONCURRENT_RUNS": "10",
    "SCHEDULER_HTTP_PORT": "0",
    "SCHEDULER_HTTP_TOKEN": _TOKEN,
    "SCHEDULER_LOG_FORMAT": "json",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is made of, beside its plan."""

    seed: int
    seconds: float
    agents: int
    replicas: int
    service: Path
    is_sabotaged: bool = False


@dataclass(frozen=True, slots=True)
class _Stage:
    """The parts of a run that goes on."""

    client: Client
    replicas: Sequence[Replica]
    conductor: JournalingConductor
    writer: Writer
    faults: Faults


async def history_of(plan: Sequence[Fault], options: Options, folder: Path) -> History:
    """Carry out a plan; answers what happened. Logs and data are left in the folder."""
    began = wall_clock()
    async with _stage(options, folder) as stage:
        async with _sabotage(stage.client, is_on=options.is_sabotaged):
            await _suffer(stage, plan, options.seconds)
            async with asyncio.timeout(_HEAL_SECONDS):
                await stage.faults.heal()
            healed = wall_clock()
            not_ready = await _calmed(stage)
        jobs_read = wall_clock()
        jobs = await _read(stage.client, "apscheduler_jobs")
        settled = wall_clock()
        await asyncio.gather(*(replica.stop() for replica in stage.replicas))
        return History(
            agents=stage.writer.agents,
            documents=await _read(stage.client, "agents"),
            rows=await _read(stage.client, "councilor_executions"),
            jobs=jobs,
            calls=stage.conductor.calls,
            writes=tuple(stage.writer.writes),
            faults=tuple(stage.faults.struck),
            exits=[leaving for replica in stage.replicas for leaving in replica.exits],
            logs=[line for replica in stage.replicas for line in replica.lines],
            secrets=(PROMPT_MARK, _PASSWORD, _TOKEN),
            not_ready=not_ready,
            not_stopped=[replica.number for replica in stage.replicas if replica.was_forced],
            began=began,
            healed=healed,
            jobs_read=jobs_read,
            settled=settled,
            launches=sum(replica.launches for replica in stage.replicas),
        )


@asynccontextmanager
async def _stage(options: Options, folder: Path) -> AsyncIterator[_Stage]:
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(replica_set(folder, options=_MEMBER_OPTIONS))
        client = await stack.enter_async_context(writing_client(cluster.url))
        conductor = JournalingConductor(options.seed)
        await stack.enter_async_context(conductor.serving())
        writer = Writer(client, DATABASE, seed=options.seed, agents=options.agents)
        await writer.open()
        environ = {
            **_SETTINGS,
            "MONGODB_URL": cluster.url,
            "CONDUCTOR_API_URL": f"http://chaos:{_PASSWORD}@127.0.0.1:{conductor.port}",
        }
        replicas = await stack.enter_async_context(
            supervised(options.replicas, environ, options.service, folder)
        )
        rng = Random(f"{options.seed} members")
        faults = Faults(cluster, client, replicas, conductor, writer, rng)
        yield _Stage(client, replicas, conductor, writer, faults)


async def _suffer(stage: _Stage, plan: Sequence[Fault], seconds: float) -> None:
    """Let the writer write and faults strike, until the last one is over."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as both:
        for worker in stage.writer.workers:
            both.create_task(stage.writer.work(worker, over))
        await asyncio.gather(asyncio.sleep(seconds), stage.faults.carry_out(plan))
        over.set()


async def _calmed(stage: _Stage) -> list[str]:
    """Wait for quiet; answers what is not ready even then."""
    await asyncio.sleep(_QUIET_SECONDS)
    since = wall_clock()
    not_ready = ["nobody was asked"]
    with suppress(TimeoutError):
        async with asyncio.timeout(_READY_SECONDS), aiohttp.ClientSession() as http:
            while not_ready:
                asked = [replica.why_not_ready(http) for replica in stage.replicas]
                not_ready = [said for said in await asyncio.gather(*asked) if said is not None]
                not_ready += await _old_runs(stage.client, since)
                await asyncio.sleep(_ASK_SECONDS)
    return not_ready


async def _old_runs(client: Client, since: datetime) -> list[str]:
    """Runs that should have ended by now."""
    rows = await _read(client, "councilor_executions", status="running")
    old = [row["execution_id"] for row in rows if row["started_at"] < since]
    return [f"{name} still runs" for name in old]


async def _read(client: Client, collection: str, **wanted: Any) -> list[Document]:
    found = client[DATABASE].get_collection(collection, read_concern=ReadConcern("majority"))
    return [document async for document in found.find(wanted)]


@asynccontextmanager
async def _sabotage(client: Client, *, is_on: bool) -> AsyncIterator[None]:
    """Keep dropping the unique indexes of the ledger, to see that the invariants notice."""
    task = asyncio.create_task(_drop_indexes(client)) if is_on else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _drop_indexes(client: Client) -> None:
    rows = client[DATABASE]["councilor_executions"]
    while True:
        for name in ("one_run_at_a_time", "execution_id_1"):
            with suppress(PyMongoError):
                await rows.drop_index(name)
        await asyncio.sleep(_SABOTAGE_SECONDS)
