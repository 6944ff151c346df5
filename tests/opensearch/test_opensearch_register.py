"""Registering on a real node: again, after a change, after an interruption, dry, and where it must fail."""

from __future__ import annotations

import json
import re
import shutil
import threading
import warnings
from functools import partial

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import (
    Cluster,
    PipelineOptions,
    RegisterOptions,
    ScorerAddress,
    connector,
    load_items,
    models,
    register,
)
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.pipelines import fetch_pipeline, list_models_in, list_names, render_pipelines
from darl_opensearch.cluster.preflight import TRUSTED, preflight
from darl_opensearch.cluster.switching import switch
from darl_opensearch.cluster.verify import ask_model
from darl_opensearch.config_files import render_body
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import ITEMS, SCALE3, copy_bundle, correct_digests, tiny_bundle
from tests.helpers.cluster import RunningScorer, at_once, eventually, file_of, recording
from tests.helpers.commands import run_darl

pytestmark = pytest.mark.opensearch
BODIES = """
    register_local connector register_connector pipeline_local pipeline_connector pipeline_plain predict_local
    predict_connector items_index search search_ext find_model find_connector
"""


@pytest.fixture
def scorer(place):
    with RunningScorer(place.bundle) as running:
        yield running


def changing(seen):
    """The recorded requests that change something."""
    reads = ("_search", "_predict", "/text_similarity/")
    return [
        (method, where, body)
        for method, where, body in seen
        if method not in ("GET", "HEAD") and not any(read in where.partition("?")[0] for read in reads[:2])
        or where.startswith("/_search/pipeline") and method == "PUT"
    ]  # fmt: skip


def changed_bundle(place, tmp_path):
    """Another model under the same name and version."""
    import onnx
    from onnx import numpy_helper

    from darl_opensearch.bundle import writing

    target = tmp_path / "other"
    with writing(target, place.bundle.card) as work:
        for name in place.bundle.digests:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place.bundle.path / name, work / name)
        model = onnx.load(work / "model.onnx")
        for tensor in model.graph.initializer:
            if tensor.name == "slope":
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 2, "slope"))
        onnx.save(model, work / "model.onnx")
    return Bundle.open(target)


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_registering_again_changes_nothing(place, scorer, mode):
    first = place.register(mode, scorer if mode == "connector" else None)
    assert not first.reused
    assert first.deviation < 1e-4
    assert first.pipelines == dict.fromkeys(list_names(place.name), "created")
    place.cluster.calls.clear()
    second = place.register(mode, scorer if mode == "connector" else None)
    assert second.reused
    assert second.model_id == first.model_id
    assert second.pipelines == dict.fromkeys(list_names(place.name), "unchanged")
    assert place.cluster.calls == []  # not one request that changes anything


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_an_undeployed_model_is_deployed_again(place, scorer, mode):
    first = place.register(mode, scorer if mode == "connector" else None)
    place.cluster.send("POST", join_path("_plugins", "_ml", "models", first.model_id, "_undeploy"))
    second = place.register(mode, scorer if mode == "connector" else None)
    assert second.model_id == first.model_id
    assert second.deviation < 1e-4


@pytest.mark.local_mode
def test_same_version_with_another_content(place, tmp_path):
    first = place.register("local")
    other = changed_bundle(place, tmp_path)
    options = RegisterOptions(pipeline=place.pipeline())
    with pytest.raises(
        ClusterError, match="is already registered with another content .* Give the bundle another version"
    ):
        register(other, place.cluster, options)
    replaced = register(other, place.cluster, RegisterOptions(pipeline=place.pipeline(), replace=True))
    assert replaced.model_id != first.model_id
    assert replaced.removed == (first.model_id,)
    assert replaced.pipelines[place.name] == "updated"
    assert [m.model_id for m in models.find_models(place.cluster, models.local_name(other.card))] == [replaced.model_id]


def test_same_version_with_another_scorer(place, scorer):
    first = place.register("connector", scorer)
    with RunningScorer(place.bundle) as moved:
        with pytest.raises(ClusterError, match="is already registered with another scorer or configuration"):
            place.register("connector", moved)
        second = place.register("connector", moved, replace=True)
        assert second.removed == (first.model_id,)
        body = render_body("find_connector.json", name=models.connector_name(place.bundle.card))
        found = place.cluster.read("POST", "/_plugins/_ml/connectors/_search", body)["hits"]["hits"]
        assert len(found) == 1  # the old connector went with its model


