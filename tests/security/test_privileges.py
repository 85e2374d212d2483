"""What is made of what a server tells of its user."""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from service.adapters.embedded import EmbeddedUnavailable, find_mongod
from service.adapters.mongo.client import connected
from service.adapters.mongo.privileges import (
    EVERYTHING,
    NEEDS,
    granted_by,
    missing,
    names_of,
    require_privileges,
    told_of,
)
from service.ports import Unavailable
from tests.cluster import ReplicaSet, replica_set
from tests.rights import literal, url_of

NAMES = ("agents", "councilor_executions", "apscheduler_jobs")


def test_the_role_has_what_the_service_needs_and_nothing_else() -> None:
    needed: dict[str, set[str]] = {}
    for need in NEEDS:
        if need.part != EVERYTHING:
            needed.setdefault(need.part, set()).update(need.actions)
    assert {part: set(names) for part, names in literal("ACTIONS").items()} == needed
    (extra,) = (need.actions for need in NEEDS if need.part == EVERYTHING)
    assert sorted(extra) == sorted(literal("EVENTS"))


ALL = [action for need in NEEDS for action in need.actions]


@pytest.mark.parametrize(
    ("resource", "suffices"),
    [
        pytest.param({"db": "d", "collection": ""}, True, id="all of the database"),
        pytest.param({"db": "", "collection": ""}, True, id="all of all databases"),
        pytest.param({"anyResource": True}, True, id="anything"),
        pytest.param({"db": "e", "collection": ""}, False, id="another database"),
        pytest.param({"cluster": True}, False, id="the cluster"),
        pytest.param({"db": "", "system_buckets": ""}, False, id="buckets of time series"),
    ],
)
def test_resources_are_understood_as_the_server_means_them(
    resource: Mapping[str, Any], suffices: bool
) -> None:
    lacking = missing([{"resource": resource, "actions": ALL}], names_of("d", *NAMES))
    assert bool(lacking) is not suffices


def test_a_collection_by_its_name_in_any_database_is_that_one_only() -> None:
    names = names_of("d", *NAMES)
    lacking = missing([{"resource": {"db": "", "collection": "agents"}, "actions": ALL}], names)
    told = told_of(lacking, names)
    assert "d.agents" not in told
    assert "d.apscheduler_jobs" in told


def test_who_may_do_anything_lacks_nothing() -> None:
    anything = [{"resource": {"anyResource": True}, "actions": ["anyAction"]}]
    assert not missing(anything, names_of("d", *NAMES))


SOMEBODY = [{"user": "scheduler", "db": "admin"}]


@pytest.mark.parametrize(
    ("said", "granted"),
    [
        pytest.param(
            {"authenticatedUsers": SOMEBODY}, None, id="somebody, of whom nothing is told"
        ),
        pytest.param(
            {"authenticatedUsers": [], "authenticatedUserPrivileges": []}, None, id="nobody"
        ),
        pytest.param({}, None, id="nothing"),
        pytest.param(
            {"authenticatedUsers": SOMEBODY, "authenticatedUserPrivileges": []},
            [],
            id="somebody who may do nothing",
        ),
    ],
)
def test_only_what_is_told_is_compared(
    said: Mapping[str, Any], granted: Sequence[Mapping[str, Any]] | None
) -> None:
    assert granted_by({"authInfo": said, "ok": 1.0}) == granted


@pytest.fixture
async def open_set(tmp_path: Path) -> AsyncIterator[ReplicaSet]:
    """A replica set where nobody has to log in."""
    try:
        find_mongod(os.environ)
    except EmbeddedUnavailable as unavailable:
        pytest.skip(f"needs a mongod of its own: {unavailable}")
    async with replica_set(tmp_path, members=1) as cluster:
        yield cluster


@pytest.mark.mongo
async def test_where_nothing_is_forbidden_who_logs_in_may_do_all(open_set: ReplicaSet) -> None:
    """Without access control one may log in, too, and is told of rights that nobody asks for."""
    (node,) = open_set.nodes
    await node.command("createUser", "reader", pwd="reader", roles=["read"])
    async with connected(url_of(open_set.url, "reader", "reader", "admin")) as client:
        assert await require_privileges(client, names_of("d", *NAMES)) == []


@pytest.mark.mongo
async def test_a_connection_that_breaks_is_no_right_that_is_missing(open_set: ReplicaSet) -> None:
    (node,) = open_set.nodes
    async with connected(open_set.url) as client:
        await client.admin.command("ping")
        await node.fail_point({"times": 5}, failCommands=["connectionStatus"], closeConnection=True)
        with pytest.raises(Unavailable):
            await require_privileges(client, names_of("d", *NAMES))
