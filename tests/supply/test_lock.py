"""The lock files fit pyproject.toml, and tell nothing of the machine that made them."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply.locks import BUILD_LOCK, LOCK, declared, pinned

_PROJECT = declared()["project"]
RUNTIME = _PROJECT["dependencies"]
BUILD = [*declared()["build-system"]["requires"], "pip"]
_ALLOWED = re.compile(
    r"[a-z0-9-]+==[\w.]+( ; [\w' =!<>.()]+)? \\"
    r"|    --hash=sha256:[0-9a-f]{64}( \\)?"
    r"|    # via( councilor-scheduler \(pyproject\.toml\)| [a-z0-9-]+)?"
    r"|    #   (councilor-scheduler \(pyproject\.toml\)|[a-z0-9-]+)"
)
"""A release, a hash, or what wants it: no index, no host, no path."""


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        *(pytest.param(LOCK, one, id=f"runtime {one}") for one in RUNTIME),
        *(pytest.param(BUILD_LOCK, one, id=f"build {one}") for one in BUILD),
    ],
)
def test_what_pyproject_asks_for_is_locked_in_its_range(lock: Path, wanted: str) -> None:
    """Where this fails, run scripts/lock."""
    requirement = Requirement(wanted)
    name = canonicalize_name(requirement.name)
    (found,) = (one for one in pinned(lock) if one.name == name)
    assert found.version in requirement.specifier


@pytest.mark.parametrize("lock", [LOCK, BUILD_LOCK], ids=["runtime", "build"])
def test_every_release_is_pinned_once_with_hashes(lock: Path) -> None:
    releases = pinned(lock)
    assert len({one.name for one in releases}) == len(releases)
    assert [one for one in releases if one.requirement.specifier != f"=={one.version}"] == []
    assert [one for one in releases if not one.hashes] == []


@pytest.mark.parametrize("lock", [LOCK, BUILD_LOCK], ids=["runtime", "build"])
def test_no_host_and_no_path_is_named(lock: Path) -> None:
    lines = lock.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not _ALLOWED.fullmatch(line)] == []


def test_compiled_releases_have_the_files_of_other_machines_too() -> None:
    """Three Pythons, two processors and two C libraries; a mirror of a part has fewer."""
    compiled = {"aiohttp", "orjson", "pydantic-core", "pymongo", "yarl"}
    hashes = {one.name: len(one.hashes) for one in pinned(LOCK)}
    assert {name: hashes[name] for name in compiled if hashes[name] < 12} == {}
