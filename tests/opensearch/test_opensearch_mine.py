"""Mining hard negatives from a real index."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.cluster import load_items
from tests.helpers.bundles import ITEMS
from tests.helpers.files import read_rows, write_rows

pytestmark = pytest.mark.opensearch


def test_negatives_come_from_the_index_in_its_order(place, tmp_path, opensearch_url, darl):
    pytest.importorskip("torch")  # the trainer's configuration
    write_rows(tmp_path / "items.jsonl", ITEMS[:-1])
    write_rows(tmp_path / "indexed.jsonl", ITEMS)
    load_items(place.cluster, place.bundle, tmp_path / "indexed.jsonl", place.index).check()
    write_rows(tmp_path / "judgments.jsonl", [
        {"query_id": "q1", "query": "stolen bicycle", "item_id": "b-1", "grade": 2},
        {"query_id": "q2", "query": "kitchen house fire", "item_id": "h-1", "grade": 2},
    ])  # fmt: skip
    (tmp_path / "darl.toml").write_text(
        '[model]\nname = "tiny"\n[data]\nitems = "items.jsonl"\njudgments = "judgments.jsonl"\n'
        '[grades]\nnames = ["irrelevant", "related", "fits"]\n[template]\nfields = ["=name", "kind", "cover"]\n'
    )
    out = tmp_path / "mined.jsonl"
    common = ["mine", tmp_path / "darl.toml", "--out", out, "--index", place.index, "--url", opensearch_url, "--json"]
    said = darl(*common)
    assert said.code == 0, said.err
    found = {}
    for row in read_rows(out):
        found.setdefault(row["query_id"], []).append((row["item_id"], row["rank"]))
    for query_id, query, judged in (("q1", "stolen bicycle", "b-1"), ("q2", "kitchen house fire", "h-1")):
        body = {"size": 100, "query": {"match": {"darl_text": query}}}
        hits = place.cluster.read("POST", f"/{place.index}/_search", body)["hits"]["hits"]
        ranks = {hit["_id"]: rank for rank, hit in enumerate(hits, 1)}
        assert judged in ranks and len(ranks) > 1
        # h-2 is in the index and not among the items: no judgment may name it.
        assert found.get(query_id, []) == [(i, rank) for i, rank in ranks.items() if i not in (judged, "h-2")]
    assert json.loads(said.out)["unknown"] == 1

    said = darl(*common, "--bundle", place.bundle.path, "--max-share", "1")
    assert said.code == 0, said.err
    assert all("score" in row for row in read_rows(out))

    said = darl(*common[:4], "--index", "there-is-none", "--url", opensearch_url)
    assert said.code == 1 and "no such index" in said.err and said.err.count("\n") == 1
