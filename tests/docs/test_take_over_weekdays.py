"""Days of the week by name are those on which the gateway's scheduler ran."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger

from service.adapters.mongo.client import Client
from service.domain.cron import cron_from
from tests.docs.pages import block
from tests.mongosh import typed

WEEKDAYS = (
    *("1", "0", "6", "0-4", "1-5", "0,3", "*/2", "1-5/2", "0-6/2", "2,4-6", "mon,3", "5-6"),
    *("00", "01", "06", "01-05", "00,03", "01-05/2", "mon-fri/2", "MON-FRI/2,6", "tue/3"),
)
NEVER_RAN = ("7", "07", "1-7", "0,7")


@pytest.mark.mongo
async def test_days_by_name_are_the_days_of_the_old_scheduler(
    client: Client, database: str, replica_set_url: str
) -> None:
    """For each way to write the field; what has no number is left alone."""
    never_ran = [f"30 9 * * {days}" for days in NEVER_RAN]
    ran = [f"30 9 * * {days}" for days in WEEKDAYS]
    unchanged = [*never_ran, "0 9 * * MON-FRI", "0 9 * * *"]
    written = [*ran, *unchanged]
    agents = client[database]["agents"]
    schedules = [{"type": "cron", "value": value} for value in written]
    await agents.insert_many(
        {"_id": value, "is_councilor": True, "councilor_config": {"schedule": schedule}}
        for value, schedule in zip(written, schedules, strict=True)
    )
    script = block("take-over-weekdays") + block("take-over-weekdays-by-name")
    said = await typed(replica_set_url, f'db = db.getSiblingDB("{database}");{script}')
    now = {
        agent["_id"]: agent["councilor_config"]["schedule"]["value"]
        async for agent in agents.find()
    }
    assert [now[value] for value in unchanged] == unchanged
    assert said.count("never ran") == len(never_ran)
    for old in never_ran:
        with pytest.raises(ValueError, match="higher than the maximum"):
            ten_fires(old)
    for old in {*written} - {*never_ran}:
        assert ten_slots(now[old]) == ten_fires(old), (old, now[old])


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
