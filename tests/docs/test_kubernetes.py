"""What docs/kubernetes.md tells people to type: run, with a kubectl that takes notes."""

import json
import re
import shlex
import shutil
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import __version__
from service.app import mongodb_url
from service.settings import Settings, unknown_variables
from tests.docs.pages import ROOT, block
from tests.flow.conftest import Database, Start, conductor, config, db, start
from tests.mongosh import ran
from tests.supply.manifest import MANIFEST, NAME, container, of_kind, pod, secret_keys

__all__ = ["conductor", "db", "start"]

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
_NOTES = f"""#!{sys.executable}
import json, os, subprocess, sys
from pathlib import Path

words = sys.argv[1:]
note = {{"program": Path(sys.argv[0]).name, "words": words, "files": {{}}, "given": ""}}
for word in words:
    path = Path(word.partition("=")[2])
    if word.startswith("--from-env-file="):
        note["files"][path.name] = path.read_text()
        note["mode"] = path.stat().st_mode & 0o777
if "-" in words:
    note["given"] = sys.stdin.read()
with open(os.environ["NOTES"], "a") as notes:
    print(json.dumps(note), file=notes)
if words[:2] == ["get", "pods"] and words[-1] == "name":
    print("pod/one")
if words[:1] == ["exec"]:
    sys.exit(subprocess.run(words[words.index("--") + 1 :]).returncode)
"""
_SERVICE = f"""#!/bin/sh
cd {shlex.quote(str(ROOT))} && exec {shlex.quote(sys.executable)} -m service "$@"
"""


@dataclass(frozen=True, slots=True)
class Typed:
    """What a block made of its programs, in their order, and what it printed."""

    notes: list[dict[str, Any]]
    printed: str

    @property
    def lines(self) -> list[str]:
        return [shlex.join([note["program"], *note["words"]]) for note in self.notes]


async def typed(script: str, folder: Path, **environ: str) -> Typed:
    """Run a block with stand-ins for docker and kubectl, and with the service's own commands."""
    for name, text in (("docker", _NOTES), ("kubectl", _NOTES), (NAME, _SERVICE)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o700)
    (folder / "python").symlink_to(sys.executable)
    notes = folder / "notes"
    notes.touch()
    command = ["bash", "-c", f"set -euo pipefail\nPATH={folder}:$PATH\n{script}"]
    printed = await ran(command, NOTES=str(notes), **environ)
    return Typed([json.loads(line) for line in notes.read_text().splitlines()], printed)


async def test_the_image_that_is_built_is_the_one_that_is_deployed(tmp_path: Path) -> None:
    done = await typed(block("kubernetes-image"), tmp_path)
    assert done.lines == [f"docker build -t {container()['image']} ."]
    images = set(re.findall(rf"{NAME}:[\w.]+", PAGE))
    assert images == {f"{NAME}:{__version__}"}


async def test_the_secret_has_what_the_pods_want_and_is_read_by_nobody_else(
    tmp_path: Path,
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, by which the token is made")
    done = await typed(f"cd {tmp_path}\n" + block("kubernetes-secret"), tmp_path)
    (note,) = done.notes
    assert note["words"][:4] == ["create", "secret", "generic", NAME]
    lines = note["files"]["secret.env"].splitlines()
    entries = dict(line.split("=", 1) for line in lines)
    assert secret_keys(required=True) <= entries.keys()
    assert entries.keys() <= secret_keys(required=True) | secret_keys(required=False)
    assert unknown_variables(entries) == []
    settings = Settings(**{name.lower(): value for name, value in entries.items()})
    assert mongodb_url(settings).endswith("?replicaSet=rs0&authSource=conductor_state")
    assert settings.scheduler_http_token is not None
    assert re.fullmatch("[0-9a-f]{64}", settings.scheduler_http_token.get_secret_value())
    assert note["mode"] == stat.S_IRUSR | stat.S_IWUSR
    assert not (tmp_path / "secret.env").exists()


@pytest.mark.mongo
async def test_what_is_applied_is_the_manifest_and_the_councilors_are_shown(
    tmp_path: Path, start: Start, db: Database, replica_set_url: str, database: str
) -> None:
    scout = {"agent_id": "scout", "is_councilor": True, "councilor_config": config("1h")}
    await db["agents"].insert_one(scout)
    await start()
    where = {"MONGODB_URL": replica_set_url, "MONGODB_DATABASE": database}
    done = await typed(block("kubernetes-apply"), tmp_path, **where)
    assert done.lines[0] == f"kubectl apply -f {MANIFEST.relative_to(ROOT)}"
    assert "scout" in done.printed
    assert [note["words"][0] for note in done.notes] == ["apply", "rollout", "exec"]


@pytest.mark.mongo
async def test_a_replica_that_is_not_ready_says_why(tmp_path: Path, start: Start) -> None:
    service = await start()
    port = service.base_url.rpartition(":")[2]
    script = block("kubernetes-why").replace(str(container()["ports"][0]["containerPort"]), port)
    done = await typed(script, tmp_path)
    told = json.loads(done.printed.splitlines()[-1])
    table = PAGE.partition("| check in `/healthz` |")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == told["checks"].keys()


async def test_the_alerts_become_a_rule_of_the_operator(tmp_path: Path) -> None:
    done = await typed(block("kubernetes-alerts"), tmp_path)
    (note,) = done.notes
    assert note["words"] == ["apply", "-f", "-"]
    rule = yaml.safe_load(note["given"])
    alerts = yaml.safe_load((ROOT / "scripts" / "prometheus-alerts.yaml").read_text())
    assert rule["kind"] == "PrometheusRule"
    assert rule["apiVersion"] == of_kind("ServiceMonitor")["apiVersion"]
    assert rule["spec"] == alerts


async def test_scaling_is_of_the_deployment(tmp_path: Path) -> None:
    done = await typed(block("kubernetes-scale"), tmp_path)
    (note,) = done.notes
    assert note["words"][:2] == ["scale", f"deployment/{of_kind('Deployment')['metadata']['name']}"]


def commands() -> list[str]:
    """Every kubectl command of the page, those within its sentences, too."""
    whole = " ".join(PAGE.split())
    return re.findall(r"kubectl [a-z-]+ [^`|;)]+", whole)


def test_what_commands_name_is_there() -> None:
    named = [name for command in commands() for name in re.findall(r"\b\w+/councilor\S*", command)]
    assert len(named) >= 6
    kinds = {f"{kind.lower()}/{NAME}" for kind in ("Deployment", "Service")}
    assert set(named) <= kinds
    assert {of_kind(kind)["metadata"]["name"] for kind in ("Deployment", "Service")} == {NAME}
    labels = {name for command in commands() for name in re.findall(r"-l (\S+)=", command)}
    assert labels <= pod()["metadata"]["labels"].keys()


def test_files_that_it_names_are_there() -> None:
    files = set(re.findall(r"\bscripts/[\w.-]+", PAGE))
    assert len(files) >= 3
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_settings_that_it_names_are_there() -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\b(?:SCHEDULER|MONGODB|CONDUCTOR)_[A-Z_]+", PAGE))
    assert "SCHEDULER_DRAIN_TIMEOUT" in named
    assert named <= known
