"""``darl warm``, and who finds what it kept: the service and ``Reranker``."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from darl_opensearch import Reranker
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore
from darl_opensearch.states.store import FILE, PAGE_BYTES
from darl_opensearch.warm.chunks import CHUNK
from tests.helpers.files import read_rows
from tests.helpers.server import running
from tests.helpers.trained import SAMPLE

ITEMS = SAMPLE / "items.jsonl"
QUERY = "my bike was stolen"


@pytest.fixture(scope="module")
def rows():
    return read_rows(ITEMS)


@pytest.fixture(scope="module")
def warm(small, tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("states")
    with StateStore(folder) as store, Scorer.open(small[1], states=store) as scorer:
        scorer.score("x", [small[1].renderer(row) for row in rows])
    return folder


def test_all_are_encoded_and_the_second_time_none(darl, small, tmp_path, rows):
    words = ["warm", small[1].path, ITEMS, "--states", tmp_path / "states", "--json"]
    dry = json.loads(darl(*words, "--dry-run").out)
    assert (dry["items"], dry["missing"], dry["encoded"], dry["written"]) == (len(rows), len(rows), 0, 0)
    first, second = (json.loads(darl(*words).out) for _ in range(2))
    assert (first["encoded"], first["there"], first["written"]) == (len(rows), 0, len(rows))
    assert (second["encoded"], second["there"], second["written"]) == (0, len(rows), 0)
    assert darl(*words[:-1]).out == f"0 items encoded, {len(rows)} were there\n"


def test_items_twice_and_an_item_without_text(darl, small, tmp_path, rows):
    items, many = tmp_path / "items.jsonl", [row | {"name": f"{n} {row['name']}"} for n in range(5) for row in rows]
    assert len(many) > CHUNK  # the repeats are in another chunk
    items.write_text("".join(json.dumps(row) + "\n" for row in [*many, *many[:3]]))
    result = json.loads(darl("warm", small[1].path, items, items, "--states", tmp_path / "states", "--json").out)
    assert (result["items"], result["encoded"]) == (len(many), len(many))
    items.write_text(items.read_text() + json.dumps({"id": "x"}) + "\n")
    ended = darl("warm", small[1].path, items, "--states", tmp_path / "states")
    assert (ended.code, ended.out) == (0, f"0 items encoded, {len(many)} were there; 1 without text passed over\n")
    again = darl("warm", small[1].path, items, "--states", tmp_path / "states", "--json", "--dry-run")
    assert json.loads(again.out)["without_text"] == 1


def test_without_a_folder_it_is_wrong_usage(darl, small):
    ended = darl("warm", small[1].path, ITEMS)
    assert ended.code == 2 and "Pass --states FOLDER" in ended.err and ended.err.count("\n") == 1


def test_another_precision_is_encoded_for_itself(darl, small, warm, rows):
    said = darl("warm", small[1].path, ITEMS, "--states", warm, "--int8", "--dry-run")
    assert said.out == f"0 of {len(rows)} items have states; {len(rows)} would be encoded\n"


def test_a_dry_run_says_how_many_states_of_others_would_have_to_go(darl, small, tmp_path, rows):
    items, states = tmp_path / "items.jsonl", tmp_path / "states"
    items.write_text("".join(json.dumps(row | {"name": f"{n} {row['name']}"}) + "\n" for n in range(3) for row in rows))
    assert darl("warm", small[1].path, items, "--states", states).code == 0
    bound = (states / FILE).stat().st_size + 2 * PAGE_BYTES  # those of another encoder, and hardly more
    words = ["warm", small[1].path, ITEMS, "--states", states, "--int8", "--states-bytes", bound, "--json"]
    dry = json.loads(darl(*words, "--dry-run").out)
    assert 0 < dry["would_evict"] < dry["missing"] == len(rows) and dry["evicted"] == 0
    said = darl(*words[:-1], "--dry-run").out
    assert said.endswith(f"; about {dry['would_evict']} older states would have to go: raise --states-bytes\n")
    done = json.loads(darl(*words).out)
    assert done["would_evict"] == 0 and done["evicted"] >= dry["would_evict"]
    words[words.index(bound)] = 2 * bound
    assert json.loads(darl(*words, "--dry-run").out)["would_evict"] == 0


def test_a_bundle_that_has_no_states(darl, tiny, tmp_path):
    said = darl("warm", tiny.path, ITEMS, "--states", tmp_path)
    assert said.code == 1 and "this bundle's items have no states of their own" in said.err
    assert said.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_service_finds_them(small, warm, rows):
    texts = [small[1].renderer(row) for row in rows[:8]]
    with running(small[1], states=warm) as client:
        answers = [client.post("/v1/rerank", json={"query": QUERY, "documents": texts}).json() for _ in range(2)]
        assert answers[0]["results"] == answers[1]["results"]
        states = client.get("/info").json()["states"]
        assert (states["hits"], states["misses"]) == (16, 1)  # the one of the warm-up
        metrics = client.get("/metrics").text
        assert 'darl_item_states_events_total{event="hits"} 16.0' in metrics
        assert "darl_item_states_in_memory 9.0" in metrics


def test_without_a_folder_the_service_keeps_them_in_memory(small, rows):
    texts = [small[1].renderer(row) for row in rows[:8]]
    with running(small[1]) as client:
        for _ in range(2):
            client.post("/v1/rerank", json={"query": QUERY, "documents": texts})
        assert client.get("/info").json()["states"]["hits"] == 8


def test_a_bundle_without_states_is_served_as_ever(tiny):
    with running(tiny) as client:
        assert client.get("/info").json()["states"] is None


def test_reranker_finds_them_and_leaves_a_store_of_others_open(small, warm, rows):
    with StateStore(warm) as store:
        with Reranker(small[1], states=store) as reranker:
            one = reranker.rank(QUERY, rows[:8])
        assert (store.counts.hits, store.counts.misses) == (8, 0)
        assert len(store.get([reranker.scorer.halves.keys.of(small[1].renderer(rows[0]))])) == 1
    with Reranker(small[1], states=warm) as reranker:
        assert reranker.rank(QUERY, rows[:8]) == one
    with Reranker(small[1]) as reranker:  # encoded in other company: float noise
        assert [hit.score for hit in reranker.rank(QUERY, rows[:8])] == pytest.approx(
            [hit.score for hit in one], abs=1e-5
        )


def test_what_is_deployed_ranks_as_the_graph_for_the_cluster_does(small, warm, rows):
    texts = [small[1].renderer(row) for row in rows]
    with StateStore(warm) as store, Scorer.open(small[1], states=store) as halves, Scorer.open(small[1]) as pairs:
        a, b = (scorer.score(QUERY, texts).score for scorer in (halves, pairs))
    assert np.abs(a - b).max() < 0.005


def test_options_of_ray(darl, small, tmp_path, monkeypatch):
    words = ["warm", small[1].path, ITEMS, "--states", tmp_path / "states"]
    ended = darl(*words, "--workers", "2")
    assert ended.code == 2 and "apply only to Ray" in ended.err
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = darl(*words, "--engine", "ray")
    assert ended.code == 1 and "ray is not installed. Run: " in ended.err and ended.err.count("\n") == 1
    assert "'darl-opensearch[ray]'" in ended.err and not list(tmp_path.iterdir())
