"""The alerts fit what the service exports: real faults, seen by promtool's eyes."""

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import wall_clock
from service.telemetry import Telemetry
from tests.faults.conftest import database, db, replica_set_url
from tests.faults.keeper import Cluster, kept
from tests.flow.conftest import Database, Service, Start, TestConductor, conductor, config
from tests.flow.conftest import start as start_service
from tests.ops.promtool import ROOT, RULES, Samples, assert_alerts, run_promtool, samples_in
from tests.steps import eventually

__all__ = ["conductor", "database", "db", "replica_set_url", "start_service"]

RESYNC = timedelta(hours=1)
"""What is held in a test is not refreshed: a resync would come due meanwhile."""
NAME = re.compile(r"\b(?:councilor|process|python)_[a-z_]+\b")
_ALERT = re.compile(r"^ *- alert: (\w+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A mongod that may be killed."""
    with kept(tmp_path_factory.mktemp("alerts"), members=1) as cluster:
        yield cluster


@pytest.fixture
async def cluster(alone: Cluster) -> AsyncIterator[Cluster]:
    yield alone
    await alone.restore()


@pytest.fixture
async def start(start_service: Start, cluster: Cluster) -> AsyncIterator[Start]:
    """Start a service; a database that was killed is there again before it is stopped."""
    yield start_service
    await cluster.restore()


async def scraped(service: Service) -> Samples:
    _, text = await service.get("/metrics")
    return samples_in(text, wall_clock().timestamp())


async def insert(db: Database, agent_id: str, value: str, prompt: str = "look") -> None:
    await db["agents"].insert_one(
        {"agent_id": agent_id, "is_councilor": True, "councilor_config": config(value, prompt)}
    )


async def ran(db: Database) -> None:
    await eventually(lambda: db["councilor_executions"].find_one({"status": "completed"}))


@pytest.mark.mongo
async def test_a_conductor_that_was_killed_is_what_is_told(
    start: Start, db: Database, conductor: TestConductor, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(conductor.listening())  # another one, to be killed
        service = await start(scheduler_resync_interval=RESYNC)
        for number in range(4):
            await insert(db, f"scout-{number}", "1s")
        await ran(db)
        healthy = await scraped(service)

    async def is_down() -> bool:
        return await service.metric("councilor_conductor_up") == 0

    await eventually(is_down)
    assert_alerts(tmp_path, healthy, await scraped(service), "CouncilorConductorDown")


@pytest.mark.mongo
async def test_a_database_that_was_killed_is_what_is_told(
    start: Start, db: Database, cluster: Cluster, tmp_path: Path
) -> None:
    service = await start(scheduler_resync_interval=RESYNC)
    await insert(db, "scout", "1s")
    await ran(db)
    healthy = await scraped(service)
    await cluster.kill(cluster.nodes[0])

    async def is_lost() -> bool:
        return await service.metric("councilor_watch_up") == 0

    await eventually(is_lost, within=40)
    assert_alerts(tmp_path, healthy, await scraped(service), "CouncilorWatchDown")


@pytest.mark.mongo
async def test_a_configuration_that_was_broken_is_what_is_told(
    start: Start, db: Database, tmp_path: Path
) -> None:
    service = await start(scheduler_resync_interval=RESYNC)
    await insert(db, "scout", "1s")
    await insert(db, "other", "1h")
    await ran(db)
    healthy = await scraped(service)
    broken = {"$set": {"councilor_config.schedule.value": "0m"}}
    await db["agents"].update_one({"agent_id": "other"}, broken)

    async def is_seen() -> bool:
        is_invalid = await service.metric('councilor_jobs{state="invalid"}') == 1
        return is_invalid and await service.metric("councilor_verdicts_waiting") == 0

    await eventually(is_seen)  # and told: what waits at the scrape would be held for long
    assert_alerts(tmp_path, healthy, await scraped(service), "CouncilorInvalidConfigs")


@pytest.mark.mongo
async def test_a_service_that_is_well_calls_nobody_and_exports_what_promtool_accepts(
    start: Start, db: Database, tmp_path: Path
) -> None:
    service = await start(scheduler_resync_interval=RESYNC)
    for prompt in ("look", "status"):  # one of them always fails
        await insert(db, prompt, "1s", prompt)
    await ran(db)
    first = await scraped(service)
    await eventually(lambda: db["councilor_executions"].find_one({"status": "error"}))
    assert_alerts(tmp_path, first, await scraped(service), None)
    _, text = await service.get("/metrics")
    run_promtool("check", "metrics", stdin=text)


def test_promtool_accepts_the_rules_and_their_own_tests() -> None:
    run_promtool("check", "rules", str(RULES))
    for tests in ("alerts", "alerts-of-days"):
        run_promtool("test", "rules", f"tests/ops/{tests}.test.yaml")


def exported() -> set[str]:
    families = text_string_to_metric_families(Telemetry().exposition().decode())
    return {sample.name for family in families for sample in family.samples}


def test_every_alert_is_on_metrics_that_are_there() -> None:
    rules = RULES.read_text()
    wanted = {name for name in NAME.findall(rules) if not name.endswith("_status")}
    assert wanted
    assert wanted - exported() == set()


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    rules, page = RULES.read_text(), (ROOT / "docs" / "alerts.md").read_text(encoding="utf-8")
    alerts = _ALERT.findall(rules)
    assert len(alerts) == len(set(alerts)) > 20
    tests = (ROOT / "tests" / "ops" / "alerts.test.yaml").read_text()
    assert [alert for alert in alerts if alert not in tests] == []
    assert [alert for alert in alerts if f"\n## {alert}\n" not in page] == []
    anchors = re.findall(r'runbook_url: "docs/alerts\.md#(\w+)"', rules)
    assert anchors == [alert.lower() for alert in alerts]
    for severity in re.findall(r"severity: (\w+)", rules):
        assert severity in {"critical", "warning", "info"}


def test_prometheus_of_compose_takes_its_configuration(tmp_path: Path) -> None:
    """Its rule file stands at another place in the container."""
    written = (ROOT / "scripts" / "compose" / "prometheus.yaml").read_text(encoding="utf-8")
    config = tmp_path / "prometheus.yaml"
    assert "/etc/prometheus/alerts.yaml" in written
    config.write_text(written.replace("/etc/prometheus/alerts.yaml", str(RULES)), encoding="utf-8")
    run_promtool("check", "config", str(config))
