"""What happens to the collection and its history: dropped, renamed, rolled over, poisoned, huge."""

from collections.abc import AsyncIterator, Awaitable, Callable

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from tests.faults.keeper import Cluster
from tests.faults.steps import councilor, have_jobs, promote, relisted, relists
from tests.flow.conftest import Database, Start
from tests.steps import eventually

pytestmark = pytest.mark.mongo
ENDINGS = {"drop", "rename", "dropDatabase", "invalidate"}


@pytest.fixture
async def cluster(alone: Cluster) -> AsyncIterator[Cluster]:
    yield alone
    await alone.restore()


async def roll_oplog(db: Database) -> None:
    """Write until nothing is left of the history that there was."""
    oplog = db.client["local"]["oplog.rs"]

    async def oldest() -> Timestamp:
        (entry,) = await oplog.find({}, {"ts": 1}).sort("$natural", 1).limit(1).to_list(1)
        time: Timestamp = entry["ts"]
        return time

    (newest,) = await oplog.find({}, {"ts": 1}).sort("$natural", -1).limit(1).to_list(1)
    while await oldest() <= newest["ts"]:
        await db["noise"].insert_many([{"noise": "x" * 200_000} for _ in range(10)])
        await db.client.admin.command("fsync")


async def test_a_stream_that_fell_behind_the_oplog_is_replaced_by_a_listing(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T12: the history that the stream needs is gone; the state is not."""
    service = await start()
    await promote(db, "demoted", "kept")
    await have_jobs(db, "demoted", "kept")
    behind = await cluster.fail({"times": 1}, "getMore", blockConnection=True, blockTimeMS=4_000)
    await behind.happens()
    await db["agents"].delete_one({"agent_id": "demoted"})
    await promote(db, "promoted")
    await roll_oplog(db)
    await have_jobs(db, "kept", "promoted")
    reasons = set(await relists(service)) - {"startup"}
    assert reasons <= {"136", "286"}
    assert reasons


async def drop(db: Database) -> None:
    await db.drop_collection("agents")


async def drop_database(db: Database) -> None:
    await db.client.drop_database(db.name)


async def rename(db: Database) -> None:
    await db["agents"].rename("agents_of_old")


async def rename_over(db: Database) -> None:
    await db["agents_to_be"].insert_one(councilor("restored"))
    await db["agents_to_be"].rename("agents", dropTarget=True)


@pytest.mark.parametrize(
    ("end", "left"),
    [(drop, []), (drop_database, []), (rename, []), (rename_over, ["restored"])],
)
async def test_the_end_of_the_collection_is_followed_and_so_is_the_next_one(
    cluster: Cluster,
    start: Start,
    db: Database,
    end: Callable[[Database], Awaitable[None]],
    left: list[str],
) -> None:
    """T13: jobs go with their documents, come with new ones, and the stream lives."""
    service = await start()
    await promote(db, "scout", "guard")
    await have_jobs(db, "scout", "guard")
    await end(db)
    await have_jobs(db, *left)
    await promote(db, "new")
    await have_jobs(db, *left, "new")
    reasons = set(await relists(service)) - {"startup"}
    assert reasons <= ENDINGS
    assert reasons


def poisoned_text() -> RawBSONDocument:
    sound = bson.encode(councilor("AAAA", name="AAAA"))
    head, tail = sound.split(b"AAAA", 1)
    return RawBSONDocument(head + b"poor" + tail.replace(b"AAAA", b"\xff\xfe\xff\xfe"))


def poisoned_date() -> RawBSONDocument:
    far = bson.datetime_ms.DatetimeMS(2**62)
    return RawBSONDocument(bson.encode(councilor("poor", stats={"last_execution": far})))


@pytest.mark.parametrize("poison", [poisoned_text, poisoned_date])
async def test_a_document_that_cannot_be_decoded_stops_no_other(
    cluster: Cluster, start: Start, db: Database, poison: Callable[[], RawBSONDocument]
) -> None:
    """T14: neither the stream nor the list dies of it, at a start and while running."""
    service = await start()
    await db.command("insert", "agents", documents=[poison()])
    await promote(db, "sound")
    await eventually(lambda: db["apscheduler_jobs"].find_one({"_id": "sound"}))
    assert await relists(service) == {"startup": 1}
    await service.stop()
    await start()
    await promote(db, "late")
    await eventually(lambda: db["apscheduler_jobs"].find_one({"_id": "late"}))


async def test_the_first_change_after_a_listing_of_a_quiet_server_is_seen(
    cluster: Cluster, start: Start, db: Database
) -> None:
    """T17: a stream never begins in the future, where it would wait without a word."""
    service = await start()
    await cluster.fail({"times": 1}, "getMore", errorCode=286)
    await relisted(service, "286")
    await promote(db, "scout")
    await have_jobs(db, "scout", within=5)
