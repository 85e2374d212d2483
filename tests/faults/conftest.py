"""Replica sets to be broken, restored after each test, and the service on them."""

from collections.abc import AsyncIterator, Iterator, MutableMapping
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from service.adapters.mongo.client import connected
from tests.faults.keeper import Cluster, kept
from tests.flow.conftest import Database, Start, conductor
from tests.flow.conftest import start as start_on_a_sound_database
from tests.flow.process import launch

__all__ = ["conductor", "launch", "start_on_a_sound_database"]

_SMALL_OPLOG = ("--oplogSize=1", "--syncdelay=1")


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members, for all that takes a majority or an election."""
    with kept(tmp_path_factory.mktemp("three"), members=3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One member, whose oplog holds a megabyte."""
    with kept(tmp_path_factory.mktemp("alone"), members=1, options=_SMALL_OPLOG) as cluster:
        yield cluster


@pytest.fixture
async def cluster(three: Cluster) -> AsyncIterator[Cluster]:
    """The replica set under test; a module that needs another one names it so."""
    yield three
    await three.restore()


@pytest.fixture
def replica_set_url(cluster: Cluster) -> str:
    return cluster.url


@pytest.fixture
def database() -> str:
    """A database of the test's own; it goes with the replica set."""
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
async def db(replica_set_url: str, database: str) -> AsyncIterator[Database]:
    """The database for the writer, whose connections are not those that are struck."""
    async with writer(replica_set_url) as client:
        yield client[database]


def writer(url: str) -> Any:
    """A client that is not the service, and has the time for large documents."""
    return connected(f"{url}&appName=writer&socketTimeoutMS=20000", retries_writes=True)


@pytest.fixture
async def start(start_on_a_sound_database: Start, cluster: Cluster) -> AsyncIterator[Start]:
    """Start a service; what is broken is mended before it is stopped."""
    yield start_on_a_sound_database
    await cluster.restore()


@pytest.fixture
def told() -> Iterator[list[MutableMapping[str, Any]]]:
    """The log events of services in this process."""
    with capture_logs() as events:
        yield events
