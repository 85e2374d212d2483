"""Servers that cannot serve: without a replica set, or without the rights that are needed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from service.ports import Misconfigured
from tests.faults.keeper import Cluster, kept
from tests.faults.steps import have_jobs, promote
from tests.flow.conftest import Database, Service, Start
from tests.steps import eventually

pytestmark = pytest.mark.mongo


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member that asks who one is; it knows `root`, and `service`, who may do nothing."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    key = folder / "key"
    key.write_text("a" * 32)
    key.chmod(0o600)
    with kept(folder, members=1, options=["--keyFile", str(key)]) as cluster:
        port = cluster.nodes[0].port
        client: MongoClient[dict[str, Any]]
        with MongoClient("127.0.0.1", port, directConnection=True) as client:
            client.admin.command("createUser", "root", pwd="root", roles=["root"])
        with root_of(cluster) as client:
            client.admin.command("createUser", "service", pwd="service", roles=[])
        yield cluster


def root_of(cluster: Cluster) -> MongoClient[dict[str, Any]]:
    port = cluster.nodes[0].port
    return MongoClient(f"mongodb://root:root@127.0.0.1:{port}/?directConnection=true")


@pytest.fixture
def cluster(guarded: Cluster) -> Cluster:
    return guarded


@pytest.fixture
def replica_set_url(guarded: Cluster) -> str:
    """For the writer."""
    return guarded.url.replace("//", "//root:root@")


@pytest.fixture
async def rights(guarded: Cluster, database: str) -> AsyncIterator["Rights"]:
    """The service's rights on the test's database; none, to begin with."""
    rights = Rights(guarded, database)
    yield rights
    await rights.revoke()


class Rights:
    """What the service may do; `grant` and `revoke` as an administrator does."""

    def __init__(self, cluster: Cluster, database: str) -> None:
        self._cluster = cluster
        self._database = database

    async def grant(self) -> None:
        await asyncio.to_thread(self._let, [{"role": "readWrite", "db": self._database}])

    async def revoke(self) -> None:
        await asyncio.to_thread(self._let, [])

    async def grant_but_notifications(self) -> None:
        """What a version that told nobody of anything was given, collection by collection."""
        await asyncio.to_thread(self._create_role)
        await asyncio.to_thread(self._let, [{"role": "least", "db": self._database}])

    def _create_role(self) -> None:
        actions = ["find", "insert", "update", "remove", "changeStream", "collMod"]
        actions += ["createIndex", "dropIndex", "listIndexes", "createCollection"]
        names = ["agents", "councilor_executions", "apscheduler_jobs", "scheduler_replicas"]
        privileges = [
            {"resource": {"db": self._database, "collection": name}, "actions": actions}
            for name in names
        ]
        with root_of(self._cluster) as client:
            client[self._database].command("createRole", "least", privileges=privileges, roles=[])

    def _let(self, roles: list[dict[str, str]]) -> None:
        with root_of(self._cluster) as client:
            client.admin.command("updateUser", "service", roles=roles)


@pytest.fixture
def service_url(guarded: Cluster) -> SecretStr:
    return SecretStr(guarded.url.replace("//", "//service:service@"))


async def test_missing_rights_end_the_start_with_what_to_grant(
    start: Start, service_url: SecretStr
) -> None:
    """T16: waiting would not help; a standalone is in integration/test_database_trouble."""
    service = await start(is_ready=False, mongodb_url=service_url)
    with pytest.raises(Misconfigured, match="grant the user readWrite"):
        async with asyncio.timeout(15):
            await asyncio.shield(service.task)


async def test_without_rights_on_notifications_runs_go_on_and_that_is_said_once(
    start: Start,
    db: Database,
    rights: Rights,
    service_url: SecretStr,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An upgrade must not end with a service that does not start."""
    await rights.grant_but_notifications()
    ttl = timedelta(seconds=3)
    await start(mongodb_url=service_url, scheduler_replica_ttl=ttl)
    await promote(db, "scout", value="1s")

    async def have_run() -> bool:
        rows = db["councilor_executions"]
        return await rows.count_documents({"status": {"$ne": "running"}}) >= 8

    await eventually(have_run, within=30)
    said = capsys.readouterr().out
    assert said.count("notifications_unavailable") == 1
    assert "grant the user readWrite" in said
    assert "mending_failed" not in said


async def test_an_index_that_is_in_the_way_of_notifications_ends_no_start(
    start: Start,
    db: Database,
    rights: Rights,
    service_url: SecretStr,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await rights.grant()
    await db["scheduler_notifications"].create_index("created_at", name="theirs")
    await start(mongodb_url=service_url)

    async def is_told() -> bool:
        return "notifications_unavailable" in capsys.readouterr().out

    await eventually(is_told)


async def why_unready(service: Service) -> str | None:
    status, said = await service.get("/readyz")
    trouble = said.get("failing", {}).get("change_stream", {}) if status == 503 else {}
    error: str | None = trouble.get("error")
    return error


async def test_rights_taken_while_running_are_told_and_their_return_is_noticed(
    start: Start,
    db: Database,
    rights: Rights,
    service_url: SecretStr,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T16: not ready, alive, and at work again when the rights are back."""
    monkeypatch.setattr("random.uniform", lambda low, high: min(high, low + 0.2))
    await rights.grant()
    service = await start(mongodb_url=service_url)
    await promote(db, "before")
    await have_jobs(db, "before")
    await rights.revoke()
    why = await eventually(lambda: why_unready(service), saying="not ready")
    assert "grant the user readWrite" in why
    assert (await service.get("/livez"))[0] == 200
    await promote(db, "after")
    await rights.grant()
    await have_jobs(db, "before", "after")
    await eventually(service.is_ready, saying="ready again")
