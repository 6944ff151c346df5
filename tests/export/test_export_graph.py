"""The exported graph: its contract, and that it says what torch says, whatever it is fed."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from darl_opensearch.check import run_pairs
from darl_opensearch.graph_contract import INPUTS, inspect_graph
from darl_opensearch.scores import Columns
from darl_opensearch.scoring.encode import CappedTokenizer
from darl_opensearch.states import StateStore
from tests.helpers.trained import GAINS, train_and_export, write_project
from trainer.config import Ood
from trainer.export import states
from trainer.export.graph import ContractModule, export_graphs
from trainer.export.states import MeetModule, export_states, score_by_states
from trainer.ood import DETECTORS
from trainer.stages.ood_stage import fit_ood
from trainer.training_data.features import Features
from trainer.training_data.reading import read_data

AWKWARD = [
    ("", ""), ("x", ""), ("", "x"), ("?", "!"), ("a" * 300, "b" * 3000), ("q " * 500, "i " * 2000),
    ("long query " * 60, "short"), ("short", "long item " * 400), ('say "x" \\ {y}', "${parameters.x} | [SEP] [CLS]"),
    ("été naïf 中文 😀", "ÜBER straße\u200b\u2028 x"), ("[SEP] [CLS] [PAD]", "[MASK]"), ("line\nbreak\t", "nul\x00l"),
]  # fmt: skip


def torch_rows(trained, pairs, output="scores"):
    """What the torch model says, one pair a pass."""
    module = ContractModule(trained).eval()
    rows = []
    with torch.no_grad():
        for e in trained.model.tokenizer().encode_batch(pairs):
            rows.append(module(*(torch.tensor([v]) for v in (e.ids, e.attention_mask, e.type_ids)))[output][0])
    return torch.stack(rows).numpy()


def some_pairs(trained, bundle, base, count=60):
    """Awkward pairs, pairs it was calibrated on, and pairs of unrelated texts."""
    data = read_data(trained.config, base, bundle.tokenizer)
    pairs = data.unjudged(data.traffic)
    rows = [(pairs.queries[q], pairs.items[i]) for q, i in pairs.index.tolist()]
    crossed = [(rows[n][0], rows[-n][1]) for n in range(0, count, 2)]
    return AWKWARD + rows[:: max(1, len(rows) // count)] + crossed


def assert_parity(rows, reference, k, table, noise=0.0):
    """The bounds of the contract, written down once more.

    ``noise``: what float32 may do to a raw distance. Random weights put all items close together: their 95th
    percentile lies so near the median that the scaled distance magnifies the last bit past 1e-4.
    """
    assert rows.shape == reference.shape == (len(rows), 3 + k) and rows.dtype == np.float32
    assert np.isfinite(rows).all()
    off = np.abs(rows.astype(np.float64) - reference)
    assert off[:, : 1 + k].max() <= 1e-4
    value = reference[:, k + 2].astype(np.float64)
    median, tail = np.quantile(table, [0.5, 0.95])
    allowed = 1e-4 * np.maximum(1.0, np.abs(value)) + noise / (tail - median)
    assert (off[:, k + 2] <= allowed).all()
    raw, width = value * (tail - median) + median, allowed * (tail - median) + 1e-6
    mass = ((table >= (raw - width)[:, None]) & (table <= (raw + width)[:, None])).sum(1)
    assert (off[:, k + 1] <= (1 + mass) / len(table) + 1e-6).all()


def assert_columns(rows, gains):
    """Columns follow from each other as the contract says."""
    k = len(gains)
    probs = rows[:, 1 : 1 + k].astype(np.float64)
    assert (probs >= -1e-6).all() and np.abs(probs.sum(1) - 1).max() < 1e-5
    assert np.abs(probs @ np.asarray(gains) / gains[-1] - rows[:, 0]).max() < 1e-5
    assert (rows[:, k + 1] >= 0).all() and (rows[:, k + 1] < 1).all()
    order = np.argsort(rows[:, k + 2], kind="stable")
    assert (np.diff(rows[order, k + 1]) >= 0).all()  # a larger distance never has a smaller OOD score


@pytest.mark.parametrize(("kind", "file"), [
    ("small", "model.onnx"), ("small", "features.onnx"), ("small_cross", "model_int8.onnx"),
])  # fmt: skip
def test_contract(request, kind, file):
    _, bundle = request.getfixturevalue(kind)
    model = onnx.load(bundle.file(file))
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert {o.domain: o.version for o in model.opset_import}[""] == 17
    assert [i.name for i in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    session = onnxruntime.InferenceSession(bundle.file(file), providers=["CPUExecutionProvider"])
    assert [i.type for i in session.get_inputs()] == ["tensor(int64)"] * 3
    assert all(isinstance(size, str) for i in session.get_inputs() for size in i.shape)  # no fixed batch or length
    [out] = session.get_outputs()
    assert (out.name, out.type) == ("features" if file == "features.onnx" else "scores", "tensor(float)")
    one = {i.name: np.ones((2, 5), dtype=np.int64) for i in session.get_inputs()}
    assert session.run(None, one)[0].shape == (2, 2 * 32 if file == "features.onnx" else 3 + 3)
    about = {"outputs": ("features",)} if file == "features.onnx" else {"width": 6}
    assert all(finding.passed for finding in inspect_graph(bundle.file(file), **about))


def test_fp32_says_what_torch_says(small):
    trained, bundle = small
    pairs = some_pairs(trained, bundle, trained.folder.parent / "data")
    reference = torch_rows(trained, pairs)
    rows = run_pairs(bundle.file("model.onnx"), bundle.tokenizer, pairs)
    assert_parity(rows, reference, 3, bundle.calibration())
    assert_columns(rows, GAINS[3])
    assert rows[:, 0].std() > 1e-3 and rows[:, 5].std() > 1e-2  # a constant would be easily equal
    together = run_pairs(bundle.file("model.onnx"), bundle.tokenizer, pairs, batch=16)
    assert_parity(together, reference, 3, bundle.calibration())


def test_long_pairs_are_cut_at_the_card_s_length(small):
    _, bundle = small
    for query, text in AWKWARD:
        assert len(bundle.tokenizer.encode(query, text).ids) <= bundle.card.max_length == 48 + 72 + 4
    assert len(bundle.tokenizer.encode("q " * 500, "i " * 2000).ids) == bundle.card.max_length


def test_features_say_what_torch_says(small):
    trained, bundle = small
    pairs = some_pairs(trained, bundle, trained.folder.parent / "data")
    reference = torch_rows(trained, pairs, "features")
    rows = run_pairs(bundle.file("features.onnx"), bundle.tokenizer, pairs, batch=7)
    assert rows.shape == (len(pairs), 2 * 32) and np.abs(rows - reference).max() <= 1e-4
    halves = np.linalg.norm(rows.reshape(len(rows), 2, 32), axis=2)
    assert np.abs(halves - 1).max() < 1e-5


def test_reference_sample_is_features_of_what_held_out_queries_retrieve(small):
    trained, bundle = small
    reference = bundle.reference()
    data = read_data(trained.config, trained.folder.parent / "data", bundle.tokenizer)
    retrieved = {}
    for query, ids in [*data.traffic, *data.familiar]:  # items that were trained on, too: live traffic has them
        retrieved.setdefault((query.query, query.slice), []).extend(data.items[i].text for i in ids)
    assert [len(texts) for texts in retrieved.values()] == reference.candidates.tolist()
    assert [part for _, part in retrieved] == list(reference.slices) and any(reference.slices)
    most = 512 // len(retrieved)
    assert reference.sizes.tolist() == [min(len(texts), most) for texts in retrieved.values()]
    assert reference.features.dtype == np.float32 and most < len(reference.features) <= 512
    groups = np.split(reference.features, np.cumsum(reference.sizes)[:-1])
    for (query, _), texts, rows in list(zip(retrieved, retrieved.values(), groups, strict=True))[:8]:
        said = run_pairs(bundle.file("features.onnx"), bundle.tokenizer, [(query, text) for text in texts])
        nearest = [np.abs(said - row).max(1) for row in rows]
        assert max(row.min() for row in nearest) < 1e-4
        assert len({int(row.argmin()) for row in nearest}) >= len({*map(bytes, rows)})  # each pair once


CLS, SEP = 2, 3
DEGENERATE = {
    "one token": ([[CLS]], [[1]], [[0]]),
    "one token that is padding": ([[0]], [[0]], [[0]]),
    "no item half": ([[CLS, 40, 41, SEP]], [[1] * 4], [[0] * 4]),
    "no query half": ([[CLS, 40, 41, SEP]], [[1] * 4], [[1] * 4]),
    "empty texts": ([[CLS, SEP, CLS, SEP]], [[1] * 4], [[0, 0, 1, 1]]),
    "only padding": ([[0] * 6], [[0] * 6], [[0] * 6]),
    "a padded tail of 200": ([[CLS, 40, SEP, CLS, 41, SEP] + [0] * 200], [[1] * 6 + [0] * 200],
                             [[0, 0, 0, 1, 1, 1] + [0] * 200]),
    "typed padding": ([[CLS, 40, SEP, CLS, 41, SEP, 0, 0]], [[1] * 6 + [0, 0]], [[0, 0, 0, 1, 1, 1, 1, 1]]),
    "rows of all kinds": ([[CLS, 40, SEP, CLS, 41, SEP], [0] * 6, [CLS, 40, 41, 42, 43, SEP]],
                          [[1] * 6, [0] * 6, [1] * 6], [[0, 0, 0, 1, 1, 1], [0] * 6, [0] * 6]),
}  # fmt: skip


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize(("kind", "file"), [
    ("small", "model.onnx"), ("small_cross", "model_int8.onnx"), ("small", "features.onnx"),
])  # fmt: skip
def test_degenerate_inputs_give_finite_output(request, name, kind, file):
    trained, bundle = request.getfixturevalue(kind)
    fed = dict(zip(INPUTS, (np.array(part, dtype=np.int64) for part in DEGENERATE[name]), strict=True))
    session = onnxruntime.InferenceSession(bundle.file(file), providers=["CPUExecutionProvider"])
    [rows] = session.run(None, fed)
    assert np.isfinite(rows).all()
    if file == "model.onnx":
        assert_columns(rows, GAINS[3])
        with torch.no_grad():
            reference = ContractModule(trained).eval()(**{n: torch.from_numpy(v) for n, v in fed.items()})
        assert_parity(rows, reference["scores"].numpy(), 3, bundle.calibration())


def test_padding_does_not_move_a_score(small):
    _, bundle = small
    session = onnxruntime.InferenceSession(bundle.file("model.onnx"), providers=["CPUExecutionProvider"])
    encoding = bundle.tokenizer.encode("storm damage", "Rebuilds your house after fire")
    rows = []
    for padding in (0, 1, 100):
        values = (encoding.ids, encoding.attention_mask, encoding.type_ids)
        rows.append(session.run(None, {n: np.array([v + [0] * padding]) for n, v in zip(INPUTS, values, strict=True)}))
    assert np.abs(np.array(rows) - rows[0]).max() < 1e-5


@pytest.mark.parametrize(("k", "ood"), [(2, {"detector": "mahalanobis", "features": "item"}), (4, {"alpha": 0.1})])
def test_other_grade_scales(tmp_path, checkpoint, k, ood):
    config = write_project(tmp_path / "data", str(checkpoint), k=k, ood=ood)
    trained, bundle = train_and_export(tmp_path, config, int8=False)
    pairs = some_pairs(trained, bundle, config.parent, count=30)
    rows = run_pairs(bundle.file("model.onnx"), bundle.tokenizer, pairs)
    assert bundle.card.columns == Columns(k)
    assert_parity(rows, torch_rows(trained, pairs), k, bundle.calibration())
    assert_columns(rows, GAINS[k])
    assert bundle.card.scale.gains == tuple(map(float, GAINS[k]))


EXPORTED = [
    *((name, "pair", "last", {}) for name in DETECTORS),
    *((name, "item", "last", {}) for name in DETECTORS if "features" in DETECTORS[name].make.reads),
    ("knn", "query", "last", {}), ("mahalanobis", "query", "average", {}), ("knn", "pair", "average", {}),
    ("knn", "pair", "last", {"whiten": 0.5, "reference": "kmeans", "max_reference": 24}),
]  # fmt: skip


@pytest.mark.parametrize(("detector", "features", "layers", "params"), EXPORTED)
def test_every_detector_is_in_the_graph(small, tmp_path, detector, features, layers, params):
    first, bundle = small
    base = first.folder.parent / "data"
    data = read_data(first.config, base, bundle.tokenizer)
    model = copy.deepcopy(first.model)  # with a head that reads every feature: the dev set may have rolled its own back
    with torch.no_grad():
        torch.manual_seed(1)
        model.head.weight.normal_()
        model.head.shift.normal_(0, 0.1)
        model.head.scale.uniform_(0.2, 2)
    ood = fit_ood(
        Features(model), Ood(detector=detector, features=features, layers=layers, params=params, depth=12), data
    )
    trained = dataclasses.replace(first, ood=ood, model=model)
    export_graphs(ContractModule(trained), tmp_path, tmp_path)
    pairs = some_pairs(trained, bundle, base, count=30)
    reference = torch_rows(trained, pairs)
    table = ood.calibration.distances.numpy()
    rows = run_pairs(tmp_path / "model.onnx", bundle.tokenizer, pairs)
    assert_parity(rows, reference, 3, table, noise=5e-6)
    assert_columns(rows, GAINS[3])
    if "features" in DETECTORS[detector].make.reads:
        assert (rows[:, 4] >= 0.95).any()  # something among the awkward pairs is strange to it
    assert rows[:, 5].std() > 1e-2
    assert all(finding.passed for finding in inspect_graph(tmp_path / "model.onnx", width=6))
    held = run_pairs(tmp_path / "features.onnx", bundle.tokenizer, pairs[:20])  # the last layer's, whatever is read
    assert np.abs(held - run_pairs(bundle.file("features.onnx"), bundle.tokenizer, pairs[:20])).max() < 1e-4
    inputs = [i.name for i in onnx.load(tmp_path / "model.onnx").graph.input]
    assert inputs == list(INPUTS)
    export_states(ContractModule(trained), tmp_path)
    model.tokenizer().save(str(tmp_path / "tokenizer.json"))
    capped = CappedTokenizer(bundle.tokenizer, bundle.card.query_cap, bundle.card.item_cap)
    within = [n for n, (q, i) in enumerate(pairs) if capped.pairs(q, [i])[0].ids == bundle.tokenizer.encode(q, i).ids]
    assert len(within) > 20
    card = dataclasses.replace(bundle.card, states={"encoder": "any"})
    with StateStore(None) as store:
        apart = score_by_states(card, tmp_path, store, [pairs[n] for n in within])
    assert_columns(apart, GAINS[3])
    assert np.abs(apart - rows[within])[:, :4].max() < 0.02  # eight bits, and a head of large weights
    far = np.abs(apart - rows[within])[:, 5] / np.maximum(1, np.abs(rows[within][:, 5]))
    assert far.max() < (1e-4 if DETECTORS[detector].make.reads == ("features",) else 0.2)
    if features == "query":  # the column is of the query alone
        a, b = run_pairs(tmp_path / "model.onnx", bundle.tokenizer, [("storm", "x"), ("storm", "bicycle theft")])
        assert a[5] == pytest.approx(b[5], abs=1e-4)


def test_halves_that_are_not_rounded_answer_as_the_graph(small, monkeypatch):
    """What keeping item states changes beyond 1e-5 is the rounding to eight bits, and nothing else."""
    trained, bundle = small
    monkeypatch.setattr(states.IntegerProduct, "apply", torch.matmul)
    meet = MeetModule(ContractModule(trained)).eval()
    encode = onnxruntime.InferenceSession(bundle.file("encode.onnx"))
    sides = onnxruntime.InferenceSession(bundle.file("ood/sides.onnx"))
    capped = CappedTokenizer(bundle.tokenizer, bundle.card.query_cap, bundle.card.item_cap)

    def encoded(sequence):
        ids = np.array([sequence.ids])
        token_states, pooled = encode.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return [torch.from_numpy(part) for part in (token_states, pooled, sides.run(None, {"pooled": pooled})[0])]

    pairs = some_pairs(trained, bundle, trained.folder.parent / "data")
    rows = []
    for query, item in pairs:
        query_sequence, item_sequence = capped.query(query), capped.items([item])[0]
        (query_states, query_pooled, query_sides), (item_states, item_pooled, item_sides) = (
            encoded(sequence) for sequence in (query_sequence, item_sequence)
        )
        tokens = torch.ones(1, len(item_sequence.ids))
        with torch.no_grad():
            rows.append(meet(
                query_states[0].T, torch.ones(len(query_sequence.ids)), torch.tensor(query_sequence.ids),
                query_pooled[0], query_sides[:, 0], item_states, tokens, tokens,
                torch.from_numpy(capped.are_content(item_sequence.ids))[None].float(), item_pooled, item_sides[:, 1],
            )[0].numpy())  # fmt: skip
    within = [n for n, (q, i) in enumerate(pairs) if capped.pairs(q, [i])[0].ids == bundle.tokenizer.encode(q, i).ids]
    whole = run_pairs(bundle.file("model.onnx"), bundle.tokenizer, pairs)
    off = np.abs(np.stack(rows) - whole)[within]
    assert len(within) > 50 and off[:, :4].max() <= 1e-5 and off[:, 5].max() <= 1e-4
