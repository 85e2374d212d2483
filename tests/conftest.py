"""Fixtures: a real replica set, a clock, and a database of its own for each test."""

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from service.adapters.embedded import embedded_mongod
from service.adapters.mongo.client import Client, connected
from tests.keeping import kept
from tests.rights import UNAUTHORIZED, least_privileged, may_make_users, url_of

MONGO_IMAGE = os.environ.get("MONGO_IMAGE", "mongo:8.0")
"""What testcontainers starts where a Docker engine answers."""
_ADMINISTRATOR = "administrator"
_KEY = secrets.token_hex(32)
"""The members' password, of whoever makes the administrator, and the administrator's."""


def pytest_report_header() -> list[str]:
    """Say so where MONGODB_URL leaves the service no user of its own."""
    url = os.environ.get("MONGODB_URL")
    if not url:
        return []
    try:
        is_least = may_make_users(url)
    except PyMongoError as error:
        return [f"MONGODB_URL: {type(error).__name__}"]
    user = "one of its own, with the least privileges" if is_least else "that of MONGODB_URL"
    return [f"the service under test is the user: {user}"]


@pytest.fixture(scope="session")
def replica_set_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real replica set: MONGODB_URL, else a container, else the mongod binary.

    An administrator's, for all but the service under test, which has `scheduler_url`.
    """
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
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    if not _is_engine_there() or not _has_image(MONGO_IMAGE):
        yield None
        return
    # What removes the containers of tests that were killed. Without it those stay, and no more.
    testcontainers_config.ryuk_disabled |= not _has_image(testcontainers_config.ryuk_image)
    container = DockerContainer(MONGO_IMAGE).with_exposed_ports(27017)
    container.with_command(["bash", "-c", _WITH_A_KEY])
    with container:
        host, port = container.get_container_host_ip(), int(container.get_exposed_port(27017))
        # Its member is known by the name that works inside the container.
        _initiate(host, port, "127.0.0.1:27017")
        yield _url_of_administrator(f"mongodb://{host}:{port}/?directConnection=true")


_WITH_A_KEY = f"""\
umask 077; echo {_KEY} > /tmp/councilor-key
exec mongod --replSet rs0 --bind_ip_all --keyFile /tmp/councilor-key \
  --setParameter enableTestCommands=1"""
"""Whichever user the image runs this as: the key is that user's, as mongod is."""


def _is_engine_there() -> bool:
    """Knock first: Docker's client leaves its socket open where nobody listens at the other end."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex(host.removeprefix("unix://")) == 0


def _has_image(name: str) -> bool:
    """Whether the engine has it, or gets it."""
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        engine = docker.from_env(timeout=600)
    except DockerException:
        return False
    with closing(engine):
        try:
            engine.images.get(name)
        except ImageNotFound:
            with suppress(DockerException):
                return bool(engine.images.pull(name))
        except DockerException:
            return False
        else:
            return True
    return False


def _initiate(host: str, port: int, member: str) -> None:
    """Make it a replica set of one, with an administrator.

    As a member would: who has the key may do anything, from any host and before there is a user.
    """
    with MongoClient[dict[str, Any]](
        host,
        port,
        directConnection=True,
        username="__system",
        password=_KEY,
        authSource="local",
        authMechanism="SCRAM-SHA-256",
        serverSelectionTimeoutMS=30_000,
    ) as client:
        members = [{"_id": 0, "host": member}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        wait = threading.Event()
        while not client.admin.command("hello")["isWritablePrimary"]:
            wait.wait(0.05)
        client.admin.command("createUser", _ADMINISTRATOR, pwd=_KEY, roles=["root"])


def _url_of_administrator(url: str) -> str:
    return url_of(url, _ADMINISTRATOR, _KEY, "admin")


@contextmanager
def _from_binary(folder: Path) -> Iterator[str]:
    """The embedded mongod, for the whole session."""
    key = folder / "key"
    key.write_text(_KEY)
    key.chmod(0o600)

    async def initiate(port: int) -> None:
        await asyncio.to_thread(_initiate, "127.0.0.1", port, f"127.0.0.1:{port}")

    parameters = ["--keyFile", str(key), "--setParameter", "enableTestCommands=1"]
    mongod = embedded_mongod(
        data_dir=folder, environ=os.environ, initiate=initiate, extra_args=parameters
    )
    with kept(mongod, "mongod of the tests") as (running, _):
        yield _url_of_administrator(running.url)


@pytest.fixture
def database(replica_set_url: str) -> Iterator[str]:
    """The name of a database that nobody else uses, dropped afterwards."""
    name = f"test_{uuid4().hex[:12]}"
    yield name
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        try:
            client.drop_database(name)
        except OperationFailure as error:
            if error.code != UNAUTHORIZED:
                raise
            for collection in client[name].list_collection_names():  # readWrite may do so much
                client[name].drop_collection(collection)


@pytest.fixture
def scheduler_url(replica_set_url: str, database: str) -> Iterator[str]:
    """For the service under test: a user who may do what `scripts/mongo-role.js` says, no more."""
    with least_privileged(replica_set_url, database) as url:
        yield url


@pytest.fixture
async def client(replica_set_url: str) -> AsyncIterator[Client]:
    """A client as the service makes it."""
    async with connected(replica_set_url) as client:
        yield client


@pytest.fixture(scope="session")
def no_secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder without any."""
    return tmp_path_factory.mktemp("no_secrets")


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch, no_secrets: Path) -> None:
    """What this machine's environment says must not decide about a test; nor its secrets."""
    for name in list(os.environ):
        if name.startswith(("SCHEDULER_", "CONDUCTOR_", "MONGODB_DATABASE")):
            with suppress(KeyError):
                monkeypatch.delenv(name)
    monkeypatch.setenv("SCHEDULER_SECRETS_DIR", str(no_secrets))
    for name in ("no_proxy", "NO_PROXY"):  # what tests start is on this machine, all of it
        monkeypatch.setenv(name, "localhost,127.0.0.1,::1")
