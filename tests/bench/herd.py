"""`herd`: all councilors are due in one instant."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from time import sleep

from pymongo.database import Database

from service.app import wall_clock
from tests.bench.deployment import Deployment
from tests.bench.documents import Document, Schedule, agent, insert
from tests.bench.figures import Benchmark, Options, Row, Sample
from tests.bench.instances import Instance, answer_of, within_time
from tests.bench.journal import Unmeasured
from tests.bench.load import seconds_for

MINUTE = timedelta(minutes=1)
_LEAST_AHEAD = timedelta(seconds=20)
_AHEAD_EACH = timedelta(milliseconds=2)
_POLL_SECONDS = 0.2


def coming_minute(now: datetime, n: int) -> datetime:
    """The first full minute for which so many can be promoted in time."""
    ready = now + _LEAST_AHEAD + n * _AHEAD_EACH
    return ready.replace(second=0, microsecond=0) + MINUTE


def at_minute(slot: datetime) -> Schedule:
    """A cron whose next slot this is."""
    return {"type": "cron", "value": f"{slot.minute} {slot.hour} * * *", "timezone": "UTC"}


def promote_for(database: Database[Document], slot: datetime, n: int) -> None:
    """Promote so many agents that are all due then."""
    schedule = at_minute(slot)
    insert(database["agents"], [agent(number, schedule) for number in range(n)])


def wait_for(slot: datetime, *, seconds_before: float) -> None:
    """Sleep until shortly before a slot. Raises Unmeasured where that is over."""
    left = (slot - wall_clock()).total_seconds() - seconds_before
    if left < 0:
        raise Unmeasured(f"the councilors were promoted {-left:.1f} s too late for their slot")
    sleep(left)


def wait_closed(database: Database[Document], n: int) -> datetime:
    """Return when all rows are there and none of them runs, within 0.2 s."""
    rows = database["councilor_executions"]

    def are_closed() -> bool:
        return rows.estimated_document_count() >= n and not rows.count_documents(
            {"status": "running"}, limit=1
        )

    try:
        within_time(are_closed, f"{n} rows are closed", within=seconds_for(n), every=_POLL_SECONDS)
    except Unmeasured as error:
        by_status = rows.aggregate([{"$group": {"_id": "$status", "count": {"$sum": 1}}}])
        said = ", ".join(f"{group['count']} {group['_id']}" for group in by_status)
        raise Unmeasured(f"{error}; the ledger has {said or 'no row'}") from None
    return wall_clock()


def require_each_once(database: Database[Document], n: int) -> None:
    """Raise Unmeasured unless each of n agents has run, has its row and is counted once."""
    agents, rows = database["agents"], database["councilor_executions"]
    counted = agents.count_documents({"stats.total_executions": 1})
    completed = rows.count_documents({"status": "completed"})
    total = rows.count_documents({})
    if not total == completed == counted == n:
        said = f"{total} rows, {completed} of them completed, and {counted} agents counted once"
        raise Unmeasured(f"of {n} runs there are {said}")


def _one(deployment: Deployment, n: int, options: Options) -> Mapping[str, float]:
    database = deployment.database()
    deployment.forget_calls()
    settings = {"SCHEDULER_MAX_CONCURRENT_RUNS": str(options.concurrent)}
    with deployment.serving(database, settings) as instance:
        instance.wait_ready(seconds_for(0))
        slot = coming_minute(wall_clock(), n)
        promote_for(database, slot, n)
        instance.wait_logged("job_scheduled", n, (slot - wall_clock()).total_seconds())
        wait_for(slot, seconds_before=1)
        instance.reset()
        closed = wait_closed(database, n)
        instance.wait_logged("run_finished", n, seconds_for(n))
        report = instance.report()
        times = _times_of(instance, slot)
        instance.stop()
    require_each_once(database, n)
    calls = deployment.calls()
    return {
        **times,
        "handed_seconds": report["handed_over_at"] - slot.timestamp(),
        "closed_seconds": (closed - slot).total_seconds(),
        "stall_ms": report["longest_stall_ms"],
        "duplicates": calls["duplicates"],
        "rows_off": calls["calls"] - n,
        "runs_per_second": n / times["counted_seconds"],
    }


def _times_of(instance: Instance, slot: datetime) -> dict[str, float]:
    started = [event.at for event in instance.journal.events("run_started")]
    counted = [event.at for event in instance.journal.events("run_finished")]
    return {
        "first_seconds": min(started) - slot.timestamp(),
        "started_seconds": max(started) - slot.timestamp(),
        "counted_seconds": max(counted) - slot.timestamp(),
    }


def _herd(deployment: Deployment, n: int, options: Options) -> Iterator[Sample]:
    for _ in range(options.runs):
        ours = _one(deployment, n, options)
        stock = answer_of("tests.bench.stock", "herd", str(n), within=seconds_for(n) + 60)
        yield {
            **ours,
            "stock_started_seconds": stock["last_start_seconds"],
            "stock_stall_ms": stock["longest_stall_ms"],
        }


HERD = Benchmark(
    "herd",
    "all due in one minute, Conductor answers at once; stock: a coroutine that notes the time",
    (10_000,),
    (
        Row("handed_seconds", "slot to last timer handled", "s", "O(n)"),
        Row("first_seconds", "slot to first run_started", "s", "O(1)"),
        Row("started_seconds", "slot to last run_started", "s", "O(n)", "stock_started_seconds"),
        Row("closed_seconds", "slot to last row closed, ±0.2 s", "s", "O(n)", "keeps no record"),
        Row("counted_seconds", "slot to last agent counted", "s", "O(n)", "keeps no record"),
        Row("runs_per_second", "runs a second, called and recorded", "/s", "O(1)"),
        Row("stall_ms", "longest stall, from 1 s before", "ms", "O(1) wanted", "stock_stall_ms"),
        Row("duplicates", "calls made twice", "", "0"),
        Row("rows_off", "calls beyond, or short of, n", "", "0"),
    ),
    _herd,
)
