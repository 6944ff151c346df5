"""Stage 4: between the weights before and after the new samples, as far towards them as costs nothing."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darl_opensearch.errors import UsageError
from darl_opensearch.stats.bootstrap import bootstrap_mean
from trainer.config import Config, Interpolate
from trainer.stages.objective import measure_ndcg
from trainer.stages.registry import STAGES, Context, Outcome, Stage, need
from trainer.training_data.features import Features


@dataclass(frozen=True)
class Point:
    """One coefficient of the curve.

    :param coefficient: 0: the weights before, 1: those after.
    :param id_change: mean over the dev queries of the paired change against coefficient 0.
    """

    coefficient: float
    id_ndcg: float
    ood_ndcg: float
    id_change: float


@STAGES.register("interpolate", cite="Wortsman et al. 2021, arXiv:2109.01903 (WiSE-FT)", table=Interpolate)
class InterpolateStage(Stage):
    """Mix the weights before and after: best nDCG on the OOD dev queries that costs the dev queries next to nothing

    The coefficient with the highest mean nDCG of the OOD dev queries among those at which the mean nDCG of the dev
    queries falls by at most ``tolerance``, measured query by query against coefficient 0; of equals the smaller.
    Coefficient 0 drops what was learnt in between.
    """

    judged_on = ("dev", "ood_dev")
    rewinds = True

    def check(self, config: Config) -> None:
        """Ask for OOD dev queries, and for weights to go back to.

        :raises UsageError: where something is missing.
        """
        need(
            config.data.ood_dev, "interpolate", "[data] ood_dev",
            "set it to judgments of OOD traffic: the coefficient is chosen on them",
        )  # fmt: skip
        run = config.stages.run
        before = run[: run.index("interpolate")]
        if config.interpolate.between == "augmented" and "augmented" not in before:
            raise UsageError(
                "[stages] run lists interpolate without augmented before it",
                todo='put augmented before it, or set [interpolate] between = "start"',
            )

    def run(self, context: Context) -> Outcome:
        """Try every coefficient, and leave the chosen mixture in the model."""
        model, own = context.model, context.config.interpolate
        after = copy.deepcopy(model.state_dict())
        before = context.weights_before("augmented" if own.between == "augmented" else "")
        coefficients = sorted({0.0, *own.coefficients})
        values = []
        for done, coefficient in enumerate(coefficients):
            context.report("stage interpolate", done, len(coefficients))
            model.load_state_dict(mix_weights(before, after, coefficient))
            features = Features(model, device=context.config.stages.device)
            values.append(
                tuple(measure_ndcg(features, context.pairs[role], context.config) for role in ("dev", "ood_dev"))
            )
        points = [
            Point(c, mean(on_id), mean(on_ood), mean({q: v - values[0][0][q] for q, v in on_id.items()}))
            for c, (on_id, on_ood) in zip(coefficients, values, strict=True)
        ]
        place = choose_point(points, own.tolerance)
        model.load_state_dict(mix_weights(before, after, coefficients[place]))
        context.features.forget()
        curve = []
        for point, (on_id, _) in zip(points, values, strict=True):
            change = np.array([v - values[0][0][q] for q, v in on_id.items()])
            curve.append({
                "coefficient": point.coefficient, "id_ndcg": round(point.id_ndcg, 5),
                "ood_ndcg": round(point.ood_ndcg, 5),
                "id_change": bootstrap_mean(change, seed=context.seed).to_json(),
            })  # fmt: skip
        figures = {"coefficient": coefficients[place], "tolerance": own.tolerance, "curve": curve}
        return Outcome([], decided="interpolate", learnt_new=coefficients[place] > 0, figures=figures)


def mix_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """Interpolate weights and buffers.

    :param before: at coefficient 0.
    :param after: at coefficient 1; what is no floating-point number, or was not there before, is taken from it.
    :param coefficient: in [0, 1]; at both ends the result is equal bit for bit.
    """
    weights = {}
    for name, value in after.items():
        old = before.get(name)
        if old is None or not value.is_floating_point():
            weights[name] = value
        else:
            weights[name] = torch.lerp(old.float(), value.float(), coefficient).to(value.dtype)
    return weights


def choose_point(points: Sequence[Point], tolerance: float) -> int:
    """Choose a point of the curve.

    :param points: by ascending coefficient, the first is 0.
    :return: place of the one with the best OOD mean among those that may be; the first of equals.
    """
    best = 0
    for place, point in enumerate(points):
        allowed = point.id_change >= -tolerance - 1e-12 or math.isnan(point.id_change)
        if allowed and point.ood_ndcg > points[best].ood_ndcg + 1e-12:
            best = place
    return best


def mean(values: Mapping[Any, float]) -> float:
    """Mean over queries.

    :return: the mean; nan for none.
    """
    return float(np.mean(list(values.values()))) if values else math.nan
