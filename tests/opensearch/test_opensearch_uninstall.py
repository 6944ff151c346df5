"""``darl uninstall`` on a real node: what was made goes, however often it is killed, and nothing else does."""

from __future__ import annotations

import json
import uuid

import pytest

from darl_opensearch.cluster import (
    Cluster,
    PipelineOptions,
    RegisterOptions,
    ScorerAddress,
    load_items,
    models,
    register,
)
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.history import History
from darl_opensearch.cluster.pipelines import fetch_pipelines
from darl_opensearch.cluster.preflight import TRUSTED
from darl_opensearch.cluster.release import ReleaseOptions, release
from darl_opensearch.cluster.uninstall import UninstallOptions, plan_removal, remove
from darl_opensearch.cluster.uninstall.find import find_named
from darl_opensearch.errors import ClusterError
from darl_opensearch.ood.stream import ensure_stream
from tests.helpers.bundles import ITEMS, bundle_of
from tests.helpers.cluster import clean_up
from tests.helpers.commands import run_main

pytestmark = [pytest.mark.opensearch, pytest.mark.local_mode]
NOWHERE = ScorerAddress("http://127.0.0.1:9/v1/rerank")


@pytest.fixture(scope="module")
def name():
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="module")
def bundles(name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninstall")
    return {version: bundle_of(folder, name, version, slope) for version, slope in (("1", 8), ("2", 11))}


@pytest.fixture(scope="module")
def history(name):
    return f"{name}-releases"


@pytest.fixture
def options(cluster, name, bundles, history):
    """Whatever a test leaves is removed."""
    yield UninstallOptions(pipeline=name, history=history, stream=f"{name}-ood")
    for bundle in bundles.values():
        clean_up(cluster, bundle, pipeline_names={name, f"{name}-other"}, indexes={history, f"{name}-items"})


@pytest.fixture
def unrelated(cluster, name):
    """A pipeline, a model group and an index that are someone else's, with names that begin alike."""
    other = f"{name}-unrelated"
    cluster.send("PUT", join_path("_search", "pipeline", other), {"description": "mine", "response_processors": []})
    group = cluster.send("POST", "/_plugins/_ml/model_groups/_register", {"name": f"{name}:mine"})["model_group_id"]
    cluster.send("PUT", join_path(other))
    yield other, group
    cluster.send("DELETE", join_path("_search", "pipeline", other))
    cluster.send("DELETE", join_path("_plugins", "_ml", "model_groups", group))
    cluster.send("DELETE", join_path(other))


def inventory(cluster: Cluster) -> dict[str, set[str]]:
    """All pipelines, models, connectors, model groups and indices of the node."""
    found = {
        kind: {hit["_id"] for hit in find_named(cluster, kind, "")} for kind in ("models", "connectors", "model_groups")
    }
    indices = {index for index in cluster.read("GET", "/*,-.*")}
    return found | {"pipelines": set(fetch_pipelines(cluster)), "indices": indices}


def register_all(cluster, name, bundles, history, tmp_path):
    """A release, a model by connector that nothing answers for, and an index of items."""
    release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=history))
    remote = RegisterOptions(
        mode="connector", scorer=NOWHERE, pipeline=PipelineOptions(name=name), verify=False, switch=False
    )
    register(bundles["2"], cluster, remote)
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    load_items(cluster, bundles["1"], items, f"{name}-items").check()


class Killed(BaseException):
    """What no handler catches, as if the process had died."""


def kill_after(monkeypatch, number):
    """Die once so many changing requests were answered."""
    real, count = Cluster.send, [0]

    def send(self, *words, **named):
        answer = real(self, *words, **named)
        count[0] += 1
        if count[0] == number:
            raise Killed
        return answer

    monkeypatch.setattr(Cluster, "send", send)


def test_everything_goes_and_nothing_else(
    cluster, opensearch_url, name, bundles, history, options, unrelated, tmp_path, monkeypatch
):
    before = inventory(cluster)
    register_all(cluster, name, bundles, history, tmp_path)
    there = inventory(cluster)
    made = {kind: there[kind] - before[kind] for kind in there}
    assert {kind: len(names) for kind, names in made.items()} == {
        "models": 2, "connectors": 1, "model_groups": 2, "pipelines": 3, "indices": 2
    }  # fmt: skip
    words = ("uninstall", "--url", opensearch_url, "--pipeline", name, "--history", history)
    listed = run_main(*words, "--dry-run")
    removed = [call["path"] for call in json.loads(listed.out) if call["method"] == "DELETE"]
    kinds = ("models", "connectors", "model_groups")
    assert {path.rpartition("/")[2] for path in removed} == made["pipelines"] | {history}.union(*map(made.get, kinds))
    asked = run_main(*words)
    assert (asked.code, asked.out) == (2, "") and "Pass --yes" in asked.err
    assert inventory(cluster) == there
    for _ in range(10):
        with monkeypatch.context() as patch:
            kill_after(patch, 2)  # an undeployment and a deletion
            try:
                remove(cluster, plan_removal(cluster, options))
                break
            except Killed:
                pass
    assert inventory(cluster) == before | {"indices": before["indices"] | {f"{name}-items"}}
    again = run_main(*words, "--yes", "--json")
    told = json.loads(again.out)
    assert again.code == 0 and not any(told["removed"].values())
    assert f"index {name}-items" in {left["what"] for left in told["left"]}
    assert f"nothing of pipeline {name} is there" in run_main(*words, "--yes").out


