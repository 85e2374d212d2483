"""compose.yaml agrees with the service; scripts/smoke tries it for real."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"secrets", "replica-set", "sample-councilors"}
"""Services that do one thing and end."""
LASTING = sorted(SERVICES.keys() - ONCE)
OURS = ["scheduler", "conductor"]
_OF_THE_IMAGE = {"SCHEDULER_HTTP_HOST", "SCHEDULER_HTTP_PORT"}
"""Where it listens inside of its container is nobody's choice."""


def test_every_setting_can_be_given() -> None:
    settings = {name.upper() for name in Settings.model_fields} - _OF_THE_IMAGE
    assert SERVICES["scheduler"]["environment"].keys() == settings


def test_nothing_needs_a_newer_compose() -> None:
    """docker-compose 1.29 knows no top-level `name`, and ignores limits under `deploy`."""
    extensions = {name for name in COMPOSE if name.startswith("x-")}
    assert COMPOSE.keys() - extensions == {"services", "volumes"}
    assert [name for name, service in SERVICES.items() if "deploy" in service] == []


@pytest.mark.parametrize("name", SERVICES)
def test_logs_are_bounded(name: str) -> None:
    assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_limited_and_started_again(name: str) -> None:
    assert SERVICES[name]["mem_limit"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "user" not in service  # the image's own: 10001
    assert "tmpfs" not in service


def test_two_replicas_wait_for_the_set_and_drain() -> None:
    scheduler = SERVICES["scheduler"]
    assert scheduler["scale"] == 2
    before = dict(scheduler["depends_on"])
    assert before.pop("replica-set") == {"condition": "service_completed_successfully"}
    # Else docker-compose 1.29 ends the members beside the schedulers, which then drain nowhere.
    assert before.keys() == {"mongo1", "mongo2", "mongo3"}
    grace = scheduler["stop_grace_period"].removeprefix("${SCHEDULER_STOP_GRACE:-").rstrip("s}")
    drain: float = Settings.model_fields["scheduler_drain_timeout"].default.total_seconds()
    assert int(grace) >= drain + 5 + 5


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_member_has_authentication_and_a_volume_of_its_own(number: int) -> None:
    member = SERVICES[f"mongo{number}"]
    assert member["command"][-2:] == ["--keyFile", "/secrets/mongo/keyfile"]
    assert f"mongo{number}-data:/data/db" in member["volumes"]
    assert "ports" not in member


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_only_members_see_the_keys_of_mongodb() -> None:
    scheduler = SERVICES["scheduler"]["volumes"]
    assert scheduler == ["scheduler-secrets:/run/secrets:ro"]


def test_what_is_mounted_is_there() -> None:
    mounts = [str(mount) for service in SERVICES.values() for mount in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]
    assert files
    assert [name for name in files if not (ROOT / name).is_file()] == []
    volumes = {mount.split(":")[0] for mount in mounts if not mount.startswith("./")}
    assert volumes == COMPOSE["volumes"].keys()


def test_its_user_is_the_one_of_the_image() -> None:
    """The file that says where MongoDB is can be read by that number alone."""
    user = "USER 10001:10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    made = (ROOT / "scripts/compose/secrets").read_text(encoding="utf-8")
    assert user
    assert "address /secrets/scheduler/mongodb_url 10001:10001" in made


def test_the_image_says_its_version() -> None:
    from service import __version__

    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f'org.opencontainers.image.version="{__version__}"' in dockerfile
