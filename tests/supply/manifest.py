"""scripts/kubernetes.yaml, read."""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
MANIFEST = ROOT / "scripts" / "kubernetes.yaml"
NAME = "councilor-scheduler"

Object = dict[str, Any]


def objects() -> list[Object]:
    """Everything that `kubectl apply` makes of it, in its order."""
    return list(yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8")))


def of_kind(kind: str) -> Object:
    """The object of this kind; there must be exactly one."""
    (found,) = (each for each in objects() if each["kind"] == kind)
    return found


def pod() -> Object:
    """What the Deployment makes pods of: `metadata` and `spec`."""
    template: Object = of_kind("Deployment")["spec"]["template"]
    return template


def container() -> Object:
    """The only container of a pod."""
    (found,) = pod()["spec"]["containers"]
    return dict(found)


def secret_keys(*, required: bool) -> set[str]:
    """The keys that pods take from the Secret: those they do not start without, or the others."""
    sources = (each.get("valueFrom", {}).get("secretKeyRef") for each in container()["env"])
    return {
        source["key"]
        for source in sources
        if source is not None and source.get("optional", False) is not required
    }
