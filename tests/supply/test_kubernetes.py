"""The manifest fits Kubernetes, and the service that it runs."""

import re
from copy import deepcopy
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest
from kubernetes_validate import ValidationError, validate
from kubernetes_validate.utils import all_versions

from service import __version__
from service.app import _LAST_NOTIFICATIONS
from service.settings import Settings, unknown_variables
from service.web.server import OPEN_PATHS
from tests.supply.manifest import (
    NAME,
    ROOT,
    Object,
    container,
    objects,
    of_kind,
    pod,
    secret_keys,
)

VERSIONS = [each for each in all_versions() if tuple(map(int, each.split("."))) >= (1, 27)]
"""From 1.27 on there is unhealthyPodEvictionPolicy, and matchLabelKeys, without asking for it."""
CORE = [each for each in objects() if each["kind"] != "ServiceMonitor"]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
_SPARE = timedelta(seconds=5)
"""For what is written at the end: results, the projection, the heartbeat's end."""


def validated(thing: Object, version: str) -> None:
    validate(thing, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("thing", CORE, ids=[each["kind"] for each in CORE])
def test_every_object_fits_its_schema(thing: Object, version: str) -> None:
    assert len(VERSIONS) > 2
    validated(thing, version)


def test_a_field_that_kubernetes_does_not_have_is_found() -> None:
    thing = deepcopy(of_kind("Deployment"))
    thing["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(ValidationError):
        validated(thing, VERSIONS[-1])


def test_the_service_monitor_has_fields_of_its_definition() -> None:
    """As monitoring.coreos.com/v1 defines them; no schema of it is at hand."""
    monitor = of_kind("ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(monitor["spec"]) == {"selector", "endpoints"}
    assert set(monitor["spec"]["selector"]) == {"matchLabels"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert set(endpoint) == {"port", "path", "interval", "scrapeTimeout"}
    duration = re.compile(r"(\d+)s")
    interval, limit = (duration.fullmatch(endpoint[n]) for n in ("interval", "scrapeTimeout"))
    assert interval is not None
    assert limit is not None
    assert 15 <= int(interval[1]) <= 60, "as the alerts ask for"
    assert int(limit[1]) <= int(interval[1])
    assert endpoint["path"] in OPEN_PATHS
    assert endpoint["port"] in {port["name"] for port in of_kind("Service")["spec"]["ports"]}
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels(of_kind("Service")).items()


def environment() -> dict[str, str]:
    """What a container gets, with something in place of what stands in the Secret."""
    secret = {"MONGODB_URL": "mongodb://mongo/?replicaSet=rs0", "SCHEDULER_NOTIFY_URLS": ""}
    return {each["name"]: each.get("value") or secret.get(each["name"], "x") for each in env()}


def env() -> list[Object]:
    return list(container()["env"])


def settings() -> Settings:
    return Settings(**{name.lower(): value for name, value in environment().items()})  # type: ignore[arg-type]


def test_its_variables_are_settings_of_the_service() -> None:
    known = {name.upper() for name in Settings.model_fields}
    assert environment().keys() <= known
    assert unknown_variables(environment()) == []
    assert settings().scheduler_http_host == "0.0.0.0"  # noqa: S104 what the probes need


def test_what_is_secret_stands_in_the_secret_alone() -> None:
    secret = {
        name.upper() for name, field in Settings.model_fields.items() if "Secret" in repr(field)
    }
    secret.remove("CONDUCTOR_API_URL")  # it may carry a password, and this one does not
    assert {each["name"] for each in env() if "value" in each} & secret == set()
    assert secret_keys(required=True) == {"MONGODB_URL", "SCHEDULER_HTTP_TOKEN"}
    assert secret_keys(required=True) | secret_keys(required=False) == secret
    references = [each["valueFrom"]["secretKeyRef"] for each in env() if "valueFrom" in each]
    assert {each["name"] for each in references} == {NAME}
    assert "Secret" not in {each["kind"] for each in objects()}


@pytest.mark.parametrize("probe", PROBES)
def test_probes_ask_what_answers_without_a_token(probe: str) -> None:
    asked = container()[probe]["httpGet"]
    assert asked["path"] in OPEN_PATHS
    assert asked["port"] in {port["name"] for port in container()["ports"]}


def test_only_readiness_depends_on_the_database() -> None:
    """A restart would mend nothing, and lose what waits to be written."""
    paths = {probe: container()[probe]["httpGet"]["path"] for probe in PROBES}
    expected = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert paths == expected


def test_the_port_is_the_one_that_the_service_listens_on() -> None:
    (listens,) = container()["ports"]
    assert listens["containerPort"] == settings().scheduler_http_port
    (port,) = of_kind("Service")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (listens["containerPort"], listens["name"])


def test_its_user_is_the_one_of_the_image() -> None:
    found = re.search(r"^USER (\d+):(\d+)$", dockerfile(), re.MULTILINE)
    assert found is not None
    security = pod()["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == (int(found[1]), int(found[2]))


def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_it_is_the_image_of_this_version() -> None:
    assert container()["image"] == f"{NAME}:{__version__}"
    for thing in (of_kind("Deployment"), pod()):
        assert labels(thing)["app.kubernetes.io/version"] == __version__


def test_a_drain_fits_into_the_grace_period() -> None:
    grace = timedelta(seconds=pod()["spec"]["terminationGracePeriodSeconds"])
    assert grace >= settings().scheduler_drain_timeout + _LAST_NOTIFICATIONS + _SPARE


def labels(thing: Object) -> dict[str, str]:
    return dict(thing["metadata"]["labels"])


def selectors() -> dict[str, dict[str, str]]:
    spread = pod()["spec"]["topologySpreadConstraints"]
    return {
        "Deployment": of_kind("Deployment")["spec"]["selector"]["matchLabels"],
        "PodDisruptionBudget": of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        "Service": of_kind("Service")["spec"]["selector"],
        **{each["topologyKey"]: each["labelSelector"]["matchLabels"] for each in spread},
    }


@pytest.mark.parametrize("name", selectors())
def test_selectors_mean_the_pods_of_every_version(name: str) -> None:
    selector = selectors()[name]
    assert selector.items() <= labels(pod()).items()
    assert "app.kubernetes.io/name" in selector
    assert "app.kubernetes.io/version" not in selector, "a selector cannot be changed later"


def test_a_machine_can_be_emptied_and_a_rollout_takes_nothing_away() -> None:
    deployment, budget = of_kind("Deployment")["spec"], of_kind("PodDisruptionBudget")["spec"]
    assert deployment["replicas"] > budget["minAvailable"] >= 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_it_is_restricted_as_the_pod_security_standard_asks() -> None:
    """The standard's "restricted" (kubernetes.io, "Pod Security Standards"), and more."""
    spec, security = pod()["spec"], container()["securityContext"]
    assert not {"hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"} & spec.keys()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert of_kind("ServiceAccount")["automountServiceAccountToken"] is False
    assert spec["serviceAccountName"] == of_kind("ServiceAccount")["metadata"]["name"]


def test_every_object_has_the_same_name_and_no_namespace() -> None:
    metadata: list[dict[str, Any]] = [each["metadata"] for each in objects()]
    assert {each["name"] for each in metadata} == {NAME}
    assert {each["labels"]["app.kubernetes.io/name"] for each in metadata} == {NAME}
    assert "namespace" not in set(chain.from_iterable(metadata))
