"""What a run records of its dev sets: order with intervals, the gap between both, and how well the grades fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import Resampled, mean_over_queries, resample
from darl_opensearch.stats.grades import confusion, reliability
from darl_opensearch.stats.numbers import round_figure
from trainer.config import Config
from trainer.stages.calibrated import predict_calibrated
from trainer.stages.objective import measure_ndcg, predict
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs

GAP = "gap"


def dev_sets(pairs: Mapping[str, Pairs]) -> dict[str, Pairs]:
    """Pick the dev sets from a run's judged pairs by role."""
    return {role: pairs[role] for role in ("dev", "ood_dev") if role in pairs}


def measure_order(features: Features, pairs: Mapping[str, Pairs], config: Config) -> dict[str, Any]:
    """Measure the current model's mean nDCG on each dev set, and the gap: the dev queries' less the OOD dev queries'.

    :param pairs: judged pairs by role.
    :return: intervals by role, and of the ``gap`` if both sets have a value; the sets are resampled independently.
    """
    resampled: dict[str, Resampled] = {}
    for place, (role, part) in enumerate(dev_sets(pairs).items()):
        values = np.array(list(measure_ndcg(features, part, config).values()))
        resampled |= resample({role: mean_over_queries(values)}, draws=2000, seed=[config.seed, place])
    found = {role: one.interval().to_json() for role, one in resampled.items()}
    if len(resampled) > 1 and all(one.n for one in resampled.values()):
        found[GAP] = resampled["dev"].minus(resampled["ood_dev"]).interval().to_json()
    return found


@torch.no_grad()
def predict_dev_set(features: Features, role: str, pairs: Pairs) -> NDArray[np.float64]:
    """Predict grade probabilities ``[n, k]`` as for pairs that nothing was fitted on.

    The grades of the dev queries are calibrated on the other dev queries; on OOD dev queries the model grades as it is.
    """
    head, head_input = features.model.head, features.of(pairs).head_input
    if role == "dev":
        return predict_calibrated(head, pairs, head_input)
    return predict(head, head_input).grade_probs


def measure_grading(features: Features, pairs: Mapping[str, Pairs], config: Config) -> dict[str, Any]:
    """Measure how the current model's grades of each dev set fit, by :func:`predict_dev_set`.

    :param pairs: judged pairs by role.
    :return: by role ``confusion``, counts of pairs with given grades as rows and predicted grades as columns, and
        ``reliability``, see :func:`darl_opensearch.stats.grades.reliability`.
    """
    found = {}
    for role, part in dev_sets(pairs).items():
        probs, grades = predict_dev_set(features, role, part), part.grades.numpy()
        found[role] = {
            "confusion": confusion(grades, probs.argmax(1), config.grades.scale.k).astype(int).tolist(),
            "reliability": [
                {name: round_figure(value) for name, value in bin_.items()} for bin_ in reliability(probs, grades)
            ],
        }
    return found
