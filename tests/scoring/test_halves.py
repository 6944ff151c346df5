"""Scoring by halves: cold, warm and pair by pair it is the same score, and an item is encoded once."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from darl_opensearch.bundle import ENCODE, MEET, Bundle
from darl_opensearch.check import check_bundle
from darl_opensearch.errors import BundleError
from darl_opensearch.scoring import DeadlinePassed, Scorer
from darl_opensearch.scoring.encode import CappedTokenizer
from darl_opensearch.states import QUERY_LEVELS, ZERO, StateKeys, StateStore
from darl_opensearch.states.store import FILE
from tests.helpers.files import read_rows
from tests.helpers.trained import SAMPLE

LONG_QUERY = "was my bicycle stolen from the shed or from the hall " * 50
LONG_ITEM = "cover for theft of a bicycle from a locked room " * 100


@pytest.fixture(scope="module")
def items(small):
    return [small[1].renderer(item) for item in read_rows(SAMPLE / "items.jsonl")][:40]


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "int8"])
def both(request, small):
    """Pair by pair, and by halves."""
    with (
        StateStore(None) as store,
        Scorer.open(small[1], int8=request.param) as pairs,
        Scorer.open(small[1], int8=request.param, states=store) as halves,
    ):
        yield pairs, halves


@pytest.mark.parametrize("query", ["my bike was stolen", "x", "", LONG_QUERY])
def test_cold_is_warm_and_pair_by_pair(both, items, query):
    pairs, halves = both
    texts = [*items, LONG_ITEM, "", "x"]
    cold, warm = (halves.score(query, texts).data for _ in range(2))
    assert np.array_equal(cold, warm)
    bound = 0.15 if pairs.int8 else 0.005
    assert np.abs(cold[:, 0] - pairs.score(query, texts).data[:, 0]).max() < bound


def test_fp32_states_answer_as_the_graph_to_float_noise(small, items):
    columns = small[1].card.columns
    with StateStore(None) as store, Scorer.open(small[1]) as pairs, Scorer.open(small[1], states=store) as halves:
        a, b = (scorer.score("stolen bike", items).data for scorer in (pairs, halves))
    off = np.abs(a - b)
    assert off[:, : 1 + columns.k].max() < 2e-3 and off[:, columns.ood_distance].max() < 1e-4
    assert np.array_equal(a[:, columns.ood_score] >= 0.95, b[:, columns.ood_score] >= 0.95)


def test_an_item_is_encoded_once(small, items):
    with StateStore(None) as store, Scorer.open(small[1], states=store) as halves:
        halves.score("a", items)
        halves.score("b", [*items[:10], *items[:10]])
        assert (store.counts.misses, store.counts.hits) == (len(items), 10)


def test_no_score_depends_on_its_company(both, items):
    _, halves = both
    together = halves.score("stolen bike", items).data
    alone = np.concatenate([halves.score("stolen bike", [text]).data for text in items])
    assert np.abs(together - alone).max() < 2e-6 * max(1.0, np.abs(alone).max())


def test_another_head_finds_every_state(small, tmp_path, items):
    from trainer.export import export_run

    trained, bundle = small
    base = trained.folder.parent / "data"
    parameter = next(trained.model.head.parameters())
    parameter.data += 0.02
    try:
        other = export_run(trained, base, tmp_path / "bundle", int8=False, checkpoint=False)
    finally:
        parameter.data -= 0.02
    assert other.card.states == bundle.card.states and other.identity != bundle.identity
    with StateStore(tmp_path) as store:
        with Scorer.open(bundle, states=store) as first:
            one = first.score("stolen bike", items).data
        with Scorer.open(other, states=store) as second:
            two = second.score("stolen bike", items).data
        assert store.counts.misses == len(items) == store.counts.hits
    assert not np.allclose(one, two)


def test_another_encoder_finds_none_in_the_same_folder_and_each_finds_its_own(small, tmp_path, items):
    from trainer.export import export_run

    trained, bundle = small
    weight = trained.model.encoder.state_dict()["embeddings.word_embeddings.weight"]
    weight[40, 0] += 0.5  # one number
    try:
        other = export_run(trained, trained.folder.parent / "data", tmp_path / "bundle", int8=False, checkpoint=False)
    finally:
        weight[40, 0] -= 0.5
    assert other.card.states["encoder"] != bundle.card.states["encoder"]
    keys = [StateKeys.of_bundle(one, int8=False) for one in (bundle, other)]
    assert not {keys[0].of(text) for text in items} & {keys[1].of(text) for text in items}
    alone, together = [], []
    for one in (bundle, other):
        with StateStore(None) as store, Scorer.open(one, states=store) as scorer:
            alone.append(scorer.score("stolen bike", items).data)
    for counts in ((0, len(items)), (len(items), 0)):  # first both fill the folder, then both read it
        together.clear()
        for one in (bundle, other):
            with StateStore(tmp_path) as store, Scorer.open(one, states=store) as scorer:
                together.append(scorer.score("stolen bike", items).data)
                assert (store.counts.hits, store.counts.misses) == counts
        assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_a_corrupt_entry_is_encoded_again_and_not_served(small, tmp_path, items):
    with StateStore(tmp_path) as store, Scorer.open(small[1], states=store) as scorer:
        whole = scorer.score("stolen bike", items).data
        damaged = scorer.halves.keys.of(items[3])
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db, db:
        (value,) = db.execute("SELECT value FROM states WHERE key = ?", (damaged,)).fetchone()
        flipped = value[:40] + bytes(byte ^ 0x55 for byte in value[40:60]) + value[60:]  # of the tokens
        assert db.execute("UPDATE states SET value = ? WHERE key = ?", (flipped, damaged)).rowcount == 1
    with StateStore(tmp_path) as store, Scorer.open(small[1], states=store) as scorer:
        again = scorer.score("stolen bike", items).data
        assert (store.counts.damaged, store.counts.misses, store.counts.hits) == (1, 1, len(items) - 1)
    assert np.abs(again - whole).max() < 2e-6 * max(1.0, np.abs(whole).max())  # encoded in other company


def test_precisions_never_share_a_state(small, items):
    with StateStore(None) as store:
        for int8 in (False, True):
            with Scorer.open(small[1], states=store, int8=int8) as scorer:
                scorer.score("a", items)
        assert store.counts.hits == 0 and store.counts.misses == 2 * len(items)


def test_a_passed_deadline_stops_the_encoding(small, items):
    with StateStore(None) as store, Scorer.open(small[1], states=store) as halves:
        with pytest.raises(DeadlinePassed):
            halves.run("a", items, deadline=time.monotonic() - 1)
        assert len(halves.run("a", items, deadline=time.monotonic() + 60).scores) == len(items)


def test_nothing_to_score(both):
    assert both[1].score("a", []).data.shape == (0, both[0].bundle.card.columns.width)


def test_a_bundle_without_such_graphs_is_scored_pair_by_pair(tiny):
    with StateStore(None) as store, Scorer.open(tiny, states=store) as scorer:
        assert scorer.halves is None and len(scorer.score("a b", ["a", "c"])) == 2
        assert store.counts.misses == 0


def test_a_graph_of_another_width_is_refused(small, items):
    _, bundle = small
    scale = dataclasses.replace(
        bundle.card.scale, names=(*bundle.card.scale.names, "more"), gains=(*bundle.card.scale.gains, 9.0)
    )
    other = Bundle(bundle.path, dataclasses.replace(bundle.card, scale=scale), bundle.digests)
    with StateStore(None) as store, Scorer.open(other, states=store) as scorer:
        with pytest.raises(BundleError, match=r"meet.onnx answers 20 items with shape \(20, 6\), not 7 columns"):
            scorer.score("a", items)


def test_the_zip_for_ml_commons_has_none_of_them(small):
    import zipfile

    with zipfile.ZipFile(small[1].path / "opensearch.zip") as archive:
        assert sorted(archive.namelist()) == ["model.onnx", "tokenizer.json"]
    assert {ENCODE, MEET} <= small[1].digests.keys()


def test_darl_check_looks_at_them(small):
    findings = {finding.check: finding for finding in check_bundle(small[1].path)}
    for check in ("meet.onnx: score", "meet_int8.onnx: score", "encode.onnx: inputs", "sides.onnx: outputs"):
        assert findings[check].passed, findings[check]


def test_the_card_says_what_was_measured(small):
    graphs = small[1].card.graphs
    assert graphs["meet.onnx"]["score_difference"]["max"] <= 0.005
    assert graphs["meet.onnx"]["ood_agreement"] >= 0.99
    trained = small[0].data
    queries = trained["dev"]["queries"] + trained["train"]["queries"]
    assert trained["dev"]["queries"] < 30 <= graphs["meet.onnx"]["ndcg_change"]["queries"] <= min(queries, 200)
    assert len(small[1].card.states["encoder"]) == 64


@pytest.mark.parametrize("items", [1, 255], ids=["lowest", "highest"])
@pytest.mark.parametrize("query", [-QUERY_LEVELS, QUERY_LEVELS])
@pytest.mark.parametrize("rows", [1, 3, 500])
def test_the_product_is_exact_at_the_largest_values_on_every_cpu(items, query, rows):
    """Eight bits on both sides would overflow where a CPU has no VNNI."""
    value = helper.make_tensor_value_info
    product = helper.make_node("MatMulInteger", ["items", "query", "zero"], ["products"])
    kinds = (("items", TensorProto.UINT8, ["n", "h"]), ("query", TensorProto.INT8, ["h", "a"]))
    zero = helper.make_tensor("zero", TensorProto.UINT8, [], [ZERO])
    graph = helper.make_graph(
        [product], "g", [value(*kind) for kind in kinds], [value("products", TensorProto.INT32, None)], [zero]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    fed = {"items": np.full((rows, 384), items, np.uint8), "query": np.full((384, 9), query, np.int8)}
    (products,) = session.run(None, fed)
    assert (products == 384 * (items - ZERO) * query).all()


# ---- caps


def test_each_half_is_cut_to_its_cap_whatever_the_other_needs(small):
    bundle = small[1]
    card = bundle.card
    tokenizer = CappedTokenizer(bundle.tokenizer, card.query_cap, card.item_cap)
    (pair,) = tokenizer.pairs(LONG_QUERY, [LONG_ITEM])
    query, (item,) = tokenizer.query(LONG_QUERY), tokenizer.items([LONG_ITEM])
    assert pair.ids == query.ids + item.ids and pair.type_ids == [0] * len(query.ids) + [1] * len(item.ids)
    assert (len(query.ids), len(item.ids)) == (card.query_cap + 2, card.item_cap + 2)
    (short,) = tokenizer.pairs("x", [LONG_ITEM])
    assert short.ids[-len(item.ids) :] == item.ids


def test_within_the_caps_the_tokens_are_the_tokenizers_own(small, items):
    bundle = small[1]
    tokenizer = CappedTokenizer(bundle.tokenizer, bundle.card.query_cap, bundle.card.item_cap)
    for text in [*items[:10], "", 'quotes " and {braces} 中文']:
        (ours,), theirs = (
            tokenizer.pairs("my bike was stolen", [text]),
            bundle.tokenizer.encode("my bike was stolen", text),
        )
        assert (ours.ids, ours.type_ids) == (theirs.ids, theirs.type_ids)
    single = bundle.tokenizer.encode("my bike")
    assert tokenizer.query("my bike").ids == single.ids
    assert tokenizer.are_content(single.ids).tolist() == [not special for special in single.special_tokens_mask]
