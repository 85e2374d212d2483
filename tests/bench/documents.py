"""Agents of a realistic size, and schedules that come due when a benchmark wants it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from pymongo.collection import Collection

Document = dict[str, Any]
Schedule = Mapping[str, str]

BATCH = 1_000
_PROMPT = (
    "Look through what has changed in this repository since your last run. Name each change that "
    "is not covered by a test, the file it is in, and what could go wrong there; say so plainly "
    "where nothing is missing. "
) * 2
_PERIODS = ("30m", "1h", "1d")
_FAR_PERIODS = ("12h", "1d", "2d")
_ZONES = ("UTC", "America/Sao_Paulo", "Europe/Berlin")
_CRONS = 200


def agent(number: int, schedule: Schedule, *, first: str = "agent") -> Document:
    """A promoted agent as a gateway writes it, with a prompt of 500 characters."""
    return {
        "agent_id": f"{first}-{number:06}",
        "name": f"Agent {number}",
        "title": "Guardian of test coverage",
        "emoji": "🛡",
        "cwd": "/srv/projects/conductor",
        "customization": {"display_name": f"Guardian {number}"},
        "is_councilor": True,
        "councilor_config": {
            "title": "Councilor of quality",
            "schedule": {**schedule, "enabled": True},
            "task": {
                "name": "Check the coverage",
                "prompt": f"{_PROMPT:.490} No. {number:06}",
                "context_files": ["README.md", "docs/testing.md"],
                "output_format": "checklist",
            },
            "notifications": {
                "on_success": False,
                "on_warning": True,
                "on_error": True,
                "channels": ["panel", "toast"],
            },
        },
    }


def interval(value: str, **more: str) -> Schedule:
    """An interval's schedule."""
    return {"type": "interval", "value": value, **more}


def far_schedules(now: datetime, *, is_very_far: bool = False) -> Iterator[Schedule]:
    """Half intervals, half some 200 different crons in 3 zones, none due within half an hour.

    With `is_very_far`, no interval comes before half a day, and crons not before three hours.
    """
    random = Random(1)
    crons = [_far_cron(random, now, n % 3) for n in range(_CRONS)]
    periods = _FAR_PERIODS if is_very_far else _PERIODS
    while True:
        yield interval(random.choice(periods))
        yield random.choice(crons)


def _far_cron(random: Random, now: datetime, kind: int) -> Schedule:
    """Daily, or of one day of the month or of the week, 3 to 20 hours ahead on the wall's clock."""
    zone = random.choice(_ZONES)
    wall = now.astimezone(ZoneInfo(zone)) + timedelta(hours=random.uniform(3, 20))
    days = (
        "* * *",
        f"{random.randint(1, 28)} {(now.month + random.randint(1, 6)) % 12 + 1} *",
        f"* * {(wall.isoweekday() + random.randint(0, 6)) % 7}",
    )
    return {"type": "cron", "value": f"{wall.minute} {wall.hour} {days[kind]}", "timezone": zone}


def insert(agents: Collection[Document], documents: Sequence[Document]) -> None:
    """Insert in batches of a thousand, each acknowledged by the majority."""
    for start in range(0, len(documents), BATCH):
        agents.insert_many(documents[start : start + BATCH], ordered=False)


def councilors(n: int, now: datetime, *, is_very_far: bool = False) -> list[Document]:
    """So many promoted agents, none of which is due soon."""
    schedules = far_schedules(now, is_very_far=is_very_far)
    return [agent(number, schedule) for number, schedule in zip(range(n), schedules, strict=False)]
