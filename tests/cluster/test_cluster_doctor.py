"""What ``darl doctor`` says of answers that a healthy node does not give."""

from __future__ import annotations

import copy
import dataclasses
import ssl
import subprocess
import time

import pytest

from darl_opensearch.cluster import Cluster
from darl_opensearch.cluster.doctor import CheckResult, Diagnosis, DoctorOptions, diagnose
from darl_opensearch.cluster.doctor.certificates import judge_dates, read_certificate, read_own_certificate
from darl_opensearch.cluster.doctor.logs import judge_losses
from darl_opensearch.cluster.doctor.pipelines import find_differences
from darl_opensearch.cluster.doctor.resources import BREAKS, compare_clocks, parse_size
from darl_opensearch.cluster.pipelines import PipelineOptions, render_pipelines
from darl_opensearch.cluster.preflight import ML, PRIVATE, TRUSTED
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.ood.spool import Row, Spool
from tests.helpers.certificates import Authority, server_context
from tests.helpers.commands import run_main
from tests.helpers.http import Quiet, serving, stub_cluster

GB = 1024**3
PARTS = {
    "plugins": [{"name": "opensearch-ml"}, {"name": "opensearch-neural-search"}],
    "modules": [{"name": "search-pipeline-common"}, {"name": "lang-painless"}],
}
WATERMARK = "cluster.routing.allocation.disk.watermark."
SETTINGS = {
    ML + "allow_registering_model_via_local_file": "true", ML + "local_model.enabled": "true",
    ML + "only_run_on_ml_node": "false", ML + "remote_inference.enabled": "true", PRIVATE: "true",
    TRUSTED: ["^http://127\\.0\\.0\\.1:.*$"], ML + "jvm_heap_memory_threshold": "85",
    ML + "disk_free_space_threshold": "5gb", ML + "model_auto_deploy.enable": "true",
    WATERMARK + "low": "85%", WATERMARK + "high": "0.9", WATERMARK + "flood_stage": "2gb",
}  # fmt: skip


@pytest.fixture
def recorded(tiny):
    """Answers of a healthy cluster of two nodes that serves a connector's model."""
    nodes = {name: {"name": name, "version": "3.9.0", "roles": ["data"], **PARTS} for name in ("one", "two")}
    stats = {
        name: {
            "name": name, "jvm": {"mem": {"heap_used_percent": 40}}, "os": {"mem": {"used_percent": 97}},
            "fs": {"data": [{"total_in_bytes": 100 * GB, "available_in_bytes": 50 * GB}]},
        }
        for name in ("one", "two")
    }  # fmt: skip
    bodies = render_pipelines(tiny.card, "connector", "m1", PipelineOptions())
    model = {"model_state": "DEPLOYED", "planning_worker_nodes": ["one", "two"], "connector_id": "c1"}
    loaded = {"models": {"m1": {"model_state": "DEPLOYED"}}}
    return {
        ("GET", "/"): {"version": {"distribution": "opensearch", "number": "3.9.0"}},
        ("GET", "/_nodes/plugins"): {"nodes": nodes},
        ("GET", "/_cluster/settings"): {"defaults": SETTINGS, "persistent": {}, "transient": {}},
        ("GET", "/_nodes/stats/os,jvm,fs"): {"nodes": stats},
        ("GET", "/_nodes/stats/process"): lambda: {
            "nodes": {name: {"name": name, "timestamp": time.time() * 1000} for name in stats}
        },
        ("GET", BREAKS): {"nodes": {name: {"ml_circuit_breaker_trigger_count": 0} for name in stats}},
        **{("GET", f"/_search/pipeline/{name}"): {name: copy.deepcopy(body)} for name, body in bodies.items()},
        ("POST", "/darl-releases/_search"): {"hits": {"hits": []}},
        ("GET", "/_plugins/_ml/models/m1"): model,
        ("GET", "/_plugins/_ml/connectors/c1"): {"actions": [{"url": "http://127.0.0.1:9/v1/rerank"}]},
        ("GET", "/_plugins/_ml/profile/models/m1"): {"nodes": {"one": loaded, "two": loaded}},
        ("POST", "/_plugins/_ml/models/m1/_predict"): {"inference_results": [{"status_code": 200}]},
        ("GET", "/*,-.*,.ds-*/_settings/index.search.default_pipeline"): {},
        ("GET", "/_resolve/index/darl-ood"): {"indices": [], "aliases": [], "data_streams": []},
    }


