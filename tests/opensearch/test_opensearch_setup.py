"""What ``darl setup`` puts into a cluster, as far as a node without those plugins can run it.

Each monitor's search runs over real records and its condition is evaluated: a query-level one by the painless API, a
bucket-level one by ``bucket_selector``, of which alerting's own selector is a copy.
"""

from __future__ import annotations

import json
import re
import uuid
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from darl_opensearch.cluster import Cluster, load_items
from darl_opensearch.cluster.default_pipelines import warn_of_default_pipelines
from darl_opensearch.cluster.history import History
from darl_opensearch.cluster.release import ReleaseOptions, RollbackOptions, list_versions, release, rollback
from darl_opensearch.cluster.setup.assets import ROLES, list_assets
from darl_opensearch.cluster.setup.dashboards import render_saved_objects
from darl_opensearch.cluster.setup.options import SetupOptions
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.monitor import report
from darl_opensearch.ood import Shipper, StreamStore
from darl_opensearch.ood.record import LogPolicy
from darl_opensearch.ood.spool import Spool
from darl_opensearch.search import PipelineSearch
from tests.helpers.actions import ACTIONS, ML, find_actions, generalize
from tests.helpers.bundles import ITEMS, tiny_bundle
from tests.helpers.cluster import clean_up, recording
from tests.helpers.roles import granted, role_body
from tests.helpers.saved_objects import search_of
from tests.helpers.traffic import request_of, rows_of

pytestmark = pytest.mark.opensearch
EVERY = LogPolicy(model="tiny", version="1", alpha=0.05, sample_rate=1.0)


def scored(ood_pairs, of=10):
    """OOD scores of which a number are above 1 - alpha."""
    return [0.99] * ood_pairs + [0.5] * (of - ood_pairs)


def rows_at(ago, count, ood_pairs, slice_name, prefix):
    """Requests a while ago, every other one with one more OOD pair."""
    about = {"timestamp": datetime.now(UTC) - ago, "slice": slice_name, "prefix": prefix}
    requests = (request_of(n, scored(ood_pairs + n % 2), query=f"{prefix} {n}", **about) for n in range(count))
    return rows_of(requests, EVERY)


WEEK, DAY, HOUR = timedelta(days=4), timedelta(hours=20), timedelta(minutes=10)


def calm():
    """Traffic as calibrated, and two searches that were not reranked."""
    failed = [
        request_of(n, [], timestamp=datetime.now(UTC) - HOUR, prefix="d", reranked=False) for n in range(2)
    ]  # fmt: skip
    rows = [*rows_at(WEEK, 40, 0, "pet", "a"), *rows_at(DAY, 40, 0, "pet", "b"), *rows_at(HOUR, 40, 0, "pet", "c")]
    return [*rows, *rows_of(failed, EVERY)]


def strange():
    """A slice that is strange since a day."""
    return [*rows_at(WEEK, 80, 0, "pet", "a"), *rows_at(HOUR, 40, 0, "pet", "b"), *rows_at(HOUR, 40, 6, "cyber", "c")]


@pytest.fixture(scope="module")
def logs(opensearch_url, tmp_path_factory):
    """Two streams: one of traffic as calibrated, one of strange traffic."""
    client, made = connect(ClusterOptions(url=opensearch_url)), {}
    for name, rows in (("calm", calm()), ("strange", strange())):
        made[name] = f"darl-test-{name}-{uuid.uuid4().hex[:8]}"
        spool = tmp_path_factory.mktemp("spool") / "s.db"
        with Spool.open(spool, create=True) as opened:
            opened.append(rows)
        with Shipper(spool, client, stream=made[name]) as shipper:
            assert shipper.ship_all().created == len(rows)
    yield made
    for stream in made.values():
        client.indices.delete_data_stream(name=stream)
        client.indices.delete_index_template(name=stream)


@pytest.fixture
def history(cluster):
    name = f"darl-test-releases-{uuid.uuid4().hex[:8]}"
    yield History(cluster, "p", name)
    cluster.client.indices.delete(index=name, ignore=404)


def monitor(key, **options):
    return next(
        asset.body for asset in list_assets(SetupOptions(**options))
        if asset.part == "monitors" and json.dumps(asset.body).count(f'"darl-{key}-')
    )  # fmt: skip


