"""The quantised graphs: what is quantised, their calibration and references, and that batch mates do not matter.

A model that reads query and item together has one such graph; the split backbone scores by quantised item states.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from darl_opensearch.bundle import ENCODE, ENCODE_INT8, MODEL, MODEL_INT8
from darl_opensearch.check import run_pairs
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore
from tests.helpers.files import read_rows
from trainer.training_data.reading import read_data


def calibration_pairs(trained, bundle):
    data = read_data(trained.config, trained.folder.parent / "data", bundle.tokenizer)
    return data.unjudged(data.traffic)


@pytest.fixture(params=["small", "small_cross"])
def any_int8(request):
    """A run and its bundle with quantised graphs, of each kind."""
    return request.getfixturevalue(request.param)


def constants(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def score_texts(scorer, pairs):
    return np.concatenate([scorer.score(query, [text]).data for query, text in pairs])


def test_the_encoder_is_quantised_and_nothing_else(small_cross):
    _, bundle = small_cross
    graph = onnx.load(bundle.file(MODEL_INT8)).graph
    integer = [node for node in graph.node if "Integer" in node.op_type]
    # Query, key, value, attention output, and the two of the feed-forward block, in two layers.
    assert len(integer) == 6 * 2 and all("/encoder/" in node.name for node in integer)
    quantised = [node for node in graph.node if "Quantize" in node.op_type]
    encoder_inputs = {name for node in integer for name in node.input}
    assert quantised and all(encoder_inputs & set(node.output) for node in quantised)
    arrays, before = constants(bundle.file(MODEL_INT8)), constants(bundle.file("model.onnx"))
    small_parts = [n for n in arrays if n.startswith(("ood_", "detector.", "backbone.head"))]
    assert {"ood_table", "ood_median", "ood_spread", "backbone.head.weight"} <= set(small_parts)
    assert all(arrays[name].dtype == before[name].dtype == np.float32 for name in small_parts)
    int8 = [a for a in arrays.values() if a.dtype == np.int8 and a.ndim == 2]
    assert len(int8) == 12
    assert all(np.abs(a.astype(int)).max() <= 64 for a in int8)  # seven bits: no CPU saturates


def test_the_split_backbone_has_its_encoder_quantised_instead(small):
    _, bundle = small
    assert MODEL_INT8 not in bundle.digests and MODEL_INT8 not in bundle.card.graphs
    graph = onnx.load(bundle.file(ENCODE_INT8)).graph
    integer = [node for node in graph.node if "Integer" in node.op_type]
    assert len(integer) == 6 * 2 and all("/encoder/" in node.name for node in integer)
    before, after = constants(bundle.file("meet.onnx")), constants(bundle.file("meet_int8.onnx"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"ood_table", "ood_median", "ood_spread"} and before.keys() == after.keys()


def test_the_calibration_is_the_int8_graph_s_own(any_int8):
    trained, bundle = any_int8
    split = bundle.card.backbone == "split"
    names = ("meet.onnx", "meet_int8.onnx") if split else ("model.onnx", MODEL_INT8)
    before, after = (constants(bundle.file(name)) for name in names)
    assert np.array_equal(before["ood_table"][0], bundle.calibration())
    assert after["ood_table"].shape == before["ood_table"].shape
    assert not np.array_equal(after["ood_table"], before["ood_table"])
    with Scorer.open(bundle, int8=True) as scorer:
        rows = score_texts(scorer, calibration_pairs(trained, bundle).texts)
    raw = np.sort(rows[:, 5] * after["ood_spread"][0] + after["ood_median"][0])
    assert np.abs(raw - after["ood_table"][0]).max() < 1e-4
    assert np.median(rows[:, 5]) == pytest.approx(0, abs=1e-4)
    assert np.quantile(rows[:, 5], 0.95) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_false_alarms_on_the_calibration_pairs_are_alpha(any_int8, int8):
    trained, bundle = any_int8
    pairs = calibration_pairs(trained, bundle).texts
    n, alpha = len(pairs), bundle.card.ood.alpha
    with Scorer.open(bundle, int8=int8) as scorer:
        rows = score_texts(scorer, pairs)
    # Each pair counts itself: alpha (n + 1) - 1 of n; float noise may move one or two across a step.
    assert (rows[:, 4] >= 1 - alpha - 1e-6).mean() == pytest.approx(alpha, abs=3 / n + 0.005)
    assert n == bundle.card.ood.calibration_pairs


@pytest.mark.parametrize("int8", [False, True], ids=["fp32", "int8"])
def test_a_training_text_is_left_out_of_its_own_neighbours(small, int8):
    trained, bundle = small
    data = read_data(trained.config, trained.folder.parent / "data", bundle.tokenizer)
    learnt = data.judged(data.learnt)
    sides = onnxruntime.InferenceSession(bundle.file(bundle.state_files(int8=int8)[2]))
    with StateStore(None) as store, Scorer.open(bundle, int8=int8, states=store) as scorer:
        halves = scorer.halves
        states = halves.fill({halves.keys.of(text): text for text in learnt.items})
        items = np.stack([state.pooled[-1] for state in states.values()])
        queries = np.stack([halves.encode_query(text)["query_pooled"][-1] for text in learnt.queries])
    k = trained.ood.detector.k
    for half, rows in enumerate((queries, items)):
        found = sides.run(None, {"pooled": rows[:, None]})[0][:, half]
        cosine = np.unique(rows, axis=0) @ rows.T
        cosine[cosine > 0.9999] = -1.0  # the text itself
        wanted = 2 - 2 * np.sort(cosine, axis=0)[-k]
        assert np.abs(found - wanted).max() < 1e-4 and found.min() > 0


def test_a_score_does_not_depend_on_its_batch_mates(any_int8):
    trained, bundle = any_int8
    texts = [bundle.renderer(item) for item in read_rows(trained.folder.parent / "data" / "items.jsonl")][:24]
    with Scorer.open(bundle, int8=True) as scorer:
        for query in ("storm damage to my roof", "x"):
            together = scorer.score(query, texts).data
            alone = score_texts(scorer, [(query, text) for text in texts])
            backwards = scorer.score(query, texts[::-1]).data[::-1]
            bound = 0 if scorer.halves is None else 2e-6 * max(1.0, np.abs(alone).max())  # padding adds float noise
            assert np.abs(together - alone).max() <= bound and np.abs(together - backwards).max() <= bound
    if bundle.card.backbone == "cross":
        graph = run_pairs(bundle.file(MODEL_INT8), bundle.tokenizer, [("x", text) for text in texts])
        assert np.array_equal(together, graph)


def test_the_card_gives_int8_beside_fp32(any_int8):
    trained, bundle = any_int8
    name, key = ("meet_int8.onnx", "states_int8") if bundle.card.backbone == "split" else (MODEL_INT8, "int8")
    figures = bundle.card.graphs[name]
    assert figures["dev_ndcg@10"].keys() == figures["dev_share_ood"].keys() == {"fp32", key}
    assert figures["dev_ndcg@10"]["fp32"] == pytest.approx(trained.result["dev"]["ndcg@10"], abs=1e-3)
    assert 0 <= figures["score_difference"]["mean"] <= figures["score_difference"]["max"] < 0.05
    assert figures["ood_agreement"] > 0.9
    assert figures["false_alarms_unseen_items"].keys() == {"fp32", "int8"}


@pytest.mark.parametrize(("kind", "names"), [
    ("small", (ENCODE, ENCODE_INT8)), ("small_cross", (MODEL, MODEL_INT8)),
])  # fmt: skip
def test_int8_files_are_smaller(request, kind, names):
    _, bundle = request.getfixturevalue(kind)
    sizes = [sum(a.nbytes for a in constants(bundle.file(name)).values()) for name in names]
    assert sizes[1] < sizes[0]
