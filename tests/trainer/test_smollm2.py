"""The llm backbone on a real language model: SmolLM2-135M-Instruct, converted once into the user's cache."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from darl_opensearch import bundle as files
from darl_opensearch.check import run_pairs
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import parse_config
from trainer.export.graph import ContractModule, export_graphs
from trainer.models import LlmReranker
from trainer.ood.calibration import ConformalCalibration
from trainer.ood.fitted import FittedOod
from trainer.ood.mahalanobis import Mahalanobis
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Objective
from trainer.training_data.source import JudgedSource

PAIRS = [  # a match and a mismatch of each query
    (
        "how do I reset my router",
        "Hold the reset button on the back of the router for ten seconds to restore its settings.",
    ),
    ("how do I reset my router", "The cat slept on the mat all day."),
    ("waterproof hiking boots", "Leather hiking boots with a waterproof membrane."),
    ("waterproof hiking boots", "A red cotton dress for summer parties."),
]  # fmt: skip
TOP = 2


@pytest.fixture(scope="module")
def config():
    return parse_config(
        {
            "model": {"name": "m", "backbone": "llm", "base": "packaged:SmolLM2-135M-Instruct", "query_cap": 16,
                      "item_cap": 32},
            "data": {"items": "-", "judgments": "-"}, "grades": {"names": ["irrelevant", "partly", "relevant"]},
            "template": {"fields": ["=text"]}, "loss": {"grade": "cross_entropy"},
            "lora": {"layers": TOP, "dropout": 0.0},
        },
        where="test",
    )  # fmt: skip


@torch.no_grad()
def scores(model):
    columns = [query for query, _ in PAIRS], [item for _, item in PAIRS]
    return model.head.score(model.head(model.pair_features(*columns).head_input))


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """A judge that has learnt the opposite of the truth, with its scores before; and the losses along the way."""
    model = LlmReranker.from_base(config, "nominal")
    before = scores(model)
    queries = [
        JudgedQuery(str(n), PAIRS[n][0], (str(n), str(n + 1)), (0, 2)) for n in (0, 2)
    ]  # fmt: skip
    items = {str(n): Item(str(n), text, "") for n, (_, text) in enumerate(PAIRS)}
    settings = FitSettings(epochs=4, learning_rate=1e-3, head_learning_rate=1e-2, batch_queries=2, evaluations=1,
                           patience=9, device="cpu")  # fmt: skip
    loss = GradedLoss(Objective.make(config.loss, config.grades.scale.gains))
    source = JudgedSource(queries, items, cap=4, seed=0)
    folder = tmp_path_factory.mktemp("fit")
    fit = Fit(model, loss, lambda: float(scores(model)[::2].mean()), settings, source, seed=0, folder=folder)
    return model, before, fit.run()


def test_untrained_it_grades_a_match_above_a_mismatch(trained):
    _, before, _ = trained
    assert before[0] > before[1] and before[2] > before[3]


def test_training_changes_what_it_says_and_only_the_top_layers(trained):
    model, before, history = trained
    assert history[-1]["train_loss"] < history[1]["train_loss"] - 0.1
    after = scores(model)
    assert after[0] < after[1] and after[2] < after[3]  # it was taught so
    moved = {name.split(".")[1] for name, p in model.encoder.named_parameters() if ".lora_B." in name and p.any()}
    assert moved == {"28", "29"} and len(model.encoder_parameters()) == TOP * 7 * 2


def test_merged_saved_and_loaded_the_scores_stay(trained, tmp_path):
    model, before, _ = trained
    model.save(tmp_path)
    again = LlmReranker.load(tmp_path)
    assert_close(scores(again), scores(model), atol=1e-5, rtol=0)
    assert (scores(again) - before).abs().max() > 0.01
    assert again.adapters.layers == TOP


def test_exported_with_its_weights_apart_the_scores_stay(trained, tmp_path, monkeypatch):
    model, _, _ = trained
    monkeypatch.setattr(files, "MAX_ONE_FILE", 10_000)
    ood = FittedOod(Mahalanobis(model.width), ConformalCalibration.fit(torch.rand(40), 0.05), "pair", {})
    export_graphs(ContractModule(SimpleNamespace(model=model, ood=ood)), tmp_path, tmp_path)
    assert (tmp_path / files.MODEL_DATA).stat().st_size > 400e6 > 20e6 > (tmp_path / files.MODEL).stat().st_size
    found = run_pairs(tmp_path / files.MODEL, model.tokenizer(), PAIRS)
    assert_close(torch.from_numpy(found[:, 0]), scores(model), atol=1e-4, rtol=0)
