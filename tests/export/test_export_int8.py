"""The quantised graph: what is quantised, its calibration, and that batch mates do not matter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from darl_opensearch.check import run_pairs
from darl_opensearch.scoring import Scorer
from tests.helpers.files import read_rows
from trainer.training_data.reading import read_data


@pytest.fixture(scope="module")
def calibration_texts(small):
    trained, bundle = small
    data = read_data(trained.config, trained.folder.parent / "data", bundle.tokenizer)
    pairs = data.unjudged(data.traffic)
    return [(pairs.queries[q], pairs.items[i]) for q, i in pairs.index.tolist()]


def constants(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_the_encoder_is_quantised_and_nothing_else(small):
    _, bundle = small
    graph = onnx.load(bundle.file("model_int8.onnx")).graph
    integer = [node for node in graph.node if "Integer" in node.op_type]
    # Query, key, value, attention output, and the two of the feed-forward block, in two layers.
    assert len(integer) == 6 * 2 and all("/encoder/" in node.name for node in integer)
    quantised = [node for node in graph.node if "Quantize" in node.op_type]
    encoder_inputs = {name for node in integer for name in node.input}
    assert quantised and all(encoder_inputs & set(node.output) for node in quantised)
    arrays = constants(bundle.file("model_int8.onnx"))
    before = constants(bundle.file("model.onnx"))
    small_parts = [n for n in arrays if n.startswith(("ood_", "detector.", "backbone.head", "backbone.rarity"))]
    assert {"ood_table", "ood_median", "ood_spread", "backbone.head.weight", "backbone.rarity"} <= set(small_parts)
    assert {"/head/MatMul", "/detector/MatMul"} <= {node.name for node in graph.node if node.op_type == "MatMul"}
    assert all(arrays[name].dtype == before[name].dtype == np.float32 for name in small_parts)
    int8 = [a for a in arrays.values() if a.dtype == np.int8 and a.ndim == 2]
    assert len(int8) == 12


def test_the_calibration_is_the_int8_graph_s_own(small, calibration_texts):
    trained, bundle = small
    before, after = (constants(bundle.file(f"model{kind}.onnx")) for kind in ("", "_int8"))
    assert np.array_equal(before["ood_table"][0], bundle.calibration())
    assert after["ood_table"].shape == before["ood_table"].shape
    assert not np.array_equal(after["ood_table"], before["ood_table"])
    rows = run_pairs(bundle.file("model_int8.onnx"), bundle.tokenizer, calibration_texts)
    raw = np.sort(rows[:, 5] * after["ood_spread"][0] + after["ood_median"][0])
    assert np.abs(raw - after["ood_table"][0]).max() < 1e-4
    assert np.median(rows[:, 5]) == pytest.approx(0, abs=1e-4)
    assert np.quantile(rows[:, 5], 0.95) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("file", ["model.onnx", "model_int8.onnx"])
def test_false_alarms_on_the_calibration_pairs_are_alpha(small, calibration_texts, file):
    _, bundle = small
    n, alpha = len(calibration_texts), bundle.card.ood.alpha
    rows = run_pairs(bundle.file(file), bundle.tokenizer, calibration_texts)
    # Each pair counts itself: alpha (n + 1) - 1 of n; float noise may move one or two across a step.
    assert (rows[:, 4] >= 1 - alpha - 1e-6).mean() == pytest.approx(alpha, abs=3 / n + 0.005)
    assert n == bundle.card.ood.calibration_pairs


def test_a_score_does_not_depend_on_its_batch_mates(small):
    trained, bundle = small
    texts = [bundle.renderer(item) for item in read_rows(trained.folder.parent / "data" / "items.jsonl")][:24]
    with Scorer.open(bundle, int8=True) as scorer:
        for query in ("storm damage to my roof", "x"):
            together = scorer.score(query, texts).data
            alone = np.concatenate([scorer.score(query, [text]).data for text in texts])
            backwards = scorer.score(query, texts[::-1]).data[::-1]
            assert np.array_equal(together, alone) and np.array_equal(together, backwards)
    graph = run_pairs(bundle.file("model_int8.onnx"), bundle.tokenizer, [("x", text) for text in texts])
    assert np.array_equal(together, graph)


def test_the_card_gives_int8_beside_fp32(small):
    trained, bundle = small
    figures = bundle.card.graphs["model_int8.onnx"]
    assert figures["dev_ndcg@10"].keys() == figures["dev_share_ood"].keys() == {"fp32", "int8"}
    assert figures["dev_ndcg@10"]["fp32"] == pytest.approx(trained.result["dev"]["ndcg@10"], abs=1e-3)
    assert 0 <= figures["score_difference"]["mean"] <= figures["score_difference"]["max"] < 0.05
    assert figures["ood_agreement"] > 0.9


def test_int8_files_are_smaller(small):
    _, bundle = small
    sizes = {n: sum(a.nbytes for a in constants(bundle.file(n)).values()) for n in ("model.onnx", "model_int8.onnx")}
    assert sizes["model_int8.onnx"] < sizes["model.onnx"]
