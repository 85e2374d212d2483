"""What the user of MONGODB_URL may do, held against what this service does.

`scripts/mongo-role.js` makes a role of the same; a test keeps the two equal.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NewType

from pymongo.errors import OperationFailure, PyMongoError

from service.adapters.mongo.client import WAYS_OUT, Client, translation_of
from service.adapters.mongo.journal import NOTIFICATIONS
from service.adapters.mongo.replicas import REPLICAS
from service.ports import Misconfigured

Part = NewType("Part", str)
"""What a collection is for, whatever it is called."""

AGENTS, EXECUTIONS, JOBS = Part("agents"), Part("executions"), Part("jobs")
HEARTBEATS, TOLD = Part("replicas"), Part("notifications")
EVERYTHING = Part("")
"""The database as a whole: each collection in it that is not the server's own."""
_WRITE = ("find", "insert", "remove", "update")
_ANY = "anyAction"
_HARMLESS = "getCmdLineOpts"
"""A command, and the right to it, which an administrator has."""


@dataclass(frozen=True, slots=True)
class Need:
    """Actions on one collection; `without` is what becomes of the service where one is missing.

    None: it cannot do its work, and does not start. `is_seldom` are those that most can do without
    as well: that is told, and no warning.
    """

    part: Part
    actions: tuple[str, ...]
    without: str | None = None
    is_seldom: bool = False


NEEDS = (
    Need(AGENTS, ("changeStream", "find", "update")),
    Need(EXECUTIONS, (*_WRITE, "createIndex", "listIndexes")),
    Need(JOBS, _WRITE),
    Need(HEARTBEATS, _WRITE),
    Need(EXECUTIONS, ("changeStream",), "/events tells of no runs"),
    Need(TOLD, ("find", "insert", "update", "createIndex", "listIndexes"), "nobody is notified"),
    # Not in the built-in role readWrite, nor needed until an index has to change: then its lack
    # ends the start, or is the notifications' trouble.
    Need(
        EXECUTIONS,
        ("collMod", "dropIndex"),
        "a change of SCHEDULER_EXECUTION_TTL ends the start",
        is_seldom=True,
    ),
    Need(TOLD, ("collMod",), "how long notifications are kept stays", is_seldom=True),
    Need(EVERYTHING, ("changeStream", "find"), "/events tells of no notifications", is_seldom=True),
)


@dataclass(frozen=True, slots=True)
class Names:
    """The database, and how its collections are called."""

    database: str
    collections: Mapping[Part, str]

    def space(self, part: Part) -> str:
        """The namespace of a part."""
        name = self.collections[part]
        return f"{self.database}.{name}" if name else f"the whole of {self.database}"


def names_of(database: str, agents: str, executions: str, jobs: str) -> Names:
    """The names that the settings give, and those that are always the same."""
    collections = {AGENTS: agents, EXECUTIONS: executions, JOBS: jobs}
    fixed = {HEARTBEATS: REPLICAS, TOLD: NOTIFICATIONS, EVERYTHING: ""}
    return Names(database, collections | fixed)


@dataclass(frozen=True, slots=True)
class Lack:
    """Rights that are missing, what becomes of the service, and whether few will mind."""

    rights: str
    without: str
    is_seldom: bool


async def require_privileges(client: Client, names: Names) -> Sequence[Lack]:
    """Return what the service lacks and can do without.

    Raises Misconfigured, which names each right without which it cannot work, and Unavailable.
    """
    granted = await _granted(client)
    if granted is None:
        return []
    lacking = missing(granted, names)
    needed = [need for need in lacking if need.without is None]
    if needed:
        if not await _are_asked_for(client, granted):
            return []
        raise Misconfigured(f"MONGODB_URL: the user lacks {told_of(needed, names)}; {WAYS_OUT}")
    return [
        Lack(told_of([need], names), need.without, need.is_seldom)
        for need in lacking
        if need.without is not None
    ]


async def _granted(client: Client) -> Sequence[Mapping[str, Any]] | None:
    """The privileges of who is logged in; None where that is nobody, or the server does not tell.

    Nobody is needed where there is no access control; where there is, commands say what they lack.
    """
    try:
        status = await client.admin.command("connectionStatus", showPrivileges=True)
    except OperationFailure:
        return None
    except PyMongoError as error:
        raise translation_of(error) from error
    return granted_by(status)


def granted_by(status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The privileges in a reply to `connectionStatus`; None where it tells of nobody, or of none.

    A proxy, or what emulates MongoDB, may leave them out.
    """
    said = status.get("authInfo", {})
    privileges: Sequence[Mapping[str, Any]] | None = said.get("authenticatedUserPrivileges")
    return privileges if said.get("authenticatedUsers") else None


async def _are_asked_for(client: Client, granted: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether rights matter: without access control one may log in, and do anything.

    Known from a command that changes nothing, by somebody who has no right to it.
    """
    if any(_HARMLESS in privilege["actions"] for privilege in granted):
        return True
    try:
        await client.admin.command(_HARMLESS)
    except OperationFailure:
        return True
    except PyMongoError as error:
        raise translation_of(error) from error
    return False


def missing(granted: Sequence[Mapping[str, Any]], names: Names) -> Sequence[Need]:
    """The needs that are not met, each with the actions that are missing only."""
    lacking = []
    for need in NEEDS:
        may = _actions_on(names.database, names.collections[need.part], granted)
        lost = () if _ANY in may else tuple(name for name in need.actions if name not in may)
        if lost:
            lacking.append(replace(need, actions=lost))
    return lacking


def _actions_on(
    database: str, collection: str, granted: Iterable[Mapping[str, Any]]
) -> Collection[str]:
    return {
        action
        for privilege in granted
        if _covers(privilege["resource"], database, collection)
        for action in privilege["actions"]
    }


def _covers(resource: Mapping[str, Any], database: str, collection: str) -> bool:
    """Tell whether a resource document holds this collection, or, where it is "", all of them.

    An empty name stands for any (https://www.mongodb.com/docs/manual/reference/resource-document).
    """
    if "db" not in resource or "collection" not in resource:
        return bool(resource.get("anyResource"))  # else the cluster, say
    return resource["db"] in ("", database) and resource["collection"] in ("", collection)


def told_of(needs: Sequence[Need], names: Names) -> str:
    """Each right and what it is on, in words for people."""
    actions: defaultdict[str, list[str]] = defaultdict(list)
    for need in needs:
        actions[names.space(need.part)] += need.actions
    return ", and ".join(f"{_listed(actions[space])} on {space}" for space in actions)


def _listed(names: Sequence[str]) -> str:
    *others, last = sorted(set(names))
    return f"{', '.join(others)} and {last}" if others else last
