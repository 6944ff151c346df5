"""Long items behind every scorer: all columns of an item are its best chunk's, however it is asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest

from darl_opensearch import Reranker
from darl_opensearch.check import check_bundle
from darl_opensearch.cluster.index import make_document
from darl_opensearch.cluster.models import find_local_limits
from darl_opensearch.cluster.pipelines import PipelineOptions, render_pipelines
from darl_opensearch.pool import score_pool
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore
from tests.helpers.chunks import CHUNKS, LONG_ITEMS, in_chunks
from tests.helpers.files import read_rows, write_rows
from tests.helpers.server import running

QUERY = "stolen bicycle"


@pytest.fixture(scope="module")
def long(tiny, tmp_path_factory):
    return in_chunks(tiny, tmp_path_factory.mktemp("long") / "bundle")


@pytest.fixture(scope="module")
def texts(long):
    return [long.renderer(item) for item in LONG_ITEMS]


@pytest.fixture(scope="module")
def wanted(tiny, long, texts):
    """Each item's best row among its chunks, each scored alone, by the bundle that knows no chunks."""
    with Scorer.open(tiny) as scorer:
        rows = [scorer.score(QUERY, long.renderer.chunks(text)).data for text in texts]
    assert [len(part) for part in rows] == [2, 2, 1, 3]
    assert [int(part[:, 0].argmax()) for part in rows] == [1, 0, 0, 2]
    return np.stack([part[part[:, 0].argmax()] for part in rows])


def test_a_scorer_takes_the_best_chunk(long, texts, wanted):
    with Scorer.open(long) as scorer:
        ran = scorer.run(QUERY, texts)
        many = scorer.score_many([(QUERY, texts), ("ski", []), (QUERY, texts[2:])])
        assert scorer.score(QUERY, []).data.shape == (0, 6)
    np.testing.assert_allclose(ran.scores.data, wanted, atol=1e-6)
    assert ran.chunks == 8 and len(ran.scores) == 4
    np.testing.assert_allclose(many[0].data, wanted, atol=1e-6)
    np.testing.assert_allclose(many[2].data, wanted[2:], atol=1e-6)
    assert len(many[1]) == 0


def test_one_chunk_is_as_before(tiny, texts):
    with Scorer.open(tiny) as scorer:
        first = scorer.run(QUERY, texts)
        cut = scorer.score(QUERY, [tiny.renderer.first(text) for text in texts])
    assert first.chunks == 4
    np.testing.assert_array_equal(first.scores.data, cut.data)


def test_reranker_reads_the_long_text_of_an_indexed_item(long, texts, wanted):
    documents = [make_document(long, item)[1] for item in LONG_ITEMS]
    assert [document["darl_long_text"] for document in documents] == texts
    assert [document["darl_text"] for document in documents] == [long.renderer.first(text) for text in texts]
    stripped = [{k: v for k, v in document.items() if k != "darl_long_text"} for document in documents]
    with Reranker(long) as reranker:
        for docs in (documents, stripped, LONG_ITEMS, texts):  # without it, it is rendered
            ranked = sorted(reranker.rank(QUERY, docs), key=lambda found: found.index)
            np.testing.assert_allclose([found.score for found in ranked], wanted[:, 0], atol=1e-6)
            np.testing.assert_allclose([found.ood_distance for found in ranked], wanted[:, -1], atol=1e-6)
        hits = [{"_id": str(n), "_source": document} for n, document in enumerate(documents)]
        answer = reranker.rerank(QUERY, {"hits": {"hits": hits}})["hits"]["hits"]
    scores = {int(hit["_id"]): hit["_score"] for hit in answer}
    np.testing.assert_allclose([scores[n] for n in range(4)], wanted[:, 0], atol=1e-6)


def test_the_service_answers_one_row_an_item_and_counts_chunks(long, texts, wanted):
    with running(long, max_documents=8) as client:
        answer = client.post("/v1/rerank", json={"query": QUERY, "documents": texts}).json()
        rows = [tensor["data"] for tensor in json.loads(answer["tensors"])]
        np.testing.assert_allclose(rows, wanted, atol=1.1e-6)
        assert answer["usage"]["pairs"] == 4
        assert client.get("/info").json()["chunks"] == CHUNKS
        metrics = client.get("/metrics").text
        assert "darl_pairs_total 4.0" in metrics and "darl_chunks_total 8.0" in metrics
        refused = client.post("/v1/rerank", json={"query": QUERY, "documents": [*texts, "x"]})
        assert refused.status_code == 413
        assert "5 documents have 9 chunks, more than 8" in refused.text


def test_a_pool_scores_in_chunks(long, wanted, tmp_path):
    items = write_rows(tmp_path / "items.jsonl", LONG_ITEMS)
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"query": QUERY, "item_id": item["id"]} for item in LONG_ITEMS])
    score_pool(long.path, pairs, out=tmp_path / "scores.jsonl", items=items, threads=1)
    rows = read_rows(tmp_path / "scores.jsonl")
    np.testing.assert_allclose([row["score"] for row in rows], wanted[:, 0], atol=1e-6)


def test_each_chunk_has_a_state_of_its_own(small, tmp_path, darl):
    """``darl warm`` encodes what a search needs, so a search encodes nothing."""
    long = in_chunks(small[1], tmp_path / "bundle", chunks=4)
    rows = read_rows(small[0].folder.parent / "data" / "items.jsonl")[:6]
    items = [row | {"cover": " ".join([str(row["cover"])] * 3)} for row in rows]
    texts = [long.renderer(item) for item in items]
    chunks = {chunk for text in texts for chunk in long.renderer.chunks(text)}
    assert len(chunks) > 2 * len(items)
    file = write_rows(tmp_path / "items.jsonl", items)
    warmed = json.loads(darl("warm", long.path, file, "--states", tmp_path / "states", "--json").out)
    assert warmed["encoded"] == warmed["items"] == len(chunks)
    with StateStore(tmp_path / "states") as store, Scorer.open(long, states=store) as scorer:
        found = scorer.score("my bike was stolen", texts)
        assert store.to_json()["misses"] == 0
    with Scorer.open(small[1]) as plain:
        for row, text in zip(found.data, texts, strict=True):
            parts = plain.score("my bike was stolen", long.renderer.chunks(text)).data
            assert row[0] == pytest.approx(parts[:, 0].max(), abs=0.005)  # rounded to eight bits


def test_a_connector_reads_the_long_text_and_the_cluster_the_first_chunk(tiny, long):
    for bundle, mode, field in (
        (tiny, "connector", "darl_text"), (tiny, "local", "darl_text"),
        (long, "connector", "darl_long_text"), (long, "local", "darl_text"),
    ):  # fmt: skip
        bodies = render_pipelines(bundle.card, mode, "m", PipelineOptions(name="p"))
        scoring = bodies["p"]["response_processors"][0]["ml_inference"]["input_map"][0]
        assert scoring["documents" if mode == "connector" else "text_docs"] == field
        plain = bodies["p-plain"]["response_processors"][0]["rerank"]
        assert plain["context"]["document_fields"] == [field]
    assert find_local_limits(tiny.card) == ""
    assert "up to 3 chunks, but a model in the cluster only the first" in find_local_limits(long.card)


def test_check_names_the_chunks(tiny, long):
    assert [f.detail for f in check_bundle(long.path) if f.check == "chunks"] == [
        "up to 3 an item; a model in the cluster scores only the first"
    ]
    assert not [f for f in check_bundle(tiny.path) if f.check == "chunks"]
