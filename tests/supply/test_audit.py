"""scripts/audit says what is known, and never takes "could not be asked" for "none is known"."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.supply.audit import FINE, UNASKED, VULNERABLE, audit_in, main
from tests.supply.locks import BUILD_LOCK, LOCK, pinned

FLAW = {
    "id": "GHSA-0000-0000-0000",
    "aliases": ["CVE-2026-0001"],
    "summary": "It burns.",
    "affected": [
        {
            "package": {"name": "aiohttp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"fixed": "99.1"}]}],
        }
    ],
}


async def audited(folder: Path, *flawed: str, status: int = 200) -> tuple[int, set[str]]:
    """The exit code, and the names that a stand-in for the vulnerability service was asked for."""
    asked = set[str]()

    async def answer(request: web.Request) -> web.Response:
        name = (await request.json())["package"]["name"]
        asked.add(name)
        return web.json_response({"vulns": [FLAW]} if name in flawed else {}, status=status)

    app = web.Application()
    app.router.add_post("/v1/query", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("/v1/query"))
        arguments = ["-s", "osv", "--osv-url", url, "--cache-dir", str(folder)]
        return await asyncio.to_thread(main, arguments), asked


async def test_everything_that_is_locked_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, asked = await audited(tmp_path)
    assert code == FINE
    here = {one.name for one in (*pinned(LOCK), *pinned(BUILD_LOCK)) if one.is_for_this_machine}
    assert asked == here
    assert "no known vulnerability" in capsys.readouterr().out


async def test_a_vulnerability_is_told_with_what_mends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = await audited(tmp_path, "aiohttp")
    assert code == VULNERABLE
    said = capsys.readouterr().out
    assert "CVE-2026-0001, GHSA-0000-0000-0000; mended by 99.1" in said


async def test_a_service_that_does_not_answer_is_no_good_news(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = await audited(tmp_path, status=503)
    assert code == UNASKED
    assert "was not reached" in capsys.readouterr().out


def test_a_service_that_takes_too_long_is_no_news_at_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([], seconds=0) == UNASKED
    assert capsys.readouterr().out == (
        "scripts/audit: the vulnerability service has not told all within 0 s\n"
    )


@pytest.mark.parametrize(
    ("dependencies", "code"),
    [
        pytest.param([{"name": "a", "skip_reason": "not found"}], UNASKED, id="not known there"),
        pytest.param([], UNASKED, id="nothing was judged"),
        pytest.param([{"name": "a", "version": "1", "vulns": []}], FINE, id="none is known"),
        pytest.param(
            [
                {"name": "a", "skip_reason": "not found"},
                {
                    "name": "b",
                    "version": "1",
                    "vulns": [{"id": "X", "aliases": [], "fix_versions": []}],
                },
            ],
            VULNERABLE,
            id="one is known, another was not judged",
        ),
    ],
)
def test_what_was_not_judged_is_not_fine(dependencies: list[dict[str, Any]], code: int) -> None:
    """pip-audit itself ends with 0 where the service knows none of the names."""
    assert audit_in(json.dumps({"dependencies": dependencies})).exit_code == code
