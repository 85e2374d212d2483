"""The dashboard can be imported, its panels do not overlap, and what they ask for is exported."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import pytest

from tests.ops.promtool import ROOT, run_promtool
from tests.ops.test_alerts import NAME, exported

_LOADED: dict[str, Any] = json.loads((ROOT / "scripts" / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = _LOADED["panels"]
ASKING = [panel for panel in PANELS if panel["type"] != "row"]
_WIDTH = 24
_MACROS = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}


def datasources(value: object) -> Iterator[Mapping[str, str]]:
    """Every reference to a data source, wherever it stands."""
    if isinstance(value, dict):
        if "uid" in value and "type" in value and len(value) == 2:
            yield value
        for part in value.values():
            yield from datasources(part)
    if isinstance(value, list):
        for part in value:
            yield from datasources(part)


def test_panels_have_ids_of_their_own_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids)) > 20
    places = [panel["gridPos"] for panel in PANELS]
    for place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= _WIDTH
    for one, other in combinations(places, 2):
        is_beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        is_below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert is_beside or is_below, (one, other)


def test_no_data_source_is_named_but_the_one_that_is_chosen() -> None:
    found = {source["uid"] for source in datasources(_LOADED)}
    assert found == {"${datasource}", "-- Grafana --"}
    chosen = {variable["name"]: variable["type"] for variable in _LOADED["templating"]["list"]}
    assert chosen == {"datasource": "datasource", "job": "query", "instance": "query"}


@pytest.mark.parametrize("panel", ASKING, ids=[panel["title"] for panel in ASKING])
def test_a_panel_asks_for_what_is_exported_and_says_what_it_means(panel: Mapping[str, Any]) -> None:
    assert panel["description"]
    assert panel["targets"]
    for target in panel["targets"]:
        names = set(NAME.findall(target["expr"]))
        assert names
        assert names - exported() == set()
        assert "$instance" in target["expr"]


def test_promtool_can_read_every_expression(tmp_path: Any) -> None:
    rules = [
        {"record": f"panel:{panel['id']}:{target['refId']}", "expr": _spelt(target["expr"])}
        for panel in ASKING
        for target in panel["targets"]
    ]
    file = tmp_path / "panels.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    run_promtool("check", "rules", str(file))


def _spelt(expression: str) -> str:
    for macro, text in _MACROS.items():
        expression = expression.replace(macro, text)
    assert not re.search(r"\$\w", expression)
    return expression
