"""Fixtures: a real replica set, a clock, and a database of its own for each test."""

import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient

from service.adapters.embedded import embedded_mongod
from service.adapters.mongo.client import Client, connected
from service.adapters.mongo.replica_set import initiate
from tests.keeping import kept

MONGO_IMAGE = os.environ.get("MONGO_IMAGE", "mongo:8.0")
"""What testcontainers starts where a Docker engine answers."""


@pytest.fixture(scope="session")
def replica_set_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real replica set: MONGODB_URL, else a container, else the mongod binary."""
    with ExitStack() as stack:
        url = os.environ.get("MONGODB_URL")
        if not url:
            url = stack.enter_context(_in_container())
        if not url:
            url = stack.enter_context(_from_binary(tmp_path_factory.mktemp("mongod")))
        yield url


@contextmanager
def _in_container() -> Iterator[str | None]:
    """A replica set of one in a container; None where no engine answers, or it has no image."""
    import docker
    from docker.errors import DockerException, ImageNotFound
    from testcontainers.core.container import DockerContainer

    if not _is_engine_there():
        yield None
        return
    try:
        engine = docker.from_env(timeout=5)
        engine.ping()
        try:
            engine.images.get(MONGO_IMAGE)
        except ImageNotFound:
            engine.images.pull(MONGO_IMAGE)
    except (DockerException, OSError):
        yield None
        return
    command = ["mongod", "--replSet", "rs0", "--bind_ip_all", "--setParameter"]
    container = DockerContainer(MONGO_IMAGE).with_exposed_ports(27017)
    container.with_command([*command, "enableTestCommands=1"])
    with container:
        host, port = container.get_container_host_ip(), container.get_exposed_port(27017)
        url = f"mongodb://{host}:{port}/?directConnection=true"
        _initiate_inside(url)
        yield url
    engine.close()


def _is_engine_there() -> bool:
    """Knock first: Docker's client leaves its socket open where nobody listens at the other end."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(host.removeprefix("unix://")) == 0


def _initiate_inside(url: str) -> None:
    """Its member is known by the name that works inside the container."""
    with MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=30_000) as client:
        members = [{"_id": 0, "host": "127.0.0.1:27017"}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        wait = threading.Event()
        while not client.admin.command("hello")["isWritablePrimary"]:
            wait.wait(0.05)


@contextmanager
def _from_binary(data_dir: Path) -> Iterator[str]:
    """The embedded mongod, for the whole session."""
    parameters = ["--setParameter", "enableTestCommands=1"]
    mongod = embedded_mongod(
        data_dir=data_dir, environ=os.environ, initiate=initiate, extra_args=parameters
    )
    with kept(mongod, "mongod of the tests") as (running, _):
        yield running.url


@pytest.fixture
def database(replica_set_url: str) -> Iterator[str]:
    """The name of a database that nobody else uses, dropped afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        client.drop_database(name)


@pytest.fixture
async def client(replica_set_url: str) -> AsyncIterator[Client]:
    """A client as the service makes it."""
    async with connected(replica_set_url) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine's environment says must not decide about a test."""
    for name in list(os.environ):
        if name.startswith(("SCHEDULER_", "CONDUCTOR_", "MONGODB_DATABASE")):
            with suppress(KeyError):
                monkeypatch.delenv(name)
