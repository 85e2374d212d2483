"""Changes that are larger than an event may be."""

import pytest

from tests.faults.steps import councilor, have_jobs, promote, relists
from tests.flow.conftest import Database, Start

pytestmark = pytest.mark.mongo
_MEGABYTES = 9_000_000


async def test_a_change_too_large_for_an_event_is_seen_like_any_other(
    start: Start, db: Database
) -> None:
    """T15: with its pre-image it would be error 10334, again and again; only its key is asked."""
    await db.create_collection("agents", changeStreamPreAndPostImages={"enabled": True})
    service = await start()
    await db["agents"].insert_one(councilor("huge", notes="x" * _MEGABYTES))
    await have_jobs(db, "huge")
    change = {"notes": "y" * _MEGABYTES, "is_councilor": False}
    await db["agents"].update_one({"agent_id": "huge"}, {"$set": change})
    await have_jobs(db)
    await promote(db, "next")
    await have_jobs(db, "next")
    assert await relists(service) == {"startup": 1}
