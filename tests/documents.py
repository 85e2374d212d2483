"""Documents of `agents` as nobody should write them: any BSON, or nearly right."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import bson
from bson import Binary, Code, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

TEXTS = (
    *("", " ", "30m", "0m", "1h30m", "@daily", "0 9 * * 1", "* * * * *", "0 0 30 2 *", "L L L L L"),
    *("\u0663\uff10m", "a.b.c", "$set", "\0", "\U0001f600", "x" * 10_001, "1" * 5_000, "-" * 300),
    *("Europe/Berlin", "berlin", "interval", "cron", "once", "2026-11-23", "null", "\u202e", "%s"),
)
SIMPLE: tuple[Callable[[Random], Any], ...] = (
    lambda random: None,
    lambda random: random.random() < 0.5,
    lambda random: random.choice([0, 1, -1, 2**31, Int64(2**63 - 1), 1.5]),
    lambda random: random.choice([float("nan"), float("inf"), -0.0, Decimal128("1E+6144")]),
    lambda random: random.choice(TEXTS),
    lambda random: "".join(chr(random.randrange(0xD7FF)) for _ in range(random.randrange(40))),
    lambda random: datetime(2026, 11, 23, tzinfo=UTC) + timedelta(days=random.randrange(-9, 9)),
    lambda random: DatetimeMS(random.choice([2**62, -(2**62), 10**15])),
    lambda random: random.choice([Binary(b"\xff\0", 0), Binary(b"x", 128), Code("30m")]),
    lambda random: random.choice([ObjectId(b"x" * 12), Regex("^a", "i"), Timestamp(1, 1)]),
    lambda random: random.choice([MinKey(), MaxKey()]),
)


def anything(random: Random, depth: int = 3) -> Any:
    """Any BSON value."""
    kind = random.randrange(6)
    if depth > 0 and kind == 0:
        return [anything(random, depth - 1) for _ in range(random.randrange(5))]
    if depth > 0 and kind == 1:
        names = (random.choice([*TEXTS[:18], "schedule", "prompt"]) for _ in range(4))
        return {name.replace("\0", "0"): anything(random, depth - 1) for name in names}
    return random.choice(SIMPLE)(random)


def instants(random: Random) -> Any:
    return random.choice([datetime(2026, 12, 24, tzinfo=UTC), "2026-12-24T09:00:00+01:00", None])


RIGHT: Mapping[str, Callable[[Random], Any]] = {
    "councilor_config.title": lambda random: random.choice(["Scout", "", None]),
    "councilor_config.schedule.enabled": lambda random: random.choice([True, False, None]),
    "councilor_config.schedule.timezone": lambda random: random.choice(["UTC", "Asia/Gaza", None]),
    "councilor_config.schedule.catch_up": lambda random: random.choice(["once", "skip", "all"]),
    "councilor_config.schedule.overlap": lambda random: random.choice(["skip", "queue_one", None]),
    "councilor_config.schedule.spread": lambda random: random.choice(["5m", "1h30m", "90s", None]),
    "councilor_config.schedule.paused_until": instants,
    "councilor_config.schedule.skip_next": lambda random: random.choice([True, False, None]),
    "councilor_config.task.name": lambda random: random.choice(["Audit", "", None]),
    "councilor_config.task.context_files": lambda random: random.choice([[], ["a.py", ""], None]),
    "councilor_config.task.output_format": lambda random: random.choice(["summary", "checklist"]),
    "councilor_config.notifications": lambda random: random.choice(
        [None, {}, {"channels": ["toast", "panel"], "on_error": False}, {"channels": None}]
    ),
    "councilor_run_requested_at": instants,
    "name": lambda random: random.choice(["Ada", None, ""]),
    "customization": lambda random: random.choice([None, {}, {"display_name": "Ada"}]),
}
SCHEDULES = (
    *(("interval", value) for value in ("30m", "1w2d3h4m5s", "90s", "0h30m", "3660d", "0060m")),
    *(("cron", value) for value in ("0 9 * * 1", "@daily", " @Hourly ", "*/5\t9-17 * jan MON-FRI")),
    *(("cron", value) for value in ("0 0 L * *", "0 0 * * FRI#2,5L", "0 22-4/2 31-1 * 7")),
    *(("cron", value) for value in ("0\x1c9\x0b* * 1", "\n0 9 * * 1\n", "1,2,3 0 29 2 *")),
)


def nearly_right(random: Random, wrong: float = 0.5) -> dict[str, Any]:
    """A promoted agent's document; with this probability, some of its fields are anything."""
    kind, value = random.choice(SCHEDULES)
    document: dict[str, Any] = {
        "agent_id": f"agent-{random.getrandbits(60):x}",
        "is_councilor": True,
        "councilor_config": {
            "schedule": {"type": kind, "value": value},
            "task": {"prompt": random.choice(["Look", "p" * 10_000, "\U0001f600"])},
        },
    }
    for path, right in RIGHT.items():
        if random.random() < 0.4:
            put(document, path, right(random))
    if random.random() < wrong:
        for _ in range(random.choice([1, 1, 2, 5])):
            put(document, random.choice(PATHS), anything(random))
    return document


PATHS = (
    *("agent_id", "is_councilor", "councilor_config", "councilor_config.schedule"),
    *("councilor_config.schedule.type", "councilor_config.schedule.value"),
    *("councilor_config.task", "councilor_config.task.prompt", "councilor_status", "stats"),
    *("councilor_config.notifications.channels", "_garbage", "cwd", "ai_provider"),
    *RIGHT,
)


def put(document: dict[str, Any], path: str, value: Any) -> None:
    """Set a field, where what is around it can have one."""
    *parents, name = path.split(".")
    for parent in parents:
        inner = document.get(parent)
        if not isinstance(inner, dict):
            return
        document = inner
    document[name] = value


def damaged(document: Mapping[str, Any]) -> RawBSONDocument:
    """The same document with a prompt that is no UTF-8."""
    prompt = document["councilor_config"]["task"]["prompt"].encode()
    encoded = bson.encode(document)
    assert encoded.count(prompt) == 1
    return RawBSONDocument(encoded.replace(prompt, prompt[:-2] + b"\xff\xfe"))
