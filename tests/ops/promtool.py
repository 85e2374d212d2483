"""promtool, and the way from what a service exports to a test of the alerts on it."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
RULES = ROOT / "scripts" / "prometheus-alerts.yaml"
_STEP_SECONDS = 15
_HEALTHY_STEPS, _BROKEN_STEPS = 40, 80
"""Held for longer than any alert wants it to be, in front of the fault and within it."""
_INSTANTS = ("_timestamp_seconds", "process_start_time_seconds")

Samples = Mapping[str, float]


def run_promtool(*arguments: str, stdin: str = "") -> None:
    """Let promtool check something; what it has against that fails the test."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    done = subprocess.run(
        [promtool, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def samples_in(exposition: str, scraped_at: float) -> Samples:
    """Each series by its name and labels; instants in seconds from when they were scraped."""
    found = dict[str, float]()
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            where = {**labels, "job": "councilor", "instance": "one"}
            said = ",".join(f"{label}={json.dumps(text)}" for label, text in where.items())
            is_instant = name.endswith(_INSTANTS) and value
            found[f"{name}{{{said}}}"] = value - scraped_at if is_instant else value
    return found


def assert_alerts(folder: Path, healthy: Samples, broken: Samples, expected: str | None) -> None:
    """Hold what was scraped, then what was scraped during a fault: this alert fires, no other."""
    series = [
        {"series": name, "values": _held(healthy[name], broken[name])}
        for name in sorted(healthy.keys() & broken.keys())
    ]
    assert healthy.keys() == broken.keys(), "each label value is there from the start"
    fired = {"labels": f'{{alertname="{expected}"}}', "value": 1}
    begins, ends = _HEALTHY_STEPS * _STEP_SECONDS, _BROKEN_STEPS * _STEP_SECONDS
    ever = 'count by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{seconds}s]))'
    cases = [
        (ever.format(seconds=begins), begins, []),
        (ever.format(seconds=ends), begins + ends, [fired] if expected else []),
    ]
    test: dict[str, Any] = {
        "interval": f"{_STEP_SECONDS}s",
        "input_series": series,
        "promql_expr_test": [
            {"expr": expression, "eval_time": f"{at}s", "exp_samples": wanted}
            for expression, at, wanted in cases
        ],
    }
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "15s", "tests": [test]}
    file = folder / "fault.test.yaml"
    file.write_text(json.dumps(tests))  # which is YAML, too
    run_promtool("test", "rules", str(file))


def _held(healthy: float, broken: float) -> str:
    return f"{healthy:.9f}+0x{_HEALTHY_STEPS} {broken:.9f}+0x{_BROKEN_STEPS}"