def ask(answers, **options) -> Diagnosis:
    with serving(stub_cluster(answers)) as url:
        cluster = Cluster.open(ClusterOptions(url=url))
        try:
            return diagnose(cluster, DoctorOptions(**options))
        finally:
            cluster.client.close()


def only(diagnosis: Diagnosis, check: str, verdict: str) -> CheckResult:
    [result] = [result for result in diagnosis.of(check) if result.verdict == verdict]
    return result


def test_a_healthy_cluster(recorded):
    diagnosis = ask(recorded)
    assert [result.check for result in diagnosis.results if result.verdict in ("problem", "warning")] == []
    assert "97 % of the memory (threshold 90 %, which ML Commons does not enforce)" in only(
        diagnosis, "breakers", "ok").text  # fmt: skip
    assert "agree within 0." in only(diagnosis, "clock", "ok").text
    assert only(diagnosis, "scorer", "not checked").text.startswith("whether it serves tiny 1: this machine does not")


def test_breakers(recorded):
    stats = recorded["GET", "/_nodes/stats/os,jvm,fs"]["nodes"]
    stats["two"]["jvm"]["mem"]["heap_used_percent"] = 86
    recorded["GET", BREAKS]["nodes"]["one"]["ml_circuit_breaker_trigger_count"] = 12
    diagnosis = ask(recorded)
    assert "more than 85 % of the Java heap is used on two (86 %)" in only(diagnosis, "breakers", "problem").text
    assert "since the node started: one (12)" in only(diagnosis, "breakers", "warning").text
    recorded["GET", "/_cluster/settings"]["persistent"][ML + "jvm_heap_memory_threshold"] = 100  # off
    assert [result.verdict for result in ask(recorded).of("breakers")] == ["warning"]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (50, [("ok", "every disk is below the watermarks")]),
        (14, [("warning", "past the watermark low (85%)")]),
        (9, [("warning", "past the watermark high (0.9)")]),
        (4, [("problem", "ML Commons requires 5gb"), ("warning", "past the watermark high")]),
        (1, [("problem", "ML Commons requires 5gb"), ("problem", "past the watermark flood_stage (2gb)")]),
    ],
)
def test_disks(recorded, free, expected):
    recorded["GET", "/_nodes/stats/os,jvm,fs"]["nodes"]["two"]["fs"]["data"][0]["available_in_bytes"] = free * GB
    results = ask(recorded).of("disk")
    assert [result.verdict for result in results] == [verdict for verdict, _ in expected]
    assert all(text in result.text for result, (_, text) in zip(results, expected, strict=True))


