"""TLS with a private authority, to MongoDB and to Conductor: who is not known is not talked to."""

import asyncio
import os
import re
import ssl
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trustme
from aiohttp import web
from pymongo import MongoClient

from service.adapters.embedded import find_mongod
from service.adapters.mongo.client import connected, require_replica_set
from service.adapters.mongo.urls import check_url, unchecked_in
from service.ports import Unavailable
from tests.flow.conftest import Database, TestConductor, config, free_port, rows_of
from tests.flow.process import Launch, Replica, process_of
from tests.steps import eventually

pytestmark = pytest.mark.mongo
_SMALL = ("--wiredTigerCacheSizeGB=0.25", "--nounixsocket", "--bind_ip=localhost")
_UNKNOWN = "self.signed|local issuer"
"""What OpenSSL says of an authority that it does not know."""
_SOON = "&serverSelectionTimeoutMS=1500"


@dataclass(frozen=True, slots=True)
class Papers:
    """Certificates, as files: of the authority, of who it knows, and of others."""

    folder: Path

    def of(self, name: str) -> str:
        return str(self.folder / f"{name}.pem")

    def server(self) -> ssl.SSLContext:
        """What a server that calls itself localhost shows."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.of("localhost"))
        return context


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    authority, other = trustme.CA(), trustme.CA()
    papers = Papers(folder)
    authority.cert_pem.write_to_path(papers.of("authority"))
    other.cert_pem.write_to_path(papers.of("other-authority"))
    for name in ("localhost", "client"):
        authority.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(papers.of(name))
    expired = authority.issue_cert("localhost", not_after=datetime(2020, 1, 1, tzinfo=UTC))
    expired.private_key_and_cert_chain_pem.write_to_path(papers.of("expired"))
    (folder / "junk.pem").write_text("no certificate")
    return papers


@contextmanager
def mongod(folder: Path, papers: Papers, *options: str) -> Iterator[str]:
    """A replica set of one that talks by TLS only; its address and nothing more."""
    port = free_port()
    command = [str(find_mongod(os.environ)), "--replSet=rs0", f"--port={port}", *_SMALL]
    command += [f"--dbpath={folder}", f"--logpath={folder}/log", "--tlsMode=requireTLS"]
    command += [f"--tlsCertificateKeyFile={papers.of('localhost')}"]
    command += [f"--tlsCAFile={papers.of('authority')}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _initiate(port, papers)
            yield f"mongodb://localhost:{port}/?tls=true"
        finally:
            process.kill()


def _initiate(port: int, papers: Papers) -> None:
    with MongoClient[dict[str, Any]](
        "localhost",
        port,
        directConnection=True,
        tls=True,
        tlsCAFile=papers.of("authority"),
        tlsCertificateKeyFile=papers.of("client"),
    ) as client:
        members = [{"_id": 0, "host": f"localhost:{port}"}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
        wait = threading.Event()
        while not client.admin.command("hello")["isWritablePrimary"]:
            wait.wait(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, papers: Papers) -> Iterator[str]:
    """One that asks nobody for a certificate."""
    folder = tmp_path_factory.mktemp("server")
    with mongod(folder, papers, "--tlsAllowConnectionsWithoutCertificates") as url:
        yield url


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory, papers: Papers) -> Iterator[str]:
    """One that talks to clients with a certificate only."""
    with mongod(tmp_path_factory.mktemp("strict"), papers) as url:
        yield url


@pytest.fixture(params=["server", "strict_server"])
def replica_set_url(request: pytest.FixtureRequest, papers: Papers) -> str:
    """For the service, and for the writer: both name the authority, and who they are."""
    url: str = request.getfixturevalue(request.param)
    url += f"&tlsCAFile={papers.of('authority')}"
    is_strict = request.param == "strict_server"
    return f"{url}&tlsCertificateKeyFile={papers.of('client')}" if is_strict else url


async def has_run(db: Database, agent_id: str) -> bool:
    return any(row["status"] == "completed" for row in await rows_of(db, agent_id))


async def promote(db: Database, agent_id: str, value: str = "1s") -> None:
    await db["agents"].insert_one(
        {"agent_id": agent_id, "is_councilor": True, "councilor_config": config(value)}
    )


async def test_whoever_knows_the_authority_runs_councilors(
    launch: Launch, db: Database, conductor: TestConductor
) -> None:
    await launch(CONDUCTOR_API_URL=conductor.url)
    await promote(db, "scout")
    await eventually(lambda: has_run(db, "scout"), within=30)


async def said_at_the_end(replica: Replica) -> str:
    """The only line of a start that was given up."""
    assert await replica.ended(within=30) == 2
    assert replica.process.stderr is not None
    (line,) = (await replica.process.stderr.read()).decode().splitlines()
    return line


@pytest.mark.parametrize(
    ("host", "authority", "why"),
    [
        pytest.param("localhost", "other-authority", _UNKNOWN, id="another authority"),
        pytest.param("localhost", None, _UNKNOWN, id="no authority"),
        pytest.param("127.0.0.1", "authority", "IP address mismatch", id="another name"),
    ],
)
async def test_a_server_that_is_not_known_is_not_talked_to(
    server: str, papers: Papers, host: str, authority: str | None, why: str
) -> None:
    url = server.replace("localhost", host) + _SOON
    if authority is not None:
        url += f"&tlsCAFile={papers.of(authority)}"
    async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
        line = await said_at_the_end(replica)
    assert f"MONGODB_URL: the certificate of {host}:" in line
    assert re.search(f"is not accepted: .*({why})", line)
    assert "tlsCAFile=" in line


@pytest.mark.parametrize(
    ("kind", "options", "hint"),
    [
        pytest.param("server", "tls=false", "add tls=true&tlsCAFile=", id="without TLS"),
        pytest.param("strict_server", "tls=true", "add tlsCertificateKeyFile=", id="who is it"),
    ],
)
async def test_a_server_that_hangs_up_is_waited_for_with_what_may_be_missing(
    request: pytest.FixtureRequest, papers: Papers, kind: str, options: str, hint: str
) -> None:
    """It may be another one tomorrow, or be asked through somebody who hangs up for now."""
    url: str = request.getfixturevalue(kind).replace("tls=true", options) + _SOON
    if options == "tls=true":
        url += f"&tlsCAFile={papers.of('authority')}"
    async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
        said = (await replica.saw("database_unavailable", within=30))["error"]
    assert "hangs up" in said
    assert hint in said


async def test_a_certificate_that_has_expired_is_waited_for_to_be_renewed(papers: Papers) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(papers.of("expired"))
    port = free_port()
    # No mongod starts with it: theirs expire while they run.
    async with await asyncio.start_server(_hang_up, "127.0.0.1", port, ssl=context):
        url = f"mongodb://localhost:{port}/?tls=true&tlsCAFile={papers.of('authority')}{_SOON}"
        async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
            said = (await replica.saw("database_unavailable", within=30))["error"]
    assert f"the certificate of localhost:{port} is not accepted: certificate has expired" in said


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("name", ["tlsCAFile", "tlsCertificateKeyFile"])
@pytest.mark.parametrize("file", ["missing", "junk"])
async def test_a_file_that_is_no_certificate_is_one_line(
    papers: Papers, name: str, file: str
) -> None:
    url = f"mongodb://u:hunter2@localhost:1/?tls=true&{name}={papers.of(file)}"
    async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
        line = await said_at_the_end(replica)
    assert line.startswith("councilor-scheduler: MONGODB_URL: ")
    assert papers.of(file) in line or "tlsCAFile or tlsCertificateKeyFile" in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "options", ["tls=true&tls=false", "tls=true&TLS=true", "tlsInsecure=true;tlsinsecure=false"]
)
def test_an_option_of_tls_that_stands_there_twice_is_refused(options: str) -> None:
    with pytest.raises(ValueError, match=r"^tls(Insecure)? stands there twice") as refused:
        check_url(f"mongodb://u:hunter2@localhost/?{options}")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("tlsInsecure=true", "tlsInsecure"),
        ("tlsAllowInvalidCertificates=true", "tlsAllowInvalidCertificates"),
        ("tlsallowinvalidhostnames=true", "tlsAllowInvalidHostnames"),
    ],
)
async def test_certificates_that_are_not_checked_are_warned_of(options: str, named: str) -> None:
    url = f"mongodb://localhost:1/?tls=true&{options}{_SOON}"
    async with process_of({"MONGODB_URL": url, "SCHEDULER_HTTP_PORT": "0"}) as replica:
        said = await replica.saw("certificates_not_checked")
    assert said["level"] == "warning"
    assert named in said["options"]


@pytest.mark.parametrize("options", ["tls=true", "tls=true&tlsInsecure=false"])
def test_certificates_that_are_checked_are_not(options: str) -> None:
    assert not unchecked_in(f"mongodb://localhost/?{options}")


@asynccontextmanager
async def by_tls(conductor: TestConductor, papers: Papers, name: str) -> AsyncIterator[None]:
    """Conductor at https://NAME:PORT, with the certificate of localhost."""
    app = web.Application()
    app.router.add_post("/conductor/execute", conductor.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=papers.server()).start()
        conductor.url = f"https://{name}:{port}"
        yield
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("replica_set_url", ["server"], indirect=True)
async def test_a_conductor_of_the_authority_in_ssl_cert_file_is_called(
    launch: Launch, db: Database, papers: Papers
) -> None:
    conductor = TestConductor()
    async with by_tls(conductor, papers, "localhost"):
        environ = {"CONDUCTOR_API_URL": conductor.url, "SSL_CERT_FILE": papers.of("authority")}
        await launch(**environ)
        await promote(db, "scout")
        await eventually(lambda: has_run(db, "scout"), within=30)


