"""SSL_CERT_FILE and SSL_CERT_DIR: who is named there may sign Conductor's certificate, alone."""

import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from shutil import which

import pytest
from aiohttp import web

from service.adapters.conductor import Dialect, connected
from service.app import authorities_of
from service.settings import Settings, WrongSettings
from tests.flow.conftest import free_port
from tests.flow.process import process_of
from tests.security.test_tls import Papers, papers

__all__ = ["papers"]
SETTINGS = Settings.model_validate({"conductor_api_url": "https://localhost:8443"})


@pytest.fixture
async def url(papers: Papers) -> AsyncIterator[str]:
    """Of a server whose certificate the authority has signed."""
    runner = web.AppRunner(web.Application())
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=papers.server()).start()
    yield f"https://localhost:{port}"
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _system_knows_the_authority(papers: Papers, monkeypatch: pytest.MonkeyPatch) -> None:
    """To OpenSSL itself, these are the system's own: what is asked here stands in mappings."""
    monkeypatch.setenv("SSL_CERT_FILE", papers.of("authority"))


async def is_known(url: str, environ: Mapping[str, str]) -> bool:
    trust = authorities_of(SETTINGS, environ)
    async with connected(url, Dialect.CONDUCTOR, None, trust=trust) as conductor:
        return await conductor.is_there()


@pytest.mark.parametrize("blank", ["", " "])
def test_the_system_decides_where_nothing_is_named(blank: str) -> None:
    assert authorities_of(SETTINGS, {"SSL_CERT_FILE": blank, "SSL_CERT_DIR": blank}) is None


@pytest.mark.parametrize(
    ("name", "expected"), [("authority", True), ("other-authority", False)], ids=["it", "another"]
)
async def test_a_file_replaces_the_systems_authorities(
    url: str, papers: Papers, name: str, expected: bool
) -> None:
    assert await is_known(url, {"SSL_CERT_FILE": papers.of(name)}) is expected


@pytest.mark.parametrize(
    ("name", "expected"), [("authority", True), ("other-authority", False)], ids=["it", "another"]
)
async def test_so_does_a_folder(
    url: str, papers: Papers, tmp_path: Path, name: str, expected: bool
) -> None:
    _by_its_hash(papers.of(name), tmp_path)
    assert await is_known(url, {"SSL_CERT_DIR": f"{papers.folder}:{tmp_path}"}) is expected


async def test_both_together_are_all_that_is_known(
    url: str, papers: Papers, tmp_path: Path
) -> None:
    _by_its_hash(papers.of("authority"), tmp_path)
    both = {"SSL_CERT_FILE": papers.of("other-authority"), "SSL_CERT_DIR": str(tmp_path)}
    assert await is_known(url, both)


def _by_its_hash(certificate: str, folder: Path) -> None:
    """What `openssl rehash` makes of a folder."""
    if (openssl := which("openssl")) is None:
        pytest.skip("no openssl, which knows the hash of a name")
    command = [openssl, "x509", "-noout", "-subject_hash", "-in", certificate]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (folder / f"{name}.0").symlink_to(certificate)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("SSL_CERT_FILE", "missing.pem"),
        ("SSL_CERT_FILE", "junk.pem"),
        ("SSL_CERT_FILE", "."),
        ("SSL_CERT_DIR", "missing"),
        ("SSL_CERT_DIR", "junk.pem"),
    ],
)
def test_what_names_no_authority_is_not_passed_over(
    papers: Papers, variable: str, name: str
) -> None:
    with pytest.raises(WrongSettings) as wrong:
        authorities_of(SETTINGS, {variable: str(papers.folder / name)})
    (line,) = wrong.value.problems
    assert line.startswith(f"{variable}: {papers.folder / name}: ")


def test_it_is_nothing_to_a_conductor_without_tls(papers: Papers) -> None:
    plain = Settings.model_validate({"conductor_api_url": "http://localhost:8000"})
    assert authorities_of(plain, {"SSL_CERT_FILE": papers.of("missing")}) is None


async def test_it_ends_the_start_with_code_2(papers: Papers) -> None:
    environ = {
        "MONGODB_URL": "mongodb://127.0.0.1:1",
        "CONDUCTOR_API_URL": "https://localhost:1",
        "SCHEDULER_HTTP_PORT": "0",
        "SSL_CERT_FILE": papers.of("junk"),
    }
    async with process_of(environ) as replica:
        assert await replica.ended() == 2
        assert replica.process.stderr is not None
        (line,) = (await replica.process.stderr.read()).decode().splitlines()
    assert line.startswith(f"councilor-scheduler: SSL_CERT_FILE: {papers.of('junk')}: ")
