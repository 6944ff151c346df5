"""Loading items into a real index."""

from __future__ import annotations

import gzip
import json

import pytest

from darl_opensearch.cluster import load_items
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.errors import ClusterError, InputError, UsageError
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore
from tests.helpers.bundles import ITEMS
from tests.helpers.trained import SAMPLE

pytestmark = pytest.mark.opensearch


def write(tmp_path, items, name="items.jsonl"):
    file = tmp_path / name
    data = "".join(json.dumps(item) + "\n" for item in items).encode()
    file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return file


def documents(place):
    body = {"size": 1000, "query": {"match_all": {}}}
    hits = place.cluster.read("POST", f"/{place.index}/_search", body)["hits"]["hits"]
    return {hit["_id"]: hit["_source"] for hit in hits}


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_items_keep_their_fields_and_get_ours(place, tmp_path, name):
    told = []
    report = load_items(
        place.cluster,
        place.bundle,
        write(tmp_path, ITEMS, name),
        place.index,
        on_item=lambda n, of: told.append((n, of)),
    )
    assert (report.created, report.items, report.indexed, report.failed) == (True, 6, 6, ())
    assert told[-1] == (6, 6)
    found = documents(place)
    for item in ITEMS:
        text = place.bundle.renderer(item)
        assert found[item["id"]] == item | {"darl_text": text, "darl_id": item["id"], "darl_slice": item["kind"]}


def test_items_without_text_are_not_loaded_and_named(place, tmp_path, darl):
    """A hit without text would switch reranking off for its whole search."""
    blank = [{"id": name, "name": "", "kind": "", "cover": " "} for name in ("nothing", "empty")]
    file = write(tmp_path, [blank[0], *ITEMS, blank[1]])
    said = darl("index", place.bundle.path, file, "--url", place.cluster.url, "--index", place.index, "--json")
    report = json.loads(said.out)
    assert said.err == "warning: passed over: 2 items without text (nothing, empty)\n"
    assert (report["items"], report["indexed"], report["without_text"]) == (6, 6, ["nothing", "empty"])
    assert documents(place).keys() == {item["id"] for item in ITEMS}
    with pytest.raises(InputError, match=r"items.jsonl: no item has any of the template's fields. Check the template"):
        load_items(place.cluster, place.bundle, write(tmp_path, blank), place.index)


def test_loading_again_ends_in_the_same_index(place, tmp_path):
    items = write(tmp_path, ITEMS)
    load_items(place.cluster, place.bundle, items, place.index)
    before = documents(place)
    again = load_items(place.cluster, place.bundle, items, place.index)
    assert not again.created
    assert documents(place) == before
    load_items(place.cluster, place.bundle, write(tmp_path, ITEMS[:2]), place.index, recreate=True)
    assert documents(place).keys() == {"b-1", "b-2"}


def test_items_are_warm_once_they_are_loaded(place, small, darl, tmp_path):
    words = [
        "index",
        small[1].path,
        SAMPLE / "items.jsonl",
        "--url",
        place.cluster.url,
        "--index",
        place.index,
        "--json",
    ]
    assert (ended := darl(*words, "--warm")).code == 2 and "--warm requires --states" in ended.err
    result = json.loads(darl(*words, "--warm", "--states", tmp_path).out)
    assert result["indexed"] == result["states"]["encoded"] == result["states"]["written"] > 0
    with StateStore(tmp_path) as store, Scorer.open(small[1], states=store) as scorer:
        scorer.score("theft", [document["darl_text"] for document in documents(place).values()])
        assert store.counts.misses == 0 and store.counts.hits == result["indexed"]


def test_an_index_of_somebody_else_gets_our_fields(place, tmp_path):
    place.cluster.send("PUT", join_path(place.index), {"mappings": {"properties": {"name": {"type": "keyword"}}}})
    load_items(place.cluster, place.bundle, write(tmp_path, ITEMS), place.index).check()
    mapping = place.cluster.read("GET", f"/{place.index}/_mapping")[place.index]["mappings"]["properties"]
    assert (mapping["darl_id"]["type"], mapping["name"]["type"]) == ("keyword", "keyword")


def test_a_field_of_another_type_is_refused(place, tmp_path):
    place.cluster.send("PUT", join_path(place.index), {"mappings": {"properties": {"darl_id": {"type": "long"}}}})
    with pytest.raises(ClusterError, match="darl_id is of type long in index .* run again with --recreate"):
        load_items(place.cluster, place.bundle, write(tmp_path, ITEMS), place.index)
    assert documents(place) == {}


def test_items_that_the_index_refuses_are_named(place, tmp_path):
    items = [ITEMS[0] | {"price": {"from": 1}}, ITEMS[1] | {"price": 12}, ITEMS[2]]
    report = load_items(place.cluster, place.bundle, write(tmp_path, items), place.index)
    assert report.indexed == 2
    assert [(item.item_id, item.where.rpartition(", ")[2]) for item in report.failed] == [("b-2", "line 2")]
    with pytest.raises(ClusterError, match=r"items.jsonl, line 2: 1 of 3 items were rejected: .*price"):
        report.check()


def test_values_of_changing_kind_are_taken(place, tmp_path):
    items = [ITEMS[0] | {"price": 1, "since": "2024-01-01"}, ITEMS[1] | {"price": "on request", "since": "always"}]
    load_items(place.cluster, place.bundle, write(tmp_path, items), place.index).check()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"id": "z", "name": ', "line 7: not JSON"),
        ('{"id": "b-1", "name": "again"}', r"line 7: item 'b-1' appears twice \(first: .*, line 1\)"),
        ('{"name": "nameless"}', "line 7: the item has no 'id'"),
        ('{"id": "z", "name": "x", "darl_score": 1}', "line 7: the field name 'darl_score' is reserved"),
        (json.dumps({"id": "z" * 513, "name": "x"}), "line 7: the id has more than 512 bytes"),
        (json.dumps({"id": "z", "name": "x" * 1_000_001}), "line 7: field 'name' has 1,000,001 characters"),
    ],
)
def test_nothing_is_sent_of_a_file_with_a_bad_line(place, tmp_path, bad, message):
    items = write(tmp_path, ITEMS)
    items.write_bytes(items.read_bytes() + bad.encode() + b"\n")
    with pytest.raises(InputError, match=message):
        load_items(place.cluster, place.bundle, items, place.index)
    assert place.cluster.read("GET", join_path(place.index), absent={}) == {}


def test_a_long_text_is_cut_by_the_renderer(place, tmp_path):
    items = [{"id": "long", "name": "storm", "cover": "roof " * 100_000}]
    load_items(place.cluster, place.bundle, write(tmp_path, items), place.index).check()
    text = documents(place)["long"]["darl_text"]
    assert text == place.bundle.renderer(items[0])
    assert len(text) < 5000


@pytest.mark.parametrize("index", ["*", "_all", "a,b", "A", "-x", "", "a/b", ".kibana"])
def test_index_names_that_could_hit_others(place, tmp_path, index):
    with pytest.raises(UsageError, match="invalid index name"):
        load_items(place.cluster, place.bundle, write(tmp_path, ITEMS), index, recreate=True)
