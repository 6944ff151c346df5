"""The data stream on a real node: what the mapping refuses, what 409 means, what a rollover does."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import pytest

from darl_opensearch.cluster import Cluster
from darl_opensearch.cluster.history import History, Served
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.errors import ClusterError
from darl_opensearch.monitor import report
from darl_opensearch.monitor.render import render_report
from darl_opensearch.ood import Shipper, SpoolStore, StreamStore, ensure_stream, join_texts
from darl_opensearch.ood.spool import Row, Spool
from darl_opensearch.ood.stream import template
from darl_opensearch.reranker import Reranker
from tests.helpers.bundles import ITEMS, TEMPLATE
from tests.helpers.commands import run_main
from tests.helpers.traffic import POLICY, START, request_of, rows_of, traffic

pytestmark = pytest.mark.opensearch


@pytest.fixture
def client(opensearch_url):
    return connect(ClusterOptions(url=opensearch_url))


@pytest.fixture
def stream(client):
    name = f"darl-test-ood-{uuid.uuid4().hex[:8]}"
    yield name
    client.indices.delete_data_stream(name=name, ignore=[400, 404])
    client.indices.delete_index_template(name=name, ignore=404)


@pytest.fixture
def index(client):
    name = f"darl-test-items-{uuid.uuid4().hex[:8]}"
    yield name
    client.indices.delete(index=name, ignore=404)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.db"


def spooled(path, rows):
    with Spool.open(path, create=True) as spool:
        spool.append(rows)
    return rows


def shipped(path, client, stream):
    with Shipper(path, client, stream=stream) as shipper:
        return shipper.ship_all()


def count(client, stream):
    client.indices.refresh(index=stream)
    return client.count(index=stream)["count"]


def test_the_stream_is_set_up_once_as_its_template_says(client, stream):
    assert ensure_stream(client, stream) is True
    assert ensure_stream(client, stream) is False
    (mapping,) = client.indices.get_mapping(index=stream).values()
    wanted = template(stream)["template"]["mappings"]
    assert mapping["mappings"]["dynamic"] == "strict"
    assert mapping["mappings"]["properties"].keys() == wanted["properties"].keys()
    for name, field in wanted["properties"].items():
        assert field.items() <= mapping["mappings"]["properties"][name].items()


def test_a_stream_of_an_earlier_version_takes_new_fields_and_keeps_what_its_operator_set(client, stream, path):
    body = template(stream)
    del body["version"], body["template"]["mappings"]["properties"]["reranked"]
    body["template"]["settings"]["index"] |= {"number_of_shards": 2}
    body["priority"] = 777
    client.indices.put_index_template(name=stream, body=body)
    client.indices.create_data_stream(name=stream)
    before = [row for row in rows_of(traffic(5)) if row.kind == "pair"]
    rows = rows_of([*traffic(5), request_of(9, [], reranked=False)])
    spooled(path, rows)
    assert shipped(path, client, stream).dead == 0
    client.indices.rollover(alias=stream)
    (found,) = client.indices.get_index_template(name=stream)["index_templates"]
    assert found["index_template"]["version"] == template()["version"] and found["index_template"]["priority"] == 777
    for index in client.indices.get_mapping(index=stream).values():
        assert index["mappings"]["properties"]["reranked"] == {"type": "boolean"}
        assert index["mappings"]["dynamic"] == "strict"
    shards = [
        one["settings"]["index"]["number_of_shards"] for one in client.indices.get_settings(index=stream).values()
    ]
    assert shards == ["2", "2"]
    assert ensure_stream(client, stream) is False
    store = StreamStore(client, stream=stream)
    assert [r.reranked for r in store.requests(not_reranked=True)] == [True] * 5 + [False]
    assert len(list(store.requests())) == 5 and len(list(store.pairs())) == len(before)


@pytest.mark.parametrize("kind", ["index", "alias"])
def test_a_name_that_is_taken_is_an_error_and_nothing_is_changed(client, stream, index, kind):
    if kind == "alias":
        client.indices.create(index=index, body={"aliases": {stream: {}}})
    else:
        client.indices.create(index=index)
        stream = index
    with pytest.raises(ClusterError, match="require a data stream"):
        ensure_stream(client, stream)
    assert not client.indices.exists_index_template(name=stream)


def test_every_record_is_taken_by_the_strict_mapping_and_read_back(client, stream, path):
    requests = [
        *traffic(30),
        request_of(90, [], query=""),
        request_of(91, [0.99], query="q" * 50_000, query_id="i" * 40_000, documents=["t" * 500_000]),
        request_of(92, [0.99], query='a\ud800 "\\ \n\x00 é 商品', slice="s" * 2000),
    ]
    rows = spooled(path, rows_of(requests))
    with SpoolStore(path) as store:
        expected = [[*store.requests()], [*store.pairs()]]
    result = shipped(path, client, stream)
    assert (result.created, result.dead) == (len(rows), 0)
    store = StreamStore(client, stream=stream)
    assert [[*store.requests()], [*store.pairs()]] == expected


def test_sent_again_is_409_and_changes_nothing(client, stream, path, tmp_path):
    rows = spooled(path, rows_of(traffic(20)))
    assert shipped(path, client, stream).created == len(rows)
    spooled(tmp_path / "again.db", rows)
    again = shipped(tmp_path / "again.db", client, stream)
    assert (again.created, again.already_there) == (0, len(rows))
    assert count(client, stream) == len(rows)


def test_a_field_outside_the_mapping_is_a_dead_letter_and_the_rest_arrives(client, stream, path):
    rows = rows_of(traffic(10))
    odd = json.dumps(json.loads(rows[4].body) | {"surprise": 1})
    rows[4] = Row(rows[4].record_id, rows[4].timestamp_ms, rows[4].kind, odd)
    spooled(path, rows)
    result = shipped(path, client, stream)
    assert (result.created, result.dead) == (len(rows) - 1, 1)
    with Spool.open(path) as spool:
        (letter,) = spool.dead_letters()
    assert letter.reason.startswith("400:") and "surprise" in letter.reason


def test_twins_across_a_rollover_are_read_once(client, stream, path, tmp_path):
    rows = spooled(path, rows_of(traffic(25)))
    shipped(path, client, stream)
    client.indices.rollover(alias=stream)
    spooled(tmp_path / "again.db", rows)
    assert shipped(tmp_path / "again.db", client, stream).created == len(rows)
    assert count(client, stream) == 2 * len(rows)
    for page_records in (1, 3, 10_000):  # twins on one page, and on both sides of a page's end
        store = StreamStore(client, stream=stream, page_records=page_records)
        ids = [r.record_id for r in [*store.requests(), *store.pairs()]]
        assert sorted(ids) == sorted(r.record_id for r in rows)


def test_paging_misses_nothing_and_leaves_no_point_in_time(client, stream, path):
    rows = spooled(path, rows_of([request_of(i, [0.99] * 3, timestamp=START) for i in range(40)]))
    shipped(path, client, stream)
    before = _open_points(client)
    store = StreamStore(client, stream=stream, page_records=7)
    ids = [r.record_id for r in store.pairs()]
    assert ids == sorted(r.record_id for r in rows if r.kind == "pair")
    half_read = store.pairs()
    next(half_read)
    half_read.close()
    assert _open_points(client) == before
    span = store.requests(since=START, until=START + timedelta(milliseconds=1))
    assert len(list(span)) == 40
    assert list(store.requests(since=START + timedelta(milliseconds=1))) == []


def _open_points(client):
    stats = client.transport.perform_request("GET", "/_nodes/stats/indices/search")
    return sum(n["indices"]["search"].get("point_in_time_current", 0) for n in stats["nodes"].values())


def test_both_stores_give_the_same_report(client, stream, path):
    spooled(path, rows_of(traffic(200)))
    until = START + timedelta(days=1)
    with SpoolStore(path) as store:
        local = report(store, START, until=until, counters={})
    shipped(path, client, stream)
    remote = report(StreamStore(client, stream=stream), START, until=until)
    assert local.models[0].requests == 200
    assert remote.to_json()["models"] == local.to_json()["models"]
    assert render_report(remote).splitlines()[1:] == render_report(local).splitlines()[1:]


def test_a_page_of_the_stream_has_the_figures_of_its_spool(client, stream, path, tmp_path, opensearch_url):
    spooled(path, rows_of(traffic(200)))
    until = ("--since", START.isoformat(), "--window", "1d", "--json")
    local = run_main("monitor", "--spool", path, *until)
    shipped(path, client, stream)
    client.indices.refresh(index=stream)
    page = tmp_path / "page.html"
    remote = run_main("monitor", "--url", opensearch_url, "--stream", stream, "--html", page, *until)
    assert (local.code, remote.code) == (0, 0), remote.err
    here, there = (json.loads(said.out)["overview"] for said in (local, remote))
    assert here["windows"] and here["windows"] == there["windows"] and here["focus"] == there["focus"]
    assert stream in page.read_text(encoding="utf-8")


def test_a_page_of_the_stream_shows_the_releases_of_its_pipeline(client, stream, path, tmp_path, opensearch_url):
    spooled(path, rows_of(traffic(20)))
    shipped(path, client, stream)
    client.indices.refresh(index=stream)
    index = f"{stream}-releases"
    history = History(Cluster(client), "ours", index)
    try:
        for number, (kind, version, state) in enumerate([
            ("release", "1", "done"), ("release", "2", "done"), ("refused", "3", "done"), ("release", "4", "abandoned"),
            ("rollback", "1", "switching"),
        ]):  # fmt: skip
            gate = {"passed": version == "2"} if version in "23" else None
            to = Served("tiny", version, "local", f"id-{version}")
            event = history.begin(number, kind, to, note=f"note {version}", gate=gate)
            if state != "switching":
                history.close(event, state)
        where = ("--url", opensearch_url, "--stream", stream, "--history", index, "--json", "--html", tmp_path / "p")
        read = run_main("monitor", *where, "--pipeline", "ours")
        other = run_main("monitor", *where, "--pipeline", "theirs")
        client.index(index=index, body={"pipeline": "ours", "number": 9}, params={"refresh": "true"})
        unread = run_main("monitor", *where, "--pipeline", "ours")
    finally:
        client.indices.delete(index=index)
    releases = json.loads(read.out)["overview"]["releases"]
    assert [(r["event"], r["version"], r["gate"], r["note"]) for r in releases] == [
        ("release", "tiny 1", None, "note 1"), ("release", "tiny 2", True, "note 2"),
        ("refused", "tiny 3", False, "note 3"), ("rollback, switching", "tiny 1", None, "note 1"),
    ]  # fmt: skip
    assert json.loads(other.out)["overview"]["releases"] == [] and other.code == read.code == 0 == unread.code
    assert "could not be read" not in read.err + other.err
    told = json.loads(unread.out)["overview"]
    assert told["windows"] and told["releases"] == [] and "a document that is not a release" in told["releases_unread"]
    assert "warning: the release history could not be read" in unread.err
    assert "the history could not be read" in (tmp_path / "p").read_text(encoding="utf-8")


def test_a_stream_that_is_not_there_is_empty(client, stream):
    assert report(StreamStore(client, stream=stream)).empty


def test_texts_are_joined_by_item_id(client, index):
    client.indices.create(
        index=index,
        body={"mappings": {"properties": {"darl_id": {"type": "keyword"}, "darl_text": {"type": "text"}}}},
    )
    for item in [*ITEMS, ITEMS[0]]:  # one is there twice
        client.index(index=index, body={"darl_id": item["id"], "darl_text": TEMPLATE.render(item)})
    client.index(index=index, body={"darl_id": "no-text"})
    client.indices.refresh(index=index)
    ids = [*(item["id"] for item in ITEMS), "gone", "no-text", ITEMS[0]["id"]]
    for chunk in (1, 4, 500):
        joined = join_texts(client, index, ids, chunk=chunk)
        assert joined.texts == {item["id"]: TEMPLATE.render(item) for item in ITEMS}
        assert joined.missing == ("gone", "no-text")


def test_the_reranker_searches_a_real_index_and_its_log_arrives(client, index, stream, tiny, path):
    client.indices.create(
        index=index,
        body={"mappings": {"properties": {"darl_id": {"type": "keyword"}, "darl_text": {"type": "text"}}}},
    )
    for item in ITEMS:
        body = item | {"darl_id": item["id"], "darl_text": TEMPLATE.render(item)}
        client.index(index=index, id=item["id"], body=body)
    client.indices.refresh(index=index)
    query = "cover for stolen luggage in a house fire"
    with Reranker(tiny, ood_log=path) as reranker:
        answer = reranker.search(client, index, query, 2, window=6)
        first_stage = client.search(index=index, body={"query": {"match": {"darl_text": query}}})
        scores = reranker.scorer.score(query, [tiny.renderer(h["_source"]) for h in first_stage["hits"]["hits"]])
    hits = answer["hits"]["hits"]
    expected = [first_stage["hits"]["hits"][i]["_id"] for i in scores.order()]
    assert [h["_id"] for h in hits] == expected[:2]
    assert expected != [h["_id"] for h in first_stage["hits"]["hits"]]
    assert all("darl_score" in h["_source"] and "previous_score" in h["_source"] for h in hits)
    shipped(path, client, stream)
    (record,) = StreamStore(client, stream=stream).requests()
    assert (record.query, record.request_id) == (query, answer["darl"]["request_id"])


def test_darl_ship_follows_a_spool_until_told_to_stop(opensearch_url, client, stream, path):
    rows = spooled(path, rows_of(traffic(20)))
    command = [sys.executable, "-m", "darl_opensearch", "ship", "--spool", str(path), "--url", opensearch_url]
    process = subprocess.Popen(
        [*command, "--stream", stream, "--follow", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    more = rows_of(traffic(5, prefix="later"))
    with Spool.open(path) as spool:
        while spool.counters()["shipped"] < len(rows) and time.monotonic() < deadline:
            time.sleep(0.1)
        spool.append(more)
        while spool.counters()["shipped"] < len(rows + more) and time.monotonic() < deadline:
            time.sleep(0.1)
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert json.loads(out)["left"] == 0
    assert count(client, stream) == len(rows + more)


def test_a_wrong_port_is_one_line(path):
    spooled(path, rows_of(traffic(2)))
    with pytest.raises(ClusterError, match=r"http://127\.0\.0\.1:1: nothing is listening there"):
        Shipper(path, connect(ClusterOptions(url="http://127.0.0.1:1")), where="http://127.0.0.1:1").ship_once()
    assert POLICY.model == "tiny"
