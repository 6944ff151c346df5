"""What a real node refuses for the state of an index, and what we make of it: the reason, and what to do."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from darl_opensearch.cluster import Cluster, load_items
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.item_index import make_first_stage, scan_texts
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError
from darl_opensearch.ood import Shipper
from darl_opensearch.ood.spool import Spool
from tests.helpers.bundles import ITEMS
from tests.helpers.files import write_rows
from tests.helpers.http import Quiet, serving
from tests.helpers.traffic import rows_of, traffic

pytestmark = pytest.mark.opensearch


@pytest.fixture
def items(tmp_path):
    return write_rows(tmp_path / "items.jsonl", ITEMS)


def loading(place, items, index=None, message=""):
    """Fails with a message, at the cluster, and sends no document."""
    with pytest.raises(ClusterError, match=message) as err:
        load_items(place.cluster, place.bundle, items, index or place.index).check()
    assert str(err.value).startswith(place.cluster.url)


def test_a_closed_index(place, items):
    load_items(place.cluster, place.bundle, items, place.index).check()
    place.cluster.send("POST", join_path(place.index, "_close"))
    message = rf"index {place.index} is closed\. Open it \(POST /{place.index}/_open\), or use another\."
    loading(place, items, message=message)
    for read in (make_first_stage(place.cluster, place.index), lambda *_: list(scan_texts(place.cluster, place.index))):
        with pytest.raises(ClusterError, match=message):
            read("bike", 5)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("read_only_allow_delete", r"is read-only: a node's disk has reached the flood-stage watermark\. Free or add"),
        ("write", r"is blocked \(index\.blocks\.write\)\. Remove the block \(settings index\.blocks\.\*\)"),
    ],
)
def test_a_block_on_writes(place, items, block, message, monkeypatch):
    monkeypatch.setattr("darl_opensearch.cluster.calls.time.sleep", lambda s: pytest.fail("waited for the disk"))
    load_items(place.cluster, place.bundle, items, place.index).check()
    place.cluster.send("PUT", join_path(place.index, "_settings"), {f"index.blocks.{block}": True})
    loading(place, items, message=f"index {place.index} {message}")
    with pytest.raises(ClusterError, match=message.partition(r"\(")[0]):  # by the node itself, not 403 or 429 alone
        place.cluster.send("PUT", join_path(place.index, "_doc", "x"), {})
    place.cluster.send("PUT", join_path(place.index, "_settings"), {f"index.blocks.{block}": None})


def test_a_full_disk_keeps_records_in_the_spool_and_says_why(place, tmp_path):
    stream, client = f"{place.name}-ood", place.cluster.client
    with Spool.open(tmp_path / "spool.db", create=True) as spool:
        spool.append(rows_of(traffic(3)))
    try:
        with Shipper(tmp_path / "spool.db", client, stream=stream, batch_records=2) as shipper:
            assert shipper.ship_once().created == 2
            client.indices.put_settings(index=stream, body={"index.blocks.read_only_allow_delete": True})
            result = shipper.ship_once()
            assert (result.deferred, result.dead) == (2, 0)
            assert "is read-only: a node's disk has reached the flood-stage watermark; free or add" in result.reason
    finally:
        client.indices.delete_data_stream(name=stream)
        client.indices.delete_index_template(name=stream)


def test_targets_that_cannot_hold_items(place, items, tmp_path):
    cluster, stream = place.cluster, f"{place.name}-stream"
    template = {"index_patterns": [stream], "data_stream": {}}
    cluster.send("PUT", join_path("_index_template", stream), template)
    cluster.send("PUT", join_path("_data_stream", stream))
    try:
        for recreate in (False, True):
            with pytest.raises(ClusterError, match=f"{stream} is a data stream, which cannot hold items"):
                load_items(cluster, place.bundle, items, stream, recreate=recreate)
    finally:
        cluster.send("DELETE", join_path("_data_stream", stream))
        cluster.send("DELETE", join_path("_index_template", stream))
    names, alias = [place.index, f"{place.name}-b"], f"{place.name}-all"
    for name in names:
        cluster.send("PUT", join_path(name), {"aliases": {alias: {}}})
    loading(place, items, alias, f"{alias} is an alias of 2 indices, none of which is its write index. Load into one")
    write = {"actions": [{"add": {"index": names[1], "alias": alias, "is_write_index": True}}]}
    cluster.send("POST", "/_aliases", write)
    report = load_items(cluster, place.bundle, items, alias)
    report.check()
    assert int(cluster.read("GET", join_path(names[1], "_count"))["count"]) == report.indexed == len(ITEMS)
    cluster.send("DELETE", join_path(names[1]))


def test_the_others_are_indexed_only_if_some_are(place, items):
    place.cluster.send("PUT", join_path(place.index), {"mappings": {"properties": {"name": {"type": "integer"}}}})
    with pytest.raises(ClusterError, match=rf"{len(ITEMS)} of {len(ITEMS)} items were rejected: .* none is indexed"):
        load_items(place.cluster, place.bundle, items, place.index).check()


def test_a_cluster_that_says_it_is_7_10_2(cluster):
    """As an OpenSearch 2 with compatibility.override_main_response_version; version 3 no longer has that setting."""

    class Compatible(Quiet):
        allowed = True

        def do_GET(self) -> None:
            if not self.allowed and self.path.startswith("/_nodes"):
                return self.answer(403, json.dumps({"error": {"reason": "no permissions for nodes"}}).encode())
            connection = http.client.HTTPConnection(urlsplit(cluster.url).netloc, timeout=60)
            connection.request("GET", self.path)
            response = connection.getresponse()
            body = json.loads(response.read())
            connection.close()
            if self.path == "/":
                del body["version"]["distribution"]
                body["version"]["number"] = "7.10.2"
            return self.answer(response.status, json.dumps(body).encode())

    with serving(Compatible) as url:
        behind = Cluster.open(ClusterOptions(url=url))
        assert behind.identify() == cluster.identify()
        Compatible.allowed = False
        with pytest.raises(ClusterError) as err:
            behind.identify()
        behind.client.close()
    assert str(err.value) == (
        f"{url}: the cluster says that it is 7.10.2, because compatibility.override_main_response_version is set, and "
        "its nodes do not tell (not allowed (403: no permissions for nodes)). Allow this user to read /_nodes, or set "
        "compatibility.override_main_response_version to false."
    )
