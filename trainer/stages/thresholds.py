"""How far the model's grades and scores can be relied on as thresholds, measured on the dev queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from darl_opensearch.scores import grade_of
from darl_opensearch.stats.bootstrap import resample
from darl_opensearch.stats.thresholds import grade_figures, score_figures
from trainer.config import Config
from trainer.stages.calibrated import predict_calibrated
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs


@torch.no_grad()
def measure_thresholds(features: Features, dev: Pairs, config: Config) -> dict[str, Any]:
    """Measure grades and scores as thresholds, with the grades of each fold calibrated on the others.

    :return: by kind, a row for each threshold: what it keeps, and its figures with intervals by query.
    """
    probs = predict_calibrated(features.model.head, dev, features.of(dev).head_input)
    gains = np.asarray(config.grades.scale.gains, dtype=np.float64)
    score, query, n = probs @ gains / gains[-1], dev.query_index.numpy(), len(dev.queries)
    by_grade = grade_figures(probs, dev.grades.numpy(), query, n)
    by_score = score_figures(score, gains[dev.grades.numpy()] / gains[-1], query, n)
    found: dict[str, Any] = {}
    for kind, figures, values in (("min_grade", by_grade, grade_of(probs)), ("min_score", by_score, score)):
        found[kind] = [
            {kind: least, "kept": int((values >= least).sum())}
            | {name: one.interval().to_json() for name, one in resample(part, draws=2000, seed=config.seed).items()}
            for least, part in figures.items()
        ]
    return found | {"pairs": len(dev.grades)}
