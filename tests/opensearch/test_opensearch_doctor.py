"""``darl doctor`` on a real node: what is made wrong is found, and the requests that it names mend it."""

from __future__ import annotations

import copy
import json
import uuid

import pytest

from darl_opensearch.cluster import Cluster, ScorerAddress, models
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.doctor import CHECKS, CheckResult, Diagnosis, DoctorOptions, diagnose
from darl_opensearch.cluster.doctor.subject import Subject
from darl_opensearch.cluster.history import History
from darl_opensearch.cluster.pipelines import PipelineOptions, fetch_pipeline, put_pipelines, remove_pipelines
from darl_opensearch.cluster.preflight import ML
from darl_opensearch.cluster.release import ReleaseOptions, release
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.ood.stream import ensure_stream, template
from tests.helpers.bundles import bundle_of
from tests.helpers.cluster import RunningScorer, clean_up, eventually, recording
from tests.helpers.commands import run_main

pytestmark = pytest.mark.opensearch
# What the machine that runs the tests may be short of, and what other tests may leave for a while.
MACHINE = ("disk", "breakers", "clock", "default")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    name = f"t{uuid.uuid4().hex[:10]}"
    folder = tmp_path_factory.mktemp("doctor")
    return {version: bundle_of(folder, name, version, slope) for version, slope in (("1", 8), ("2", 11))}


@pytest.fixture(scope="module")
def local(cluster, bundles):
    """A release in the cluster, with a history of its own."""
    name = bundles["1"].card.name
    options = DoctorOptions(pipeline=name, history=f"{name}-releases", stream=f"{name}-ood")
    release(bundles["1"], cluster, ReleaseOptions(pipeline=name, history=options.history))
    yield options
    clean_up(cluster, bundles["1"], pipeline_names={name}, indexes={options.history})


@pytest.fixture(scope="module")
def remote(cluster, bundles):
    """A release behind a connector; gives also the port of its scorer, which runs no more."""
    name = f"{bundles['2'].card.name}-remote"
    options = DoctorOptions(pipeline=name, history=f"{name}-releases", stream=f"{name}-ood", scorer_key="s3cret")
    with RunningScorer(bundles["2"], key="s3cret") as scorer:
        port = scorer.port
        address = ScorerAddress(scorer.url, "s3cret")
        chosen = ReleaseOptions(pipeline=name, history=options.history, mode="connector", scorer=address)
        release(bundles["2"], cluster, chosen)
    yield options, port
    clean_up(cluster, bundles["2"], pipeline_names={name}, indexes={options.history})


def mend(cluster: Cluster, result: CheckResult) -> None:
    assert result.requests, result
    for request in result.requests:
        cluster.send(request.method, request.path, request.body)


def wrong(diagnosis: Diagnosis) -> dict[str, str]:
    """Verdicts other than "ok" and "not checked", by check."""
    return {
        result.check: result.verdict for result in diagnosis.results
        if result.verdict in ("warning", "problem") and result.check not in MACHINE
    }  # fmt: skip


def look(cluster: Cluster, options: DoctorOptions, check: str) -> list[CheckResult]:
    """The results of one check alone."""
    return list(CHECKS[check](Subject(cluster, options, cluster.identify())))


def first(diagnosis: Diagnosis, check: str, verdict: str) -> CheckResult:
    return next(result for result in diagnosis.of(check) if result.verdict == verdict)


@pytest.mark.parametrize("mode", ["local", "connector"])
def test_healthy_and_nothing_is_written(mode, request, cluster, bundles, opensearch_url):
    seen, connection = recording()
    watched = Cluster.open(ClusterOptions(url=opensearch_url), connection_class=connection)
    if mode == "local":
        options = request.getfixturevalue("local")
        assert wrong(diagnose(watched, options)) == {}
        words = ("--pipeline", options.pipeline, "--history", options.history)
        ran = run_main("doctor", "--url", opensearch_url, *words)
        assert ran.code == 0 and "0 problems" in ran.out and "it answers with the grades" in ran.out
    else:
        options, port = request.getfixturevalue("remote")
        with RunningScorer(bundles["2"], key="s3cret", port=port) as scorer:
            assert wrong(diagnose(watched, options)) == {}
            assert [asked["documents"] for asked in scorer.requests] == [[]]  # nothing that would be logged
    assert watched.calls == []
    posts = [where for method, where, _ in seen if method not in ("GET", "HEAD")]
    assert posts and all("_search" in where or "_predict" in where for where in posts)


