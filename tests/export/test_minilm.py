"""The packaged all-MiniLM-L6-v2, trained on part of the sample and exported: a real encoder keeps the bounds too."""

from __future__ import annotations

import numpy as np
import pytest

from darl_opensearch.check import check_bundle, run_pairs
from darl_opensearch.scoring import Scorer
from tests.export.test_export_graph import AWKWARD, assert_columns, assert_parity, torch_rows
from tests.helpers.files import read_rows
from tests.helpers.trained import GAINS, SAMPLE


def test_a_real_encoder(minilm_bundle):
    trained, bundle = minilm_bundle
    findings = list(check_bundle(bundle.path))
    assert [f for f in findings if not f.passed] == []
    items = {item["id"]: bundle.renderer(item) for item in read_rows(SAMPLE / "items.jsonl")}
    rows = [row for row in read_rows(SAMPLE / "test_judgments.jsonl") if row["item_id"] in items][:30]
    pairs = AWKWARD + [(row["query"], items[row["item_id"]]) for row in rows]
    scores = run_pairs(bundle.file("model.onnx"), bundle.tokenizer, pairs)
    assert_parity(scores, torch_rows(trained, pairs), 3, bundle.calibration())
    assert_columns(scores, GAINS[3])
    with Scorer.open(bundle, int8=True) as quantised:
        int8 = np.concatenate([quantised.score(query, [text]).data for query, text in pairs])
    assert_columns(int8, GAINS[3])
    assert np.abs(int8[:, 0] - scores[:, 0]).mean() < 0.03
    figures = bundle.card.graphs["meet_int8.onnx"]
    assert abs(figures["dev_ndcg@10"]["states_int8"] - figures["dev_ndcg@10"]["fp32"]) < 0.03

    query = "my e-bike was stolen from the shed"
    texts = [items["bicycle-02"], items["life-01"], items["dental-03"]]
    with Scorer.open(bundle) as scorer, Scorer.open(bundle, int8=True) as quantised:
        for each in (scorer, quantised):
            assert each.score(query, texts).order()[0] == 0
        together = quantised.score(query, texts).data
        alone = np.concatenate([quantised.score(query, [text]).data for text in texts])
        assert np.abs(together - alone).max() < 1e-5
        assert scorer.score("asdf qwer zxcv", texts).ood_distance.min() > scorer.score(query, texts).ood_distance.min()
    assert trained.result["dev"]["ndcg@10"] == pytest.approx(figures["dev_ndcg@10"]["fp32"], abs=1e-3)
