"""Selecting from a real data stream, with a real index for the items that the log holds without."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta

import pytest

from darl_opensearch.cluster import load_items
from darl_opensearch.ood import Shipper
from darl_opensearch.ood.record import LogPolicy
from darl_opensearch.ood.spool import Spool
from tests.helpers.bundles import ITEMS
from tests.helpers.files import read_rows, write_rows
from tests.helpers.traffic import START, request_of, rows_of

pytestmark = pytest.mark.opensearch

TEXTS = {item["id"]: item["name"] for item in ITEMS}


@pytest.fixture
def stream(place):
    name = f"darl-test-ood-{uuid.uuid4().hex[:8]}"
    yield name
    client = place.cluster.client
    client.indices.delete_data_stream(name=name, ignore=[400, 404])
    client.indices.delete_index_template(name=name, ignore=404)


def test_both_arms_from_the_stream_and_the_index(place, stream, tmp_path, opensearch_url, darl):
    pytest.importorskip("faiss")  # the trainer's extra
    write_rows(tmp_path / "items.jsonl", ITEMS)
    load_items(place.cluster, place.bundle, tmp_path / "items.jsonl", place.index).check()
    card = place.bundle.card
    # Ids alone are logged, of strange pairs alone: texts, and the items of plain queries, are in the index.
    policy = LogPolicy(model=card.name, version=card.version, alpha=0.05, sample_rate=0.0, text="none")
    strange = ["stolen bicycle abroad", "kitchen fire on a boat", "travel cover for a dog"]
    plain = ["stolen bicycle", "kitchen house fire", "travel illness abroad"]
    ids = list(TEXTS)[:4]
    with Spool.open(tmp_path / "spool.db", create=True) as spool:
        for number, query in enumerate([*strange, *plain, strange[0]]):
            request = request_of(
                number, [0.99 if query in strange else 0.1] * 4, query=query, doc_ids=ids,
                documents=[TEXTS[i] for i in ids], timestamp=START + timedelta(seconds=61 * number),
            )  # fmt: skip
            spool.append(rows_of([request], policy))
    with Shipper(tmp_path / "spool.db", place.cluster.client, stream=stream) as shipper:
        assert shipper.ship_all().sent == 7 + 16
    place.cluster.client.indices.refresh(index=stream)
    out = tmp_path / "out"
    said = darl(
        "select", place.bundle.path, "--url", opensearch_url, "--stream", stream, "--index",
        place.index, "--out", out, "--control-queries", 3, "--items-per-query", 2,
        "--control-items", 2, "--depth", 4, "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["log"]["requests"] == 7 and told["log"]["queries"] == 6 and told["log"]["pairs"] == 16
    selected, control = read_rows(out / "selected.jsonl"), read_rows(out / "control.jsonl")
    drawn = {row["query"] for row in control}
    assert len(drawn) == 3 and told["control"]["unusable"] == 0 and told["control"]["from"] == "search"
    assert {row["query"] for row in selected} <= set(strange) - drawn
    texts = {item["id"]: place.bundle.renderer(item) for item in ITEMS}
    for row in selected + control:
        assert row["text"] == texts[row["item_id"]]
    assert all(len(row["records"]) >= 1 for row in selected)
    if strange[0] in {row["query"] for row in selected + control}:
        assert {row["traffic"] for row in selected + control if row["query"] == strange[0]} == {2}