@pytest.mark.local_mode
def test_a_model_that_was_killed_is_found_and_mended(cluster, local):
    [model_id] = {fetch_pipeline(cluster, local.pipeline)["response_processors"][0]["ml_inference"]["model_id"]}
    cluster.send("POST", join_path("_plugins", "_ml", "models", model_id, "_undeploy"))
    diagnosis = diagnose(cluster, local)
    assert wrong(diagnosis) == {"model": "problem"}
    result = first(diagnosis, "model", "problem")
    assert f"model {model_id} of " in result.text and "is loaded on no node (state UNDEPLOYED)" in result.text
    assert result.mends() == [f"POST /_plugins/_ml/models/{model_id}/_deploy"]
    mend(cluster, result)
    assert eventually(lambda: wrong(diagnose(cluster, local)) == {}, 30)


@pytest.mark.local_mode
def test_pipelines_that_were_changed_are_found_and_mended(cluster, local):
    name, plain = local.pipeline, f"{local.pipeline}-plain"
    before = {pipeline: fetch_pipeline(cluster, pipeline) for pipeline in (name, plain)}
    changed = copy.deepcopy(before[name])
    del changed["response_processors"][1]["rerank"]["ignore_failure"]
    put_pipelines(cluster, {name: changed})
    cluster.send("DELETE", join_path("_search", "pipeline", plain))
    diagnosis = diagnose(cluster, local)
    assert {result.verdict for result in diagnosis.of("pipelines")} == {"warning", "problem"}
    assert "response_processors[1].rerank.ignore_failure" in first(diagnosis, "pipelines", "warning").text
    assert f"{name} and {plain} changed after release 1" in first(diagnosis, "history", "warning").text
    for result in diagnosis.of("pipelines"):
        mend(cluster, result)
    assert {pipeline: fetch_pipeline(cluster, pipeline) for pipeline in (name, plain)} == before
    half = copy.deepcopy(before[plain])
    half["response_processors"][0]["rerank"]["ml_opensearch"]["model_id"] = "another"
    put_pipelines(cluster, {plain: half})
    result = first(diagnose(cluster, local), "pipelines", "problem")
    assert f"'{plain}' uses model another, and '{name}' uses " in result.text
    mend(cluster, result)
    assert wrong(diagnose(cluster, local)) == {}


@pytest.mark.local_mode
def test_an_unfinished_release_and_a_deleted_model(cluster, local, bundles):
    history = History(cluster, local.pipeline, local.history)
    last = history.events()[-1]
    event = history.begin(last.number, "release", last.to, before=last.after, after=last.after)
    result = first(diagnose(cluster, local), "history", "warning")
    assert "is not finished" in result.text and result.todo == "wait for it"
    history.close(event, "abandoned")
    bodies = json.loads(json.dumps(last.after).replace(last.to.model_id, "nowhere").replace(local.pipeline, "gone-t"))
    put_pipelines(cluster, {name.replace(local.pipeline, "gone-t"): body for name, body in bodies.items()})
    try:
        result = first(diagnose(cluster, DoctorOptions(pipeline="gone-t", history=local.history)), "model", "problem")
        assert "was deleted: searches keep their first-stage order" in result.text
    finally:
        remove_pipelines(cluster, PipelineOptions(name="gone-t"))


def test_a_scorer_that_is_down_moved_or_another(cluster, remote, bundles, opensearch_url):
    options, port = remote
    words = ("--pipeline", options.pipeline, "--history", options.history, "--stream", options.stream)
    down = run_main("doctor", "--url", opensearch_url, *words, "--json")
    told = json.loads(down.out)
    [result] = [result for result in told["results"] if result["verdict"] == "problem"]
    assert down.code == told["problems"] == 1 and result["check"] == "scorer"
    assert result["text"].startswith(f"the cluster does not reach the scorer at http://127.0.0.1:{port}/v1/rerank (")
    assert "this machine does not reach it" in result["text"] and result["todo"].startswith("start darl serve")
    with RunningScorer(bundles["1"], key="s3cret", port=port):
        result = first(diagnose(cluster, options), "scorer", "problem")
        assert result.text.endswith(f"1, but the pipeline is for {bundles['2'].card.name} 2")
    with RunningScorer(bundles["2"], key="renewed", port=port):
        diagnosis = diagnose(cluster, options)
        assert first(diagnosis, "scorer", "problem").todo == (
            "set DARL_API_KEY to the scorer's key, and run the darl register of this version again, without --replace"
        )  # which gives the deployed model another connector: test_opensearch_register.py
        assert "does not accept DARL_API_KEY" in first(diagnosis, "scorer", "not checked").text
    with RunningScorer(bundles["2"], key="s3cret") as moved:  # reached from here alone
        chosen = DoctorOptions(**{**vars(options), "scorer_url": moved.url})
        result = first(diagnose(cluster, chosen), "scorer", "problem")
        assert "; this machine reaches it" in result.text and "--host" in result.todo