def triggered(cluster, body):
    """Run a monitor once: whether it alerts, or for which groups it does."""
    search, [[kind, trigger]] = body["inputs"][0]["search"], body["triggers"][0].items()
    query, condition = json.loads(json.dumps(search["query"])), trigger["condition"]
    if kind == "bucket_level_trigger":
        selector = {"buckets_path": condition["buckets_path"], "script": condition["script"]}
        selector["gap_policy"] = condition["gap_policy"]
        inner = query["aggregations"][condition["parent_bucket_path"]]["aggregations"]
        inner["alerting"] = {"bucket_selector": selector}
    answer = cluster.search(search["indices"][0], query)
    if kind == "bucket_level_trigger":
        return [bucket["key"] for bucket in answer["aggregations"][condition["parent_bucket_path"]]["buckets"]]
    script = {"lang": "painless", "source": "def ctx = params.ctx; " + condition["script"]["source"]}
    script["params"] = {"ctx": {"results": [answer]}}
    return {"true": True, "false": False}[
        cluster.read("POST", "/_scripts/painless/_execute", {"script": script})["result"]
    ]


def test_the_share_ood_alerts_above_twice_alpha_or_the_limit_given(cluster, logs):
    assert triggered(cluster, monitor("share-ood", stream=logs["calm"])) is False
    assert triggered(cluster, monitor("share-ood", stream=logs["strange"])) is True
    assert triggered(cluster, monitor("share-ood", stream=logs["strange"], share_limit=0.9)) is False
    assert triggered(cluster, monitor("share-ood", stream=logs["calm"], share_limit=0.04)) is True  # it is .05
    assert triggered(cluster, monitor("share-ood", stream=logs["strange"], min_requests=81)) is False


def test_a_slice_alerts_on_its_own(cluster, logs):
    assert triggered(cluster, monitor("share-ood-by-slice", stream=logs["calm"])) == []
    strange = [{"slice": "cyber", "version": "1"}]
    assert triggered(cluster, monitor("share-ood-by-slice", stream=logs["strange"])) == strange
    assert triggered(cluster, monitor("share-ood-by-slice", stream=logs["strange"], min_requests=41)) == []


def test_a_day_unlike_the_week_before_alerts(cluster, logs):
    assert triggered(cluster, monitor("drift", stream=logs["calm"])) == []
    assert triggered(cluster, monitor("drift", stream=logs["strange"])) == [{"model": "tiny", "version": "1"}]
    assert triggered(cluster, monitor("drift", stream=logs["strange"], drift_z=1000.0)) == []
    assert triggered(cluster, monitor("drift", stream=logs["strange"], min_requests=81)) == []


def test_a_log_without_new_records_alerts(cluster, logs):
    assert triggered(cluster, monitor("log-lag", stream=logs["calm"])) is False
    assert triggered(cluster, monitor("log-lag", stream=logs["calm"], lag_minutes=5)) is True


def test_searches_that_were_not_reranked_alert(cluster, logs):
    assert triggered(cluster, monitor("not-reranked", stream=logs["calm"])) is True  # 2 of 42
    assert triggered(cluster, monitor("not-reranked", stream=logs["calm"], not_reranked_limit=0.05)) is False
    assert triggered(cluster, monitor("not-reranked", stream=logs["strange"], not_reranked_limit=0.0)) is False
    shown = {one["id"]: one for one in render_saved_objects(SetupOptions(stream=logs["calm"]))}["darl-not-reranked"]
    days = cluster.search(logs["calm"], search_of(shown))["aggregations"]["2"]["buckets"]
    assert sum(day["doc_count"] for day in days) == 2


def test_refused_and_unfinished_releases_alert(cluster, history):
    from darl_opensearch.cluster.history import Served

    to = Served("shoes", "1", "local", "m1")
    history.ensure_index()
    body = monitor("releases", history=history.index)
    assert triggered(cluster, body) is False
    event = history.begin(0, "release", to)
    assert triggered(cluster, body) is False, "it may still be running"
    started = (datetime.now(UTC) - 2 * HOUR).isoformat(timespec="milliseconds")
    cluster.client.update(index=history.index, id="p:1", refresh=True, body={"doc": {"@timestamp": started}})
    assert triggered(cluster, body) is True
    cluster.client.update(index=history.index, id="p:1", refresh=True, body={"doc": {"state": "done"}})
    assert triggered(cluster, body) is False
    history.begin(event.number, "refused", to, state="done")
    assert triggered(cluster, body) is True


def test_visualizations_show_the_logs_figures(cluster, logs):
    stream = logs["strange"]
    objects = {one["id"]: one for one in render_saved_objects(SetupOptions(stream=stream))}
    assert cluster.read("GET", f"/_resolve/index/{objects['darl-log']['attributes']['title']}")["data_streams"]
    found = {
        key: cluster.search(stream, search_of(one))["aggregations"]
        for key, one in objects.items() if one["type"] == "visualization" and key != "darl-not-reranked"
    }  # fmt: skip
    days = found["darl-share-ood"]["3"]["buckets"]
    assert days[0]["4"]["buckets"][0]["1"]["value"] == pytest.approx(0.05)
    assert days[0]["4"]["buckets"][0]["2"]["value"] == pytest.approx(0.05)  # alpha
    slices = {bucket["key"]: bucket["1"]["value"] for bucket in found["darl-share-by-slice"]["2"]["buckets"]}
    assert list(slices) == ["cyber", "pet"] and slices["cyber"] == pytest.approx(0.65)
    pairs = sum(grade["1"]["value"] for day in found["darl-grades"]["2"]["buckets"] for grade in day["3"]["buckets"])
    assert pairs == 160 * 10  # every request had ten
    strangest = found["darl-strangest"]["4"]["buckets"]
    assert strangest[0]["1"]["value"] == pytest.approx(1.98) and len(strangest) == 50
    [model] = found["darl-versions"]["6"]["buckets"]
    [version] = model["7"]["buckets"]
    assert (model["key"], version["key"], version["doc_count"]) == ("tiny", "1", 160)
    assert version["2"]["value"] == pytest.approx((120 * 0.05 + 40 * 0.65) / 160)


