"""Least privilege: `scripts/mongo-role.js`, and what is said where a right is missing."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from service.adapters.mongo.client import connected, translated
from service.adapters.mongo.ledger import MongoLedger
from service.adapters.mongo.privileges import (
    Lack,
    names_of,
    require_privileges,
)
from service.ports import Misconfigured
from tests.claiming import opened
from tests.contract.test_ledger import run_of
from tests.flow.conftest import Database, Start
from tests.flow.process import Launch
from tests.integration.test_cli import commanded
from tests.mongosh import mongosh, ran
from tests.rights import (
    COLLECTIONS,
    PASSWORD,
    ROLE,
    ROLE_FILE,
    USER,
    Action,
    actions,
    privileges,
    restrict,
    url_of,
)
from tests.steps import eventually

pytestmark = pytest.mark.mongo
NAMES = ("agents", "councilor_executions", "apscheduler_jobs")


@pytest.fixture(autouse=True)
def _knows_users(replica_set_url: str, scheduler_url: str) -> None:
    if scheduler_url == replica_set_url:
        pytest.skip("the user of MONGODB_URL may make no users")


async def lacks_of(url: str, database: str) -> Sequence[Lack]:
    async with connected(url) as client:
        return await require_privileges(client, names_of(database, *NAMES))


async def test_with_the_role_nothing_is_missing_but_notifications_among_events(
    scheduler_url: str, database: str
) -> None:
    (lack,) = await lacks_of(scheduler_url, database)
    assert lack.is_seldom  # so that it is no warning
    assert lack.rights == f"changeStream and find on the whole of {database}"


@pytest.mark.parametrize("left_out", actions(), ids=lambda a: f"{a.part}-{a.name}")
async def test_each_action_that_is_missing_is_named_at_the_start(
    replica_set_url: str, scheduler_url: str, database: str, left_out: Action
) -> None:
    said = f"{left_out.name} on {database}.{COLLECTIONS[left_out.part]}"
    restrict(replica_set_url, database, privileges(database, without=[left_out]))
    assert said in await told_at_the_start(scheduler_url, database)


async def told_at_the_start(url: str, database: str) -> Sequence[str]:
    """The rights that end it, or without which it goes on."""
    try:
        return [lack.rights for lack in await lacks_of(url, database)]
    except Misconfigured as error:
        said, _, ways_out = str(error).removeprefix("MONGODB_URL: the user lacks ").partition("; ")
        return [said] if "scripts/mongo-role.js" in ways_out else []


@pytest.mark.parametrize(
    ("role", "lacking"),
    [
        pytest.param("readWrite", ["collMod"] * 2, id="readWrite"),
        pytest.param("dbOwner", [], id="dbOwner"),
    ],
)
async def test_a_builtin_role_on_the_database_suffices(
    replica_set_url: str, database: str, launch: Launch, role: str, lacking: list[str]
) -> None:
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        client[database].command("createUser", "other", pwd=PASSWORD, roles=[role])
    replica = await launch(MONGODB_URL=url_of(replica_set_url, "other", PASSWORD, database))
    await replica.saw("resync_finished")
    lacks = [each for each in replica.events if each["event"] == "privileges_missing"]
    assert [each["lacking"].split(" on ")[0] for each in lacks] == lacking
    assert {each["level"] for each in lacks} <= {"info"}


async def test_an_administrator_lacks_nothing(replica_set_url: str, database: str) -> None:
    assert not await lacks_of(replica_set_url, database)


async def test_a_start_without_rights_ends_with_code_2_and_each_of_them(
    replica_set_url: str, database: str, launch: Launch
) -> None:
    left_out = [Action("agents", "changeStream"), Action("jobs", "remove"), Action("jobs", "find")]
    may = privileges(database, without=left_out)
    restrict(replica_set_url, database, may)
    replica = await launch()
    assert await replica.ended() == 2
    assert replica.process.stderr is not None
    (line,) = (await replica.process.stderr.read()).decode().splitlines()
    assert line == (
        f"councilor-scheduler: MONGODB_URL: the user lacks changeStream on {database}.agents, "
        f"and find and remove on {database}.apscheduler_jobs; grant the user readWrite on the "
        "database, or the role that scripts/mongo-role.js makes"
    )


@pytest.mark.parametrize("path", ["/?", "/conductor_state?", "/?authSource=elsewhere&"])
async def test_a_login_that_is_refused_tells_where_the_user_was_looked_for(
    scheduler_url: str, database: str, path: str
) -> None:
    """Who has a role of one database is a user of that one, and not of admin."""
    host = scheduler_url.rpartition("@")[2].partition("/")[0]
    url = f"mongodb://{USER}:hunter2@{host}{path}directConnection=true"
    asked = {"/?": "admin", "/conductor_state?": "conductor_state"}.get(path, "elsewhere")
    code, _, said = await commanded("jobs", MONGODB_URL=url, MONGODB_DATABASE=database)
    assert code == 2
    assert f"(authentication failed) in authSource={asked}; " in said
    assert "hunter2" not in said


async def test_a_service_that_may_tell_nobody_of_anything_runs_and_says_so(
    replica_set_url: str, database: str, launch: Launch
) -> None:
    left_out = [action for action in actions() if action.part == "notifications"]
    restrict(replica_set_url, database, privileges(database, without=left_out))
    replica = await launch()
    await replica.saw("resync_finished")
    lacks = [each for each in replica.events if each["event"] == "privileges_missing"]
    assert [(each["level"], each["without"]) for each in lacks] == [
        ("warning", "nobody is notified"),
        ("info", "how long notifications are kept stays"),
        ("info", "/events tells of no notifications"),
    ]
    rights = "createIndex, find, insert, listIndexes and update"
    assert lacks[0]["lacking"] == f"{rights} on {database}.scheduler_notifications"


async def test_a_ledger_that_cannot_be_followed_costs_events_and_no_more(
    replica_set_url: str, database: str, launch: Launch
) -> None:
    without = [Action("executions", "changeStream")]
    restrict(replica_set_url, database, privileges(database, without=without))
    replica = await launch()
    await replica.saw("resync_finished")
    lacks = [each for each in replica.events if each["event"] == "privileges_missing"]
    warned = [each["without"] for each in lacks if each["level"] == "warning"]
    assert warned == ["/events tells of no runs"]


async def test_a_change_that_takes_more_than_read_write_says_what_gives_it(
    replica_set_url: str, database: str, launch: Launch
) -> None:
    """`collMod`, which the built-in role has not: to grant that again would help nobody."""
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        client[database].command("createUser", "other", pwd=PASSWORD, roles=["readWrite"])
    url = url_of(replica_set_url, "other", PASSWORD, database)
    first = await launch(MONGODB_URL=url, SCHEDULER_EXECUTION_TTL="90d")
    await first.saw("resync_finished")
    first.kill()
    second = await launch(MONGODB_URL=url, SCHEDULER_EXECUTION_TTL="80d")
    assert await second.ended() == 2
    assert second.process.stderr is not None
    said = (await second.process.stderr.read()).decode()
    assert f"the user lacks collMod on {database}.councilor_executions" in said
    assert "scripts/mongo-role.js" in said
    assert "readWrite" not in said


async def test_the_names_of_the_settings_are_what_is_looked_at(
    replica_set_url: str, database: str, launch: Launch
) -> None:
    """With the usual names in the role, and others in the settings, all three are missed."""
    others = {"AGENTS": "helpers", "EXECUTIONS": "runs", "JOBS": "timers"}
    chosen = {f"SCHEDULER_{part}_COLLECTION": name for part, name in others.items()}
    replica = await launch(**chosen)
    assert await replica.ended() == 2
    assert replica.process.stderr is not None
    said = (await replica.process.stderr.read()).decode()
    assert all(f" on {database}.{name}" in said for name in others.values())


async def test_what_a_right_was_taken_for_is_named_while_the_service_runs(
    replica_set_url: str, database: str, start: Start, db: Database
) -> None:
    service = await start()
    may = privileges(database, without=[Action("agents", "changeStream")])
    restrict(replica_set_url, database, may)

    right = f"the user lacks changeStream or find on {database}.agents"

    async def is_told() -> bool:
        status, said = await service.get("/readyz")
        return status == 503 and right in said["failing"]["change_stream"]["error"]

    await eventually(is_told)


async def expiry_of(db: Database, collection: str) -> int | None:
    indexes = await db[collection].index_information()
    seconds: int | None = indexes.get("expiry", {}).get("expireAfterSeconds")
    return seconds


async def test_the_role_lets_the_time_that_rows_are_kept_be_changed(
    start: Start, db: Database
) -> None:
    """What `collMod` and `dropIndex` are for."""
    for days in (90, 80, None):
        keep_for = timedelta(days=days) if days is not None else None
        service = await start(scheduler_execution_ttl=keep_for)
        seconds = int(keep_for.total_seconds()) if keep_for is not None else None
        assert await expiry_of(db, "councilor_executions") == seconds
        await service.stop()


async def test_the_role_lets_the_time_that_notifications_are_kept_be_mended(
    start: Start, db: Database
) -> None:
    notifications = db["scheduler_notifications"]
    await notifications.create_index("created_at", name="expiry", expireAfterSeconds=60)
    await start()

    async def are_kept_for_30_days() -> bool:
        return await expiry_of(db, "scheduler_notifications") == 30 * 86_400

    await eventually(are_kept_for_30_days)


@pytest.mark.parametrize("is_renamed", [False, True])
async def test_collections_that_are_taken_away_expire_again_when_they_are_back(
    replica_set_url: str, start: Start, database: str, db: Database, is_renamed: bool
) -> None:
    kept = {"councilor_executions": 90 * 86_400, "scheduler_notifications": 30 * 86_400}

    async def expire() -> bool:
        return {name: await expiry_of(db, name) for name in kept} == kept

    mends_soon = timedelta(seconds=2)
    await start(scheduler_execution_ttl=timedelta(days=90), scheduler_replica_ttl=mends_soon)
    for turn in range(2):
        await eventually(expire)
        with MongoClient[dict[str, Any]](replica_set_url) as client:
            for name in kept:
                collection = client[database][name]
                collection.rename(f"{name}_{turn}") if is_renamed else collection.drop()
    await eventually(expire)


async def test_commands_that_read_or_write_documents_need_no_more_than_that(
    replica_set_url: str, scheduler_url: str, database: str, db: Database
) -> None:
    read = [
        {"resource": {"db": database, "collection": name}, "actions": ["find"]} for name in NAMES
    ]
    restrict(replica_set_url, database, read)
    await db["agents"].insert_one({"agent_id": "scout", "is_councilor": False})
    environ = {"MONGODB_URL": scheduler_url, "MONGODB_DATABASE": database}
    for words in (["jobs"], ["history", "scout"], ["why", "scout"], ["check"]):
        code, _, said = await commanded(*words, **environ)
        assert (code, said) == (0, "")
    promote = ["promote", "scout", "--prompt", "look", "--every", "30m"]
    code, _, said = await commanded(*promote, **environ)
    assert code == 2
    assert f"the user lacks update or insert on {database}.agents" in said
    read[0]["actions"] = ["find", "update"]
    restrict(replica_set_url, database, read)
    code, _, said = await commanded(*promote, **environ)
    assert (code, said) == (0, "")


@pytest.mark.parametrize(
    ("action", "part", "does"),
    [
        pytest.param("find", "jobs", lambda c: c.find_one({}), id="find"),
        pytest.param("find", "jobs", lambda c: c.aggregate([]).to_list(), id="aggregate"),
        pytest.param("find", "jobs", lambda c: c.distinct("a"), id="distinct"),
        pytest.param("insert", "agents", lambda c: c.insert_one({"s": "secret"}), id="insert"),
        pytest.param(
            "update or insert",
            "jobs",
            lambda c: c.update_one({}, [{"$set": {"s": "secret"}}]),
            id="update",
        ),
        pytest.param("remove", "agents", lambda c: c.delete_one({"s": "secret"}), id="delete"),
        pytest.param(
            "changeStream or find",
            "jobs",
            lambda c: c.aggregate([{"$changeStream": {}}]).to_list(),
            id="watch",
        ),
        pytest.param("createIndex", "jobs", lambda c: c.create_index("secret"), id="create"),
        pytest.param("listIndexes", "jobs", lambda c: c.index_information(), id="list"),
        pytest.param("dropIndex", "agents", lambda c: c.drop_index("secret"), id="drop"),
        pytest.param("what drop needs", "agents", lambda c: c.drop(), id="another command"),
    ],
)
async def test_a_refused_command_is_told_by_its_right_and_nothing_that_it_holds(
    replica_set_url: str, scheduler_url: str, database: str, action: str, part: str, does: Any
) -> None:
    other = [{"resource": {"db": database, "collection": "other"}, "actions": ["find"]}]
    restrict(replica_set_url, database, other)
    async with connected(scheduler_url) as client:
        with pytest.raises(Misconfigured) as refused, translated():
            await does(client[database][COLLECTIONS[part]])
    said = str(refused.value)
    assert f"the user lacks {action} on {database}.{COLLECTIONS[part]};" in said
    assert "secret" not in said


@pytest.mark.usefixtures("scheduler_url")
async def test_the_file_makes_what_the_tests_make_and_may_be_run_again(
    replica_set_url: str, database: str
) -> None:
    """`mongosh URL scripts/mongo-role.js`, and then with other names, and a user."""
    command = [mongosh(), replica_set_url, "--quiet", "--norc", str(ROLE_FILE)]
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        there = client[database]

        def rights(role: str = ROLE) -> list[tuple[str, list[str]]]:
            (found,) = there.command("rolesInfo", role, showPrivileges=True)["roles"]
            assert not found["roles"]
            assert {each["resource"]["db"] for each in found["privileges"]} == {database}
            return sorted(
                (each["resource"]["collection"], sorted(each["actions"]))
                for each in found["privileges"]
            )

        as_the_tests_have_it = rights()
        there.command("dropRole", ROLE)
        said = await ran(command, MONGODB_DATABASE=database)
        assert said.split() == [
            "createRole",
            f"{database}.{ROLE}",
            "createRole",
            f"{database}.{ROLE}Events",
        ]
        assert rights() == as_the_tests_have_it
        assert rights(f"{ROLE}Events") == [("", ["changeStream", "find"])]
        said = await ran(
            command,
            MONGODB_DATABASE=database,
            SCHEDULER_AGENTS_COLLECTION="helpers",
            SCHEDULER_EXECUTIONS_COLLECTION="runs",
            SCHEDULER_JOBS_COLLECTION="timers",
            COUNCILOR_USER=USER,
            COUNCILOR_PASSWORD="another",
            COUNCILOR_EVENTS="1",
        )
        assert f"updateUser {database}.{USER}: {ROLE}, {ROLE}Events" in said
        assert [name for name, _ in rights()] == [
            *("helpers", "runs", "scheduler_notifications", "scheduler_replicas", "timers")
        ]
    url = url_of(replica_set_url, USER, "another", database)
    async with connected(url) as service:
        names = names_of(database, "helpers", "runs", "timers")
        assert not await require_privileges(service, names)


async def test_the_role_lets_a_replica_that_stops_say_so(start: Start, db: Database) -> None:
    """What `remove` is for: the others would take it for alive until its time is up."""
    service = await start()
    assert await db["scheduler_replicas"].count_documents({}) == 1
    await service.stop()
    assert await db["scheduler_replicas"].count_documents({}) == 0


async def test_the_role_lets_a_claim_be_given_back(
    scheduler_url: str, database: str, db: Database
) -> None:
    """What `remove` is for on the ledger: two replicas that were at one slot together."""
    async with connected(scheduler_url) as client:
        ledger = MongoLedger(client, database, "councilor_executions", "agents")
        run = run_of("scout")
        await opened(ledger, run)
        await ledger.withdraw(run)
    assert await db["councilor_executions"].count_documents({}) == 0
