"""Somebody who types docs/take-over.md, on a machine of a temporary folder."""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import run

import pytest
from pymongo import MongoClient

from service.adapters.embedded import find_mongod
from tests.docs.pages import block
from tests.mongosh import mongosh, ran
from tests.takeover.gateway import Document

_SYSTEMCTL = """\
#!/usr/bin/env bash
# What systemd does with mongod's unit.
set -euo pipefail
case "$1" in
  stop) mongod --shutdown --config "$MONGOD_CONF" ;;
  start) mongod --config "$MONGOD_CONF" --fork ;;
esac
"""
_CONF = """\
storage:
  dbPath: {folder}/data
systemLog:
  destination: file
  path: {folder}/data.log
  logAppend: true
net:
  port: {port}
  bindIp: localhost
security:
  authorization: {authorization}
#replication:
"""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """Types blocks of the page by their names; what `settings` name comes before each."""

    folder: Path
    mongo_port: int
    http_port: int
    conductor_url: str
    settings: Sequence[str]
    has_password: bool

    def and_then(self, *settings: str) -> "Newcomer":
        """The same person, who has typed these settings, too."""
        return replace(self, settings=(*self.settings, *settings))

    def filled(self, name: str) -> str:
        """A block with its constants changed to those of this machine: the only changes."""
        text = block(name)
        for constant, ours in {
            "27017": str(self.mongo_port),
            "/var/lib/mongodb": str(self.folder / "data"),
            "/etc/mongod.conf": str(self.folder / "mongod.conf"),
            "http://localhost:8000": self.conductor_url,
            "=8085": f"={self.http_port}",
        }.items():
            text = text.replace(constant, ours)
        return text

    @property
    def _before(self) -> str:
        tools, shell = self.folder / "bin", Path(mongosh()).parent
        return "\n".join(
            [
                f"export HOME='{self.folder}' PATH='{tools}:{shell}':\"$PATH\"",
                # The page's councilors come due in minutes; one of the gateway's does in seconds.
                "export SCHEDULER_MIN_INTERVAL=1s COLUMNS=160",
                *(self.filled(name) for name in self.settings),
            ]
        )

    async def shell(self, *names: str, fails_with: int = 0) -> str:
        """What these blocks print in a shell; fails where they do not end as they should."""
        return await self.line("\n".join(self.filled(name) for name in names), fails_with)

    async def line(self, text: str, fails_with: int = 0) -> str:
        """The same of a line that stands in the page's text."""
        script = f"{text.rstrip()} || test $? = {fails_with}" if fails_with else text
        return await ran(["bash", "-euo", "pipefail", "-c", f"{self._before}\n{script}"])

    async def mongosh(self, *names: str) -> str:
        """What these blocks print, typed one after another in one shell of MongoDB."""
        script = self.folder / "typed.js"
        script.write_text("\n".join(self.filled(name) for name in names), encoding="utf-8")
        return await self.line(f'mongosh "$MONGODB_URL" --quiet --norc --eval "$(cat {script})"')

    async def environment(self) -> Mapping[str, str]:
        """The variables of a shell in which all that has been typed."""
        said = await self.line("env -0")
        variables = dict(entry.split("=", 1) for entry in said.split("\0") if entry)
        names = ("MONGODB_", "CONDUCTOR_", "SCHEDULER_")
        return {name: value for name, value in variables.items() if name.startswith(names)}

    @contextmanager
    def client(self, options: str = "") -> Iterator[MongoClient[Document]]:
        """A client that says nothing of a replica set, as the gateway's does."""
        login = "admin:a-secret@" if self.has_password else ""
        url = f"mongodb://{login}localhost:{self.mongo_port}/?authSource=admin{options}"
        with MongoClient[Document](url, tz_aware=True) as client:
            yield client

    def prepare(self) -> None:
        """Have the machine: its tools, and a standalone mongod as a package sets it up."""
        for tool in ("bash", "curl", "openssl"):
            if shutil.which(tool) is None:
                pytest.skip(f"no {tool}, which the page uses: apt-get install {tool}")
        (self.folder / "data").mkdir()
        tools = self.folder / "bin"
        tools.mkdir()
        (tools / "mongod").symlink_to(find_mongod(os.environ))
        _script(tools / "systemctl", _SYSTEMCTL)
        ours = f'#!/usr/bin/env bash\nexec "{sys.executable}" -m service "$@"\n'
        _script(tools / "councilor-scheduler", ours)
        self._configure("disabled")
        self.mongod("--fork", "--config", "mongod.conf")
        if self.has_password:
            self._ask_for_a_password()

    def _ask_for_a_password(self) -> None:
        with MongoClient[Document]("localhost", self.mongo_port) as client:
            client.admin.command("createUser", "admin", pwd="a-secret", roles=["root"])
        self.mongod("--shutdown", "--config", "mongod.conf")
        self._configure("enabled")
        self.mongod("--fork", "--config", "mongod.conf")

    def _configure(self, authorization: str) -> None:
        text = _CONF.format(folder=self.folder, port=self.mongo_port, authorization=authorization)
        (self.folder / "mongod.conf").write_text(text, encoding="utf-8")

    def mongod(self, *options: str) -> None:
        """Run mongod in the folder; it leaves a process behind, or ends one."""
        command = [str(self.folder / "bin" / "mongod"), *options]
        run(command, cwd=self.folder, check=True, capture_output=True, timeout=60)


def _script(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