def test_the_actions_of_the_roles_are_the_nodes_own(node):
    """Each is a constant of the node's jars, ML Commons' included."""
    if node.engine != "java":
        pytest.skip("its jars are in a container")
    words = Path(f"/proc/{node.pid}/cmdline").read_bytes().decode().split("\0")
    [home] = {word.partition("=")[2] for word in words if word.startswith("-Dopensearch.path.home=")}
    jars = [
        *Path(home).glob(f"lib/opensearch-{node.version}.jar"),
        *Path(home).glob("lib/opensearch-core-*.jar"),
        *Path(home).glob("plugins/opensearch-ml/opensearch-ml-*.jar"),
    ]
    jars += Path(home).glob("modules/search-pipeline-common/*.jar")
    names = set()
    for jar in jars:
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if "Action" in name and name.endswith(".class"):
                    content = archive.read(name)
                    names |= set(re.findall(rb"(?:cluster|indices):[a-z]+/[\w/\[\]]+", content))
                    if b"ACTION_PREFIX" in content:  # joined with it when the class is loaded
                        names |= {ML.encode() + end for end in re.findall(rb"\x01([\w/]+)", content)}
    wanted = {action for _, actions in ACTIONS for action in actions}
    assert wanted - {name.decode() for name in names} == set()


@pytest.mark.local_mode
def test_every_request_of_a_command_is_permitted_to_its_role(cluster, opensearch_url, tmp_path):
    name = f"t{uuid.uuid4().hex[:10]}"
    options = SetupOptions(stream=f"{name}-log", history=f"{name}-releases", index=(f"{name}-items",))
    bundle = tiny_bundle(tmp_path / name, name=name)
    items, spool = tmp_path / "items.jsonl", tmp_path / "spool.db"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    with Spool.open(spool, create=True) as opened:
        opened.append(calm()[:20])
    sent = {}

    def as_user(role):
        sent[role], connection = recording()
        return Cluster.open(ClusterOptions(url=opensearch_url), connection_class=connection)

    try:
        load_items(as_user("loader"), bundle, items, f"{name}-items").check()
        operator = as_user("operator")
        chosen = {"pipeline": name, "history": options.history}
        release(bundle, operator, ReleaseOptions(**chosen, index=f"{name}-items"))
        assert not warn_of_default_pipelines(operator)
        rollback(operator, RollbackOptions(**chosen, to=bundle.card.version))
        assert len(list_versions(operator, name, history=options.history)) == 1
        searcher = PipelineSearch(as_user("searcher").client, bundle, f"{name}-items", name)
        assert searcher.search("cover for a bike").reranked
        with Shipper(spool, as_user("shipper").client, stream=options.stream) as shipper:
            assert shipper.ship_all().created == 20
        assert not report(StreamStore(as_user("reader").client, stream=options.stream)).empty
    finally:
        cluster.client.indices.delete_data_stream(name=options.stream, ignore=404)
        cluster.client.indices.delete_index_template(name=options.stream, ignore=404)
        clean_up(cluster, bundle, pipeline_names={name}, indexes={f"{name}-items", options.history})
    assert set(sent) == set(ROLES)
    refused = set()
    for role, requests in sent.items():
        body = role_body(role, options)
        for method, url, _ in requests:
            request, index = generalize(method, url)
            actions = find_actions(request)
            refused |= {(role, request, index, a) for a in actions or ["unknown"] if not granted(body, a, index)}
    assert refused == set()


def test_a_cluster_without_the_plugins(darl, opensearch_url, tmp_path):
    out = tmp_path / "darl.ndjson"
    done = json.loads(darl("setup", "--url", opensearch_url, "--out", str(out), "--json").out)
    assert set(done["skipped"]) == {"ism", "monitors", "roles"} and done["changes"] == {}
    assert len(out.read_text(encoding="utf-8").splitlines()) == 10
    said = darl("setup", "--url", opensearch_url, "--only", "monitors")
    assert said.code == 1 and "does not have the plugin opensearch-alerting" in said.err
