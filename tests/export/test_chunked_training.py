"""A run over items that are scored in chunks: trained on their first, calibrated as they are served."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from darl_opensearch.bundle import Bundle
from darl_opensearch.scoring import Scorer
from tests.helpers.trained import load_trained, train_and_export, write_project
from trainer.config import read_config
from trainer.evaluate.systems import open_run
from trainer.stages.objective import predict
from trainer.stages.served import choose_chunks
from trainer.training_data.features import Features
from trainer.training_data.reading import read_data

CHUNKS = 4


@pytest.fixture(scope="module")
def chunked(tmp_path_factory, checkpoint):
    """Run and bundle with items of several chunks, without the quantised graphs."""
    folder = tmp_path_factory.mktemp("chunked")
    options = {"queries": 12, "traffic": 16, "ood": {"depth": 6}, "model": {"item_cap": 24}}
    path = write_project(folder / "data", str(checkpoint), **options)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('slice_field = "kind"', f'slice_field = "kind"\nchunks = {CHUNKS}'), encoding="utf-8")
    train_and_export(folder, path, int8=False)
    trained, bundle = load_trained(folder)
    data = read_data(read_config(path), folder / "data", trained.model.tokenizer())
    return trained, bundle, data


def test_training_reads_first_chunks_and_the_rest_whole_items(chunked):
    _, bundle, data = chunked
    sizes = [len(data.chunks(item.text)) for item in data.whole_items.values()]
    assert max(sizes) == CHUNKS and np.mean(np.array(sizes) > 1) > 0.9
    for item_id, item in data.whole_items.items():
        assert data.items[item_id].text == bundle.renderer.first(item.text) == data.chunks(item.text)[0]
    assert list(data.items) == list(data.whole_items) and len(data.items) == len(sizes) and "x" not in data.items


def test_each_pair_is_served_by_its_best_chunk(chunked):
    trained, _, data = chunked
    features, whole = Features(trained.model), data.judged(data.dev, whole=True)
    served = choose_chunks(features, whole, data.chunks)
    assert served.grades.tolist() == whole.grades.tolist() and served.query_index.tolist() == whole.query_index.tolist()
    latent = predict(trained.model.head, features.of(served).head_input).latent
    others = 0
    for place in range(0, len(whole.grades), 5):
        (query, text), (_, chosen) = whole.texts[place], served.texts[place]
        chunks = data.chunks(text)
        with torch.no_grad():
            alone = trained.model.pair_features([query] * len(chunks), chunks).head_input
        scores = predict(trained.model.head, alone).latent
        assert chosen == chunks[int(scores.argmax())] and latent[place] == pytest.approx(scores.max(), abs=1e-5)
        others += chosen != chunks[0]
    assert others > 0
    first = data.judged(data.dev)
    assert choose_chunks(features, first, lambda text: [text]) is first  # with one chunk nothing changes


def test_calibration_is_that_of_items_as_they_are_served(chunked):
    """Not that of first chunks: the graph's table has the distances that a scorer finds for the traffic."""
    trained, bundle, data = chunked
    found, firsts = [], []
    with Scorer.open(bundle) as scorer:
        for query, item_ids in data.traffic:
            whole, first = ([items[i].text for i in item_ids] for items in (data.whole_items, data.items))
            found += scorer.score(query.query, whole).ood_distance.tolist()
            firsts += scorer.score(query.query, first).ood_distance.tolist()
    table = bundle.calibration()
    assert len(table) == len(found) == bundle.card.ood.calibration_pairs
    median, tail = np.quantile(table, [0.5, 0.95])
    np.testing.assert_allclose(np.sort((table - median) / (tail - median)), np.sort(found), atol=1e-3)
    assert np.abs(np.sort(found) - np.sort(firsts)).max() > 0.05


def test_the_figures_of_the_card_are_those_of_items_as_they_are_served(chunked):
    trained, bundle, data = chunked
    dev = data.judged(data.dev, whole=True)
    with Scorer.open(bundle) as scorer:
        grades = [scorer.score(query, [text]).grade[0] for query, text in dev.texts]
    table = np.zeros((3, 3))
    np.add.at(table, (dev.grades.numpy(), grades), 1)
    precision = {row["min_grade"]: row["kept"] for row in trained.result["thresholds"]["min_grade"]}
    assert set(precision) <= {1, 2}
    f1 = [2 * table[g, g] / max(1, table[g].sum() + table[:, g].sum()) for g in range(3)]
    assert trained.result["dev"]["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-3)
    assert bundle.card.graphs["meet.onnx"]["score_difference"]["mean"] < 0.002  # from states, chunk by chunk
    card = (bundle.path / "README.md").read_text(encoding="utf-8")
    assert f"longer than 24 tokens is scored in up to {CHUNKS} chunks" in card
    assert json.loads((bundle.path / "darl.json").read_text(encoding="utf-8"))["template"]["chunks"] == CHUNKS


def test_a_run_in_torch_and_its_bundle_score_alike(chunked):
    trained, bundle, data = chunked
    system = open_run(trained.folder, lambda renderer: data.whole_items)
    pairs = data.judged(data.dev, whole=True).texts[:20]
    with Scorer.open(Bundle.open(bundle.path)) as scorer:
        rows = np.concatenate([scorer.score(query, [text]).data for query, text in pairs])
    np.testing.assert_allclose(system.rows(pairs)[:, :4], rows[:, :4], atol=1e-4)
