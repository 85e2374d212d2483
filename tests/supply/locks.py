"""The lock files, read: what is pinned, for which machines, with which hashes."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "scripts" / "requirements.lock"
BUILD_LOCK = ROOT / "scripts" / "requirements-build.lock"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One release, the machines that it is for, and the hashes of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> Version:
        """Raises ValueError where it is not exactly one."""
        (exact,) = self.requirement.specifier
        if exact.operator != "==":
            raise ValueError(f"{self.requirement} is not pinned")
        return Version(exact.version)

    @property
    def is_for_this_machine(self) -> bool:
        marker = self.requirement.marker
        return marker is None or marker.evaluate()


def pinned(lock: Path) -> list[Pinned]:
    """What a lock file has, in its order."""
    return list(_read(lock.read_text(encoding="utf-8")))


def _read(text: str) -> Iterator[Pinned]:
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        yield Pinned(Requirement(line.partition("--hash")[0]), tuple(_HASH.findall(line)))


def declared() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
