"""What is set up has the shape that its plugin's documentation asks for, and names fields that exist.

The plugins and Dashboards are not on the test node: the schemas in ``schemas/`` are written from their documentation.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from darl_opensearch.cluster.setup.assets import MONITORS, list_assets
from darl_opensearch.cluster.setup.dashboards import JSON_TEXTS, format_lines, render_saved_objects
from darl_opensearch.cluster.setup.options import SetupOptions
from darl_opensearch.ood.stream import template
from darl_opensearch.resources import plugin_config
from tests.helpers.saved_objects import conditions_of, fields_of, search_of, state_of

PLAIN = SetupOptions(index=("products", "offers-*"))
OTHER = SetupOptions(
    stream="other-log", history="other-releases", index=("products",), retention_days=1, share_limit=0.3, drift_z=6.0,
    not_reranked_limit=0.0, lag_minutes=5, min_requests=1, channel="c1", data_source="d-1", workspace="w-1",
)  # fmt: skip
ALL = [*list_assets(PLAIN), *list_assets(OTHER)]
SAVED = [*render_saved_objects(PLAIN), *render_saved_objects(OTHER)]
SCHEMAS = {
    name: Draft202012Validator(json.loads((Path(__file__).parent / f"schemas/{name}.schema.json").read_text()))
    for name in ("ism_policy", "monitor", "role", "saved_object")
}
OF = {"ism": "ism_policy", "monitors": "monitor", "roles": "role"}


def mapped(mappings, prefix=""):
    """Every field of a mapping, subfields too."""
    found = set()
    for name, field in mappings.get("properties", {}).items():
        found |= {prefix + name, *(f"{prefix}{name}.{sub}" for sub in field.get("fields", ()))}
        found |= mapped(field, f"{prefix}{name}.")
    return found


LOG = mapped(template()["template"]["mappings"])
HISTORY = mapped(json.loads((plugin_config() / "releases_index.json").read_text())["mappings"])


def named_fields(node):
    """The fields that a search body names."""
    if isinstance(node, list):
        for part in node:
            yield from named_fields(part)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("term", "range"):
                yield from value
            elif key == "field":
                yield value
            else:
                yield from named_fields(value)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_schema_is_one_and_refuses(schema):
    Draft202012Validator.check_schema(schema.schema)
    assert not schema.is_valid({}) and "$comment" in schema.schema


@pytest.mark.parametrize("asset", ALL, ids=lambda asset: asset.name)
def test_each_body_has_the_documented_shape(asset):
    errors = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in SCHEMAS[OF[asset.part]].iter_errors(asset.body)]
    assert errors == []


@pytest.mark.parametrize("one", SAVED, ids=lambda one: one["id"])
def test_each_saved_object_has_the_documented_shape(one):
    errors = [f"{'/'.join(map(str, e.path))}: {e.message}" for e in SCHEMAS["saved_object"].iter_errors(one)]
    assert errors == []
    for line in format_lines([one]):
        assert "\n" not in line and json.loads(line) == one


def test_a_schema_finds_what_is_wrong():
    body = json.loads(json.dumps(next(asset.body for asset in ALL if asset.part == "monitors")))
    body["triggers"][0]["query_level_trigger"]["severity"] = 3
    assert not SCHEMAS["monitor"].is_valid(body)
    body["monitor_type"] = "bucket_level_monitor"
    assert len(list(SCHEMAS["monitor"].iter_errors(body))) > 1


@pytest.mark.parametrize("asset", ALL, ids=lambda asset: asset.name)
def test_each_entry_bears_its_mark(asset):
    text = json.dumps(asset.body)
    assert text.count(asset.digest) == 1
    twin = next(twin for twin in ALL if twin.name == asset.name)
    assert (twin.digest == asset.digest) == (twin.body == asset.body)


def test_a_policy_goes_from_state_to_state_and_ends():
    policy = ALL[0].body["policy"]
    states = {state["name"]: [t["state_name"] for t in state["transitions"]] for state in policy["states"]}
    assert states == {"write": ["keep"], "keep": ["delete"], "delete": []} and policy["default_state"] == "write"
    assert policy["ism_template"][0]["index_patterns"] == ["darl-ood"]


@pytest.mark.parametrize("asset", [a for a in ALL if a.part == "monitors"], ids=lambda asset: asset.name)
def test_monitors_name_fields_that_exist(asset):
    search = asset.body["inputs"][0]["search"]
    known = HISTORY if search["indices"][0].endswith("releases") else LOG
    assert set(named_fields(search["query"])) <= known


@pytest.mark.parametrize("asset", [a for a in ALL if a.part == "monitors"], ids=lambda asset: asset.name)
def test_conditions_read_aggregations_that_are_asked_for(asset):
    aggregations = asset.body["inputs"][0]["search"]["query"]["aggregations"]
    [[kind, trigger]] = asset.body["triggers"][0].items()
    source = trigger["condition"]["script"]["source"]
    assert "{{" not in source
    if kind == "query_level_trigger":
        read = set(re.findall(r"(?:found|aggregations)\.(\w+)\.", source))
        assert read and read <= aggregations.keys()
        return
    paths = trigger["condition"]["buckets_path"]
    inner = aggregations[trigger["condition"]["parent_bucket_path"]]["aggregations"]
    assert {path.partition(">")[0] for path in paths.values()} <= inner.keys() | {"_count"}
    assert set(re.findall(r"params\.(\w+)", source)) == paths.keys()


def test_every_monitor_file_is_set_up():
    files = {path.stem.removeprefix("monitor_") for path in plugin_config().glob("monitor_*.json")}
    assert files == {*MONITORS, "action"}


def test_limits_come_from_alpha_or_from_the_operator():
    def source(options, name):
        body = next(a.body for a in list_assets(options) if name in a.name)
        return next(iter(body["triggers"][0].values()))["condition"]["script"]["source"]

    assert "> 2.0 * alpha;" in source(PLAIN, "share OOD: ") and "> 0.300000;" in source(OTHER, "share OOD: ")
    assert "> 2.0 * alpha;" in source(PLAIN, "by slice") and "> 0.300000;" in source(OTHER, "by slice")


@pytest.mark.parametrize("one", SAVED, ids=lambda one: one["id"])
def test_saved_objects_name_fields_that_exist(one):
    by_history = any(ref["id"].endswith("darl-history") for ref in one["references"]) or one["id"].endswith("history")
    assert set(fields_of(one)) <= (HISTORY if by_history else LOG)


@pytest.mark.parametrize("options", [PLAIN, OTHER], ids=["plain", "other"])
def test_references_lead_to_objects_that_are_there(options):
    objects = render_saved_objects(options)
    there = {(one["type"], one["id"]) for one in objects} | {("data-source", options.data_source)}
    for one in objects:
        assert {(ref["type"], ref["id"]) for ref in one["references"]} <= there
    dashboard = next(one for one in objects if one["type"] == "dashboard")
    panels = json.loads(dashboard["attributes"]["panelsJSON"])
    assert [panel["panelRefName"] for panel in panels] == [ref["name"] for ref in dashboard["references"]]
    shown = {ref["id"] for ref in dashboard["references"]}
    assert shown == {one["id"] for one in objects if one["type"] in ("visualization", "search")}
    grid = [panel["gridData"] for panel in panels]
    cells = [(g["x"] + x, g["y"] + y) for g in grid for x in range(g["w"]) for y in range(g["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) == 47


@pytest.mark.parametrize("one", [o for o in SAVED if o["type"] == "visualization"], ids=lambda one: one["id"])
def test_a_visualization_is_consistent(one):
    state = state_of(one)
    assert state["title"] == one["attributes"]["title"]
    ids = [agg["id"] for agg in state["aggs"]]
    assert len(set(ids)) == len(ids) and all(agg["enabled"] for agg in state["aggs"])
    metrics = {agg["id"] for agg in state["aggs"] if agg["schema"] == "metric"}
    assert {agg["params"].get("orderBy", "_key") for agg in state["aggs"]} <= metrics | {"_key"}
    assert {series["data"]["id"] for series in state["params"].get("seriesParams", ())} in (metrics, set())
    assert conditions_of(one)["kind"] in ("request", "pair")
    assert set(named_fields(search_of(one))) <= LOG


def test_texts_of_dashboards_are_json_in_the_file_and_text_when_sent():
    raw = (plugin_config() / "dashboards.ndjson").read_text()
    assert not any(f'"{name}": "' in raw for name in JSON_TEXTS)
    assert all(isinstance(json.loads(one["attributes"].get("visState", "{}")), dict) for one in SAVED)


def test_ids_do_not_meet_between_workspaces_and_data_sources():
    ids = [one["id"] for one in SAVED]
    assert len(set(ids)) == len(ids)
    assert {one["id"].rpartition("_")[0] for one in SAVED} == {"", "w-1_d-1"}
    assert not any("_" in one["id"] for one in render_saved_objects(PLAIN))  # it would end a data source's id
