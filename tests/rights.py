"""Users that may do what `scripts/mongo-role.js` says, or less, in a database of a test's own."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

ROLE_FILE = Path(__file__).parents[1] / "scripts" / "mongo-role.js"
COLLECTIONS = {
    "agents": "agents",
    "executions": "councilor_executions",
    "jobs": "apscheduler_jobs",
    "replicas": "scheduler_replicas",
    "notifications": "scheduler_notifications",
}
ROLE, USER, PASSWORD = "councilorScheduler", "scheduler", "scheduler"
UNAUTHORIZED = 13

Privilege = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Action:
    """One action on one of the service's collections, by the name of its part."""

    part: str
    name: str


def literal(name: str) -> Any:
    """The value of a constant of `scripts/mongo-role.js`, which is written in strict JSON."""
    (found,) = re.findall(
        rf"^const {name} = (.*?);$", ROLE_FILE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return json.loads(found)


def actions() -> list[Action]:
    """All that the role may do, one by one."""
    parts: Mapping[str, Sequence[str]] = literal("ACTIONS")
    return [Action(part, name) for part, names in parts.items() for name in names]


def privileges(database: str, without: Collection[Action] = ()) -> list[Privilege]:
    """The role's privileges on this database, but for those actions."""
    return [
        {
            "resource": {"db": database, "collection": COLLECTIONS[part]},
            "actions": [name for name in names if Action(part, name) not in without],
        }
        for part, names in literal("ACTIONS").items()
    ]


def of_events(database: str) -> list[Privilege]:
    """What `COUNCILOR_EVENTS=1` adds."""
    return [{"resource": {"db": database, "collection": ""}, "actions": literal("EVENTS")}]


def may_make_users(url: str) -> bool:
    """Tell whether whoever has this URL is somebody, and may make roles and users."""
    with MongoClient[dict[str, Any]](url) as client:
        said = client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
    may = {action for each in said["authenticatedUserPrivileges"] for action in each["actions"]}
    return "anyAction" in may or {"createRole", "createUser", "grantRole"} <= may


@contextmanager
def least_privileged(url: str, database: str) -> Iterator[str]:
    """The URL of a user who has the role of this database; both are gone afterwards.

    Where `url` is nobody's, or its user may make no users, it is `url` itself.
    """
    if not _have_user_made(url, database):
        yield url
        return
    try:
        yield url_of(url, USER, PASSWORD, database)
    finally:
        with MongoClient[dict[str, Any]](url) as client:
            client[database].command("dropAllUsersFromDatabase")
            client[database].command("dropAllRolesFromDatabase")


def _have_user_made(url: str, database: str) -> bool:
    """Make the user; False where that is not for whoever has this URL."""
    with MongoClient[dict[str, Any]](url) as client:
        if not _is_somebody(client):
            return False
        try:
            _make_user(client[database])
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            return False
    return True


def _is_somebody(client: MongoClient[dict[str, Any]]) -> bool:
    return bool(client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"])


def _make_user(database: Database[dict[str, Any]]) -> None:
    database.command("createRole", ROLE, privileges=privileges(database.name), roles=[])
    # One mechanism: for each, making a user takes the server as long as logging in does.
    database.command("createUser", USER, pwd=PASSWORD, roles=[ROLE], mechanisms=["SCRAM-SHA-256"])


def restrict(url: str, database: str, may: Sequence[Privilege]) -> None:
    """Let the user do this and nothing else."""
    with MongoClient[dict[str, Any]](url) as client:
        client[database].command("updateRole", ROLE, privileges=[p for p in may if p["actions"]])


def grant(url: str, database: str, more: Sequence[Privilege]) -> None:
    """Let the user do more."""
    with MongoClient[dict[str, Any]](url) as client:
        client[database].command("grantPrivilegesToRole", ROLE, privileges=list(more))


def url_of(url: str, user: str, password: str, database: str) -> str:
    """The same deployment, as another user, who belongs to this database."""
    scheme, _, rest = url.partition("://")
    address, _, query = rest.partition("?")
    hosts = address.rpartition("@")[2].partition("/")[0]
    options = [pair for pair in parse_qsl(query) if not pair[0].lower().startswith("auth")]
    said = urlencode([*options, ("authSource", database)])
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}/?{said}"
