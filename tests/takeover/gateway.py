"""What the gateway left: fifty councilors as it wrote them, and all that lies beside them.

The shapes are those of CONTRACT section 1 and of DESIGN section 6, last paragraph: no `timezone`,
channels in any order, `context_files` and `customization` null or absent, statistics with a rate
and no count of successes, execution ids that collide within a second, pickled jobs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.jobstores.mongodb import MongoDBJobStore  # noqa: TID251 the gateway's
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger
from bson import ObjectId
from pymongo import MongoClient

Document = dict[str, Any]

_INTERVALS = ("30m", "1h", "2s", "6h", "1d", "45m", "90m", "12h", "15m", "7d")
_CRONS = ("0 9 * * *", "30 6 * * *", "0 */4 * * *", "15 8 1 * *", "0 9 * * MON", "@daily")
_BY_NUMBER = ("0 9 * * 1", "30 17 * * 0", "0 8 * * 1-5", "0 7 * * 0,3")
_MEANINGLESS = (
    {"type": "interval", "value": "0m"},
    {"type": "interval", "value": "0h"},
    {"type": "cron", "value": "0 0 9 * * *"},
    {"type": "cron", "value": "30 0 9 * * 1"},
    {"type": "cron", "value": "every monday morning at nine"},
)
_CHANNELS = (["email", "panel", "toast"], ["toast", "panel"], ["panel"])
_LEDGER_BEGAN = datetime(2026, 10, 1, 9, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Left:
    """The agents that the gateway left, by what becomes of them here."""

    intervals: list[Document]
    crons: list[Document]
    by_number: list[Document]
    paused: list[Document]
    meaningless: list[Document]
    demoted: list[Document]
    plain: list[Document]

    @property
    def councilors(self) -> list[Document]:
        """Those that are promoted: fifty."""
        valid = [*self.intervals, *self.crons, *self.by_number, *self.paused]
        return [*valid, *self.meaningless]

    @property
    def all(self) -> list[Document]:
        return [*self.councilors, *self.demoted, *self.plain]


def left_by_the_gateway() -> Left:
    """Fifty councilors, one demoted agent, and five that never were any."""
    number = iter(range(1_000))
    configs_alone: list[Mapping[str, Any]] = [{"schedule": {"enabled": True}}]
    return Left(
        intervals=[_councilor(next(number), _every(_INTERVALS[n % 10])) for n in range(20)],
        crons=[_councilor(next(number), _cron(_CRONS[n % 6])) for n in range(12)],
        by_number=[_councilor(next(number), _cron(value)) for value in _BY_NUMBER],
        paused=[_councilor(next(number), _every("1h"), is_enabled=False) for _ in range(7)],
        meaningless=[
            *(_councilor(next(number), schedule) for schedule in _MEANINGLESS),
            *(_agent(next(number)) | _promoted(config) for config in configs_alone),
            _agent(next(number)) | _promoted({"schedule": {"enabled": False}}),
        ],
        demoted=[_agent(next(number)) | {"is_councilor": False, "stats": _stats(1)}],
        plain=[_agent(next(number)) for _ in range(5)],
    )


def _every(value: str) -> Document:
    return {"type": "interval", "value": value}


def _cron(value: str) -> Document:
    return {"type": "cron", "value": value}


def _agent(number: int) -> Document:
    agent: Document = {
        "_id": ObjectId(f"{0x65F0_0000_0000 + number:024x}") if number % 3 else f"agent_{number}",
        "agent_id": f"agent_{number}",
        "name": f"Agent {number}",
        "title": "Guardian of coverage",
        "emoji": "🔍",
        "prompt": "You are careful.",
        "skills": ["pytest", {"level": number}],
        "created_at": _LEDGER_BEGAN,
        "updated_at": _LEDGER_BEGAN + timedelta(minutes=number),
    }
    if number % 2:
        agent["customization"] = None if number % 4 == 1 else {"display_name": f"Guardian {number}"}
    return agent


def _councilor(number: int, schedule: Document, *, is_enabled: bool = True) -> Document:
    config = {
        "title": f"Councilor {number}",
        "schedule": {**schedule, "enabled": is_enabled},
        "task": {
            "name": f"Task {number}",
            "prompt": f"Look at part {number}.",
            "context_files": None,
            "output_format": "checklist",
        },
        "notifications": {
            "on_success": False,
            "on_warning": True,
            "on_error": True,
            "channels": list(_CHANNELS[number % 3]),
        },
    }
    return _agent(number) | _promoted(config) | {"stats": _stats(number)}


def _promoted(config: Mapping[str, Any]) -> Document:
    return {"is_councilor": True, "councilor_config": dict(config)}


def _stats(number: int) -> Document:
    if number % 5 == 0:
        return {"total_executions": 0, "success_rate": 0.0, "last_execution": None}
    last = _LEDGER_BEGAN + timedelta(hours=number)
    return {"total_executions": 1_000, "success_rate": 75.8, "last_execution": last}


def executions() -> Iterator[Document]:
    """Its ledger: ids to the second, so that some are there twice; the last run has no end."""
    for number in range(40):
        began = _LEDGER_BEGAN + timedelta(seconds=number // 4)
        yield {
            "execution_id": f"exec_agent_{number % 2}_{int(began.timestamp())}",
            "councilor_id": f"agent_{number % 2}",
            "task_name": "Task",
            "started_at": began,
            "completed_at": began + timedelta(seconds=20),
            "duration_ms": 20_000,
            "status": "completed",
            "severity": "success",
            "output": "fine",
            "error": None,
            "created_at": began,
        }
    again = int(_LEDGER_BEGAN.timestamp())
    for _ in range(2):
        yield {
            "execution_id": f"exec_agent_1_{again}",
            "councilor_id": "agent_1",
            "started_at": _LEDGER_BEGAN,
            "status": "running",
            "severity": None,
        }


def write_all(client: MongoClient[Document], database: str, left: Left) -> None:
    """Fill a database as the gateway would have left it."""
    db = client[database]
    db["agents"].insert_many([dict(agent) for agent in left.all])
    db["agents"].create_index("agent_id", unique=True)
    db["councilor_executions"].insert_many(list(executions()))
    db["councilor_executions"].create_index([("councilor_id", 1), ("started_at", -1)])
    db["councilor_executions"].create_index("execution_id")
    db["sessions"].insert_many({"_id": n, "text": f"said {n}"} for n in range(300))
    db["screenplays"].insert_one({"_id": "one", "text": "x" * 10_000})
    names = [agent["agent_id"] for agent in left.intervals[:5]]
    pickle_jobs(client, database, [*names, "agent_that_is_gone"])


def pickle_jobs(client: MongoClient[Document], database: str, names: list[str]) -> None:
    """Rows as APScheduler's own store writes them: a float, and a pickle."""
    store = MongoDBJobStore(database, "apscheduler_jobs", client=client)
    scheduler = BackgroundScheduler(jobstores={"default": store}, timezone=UTC)
    scheduler.start(paused=True)
    for name in names:
        scheduler.add_job(called_by_the_gateway, IntervalTrigger(minutes=30), id=name)
    scheduler._jobstores.clear()  # its end would close a client that is not its own
    scheduler.shutdown(wait=False)


def called_by_the_gateway() -> None:
    """What its jobs called; none of them may be called again."""
    raise AssertionError("a pickled job was run")