def test_a_single_node_has_no_other_to_move_shards_to(recorded):
    stats = recorded["GET", "/_nodes/stats/os,jvm,fs"]["nodes"]
    del stats["two"]
    stats["one"]["fs"]["data"][0]["available_in_bytes"] = 9 * GB
    assert [result.verdict for result in ask(recorded).of("disk")] == ["ok"]
    recorded["GET", "/_cluster/settings"]["persistent"][WATERMARK + "enable_for_single_data_node"] = "true"
    assert [result.verdict for result in ask(recorded).of("disk")] == ["warning"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("5gb", 5 * GB), ("100mb", 100 * 1024**2), ("1.5 kb", 1536), ("7", 7), ("85%", None), ("-1", None)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_clocks():
    def verdict(told, before=1000.0, after=1001.0):
        [result] = compare_clocks({"a": before + 0.5, "b": told}, before, after)
        return result.verdict, result.text

    assert verdict(1000.2)[0] == verdict(998.5)[0] == verdict(1002.9)[0] == "ok"  # within the request and two seconds
    assert verdict(1011.0) == ("warning", verdict(1011.0)[1]) and "node b is 10 s ahead of" in verdict(1011.0)[1]
    assert verdict(880.0)[0] == "problem" and "120 s behind this machine's" in verdict(880.0)[1]
    assert [result.verdict for result in compare_clocks({}, 0.0, 1.0)] == ["not checked"]


def test_settings_that_a_transient_one_overrides(recorded):
    recorded["GET", "/_cluster/settings"]["transient"][PRIVATE] = "false"
    result = only(ask(recorded), "settings", "problem")
    assert result.mends() == [
        f'PUT /_cluster/settings {{"persistent": {{"{PRIVATE}": true}}, "transient": {{"{PRIVATE}": null}}}}'
    ]


def test_versions_and_plugins(recorded):
    recorded["GET", "/_nodes/plugins"]["nodes"]["two"] |= {"version": "3.8.0", "plugins": []}
    diagnosis = ask(recorded)
    assert only(diagnosis, "version", "warning").text == "the nodes have different versions: 3.8.0, 3.9.0"
    lacking = [result.text for result in diagnosis.of("plugins")]
    assert len(lacking) == 2 and all(text.startswith("node two does not have ") for text in lacking)
    recorded["GET", "/"] = {"version": {"distribution": "opensearch", "number": "2.18.0"}}
    assert "2.18.0, but --mode connector requires 2.19" in only(ask(recorded), "version", "problem").text
    assert "--mode local requires 3.0" in only(ask(recorded, mode="local"), "version", "problem").text


def test_batch_inference(recorded):
    body = recorded["GET", "/_search/pipeline/darl"]["darl"]
    before = copy.deepcopy(body)
    body["response_processors"][0]["ml_inference"]["batch_inference_config"] = {"max_batch_size": 20}
    diagnosis = ask(recorded)
    result = only(diagnosis, "batches", "problem")
    assert "'darl' has batch_inference_config: it splits" in result.text
    assert [(call.method, call.path, call.body) for call in result.requests] == [
        ("PUT", "/_search/pipeline/darl", before)
    ]
    assert "ml_inference.batch_inference_config" in only(diagnosis, "pipelines", "warning").text


def test_a_model_on_some_of_its_nodes(recorded):
    del recorded["GET", "/_plugins/_ml/profile/models/m1"]["nodes"]["two"]
    recorded["GET", "/_plugins/_ml/models/m1"]["model_state"] = "PARTIALLY_DEPLOYED"
    result = only(ask(recorded), "model", "warning")
    assert result.text == "model m1 of tiny 1 is loaded on one, but not on two"
    assert result.mends() == ["POST /_plugins/_ml/models/m1/_deploy"]
    recorded["GET", "/_plugins/_ml/profile/models/m1"]["nodes"].clear()
    diagnosis = ask(recorded)
    assert "loaded on no node (state PARTIALLY_DEPLOYED): the next search loads it" in only(
        diagnosis, "model", "warning").text  # fmt: skip
    assert any(
        "whether the cluster reaches" in result.text for result in diagnosis.of("scorer")
    )  # asking would load it
    recorded["GET", "/_cluster/settings"]["persistent"][ML + "model_auto_deploy.enable"] = "false"
    assert "searches keep their first-stage order" in only(ask(recorded), "model", "problem").text


def test_what_is_not_allowed_is_not_checked_and_the_rest_is(recorded):
    refused = 403, {"error": {"root_cause": [{"type": "security", "reason": "no permissions for x"}]}, "status": 403}
    recorded["GET", "/_nodes/stats/os,jvm,fs"] = refused
    diagnosis = ask(recorded)
    assert [diagnosis.of(name)[0].verdict for name in ("breakers", "disk")] == ["not checked"] * 2
    assert "no permissions for x" in diagnosis.of("disk")[0].text
    assert diagnosis.of("clock")[0].verdict == "ok" and diagnosis.count("problem") == 0


def test_a_pipeline_of_somebody_else(recorded):
    recorded["GET", "/_search/pipeline/darl"] = {"darl": {"description": "mine", "response_processors": []}}
    assert "was not created by darl" in only(ask(recorded), "pipelines", "problem").text
    assert "not checked" in {result.verdict for result in ask(recorded).of("model")}


def test_a_bundle_that_scores_items_in_chunks(recorded, tiny):
    card = dataclasses.replace(tiny.card, template=dataclasses.replace(tiny.card.template, chunks=3))
    for name, body in render_pipelines(card, "connector", "m1", PipelineOptions()).items():
        recorded["GET", f"/_search/pipeline/{name}"] = {name: body}
    assert ask(recorded).of("pipelines")[0].verdict == "ok"
    del recorded["GET", "/_search/pipeline/darl-plain"]
    [put] = only(ask(recorded), "pipelines", "problem").requests
    assert put.body["response_processors"][0]["rerank"]["context"] == {"document_fields": ["darl_long_text"]}


def test_differences():
    assert list(find_differences({"a": [1, {"b": 2}], "c": 1}, {"a": [1, {"b": 3}], "d": 1})) == ["a[1].b", "c", "d"]
    assert list(find_differences([1], [1, 2], "x")) == ["x"]


def test_lost_records(recorded, tmp_path):
    assert judge_losses("x", {"spooled_records": 9}).verdict == "ok"
    lost = judge_losses("x", {"dropped_queue": 3, "evicted": 1200})
    assert lost.text == "x: lost 3 requests because the queue was full, 1,200 records because the spool was full"
    metrics = b'darl_ood_log_events_total{event="dropped_queue"} 7.0\ndarl_ood_log_events_total{event="accepted"} 8.0\n'

    class Scorer(Quiet):
        def do_GET(self):
            self.answer(200, metrics if self.path == "/metrics" else b"[]", "text/plain")

    path = tmp_path / "spool.sqlite"
    with Spool.open(path, create=True) as spool:
        spool.append([Row("a", 1, "pair", "{}")], {"dropped_error": 2})
        spool.settle(dead={spool.take()[0].seq: "too new"})
    with serving(Scorer) as url:
        diagnosis = ask(recorded, scorer_url=f"{url}/v1/rerank", spool=path)
    texts = [result.text for result in diagnosis.of("lost records")]
    assert texts == [
        "scorer, since it started: lost 7 requests because the queue was full",
        f"spool {path}: lost 2 requests because of errors",
        f"spool {path}: the cluster rejected 1 records",
    ]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert], capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("there is no openssl to make a certificate with")
    return key, cert