def test_what_another_pipeline_needs_is_left(cluster, name, bundles, history, options):
    release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=history))
    other = ReleaseOptions(pipeline=f"{name}-other", history=history)
    serving = release(bundles["2"], cluster, other).served
    release(bundles["1"], cluster, other)  # both pipelines serve it, and the other one can go back to version 2
    plan = plan_removal(cluster, options)
    [first] = models.find_models(cluster, models.local_name(bundles["1"].card))
    left = {kept.what: kept.why for kept in plan.kept}
    assert left[f"model {name}:1 ({first.model_id})"].startswith(f"search pipeline {name}-other")
    assert left[f"model {name}:2 ({serving.model_id})"] == f"pipeline {name}-other can go back to it"
    assert f"model group {name}:1 ({first.group_id})" in left
    assert plan.models == () and plan.history is None and plan.events == 1
    remove(cluster, plan)
    assert History(cluster, name, history).events() == []
    assert len(History(cluster, f"{name}-other", history).events()) == 2
    last = plan_removal(cluster, UninstallOptions(pipeline=f"{name}-other", history=history))
    assert {model.name for model in last.models} == {f"{name}:1", f"{name}:2"} and last.history == history
    remove(cluster, last)
    assert find_named(cluster, "models", f"{name}:") == []


def test_bundles_that_were_never_released_by_name(cluster, name, bundles, options):
    register(bundles["1"], cluster, RegisterOptions(pipeline=PipelineOptions(name=name), switch=False))
    assert plan_removal(cluster, options).models == ()  # nothing of the pipeline tells of it
    named = UninstallOptions(**{**vars(options), "bundle_names": (name,)})
    assert [model.name for model in plan_removal(cluster, named).models] == [f"{name}:1"]
    remove(cluster, plan_removal(cluster, named))
    assert find_named(cluster, "models", f"{name}:") == []
    assert find_named(cluster, "model_groups", f"{name}:") == []


def test_what_is_refused(cluster, name, bundles, history, options, unrelated):
    other, _ = unrelated
    with pytest.raises(ClusterError, match="exists and was not created by darl"):
        plan_removal(cluster, UninstallOptions(pipeline=other))
    with pytest.raises(ClusterError, match=f"index {other} is not a release history. Check --history"):
        plan_removal(cluster, UninstallOptions(pipeline=name, history=other))
    served = release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=history)).served
    cluster.send("PUT", join_path(other, "_settings"), {"index.search.default_pipeline": name})
    with pytest.raises(ClusterError, match=rf"is the default of {other}, .* First send PUT /{other}/_settings"):
        plan_removal(cluster, options)
    cluster.send("PUT", join_path(other, "_settings"), {"index.search.default_pipeline": "_none"})
    event = History(cluster, name, history).begin(1, "release", served)
    with pytest.raises(ClusterError, match=r"is not finished. Wait for it; if it died, try again in \d+ s"):
        plan_removal(cluster, options)
    History(cluster, name, history).close(event, "abandoned")
    assert plan_removal(cluster, options).events == 2


def test_the_log_goes_only_if_asked_for(cluster, name, options):
    ensure_stream(cluster.client, options.stream)
    plan = plan_removal(cluster, options)
    assert not plan.stream and not plan.template
    assert f"data stream {options.stream}: it holds the OOD log (--ood-log deletes it)" in map(str, plan.kept)
    asked = UninstallOptions(**{**vars(options), "ood_log": True})
    remove(cluster, plan_removal(cluster, asked))
    for place in ("_data_stream", "_index_template"):
        assert cluster.read("GET", join_path(place, options.stream), absent={}) == {}
    assert plan_removal(cluster, asked).lines() == []
    foreign = {"index_patterns": [options.stream], "data_stream": {}}
    cluster.send("PUT", join_path("_index_template", options.stream), foreign)
    try:
        with pytest.raises(ClusterError, match="has no index template of darl"):
            plan_removal(cluster, asked)
    finally:
        cluster.send("DELETE", join_path("_index_template", options.stream))


def test_settings_are_left_and_named(cluster, options):
    stored = cluster.read("GET", "/_cluster/settings?flat_settings=true")["persistent"].get(TRUSTED)
    cluster.send("PUT", "/_cluster/settings", {"persistent": {TRUSTED: ["^http://127\\.0\\.0\\.1:.*$"]}})
    try:
        [kept] = [kept for kept in plan_removal(cluster, options).kept if kept.what == f"setting {TRUSTED}"]
        assert f'{{"persistent": {{"{TRUSTED}": null}}}}' in kept.todo
    finally:
        cluster.send("PUT", "/_cluster/settings", {"persistent": {TRUSTED: stored}})


def test_something_registered_meanwhile_is_told(cluster, name, bundles, history, options):
    release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=history))
    plan = plan_removal(cluster, options)
    release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=history, oversample=7))
    meanwhile = f"another command has registered for pipeline '{name}' meanwhile: search pipeline {name} has changed"
    with pytest.raises(ClusterError, match=f"{meanwhile}. Run this again if that is to go too"):
        remove(cluster, plan)
    assert models.find_models(cluster, models.local_name(bundles["1"].card))[0].state == "DEPLOYED"  # nothing is gone