@pytest.mark.local_mode
def test_settings_are_mended_by_the_request(cluster, local):
    name = ML + "local_model.enabled"
    cluster.send("PUT", "/_cluster/settings", {"transient": {name: False}})
    try:
        result = look(cluster, local, "settings")[0]
        assert result.text == f"{name} is false and must be true (the model runs in the cluster)"
        mend(cluster, result)
        assert look(cluster, local, "settings")[0].verdict == "ok"
    finally:
        cluster.send("PUT", "/_cluster/settings", {"persistent": {name: None}, "transient": {name: None}})


@pytest.mark.local_mode
def test_the_stream_its_template_and_a_full_disk(cluster, local):
    stream = local.stream
    try:
        old = template(stream)
        del old["template"]["mappings"]["properties"]["weight"]
        cluster.send("PUT", join_path("_index_template", stream), old)
        cluster.send("PUT", join_path("_data_stream", stream))
        diagnosis = diagnose(cluster, local)
        assert wrong(diagnosis) == {"template": "problem", "data stream": "problem"}
        assert "mappings.properties.weight: new backing indices will reject" in diagnosis.of("template")[0].text
        assert "lacks the fields weight: records with them are rejected" in diagnosis.of("data stream")[0].text
        mend(cluster, diagnosis.of("template")[0])
        mend(cluster, diagnosis.of("data stream")[0])
        assert [look(cluster, local, check)[0].verdict for check in ("template", "data stream")] == ["ok", "ok"]
        cluster.send("PUT", f"/{stream}/_settings", {"index.blocks.read_only_allow_delete": True})
        result = look(cluster, local, "data stream")[0]
        assert "is read-only (index.blocks.read_only_allow_delete), as after a full disk" in result.text
        mend(cluster, result)
        assert look(cluster, local, "data stream")[0].verdict == "ok"
        cluster.send("DELETE", join_path("_data_stream", stream))
        cluster.send("DELETE", join_path("_index_template", stream))
        assert look(cluster, local, "template")[0].text.startswith("there is no data stream")
        cluster.send("PUT", join_path(stream))
        assert "is an index or alias" in look(cluster, local, "data stream")[0].text
        cluster.send("DELETE", join_path(stream))
        assert ensure_stream(cluster.client, stream)
        assert wrong(diagnose(cluster, local)) == {}
    finally:
        for place in (join_path("_data_stream", stream), join_path("_index_template", stream)):
            if cluster.read("GET", place, absent={}):
                cluster.send("DELETE", place)


@pytest.mark.local_mode
def test_an_index_that_needs_attention(cluster, local):
    index = f"{local.pipeline}-items"
    chosen = DoctorOptions(**{**vars(local), "index": index})
    cluster.send("PUT", join_path(index), {"settings": {"index.search.default_pipeline": local.pipeline}})
    try:
        assert look(cluster, chosen, "texts")[0].verdict == "ok"
        cluster.send("PUT", f"/{index}/_doc/1?refresh=true", {"name": "without text"})
        assert f"1 document has no darl_text (index {index})" in look(cluster, chosen, "texts")[0].text
        result = look(cluster, chosen, "default")[0]
        assert result.verdict == "warning" and f"{index} ({local.pipeline})" in result.text
        mend(cluster, result)
        assert f"{index} (" not in look(cluster, chosen, "default")[0].text
    finally:
        cluster.send("DELETE", join_path(index))


def test_a_connectors_model_is_loaded_by_the_next_search(cluster, remote, bundles):
    options, port = remote
    [model] = models.find_models(cluster, models.connector_name(bundles["2"].card))
    with RunningScorer(bundles["2"], key="s3cret", port=port) as scorer:
        cluster.send("POST", join_path("_plugins", "_ml", "models", model.model_id, "_undeploy"))
        diagnosis = diagnose(cluster, options)
        assert wrong(diagnosis) == {"model": "warning"} and scorer.requests == []
        assert "the next search loads it" in diagnosis.of("model")[0].text
        mend(cluster, diagnosis.of("model")[0])
        assert eventually(lambda: wrong(diagnose(cluster, options)) == {}, 30)