def test_certificates(recorded, certificate):
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with serving(stub_cluster(recorded), context) as url:
        fields = read_certificate(url)
        assert judge_dates("it", fields, time.time()).text.startswith("it expires in 8 days, on ")
        ran = run_main("doctor", "--url", url, "--ca-certs", cert)
        blind = run_main("doctor", "--url", url, "--insecure")
    lines = [line for line in ran.out.splitlines() if "certificates" in line]
    assert [line[:11].strip() for line in lines] == ["warning", "warning"] and ran.code == 0
    assert f"the CA certificate 127.0.0.1 in {cert} expires in 8 days" in lines[1]
    assert "the cluster's certificate is not verified (--insecure)" in blind.out
    end = ssl.cert_time_to_seconds(fields["notAfter"])
    assert judge_dates("it", fields, end - 40 * 86_400).verdict == "problem"  # before it begins
    assert judge_dates("it", fields, end + 1).text == f"it expired on {fields['notAfter']}"
    assert judge_dates("it", fields | {"notBefore": "Jan  1 00:00:00 2020 GMT"}, end - 40 * 86_400).verdict == "ok"
    assert judge_dates("it", {}, 0).verdict == "not checked"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_cluster_that_asks_for_a_client_certificate(recorded, tmp_path, version):
    """Its own certificate is read with ours shown, and ours is looked at, too."""
    ours = Authority(tmp_path, "ours")
    cert, key = ours.issue("client", days=9)
    server = server_context(*ours.issue("asking", host="IP:127.0.0.1", days=90), clients=ours.cert)
    server.minimum_version = server.maximum_version = version
    with serving(stub_cluster(recorded), server) as url:
        ran = run_main("doctor", "--url", url, "--ca-certs", ours.cert, "--client-cert", cert, "--client-key", key)
    lines = "\n".join(line for line in ran.out.splitlines() if "certificate" in line)
    assert "the cluster's certificate is valid for 89 more days" in lines
    assert f"the client certificate {cert} expires in 8 days" in lines
    assert "cannot be read" not in lines


def test_dates_of_client_certificates(tmp_path):
    ours = Authority(tmp_path, "ours")
    for name, days, said in (("soon", 9, "expires in 8 days"), ("old", -1, "expired on"), ("good", 99, "98 more days")):
        cert, key = ours.issue(name, days=days)
        assert said in judge_dates("it", read_own_certificate(cert, key), time.time()).text
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    assert read_own_certificate(both, None) == read_own_certificate(cert, key)
    with pytest.raises(OSError):
        read_own_certificate(cert, ours.issue("other")[1])


def test_a_cluster_that_cannot_be_reached_is_an_error():
    ran = run_main("doctor", "--url", "http://127.0.0.1:9")
    assert (ran.code, ran.out) == (1, "") and "nothing is listening there" in ran.err


def test_exit_codes_and_json(recorded):
    import json

    with serving(stub_cluster(recorded)) as url:
        fine = run_main("doctor", "--url", url, "--json")
        bad = run_main("doctor", "--url", url, "--pipeline", "nope")
    told = json.loads(fine.out)
    assert fine.code == 0 and told["problems"] == 0 and told["version"] == "3.9.0"
    assert {"check", "verdict", "text", "todo", "requests"} == told["results"][0].keys()
    assert bad.code == 1 and "search pipeline 'nope' does not exist" in bad.out
    assert "1 problem, 0 warnings" in bad.out