@pytest.mark.parametrize("replica_set_url", ["server"], indirect=True)
@pytest.mark.parametrize(
    ("name", "authority", "why"),
    [
        pytest.param("localhost", "other-authority", _UNKNOWN, id="another authority"),
        pytest.param("127.0.0.1", "authority", "IP address mismatch", id="another name"),
    ],
)
async def test_a_conductor_that_is_not_known_is_told_nothing_and_that_is_said(
    launch: Launch, db: Database, papers: Papers, name: str, authority: str, why: str
) -> None:
    """In the row of the run, and, as soon as starts are held back for it, in the log."""
    conductor = TestConductor()
    async with by_tls(conductor, papers, name):
        environ = {"CONDUCTOR_API_URL": conductor.url, "SSL_CERT_FILE": papers.of(authority)}
        replica = await launch(**environ)
        await promote(db, "scout", "2s")

        async def failed() -> Any:
            rows = [row for row in await rows_of(db, "scout") if row["status"] == "error"]
            return rows and rows[0]

        row = await eventually(failed, within=30)
        down = await replica.saw("conductor_unavailable")
    assert row["reason"] == "conductor_unavailable"
    for said in (row["error"], *(each["error"] for each in row["attempts"]), down["error"]):
        assert f"cannot connect to {conductor.url} (CONDUCTOR_API_URL): " in said
        assert "certificate verify failed" in said
        assert re.search(why, said)
    assert not conductor.calls


async def test_one_certificate_decides_nothing_while_other_members_are_away(
    server: str, papers: Papers
) -> None:
    """Whichever is named first: those that are away may be well when they are back."""
    port = urlsplit(server).port
    wrong, away = f"127.0.0.1:{port}", "localhost:1"
    options = f"tls=true&tlsCAFile={papers.of('authority')}&serverSelectionTimeoutMS=300"
    for hosts in (f"{wrong},{away}", f"{away},{wrong}"):
        url = f"mongodb://{hosts}/?{options}"
        async with connected(url) as client:
            with pytest.raises(Unavailable):
                await require_replica_set(client, url)
