"""Days of the week by name are those on which the gateway's scheduler ran."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger

from service.adapters.mongo.client import Client
from service.domain.cron import cron_from
from tests.docs.pages import block
from tests.mongosh import typed

WEEKDAYS = ("1", "0", "6", "0-4", "1-5", "0,3", "*/2", "1-5/2", "0-6/2", "2,4-6", "mon,3", "5-6")


@pytest.mark.mongo
async def test_days_by_name_are_the_days_of_the_old_scheduler(
    client: Client, database: str, replica_set_url: str
) -> None:
    """For each way to write the field; what has no number is left alone."""
    written = [f"30 9 * * {days}" for days in WEEKDAYS] + ["0 9 * * MON-FRI", "0 9 * * *"]
    agents = client[database]["agents"]
    schedules = [{"type": "cron", "value": value} for value in written]
    await agents.insert_many(
        {"_id": value, "is_councilor": True, "councilor_config": {"schedule": schedule}}
        for value, schedule in zip(written, schedules, strict=True)
    )
    script = block("take-over-weekdays") + block("take-over-weekdays-by-name")
    await typed(replica_set_url, f'db = db.getSiblingDB("{database}");{script}')
    now = {
        agent["_id"]: agent["councilor_config"]["schedule"]["value"]
        async for agent in agents.find()
    }
    assert [now[value] for value in written[-2:]] == written[-2:]
    for old, new in now.items():
        assert ten_slots(new) == ten_fires(old), (old, new)


def ten_slots(value: str) -> list[datetime]:
    cron, slots = cron_from(value, "UTC"), [datetime(2026, 11, 24, tzinfo=UTC)]
    for _ in range(10):
        following: Any = cron.next_slot(slots[-1], slots[0])
        slots.append(following)
    return slots[1:]


def ten_fires(value: str) -> list[datetime]:
    trigger, fires = CronTrigger.from_crontab(value, UTC), list[datetime]()
    now = datetime(2026, 11, 24, tzinfo=UTC)
    for _ in range(10):
        now = trigger.get_next_fire_time(None, now + timedelta(seconds=1))
        fires.append(now)
    return fires
