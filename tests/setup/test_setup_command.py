"""``darl setup`` against a fake of the plugins that the test node lacks, with the shapes of their documentation."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cluster.setup.assets import MONITORS, ROLES
from darl_opensearch.ood import stream
from tests.helpers.http import serving
from tests.helpers.operator_plugins import STREAM_INDICES, OperatorPlugins


@pytest.fixture
def plugins():
    return OperatorPlugins()


@pytest.fixture
def setup(darl, plugins):
    """Run ``darl setup --json`` against the fake."""
    with serving(plugins.handler()) as url:

        def run(*words: str, as_json: bool = True):
            said = darl("setup", "--url", url, *words, *(["--json"] if as_json else []))
            return said

        run.url = url
        yield run


ROLES_FOR = ("--index", "products")


def test_all_that_the_plugins_allow_is_set_up_once(setup, plugins):
    done = json.loads(setup(*ROLES_FOR, "--dashboards-url", setup.url).out)
    assert done["skipped"] == {} and done["managed"] == {}
    assert {part: set(changes.values()) for part, changes in done["changes"].items()} == dict.fromkeys(
        ("ism", "monitors", "roles", "dashboards"), {"created"}
    )
    assert len(done["changes"]["monitors"]) == len(MONITORS) and len(done["changes"]["roles"]) == len(ROLES)
    assert plugins.managed == dict.fromkeys(STREAM_INDICES, "darl-ood")
    assert "darl-releases" in plugins.indices
    before = len(plugins.writes())
    again = json.loads(setup(*ROLES_FOR, "--dashboards-url", setup.url).out)
    assert {change for changes in again["changes"].values() for change in changes.values()} == {"unchanged"}
    assert len(plugins.writes()) == before


def test_another_option_updates_what_it_is_in_and_nothing_else(setup, plugins):
    setup(*ROLES_FOR)
    plugins.monitors["m0"]["enabled"] = False
    done = json.loads(setup(*ROLES_FOR, "--retention-days", "30", "--share-limit", "0.2").out)["changes"]
    assert done["ism"] == {"darl-ood": "updated"}
    updated = {name for name, change in done["monitors"].items() if change == "updated"}
    assert updated == {"DaRL share OOD: darl-ood", "DaRL share OOD by slice: darl-ood"}
    assert set(done["roles"].values()) == {"unchanged"}
    assert not plugins.monitors["m0"]["enabled"], "a monitor that was switched off stays off"
    assert ("POST", f"/_plugins/_ism/change_policy/{','.join(STREAM_INDICES)}".replace(",", "%2C")) in plugins.writes()


def test_a_dry_run_sends_nothing_and_lists_all(setup, plugins, tmp_path):
    plugins.streams.clear()
    out = tmp_path / "darl.ndjson"
    calls = json.loads(setup(*ROLES_FOR, "--dashboards-url", setup.url, "--out", str(out), "--dry-run").out)
    assert plugins.writes() == [] and not out.exists()
    paths = [call["path"] for call in calls]
    assert paths[:3] == ["/darl-releases", "/_index_template/darl-ood", "/_data_stream/darl-ood"]
    assert sum(path == "/_plugins/_alerting/monitors" for path in paths) == len(MONITORS)
    assert paths[-1] == "/api/saved_objects/_import?overwrite=true"
    assert "dashboard darl-overview" in calls[-1]["body"]["objects"]


def test_a_dry_run_lists_how_a_stream_of_an_earlier_version_is_brought_up_to_date(setup, plugins):
    plugins.template = {"version": 1, "priority": 777, "template": {"settings": {"number_of_shards": 2}}}
    listed = json.loads(setup("--only", "ism", "--dry-run").out)
    assert plugins.writes() == []
    (mapping, template) = (call for call in listed if call["path"].endswith(("/_mapping", "template/darl-ood")))
    wanted = stream.template()
    assert (mapping["method"], mapping["path"]) == ("PUT", "/darl-ood/_mapping")
    assert mapping["body"] == wanted["template"]["mappings"]
    assert (template["method"], template["path"]) == ("PUT", "/_index_template/darl-ood")
    assert template["body"] == {
        "version": wanted["version"], "priority": 777,
        "template": {"settings": {"number_of_shards": 2}, "mappings": wanted["template"]["mappings"]},
    }  # fmt: skip
    setup("--only", "ism")
    sent = [(method, path, body) for method, path, body in plugins.seen if method == "PUT"]
    assert [("PUT", call["path"], call["body"]) for call in (mapping, template)] == [
        one for one in sent if one[1] in (mapping["path"], template["path"])
    ]
    plugins.template = {"version": wanted["version"]}
    calls = json.loads(setup("--only", "ism", "--dry-run").out)
    assert not any(path in call["path"] for call in calls for path in ("_mapping", "_index_template"))


def test_a_dry_run_refuses_a_name_that_is_taken(setup, plugins):
    plugins.streams.clear()
    plugins.indices.add("darl-ood")
    assert "this is an index or alias, but OOD records require a data stream" in setup("--dry-run", as_json=False).err
    assert plugins.writes() == []


def test_a_missing_plugin_is_said_and_only_when_named_an_error(setup, plugins):
    plugins.plugins = ("opensearch-alerting",)
    done = json.loads(setup().out)
    assert list(done["changes"]) == ["monitors"]
    assert done["skipped"]["ism"].startswith("node n1 does not have the plugin opensearch-index-management")
    assert done["skipped"]["roles"].startswith("node n1 does not have the plugin opensearch-security")
    assert "--dashboards-url" in done["skipped"]["dashboards"]
    said = setup("--only", "ism", as_json=False)
    assert said.code == 1 and "does not have the plugin opensearch-index-management" in said.err


@pytest.mark.parametrize(("part", "todo"), [("roles", "Pass --index"), ("dashboards", "Pass --dashboards-url")])
def test_a_part_that_lacks_an_option_is_left_out_or_refused(setup, part, todo):
    assert part in json.loads(setup().out)["skipped"]
    said = setup("--only", part, as_json=False)
    assert said.code == 2 and todo in said.err


@pytest.mark.parametrize("part", ["ism", "monitors", "roles", "dashboards"])
def test_what_is_not_ours_is_not_overwritten_and_nothing_else_is_written(setup, plugins, part):
    if part == "ism":
        plugins.policies["darl-ood"] = {"description": "mine"}
    elif part == "monitors":
        trigger = {"query_level_trigger": {"id": "ud5k2GsBlQ5JUWWFxRvi", "name": "mine"}}
        plugins.monitors["x"] = {"name": "DaRL drift of the share OOD: darl-ood", "triggers": [trigger]}
    elif part == "roles":
        plugins.roles["darl_reader"] = {"description": None, "reserved": True}
    else:
        plugins.saved["/api/saved_objects/dashboard/darl-overview"] = {"attributes": {"description": "mine"}}
    said = setup(*ROLES_FOR, "--dashboards-url", setup.url, as_json=False)
    assert said.code == 1 and "exists and was not created by darl" in said.err
    assert plugins.writes() == []


def test_an_index_that_another_policy_manages_is_left_to_it(setup, plugins):
    plugins.managed[STREAM_INDICES[0]] = "theirs"
    done = json.loads(setup("--only", "ism").out)
    assert done["managed"] == {STREAM_INDICES[0]: "theirs"}
    assert plugins.managed == {STREAM_INDICES[0]: "theirs", STREAM_INDICES[1]: "darl-ood"}


def test_saved_objects_are_written_to_a_file_without_any_cluster(darl, tmp_path):
    out = tmp_path / "darl.ndjson"
    said = darl("setup", "--url", "http://127.0.0.1:1", "--only", "dashboards", "--out", str(out))
    assert (said.code, said.out) == (0, f"dashboards: written to {out}\n")
    assert len(out.read_text().splitlines()) == 10


def test_saved_objects_go_to_a_workspace_with_ids_of_their_own(setup, plugins):
    words = ("--only", "dashboards", "--dashboards-url", setup.url, "--workspace", "w1", "--data-source", "8-d2")
    done = json.loads(setup(*words).out)["changes"]["dashboards"]
    assert "dashboard w1_8-d2_darl-overview" in done
    pattern = plugins.saved["/w/w1/api/saved_objects/index-pattern/w1_8-d2_darl-log"]
    assert pattern["references"] == [{"name": "dataSource", "type": "data-source", "id": "8-d2"}]
    assert set(json.loads(setup(*words).out)["changes"]["dashboards"].values()) == {"unchanged"}


def test_an_import_that_dashboards_refuses_is_an_error(setup, plugins, monkeypatch):
    refusal = {"success": False, "errors": [{"type": "search", "id": "x", "error": {"type": "missing_references"}}]}
    monkeypatch.setattr(plugins, "import_objects", lambda *_, **__: (200, refusal))
    said = setup("--only", "dashboards", "--dashboards-url", setup.url, as_json=False)
    assert said.code == 1 and "search x: missing_references" in said.err


def test_an_address_without_dashboards_names_its_option(setup):
    said = setup("--only", "dashboards", "--dashboards-url", "http://127.0.0.1:1", as_json=False)
    assert said.code == 1 and "--dashboards-url" in said.err and "--url" not in said.err.replace("--dashboards-url", "")


@pytest.mark.parametrize("words", [("--data-source", "a_b"), ("--workspace", "a/b"), ("--share-limit", "1")])
def test_values_that_could_not_work(setup, words):
    assert setup(*words, as_json=False).code == 2
