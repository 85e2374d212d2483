"""docs/security.md: its commands, as typed, by an administrator and as the user whom they make."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from pymongo import MongoClient

from service.adapters.mongo.urls import check_url
from service.settings import Settings, settings_from_environment
from tests.docs.pages import ROOT, block
from tests.flow.conftest import free_port
from tests.flow.process import launch
from tests.mongosh import mongosh, ran, typed
from tests.rights import COLLECTIONS, literal, url_of

__all__ = ["launch"]
USER, PASSWORD = "scheduler", "change-me"
pytestmark = pytest.mark.mongo


@pytest.fixture
def user_of_the_page(replica_set_url: str, database: str) -> Iterator[str]:
    """The URL of the user whom the page makes; roles and users are gone afterwards."""
    mongosh()
    yield url_of(replica_set_url, USER, PASSWORD, database)
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        client[database].command("dropAllUsersFromDatabase")
        client[database].command("dropAllRolesFromDatabase")


async def made(replica_set_url: str, database: str) -> str:
    """Run the block that makes the user, in a checkout, as an administrator."""
    environ = {"ADMIN_URL": replica_set_url, "MONGODB_DATABASE": database}
    return await ran(["bash", "-euc", block("security-role")], **environ)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`councilor-scheduler` on PATH: this checkout's."""
    script = tmp_path / "bin" / "councilor-scheduler"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m service "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def test_the_user_is_made_and_may_do_what_the_table_says(
    replica_set_url: str, database: str, user_of_the_page: str
) -> None:
    await made(replica_set_url, database)
    script = f"print(EJSON.stringify({block('security-rights').strip()}))"
    said = orjson.loads(await typed(user_of_the_page, script))
    may = {
        each["resource"]["collection"]: set(each["actions"])
        for each in said["authenticatedUserPrivileges"]
    }
    assert may == {COLLECTIONS[part]: set(names) for part, names in literal("ACTIONS").items()}


def test_the_table_has_all_rights_and_no_others() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    may: dict[str, set[str]] = {}
    collection = ""
    for name, actions in re.findall(r"^\|(?: (`\w+`))? \| ((?:`\w+`(?:, )?)+) \| ", page, re.M):
        collection = name.strip("`") or collection
        may.setdefault(collection, set()).update(re.findall(r"\w+", actions))
    assert may == {COLLECTIONS[part]: set(names) for part, names in literal("ACTIONS").items()}


async def test_who_applies_the_schema_is_given_what_that_takes(
    replica_set_url: str, database: str, user_of_the_page: str
) -> None:
    await made(replica_set_url, database)
    command = [sys.executable, "-m", "service", "schema", "--apply"]
    environ = {"MONGODB_URL": user_of_the_page, "MONGODB_DATABASE": database}
    with pytest.raises(AssertionError, match="MONGODB_URL: the user lacks what listCollections"):
        await ran(command, **environ)
    there = f"db = db.getSiblingDB('{database}');"
    await typed(replica_set_url, f"{there} {block('security-schema')}")
    for _ in ("made", "changed"):
        await ran(command, **environ)
    with MongoClient[dict[str, Any]](replica_set_url) as client:
        (found,) = client[database].list_collections(filter={"name": "agents"})
    assert "$jsonSchema" in found["options"]["validator"]


async def test_the_addresses_of_the_page_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("")
    script = block("security-tls") + "\nenv -0"
    for pair in (await ran(["bash", "-euc", script])).split("\0"):
        name, _, value = pair.partition("=")
        if name.lower() in Settings.model_fields:
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    settings = settings_from_environment()
    assert settings.mongodb_url is not None
    check_url(settings.mongodb_url.get_secret_value())
    assert settings.conductor_api_url.get_secret_value().startswith("https://")


@pytest.mark.usefixtures("program")
async def test_secrets_lie_in_files_and_the_token_opens_the_door(
    tmp_path: Path, scheduler_url: str, database: str, launch: Any
) -> None:
    environ = {"MONGODB_URL": scheduler_url, "MONGODB_DATABASE": database}
    script = f"cd {quote(str(tmp_path))}\n{block('security-files')}"
    assert "no councilors" in (await ran(["bash", "-euc", script], **environ)).lower()
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    port = free_port()
    secrets = {"MONGODB_URL": "", "SCHEDULER_SECRETS_DIR": str(tmp_path / "secrets")}
    replica = await launch(SCHEDULER_HTTP_PORT=str(port), **secrets)
    await replica.saw("resync_finished")
    script = f"cd {quote(str(tmp_path))}\n{block('security-token')}".replace("8085", str(port))
    assert orjson.loads(await ran(["bash", "-euc", script]))["items"] == []
    (tmp_path / "secrets" / "scheduler_http_token").write_text("a guess")
    with pytest.raises(AssertionError):  # as curl ends with an error, by --fail
        await ran(["bash", "-euc", script])