def read_connector(place, connector_id):
    return place.cluster.read("GET", join_path("_plugins", "_ml", "connectors", connector_id), absent={})


@pytest.fixture
def mistaken(place, scorer):
    """A registered model and its connector, which ML Commons takes for that of another model.

    It splits connectors' ids at their hyphens to find who uses one (seen once in some thousand registrations, where
    two ids happened to share a part).
    """
    model_id = place.register("connector", scorer).model_id
    [model] = models.find_models_by_id(place.cluster, [model_id])
    other = {"name": f"{place.name} of another team", "connector_id": f"{model.connector_id}-x"}
    index = f"/.plugins-ml-model/_doc/{place.name}"
    with warnings.catch_warnings():  # of the client, for an index of the plugin
        warnings.simplefilter("ignore")
        place.cluster.send("PUT", f"{index}?refresh=true", other)
    yield model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        place.cluster.send("DELETE", f"{index}?refresh=true")
    models.delete_connector(place.cluster, model.connector_id)
    assert read_connector(place, model.connector_id) == {}


def test_a_connector_that_another_model_seems_to_use_is_left_and_named(place, scorer, mistaken, opensearch_url):
    with RunningScorer(place.bundle) as moved:
        done = run_darl(
            "register", str(place.bundle.path), "--mode", "connector", "--scorer-url", moved.url, "--replace",
            "--url", opensearch_url, "--pipeline", place.name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"warning: connector {mistaken.connector_id} is left: no model uses it" in done.stderr
        assert models.find_models_by_id(place.cluster, [mistaken.model_id]) == []
        # The next command tries again, and does not take it for a failure either.
        assert place.register("connector", moved).reused
        assert mistaken.connector_id in place.cluster.left
    uninstall = ("uninstall", "--url", opensearch_url, "--pipeline", place.name, "--bundle-name", place.name, "--yes")
    done = run_darl(*uninstall)
    assert done.returncode == 0, done.stderr
    assert f"warning: connector {mistaken.connector_id} is left" in done.stderr
    assert models.find_models(place.cluster, models.connector_name(place.bundle.card)) == []
    assert read_connector(place, mistaken.connector_id) != {}


def test_a_connector_in_use_is_not_deleted(place, scorer):
    model_id = place.register("connector", scorer).model_id
    [model] = models.find_models_by_id(place.cluster, [model_id])
    with pytest.raises(ClusterError, match="1 models are still using this connector"):
        models.delete_connector(place.cluster, model.connector_id, timeout=1.0)
    assert model.connector_id not in place.cluster.left


@pytest.mark.local_mode
def test_what_an_interrupted_upload_left_is_removed(place):
    body = render_body(
        "register_local.json", name=models.local_name(place.bundle.card), version="1", card='{"darl":{}}',
        description="", sha256=place.bundle.identity, size_bytes=20_000_000, chunks=2,
    )  # fmt: skip
    left = place.cluster.send("POST", "/_plugins/_ml/models/_register_meta", body)["model_id"]
    place.cluster.send("POST", f"/_plugins/_ml/models/{left}/upload_chunk/0", {}, content=b"x" * 1000)
    done = place.register("local")
    assert done.model_id != left
    assert [m.model_id for m in models.find_models(place.cluster, models.local_name(place.bundle.card))] == [
        done.model_id
    ]


def test_a_connector_without_its_model_is_removed(place, scorer):
    body = render_body(
        "connector.json",
        name=models.connector_name(place.bundle.card),
        description="DaRL left, sha256 0",
        api_key="none",
        scorer_url=scorer.url,
        connect_seconds=1,
        answer_seconds=1,
    )
    left = place.cluster.send("POST", "/_plugins/_ml/connectors/_create", body)["connector_id"]
    place.register("connector", scorer)
    assert read_connector(place, left) == {}


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_dry_run_lists_the_requests_of_the_real_run(place, scorer, opensearch_url, mode):
    address = ScorerAddress(scorer.url, "s3cret") if mode == "connector" else None
    options = RegisterOptions(mode=mode, scorer=address, pipeline=place.pipeline())
    seen, connection = recording()
    dry = Cluster.open(ClusterOptions(url=opensearch_url), dry_run=True, connection_class=connection)
    register(place.bundle, dry, options)
    assert changing(seen) == []
    listed = [call.to_json() for call in dry.calls]
    assert "s3cret" not in json.dumps(listed)
    seen.clear()
    real = Cluster.open(ClusterOptions(url=opensearch_url), connection_class=connection)
    done = register(place.bundle, real, options)
    found = models.find_models(place.cluster, models.connector_name(place.bundle.card))
    text = json.dumps([call.to_json() for call in real.calls]).replace(done.model_id, "<model_id>")
    text = text.replace(found[0].connector_id, "<connector_id>") if mode == "connector" else text
    assert json.loads(text) == listed
    sent = [(method, where) for method, where, _ in changing(seen)]
    assert sent == [(call.method, call.path) for call in real.calls]


@pytest.mark.local_mode
def test_every_body_lies_in_plugin_config(place, scorer, opensearch_url, tmp_path):
    seen, connection = recording()
    cluster = Cluster.open(ClusterOptions(url=opensearch_url), connection_class=connection)
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    register(place.bundle, cluster, RegisterOptions(pipeline=place.pipeline("-a")))
    address = ScorerAddress(scorer.url)
    register(
        place.bundle,
        cluster,
        RegisterOptions(mode="connector", scorer=address, pipeline=place.pipeline("-b", with_query_id=True)),
    )
    load_items(cluster, place.bundle, items, place.index)
    for suffix in ("-a", "-b"):
        searching = PipelineSearch(cluster.client, place.bundle, place.index, place.name + suffix)
        assert searching.search("stolen bike").reranked
        searching.first_stage("stolen bike")
    used = set()
    for _method, where, body in seen:
        if body is None or "upload_chunk" in where or where.startswith("/_bulk"):
            continue
        sent = json.loads(body)
        ext = sent.pop("ext", None)
        assert (name := file_of(sent)), f"{where}: {sent}"
        used.add(name)
        if ext is not None:
            assert (name := file_of(ext)), ext
            used.add(name)
    assert used >= {f"{name}.json" for name in BODIES.split()}


def test_the_scorer_goes_down(place, scorer, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    place.register("connector", scorer)
    load_items(place.cluster, place.bundle, items, place.index)
    searching, body = place.search(), {"query": {"match_all": {}}}
    assert searching.search("kitchen fire", size=3, body=body).reranked
    port = scorer.port
    scorer.stop()
    down = searching.search("kitchen fire", size=3, body=body)
    assert not down.reranked
    assert [hit.id for hit in down.hits] == [hit["_id"] for hit in searching.first_stage("x", size=3, body=body)]
    assert all(hit.grade is None for hit in down.hits)
    with RunningScorer(place.bundle, port=port):
        assert searching.search("kitchen fire", size=3, body=body).reranked


def test_registering_without_a_scorer(place):
    address = ScorerAddress("http://127.0.0.1:9/v1/rerank")
    options = RegisterOptions(mode="connector", scorer=address, pipeline=place.pipeline())
    with pytest.raises(ClusterError, match=r"^http://127.0.0.1:9/v1/rerank: the cluster could not reach .* Start darl"):
        register(place.bundle, place.cluster, options)
    assert fetch_pipeline(place.cluster, place.name) is None  # no pipeline that would never rerank
    registered = register(
        place.bundle,
        place.cluster,
        RegisterOptions(mode="connector", scorer=address, pipeline=place.pipeline(), verify=False),
    )
    assert registered.reused and registered.deviation is None


def test_wrong_scorer_key(place):
    with RunningScorer(place.bundle, key="right") as scorer:
        with pytest.raises(ClusterError, match="does not accept the API key .* Set DARL_API_KEY to its key"):
            place.register("connector", scorer, key="wrong")
        done = place.register("connector", scorer, key="right")
        assert done.reused and done.rekeyed and done.deviation < 1e-4
        assert not place.register("connector", scorer, key="right").rekeyed


def test_the_scorers_key_changes_while_searches_run(place, tmp_path):
    items, keys = tmp_path / "items.jsonl", tmp_path / "keys"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    keys.write_text("old-k3y\n", encoding="utf-8")
    with RunningScorer(place.bundle, key_file=keys) as scorer:
        first = place.register("connector", scorer, key="old-k3y")
        load_items(place.cluster, place.bundle, items, place.index)
        searching, stop, reranked = place.search(), threading.Event(), []

        def search():
            while not stop.is_set():
                reranked.append(searching.search("kitchen fire").reranked)

        thread = threading.Thread(target=search)
        thread.start()
        try:
            assert eventually(lambda: len(reranked) > 2)
            keys.write_text("new-k3y\nold-k3y\n", encoding="utf-8")
            second = place.register("connector", scorer, key="new-k3y")
            keys.write_text("new-k3y\n", encoding="utf-8")
            count = len(reranked)
            assert eventually(lambda: len(reranked) > count + 2)
            with pytest.raises(ClusterError, match="does not accept the API key"):
                place.register("connector", scorer, key="old-k3y", switch=False)
        finally:
            stop.set()
            thread.join()
        again = place.register("connector", scorer, key="new-k3y")
        assert searching.search("kitchen fire").reranked  # the wrong key was taken back
    assert second.model_id == first.model_id and second.rekeyed and not again.rekeyed
    assert set(second.pipelines.values()) == {"unchanged"}
    assert all(reranked[: count + 2]), reranked
    body = render_body("find_connector.json", name=models.connector_name(place.bundle.card))
    found = place.cluster.read("POST", "/_plugins/_ml/connectors/_search", body)["hits"]["hits"]
    assert len(found) == 1
    said = json.dumps(found) + json.dumps(place.cluster.read("GET", "/_plugins/_ml/connectors/" + found[0]["_id"]))
    assert "-k3y" not in said


def test_another_connector_is_used_by_the_next_search(place):
    """ML Commons answers before its nodes use it."""
    with RunningScorer(place.bundle, key="right") as scorer:
        done = place.register("connector", scorer, key="right")
        [model] = models.find_models(place.cluster, models.connector_name(place.bundle.card))
        wrong = connector.create_connector(place.cluster, place.bundle, ScorerAddress(scorer.url, "wrong"))
        for wanted in (wrong, model.connector_id) * 3:
            connector.use_connector(place.cluster, done.model_id, wanted, timeout=30.0)
            refused = []
            for _ in range(5):
                try:
                    ask_model(place.cluster, "connector", done.model_id, "bike", ["a bike"])
                except ClusterError as err:
                    refused.append("401" in err.what)
            assert refused == ([True] * 5 if wanted == wrong else [])
        models.delete_resource(place.cluster, "connectors", wrong)


def test_another_connector_while_the_model_is_being_deployed(place, scorer):
    done = place.register("connector", scorer)
    first = models.find_models_by_id(place.cluster, [done.model_id])[0].connector_id
    second = connector.create_connector(place.cluster, place.bundle, ScorerAddress(scorer.url))
    for wanted in (second, first) * 5:
        place.cluster.send("POST", join_path("_plugins", "_ml", "models", done.model_id, "_deploy"))
        connector.use_connector(place.cluster, done.model_id, wanted, timeout=30.0)
        found = place.cluster.read("GET", join_path("_plugins", "_ml", "models", done.model_id))
        assert found["connector_id"] == wanted
    # What is refused for another reason is said at once.
    with pytest.raises(ClusterError, match="404"):
        connector.use_connector(place.cluster, "nosuchmodel", first, timeout=30.0)
    models.delete_resource(place.cluster, "connectors", second)
    again = place.register("connector", scorer)
    assert again.reused and again.deviation < 1e-4


def test_a_scorer_with_another_model(place, tmp_path):
    with RunningScorer(changed_bundle(place, tmp_path)) as scorer:
        with pytest.raises(
            ClusterError, match=r"answers differently from the bundle .* Start darl serve on this bundle"
        ):
            place.register("connector", scorer)
    four = tiny_bundle(tmp_path / "four", scale=type(SCALE3)(("a", "b", "c", "d"), (0, 1, 2, 3)))
    with RunningScorer(four) as scorer:
        with pytest.raises(ClusterError, match=r"returns shape \[3, 7\], and the bundle \[3, 6\]"):
            place.register("connector", scorer, replace=True)


@pytest.mark.local_mode
def test_a_pipeline_of_somebody_else_is_left_alone(place):
    foreign = f"{place.name}-foreign"
    place.cluster.send(
        "PUT", join_path("_search", "pipeline", foreign), {"description": "mine", "request_processors": []}
    )
    try:
        with pytest.raises(
            ClusterError, match="exists and was not created by darl. Choose another name with --pipeline"
        ):
            register(place.bundle, place.cluster, RegisterOptions(pipeline=PipelineOptions(name=foreign)))
        assert models.find_models(place.cluster, models.local_name(place.bundle.card)) == []  # nothing was uploaded
    finally:
        place.cluster.send("DELETE", join_path("_search", "pipeline", foreign))


def test_trusted_endpoints_are_added_to(place):
    url = f"http://localhost:{7000 + sum(map(ord, place.name)) % 999}/v1/rerank"
    stored = place.cluster.read("GET", "/_cluster/settings?flat_settings=true")["persistent"].get(TRUSTED)
    before = place.cluster.read("GET", "/_cluster/settings?include_defaults=true&flat_settings=true")
    trusted = {**before["defaults"], **before["persistent"]}[TRUSTED]
    with pytest.raises(
        ClusterError, match=re.escape(TRUSTED) + " lacks .* Set it, or run this again with --apply-settings"
    ):
        preflight(place.cluster, "connector", scorer_url=url)
    try:
        done = preflight(place.cluster, "connector", scorer_url=url, apply_settings=True)
        assert [setting.name for setting in done.changed] == [TRUSTED]
        now = place.cluster.read("GET", "/_cluster/settings?flat_settings=true")["persistent"][TRUSTED]
        assert now == [*trusted, f"^{url.removesuffix('/v1/rerank')}/.*$"]
        assert preflight(place.cluster, "connector", scorer_url=url).changed == ()
    finally:
        place.cluster.send("PUT", "/_cluster/settings", render_body("settings.json", settings={TRUSTED: stored}))


def test_a_port_that_does_not_speak_tls(opensearch_url):
    with pytest.raises(ClusterError, match="the port does not speak TLS. Use an http:// URL"):
        Cluster.open(ClusterOptions(url=opensearch_url.replace("http", "https"), insecure=True)).identify()


@pytest.mark.local_mode
def test_commands(place, opensearch_url, tmp_path, scorer):
    """register, index and search as a user runs them, in processes of their own."""
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    bundle, target = str(place.bundle.path), ["--url", opensearch_url]
    name = place.pipeline().name
    done = run_darl("register", bundle, *target, "--pipeline", name, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["mode"] == "local"
    listed = run_darl("register", bundle, *target, "--pipeline", name, "--max-k", "7", "--dry-run")
    assert [call["path"] for call in json.loads(listed.stdout)] == [
        f"/_search/pipeline/{name}",
        f"/_search/pipeline/{name}-plain",
        f"/_search/pipeline/{name}-hybrid",
    ]
    listed = run_darl("index", bundle, str(items), *target, "--index", place.index, "--dry-run")
    assert [call["method"] for call in json.loads(listed.stdout)] == ["PUT", "POST"]
    loaded = run_darl("index", bundle, str(items), *target, "--index", place.index)
    assert loaded.stdout == f"6 items in {place.index}, newly created\n"
    asked = [
        "--index",
        place.index,
        "--bundle",
        bundle,
        "--pipeline",
        name,
        "--ood-log",
        str(tmp_path / "ood" / "spool.sqlite"),
    ]
    found = run_darl("search", 'fire in my "kitchen"', *target, *asked, "--json")
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["reranked"] is True and result["logged"] is True
    assert {"position", "position_before", "grade_name", "is_ood"} <= result["hits"][0].keys()
    table = run_darl("search", "fire in my kitchen", *target, *asked, "--no-ood-log")
    assert "reranked in" in table.stdout and table.stdout.startswith("now")
    other = correct_digests(copy_bundle(place.bundle, tmp_path / "other"), version="2")
    found = run_darl("search", "fire in my kitchen", *target, *asked, "--bundle", str(other), "--json")
    assert json.loads(found.stdout)["reranked"] is True and json.loads(found.stdout)["logged"] is False
    card = place.bundle.card
    serves = f"pipeline '{name}' serves {card.name} {card.version}, but --bundle is {card.name} 2: nothing is logged"
    assert found.stderr == f"darl: {serves}. Pass the bundle that it serves.\n"
    wrong = run_darl("search", " ", *target, *asked)
    assert (wrong.returncode, wrong.stderr) == (1, "darl: the query is empty. Enter the text to search for.\n")


@pytest.mark.local_mode
def test_many_chunks(place, monkeypatch):
    monkeypatch.setattr(models, "CHUNK_BYTES", 5000)
    told = []
    done = register(
        place.bundle,
        place.cluster,
        RegisterOptions(pipeline=place.pipeline()),
        on_chunk=lambda n, of: told.append((n, of)),
    )
    chunks = -(-(place.bundle.path / "opensearch.zip").stat().st_size // 5000)
    assert told == [(n + 1, chunks) for n in range(chunks)]
    assert done.deviation < 1e-4


@pytest.mark.local_mode
def test_a_model_that_cannot_be_deployed(place):
    damaged = Bundle(place.bundle.path, place.bundle.card, place.bundle.digests | {"opensearch.zip": "0" * 64})
    with pytest.raises(ClusterError, match=r"deploying model \S+ failed: .* Check the node's log") as err:
        register(damaged, place.cluster, RegisterOptions(pipeline=place.pipeline()))
    assert "\n" not in str(err.value)
    assert fetch_pipeline(place.cluster, place.name) is None
    assert (
        register(place.bundle, place.cluster, RegisterOptions(pipeline=place.pipeline(), replace=True)).deviation < 1e-4
    )


@pytest.mark.local_mode
def test_an_undeployed_model_leaves_the_first_stage(place, tmp_path):
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    done = place.register("local")
    load_items(place.cluster, place.bundle, items, place.index)
    assert place.search().search("stolen bicycle").reranked
    place.cluster.send("POST", join_path("_plugins", "_ml", "models", done.model_id, "_undeploy"))
    outcome = place.search().search("stolen bicycle")
    assert not outcome.reranked
    assert [hit.id for hit in outcome.hits] == [hit["_id"] for hit in place.search().first_stage("stolen bicycle")]


@pytest.mark.local_mode
def test_a_bundle_with_other_grades(place, tmp_path):
    place.register("local")
    five = tiny_bundle(tmp_path / "five", scale=type(SCALE3)(tuple("abcde"), (0, 1, 2, 3, 4)))
    with pytest.raises(ClusterError, match="writes different grades from tiny 1"):
        PipelineSearch(place.cluster.client, five, place.index, place.name).search("x")


@pytest.mark.local_mode
def test_two_that_register_the_same_bundle_at_once(place, opensearch_url):
    options = RegisterOptions(pipeline=place.pipeline())

    def command():
        return register(place.bundle, Cluster.open(ClusterOptions(url=opensearch_url)), options)

    outcomes = at_once(command, command)
    told = [str(outcome) for outcome in outcomes if isinstance(outcome, ClusterError)]
    done = [outcome for outcome in outcomes if not isinstance(outcome, ClusterError)]
    [model] = models.find_models(place.cluster, models.local_name(place.bundle.card))  # of two uploads, one is left
    assert len(done) == 1 or all(outcome.reused or outcome.model_id == model.model_id for outcome in done)
    assert all("at the same time" in text or "Failed to find model" in text for text in told)
    assert register(place.bundle, place.cluster, options).reused
    for name in list_names(place.name):
        assert list_models_in(fetch_pipeline(place.cluster, name)) == {model.model_id}


def test_two_that_write_the_same_pipelines_at_once(place):
    bodies = [
        render_pipelines(place.bundle.card, "local", model, place.pipeline()) for model in ("first", "second")
    ]  # fmt: skip
    clusters = [Cluster.open(ClusterOptions(url=place.cluster.url)) for _ in bodies]
    for _ in range(5):
        outcomes = at_once(*(partial(switch, *pair) for pair in zip(clusters, bodies, strict=True)))
        there = {name: fetch_pipeline(place.cluster, name) for name in bodies[0]}
        assert there in bodies  # as one of the two wrote them, never half and half
        loser = outcomes[1 - bodies.index(there)]
        winner = outcomes[bodies.index(there)]
        assert not isinstance(winner, ClusterError)
        assert isinstance(loser, ClusterError) or set(loser.values()) <= {"created", "updated", "unchanged"}
