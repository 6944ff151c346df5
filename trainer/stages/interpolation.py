"""Stage 4: interpolate between the weights before and after training on new samples."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from darl_opensearch.errors import UsageError
from darl_opensearch.stats.bootstrap import bootstrap_mean
from trainer.config import Config, Interpolate
from trainer.stages.calibrated import measure_current
from trainer.stages.registry import STAGES, Context, Outcome, Stage, require_key
from trainer.training_data.features import Features


@dataclass(frozen=True)
class Point:
    """A point of the curve.

    :param coefficient: 0: the weights before, 1: those after.
    :param id_change: mean paired change of the dev queries' nDCG against coefficient 0; NaN without any.
    :param rps: mean of the RPS of the dev and of the OOD dev queries, with equal weight.
    """

    coefficient: float
    id_change: float
    rps: float


@STAGES.register("interpolate", cite="Wortsman et al. 2021, arXiv:2109.01903 (WiSE-FT)", table=Interpolate)
class InterpolateStage(Stage):
    """Mix the weights before and after for the best RPS on ID and OOD dev queries at next to no loss of order on ID

    Chooses the coefficient with the lowest mean of the RPS on dev and OOD dev queries, by which the stage ``augmented``
    stops, too, among those at which the mean nDCG of the dev queries falls by at most ``tolerance`` against coefficient
    0, paired by query; ties go to the smaller one. Coefficient 0 restores the weights before.
    """

    judged_on = ("dev", "ood_dev")

    def check(self, config: Config) -> None:
        """Require OOD dev queries, and a stage whose initial weights are the weights before."""
        require_key(
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
        """Try every coefficient, and load the best mixture."""
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
                [measure_current(features, context.pairs[role], context.config) for role in ("dev", "ood_dev")]
            )
        changes = [values[0][0].gains_to(on_id).ndcg for on_id, _ in values]
        points = [
            Point(coefficient, mean(change), mean([mean(figures.rps.values()) for figures in both]))
            for coefficient, both, change in zip(coefficients, values, changes, strict=True)
        ]
        place = choose_point(points, own.tolerance)
        model.load_state_dict(mix_weights(before, after, coefficients[place]))
        context.features.forget()
        curve = [
            {
                "coefficient": point.coefficient,
                **{
                    f"{role}_{name}": round(mean(vars(figures)[name].values()), 5)
                    for role, figures in zip(("id", "ood"), both, strict=True) for name in ("ndcg", "rps")
                },
                "id_change": bootstrap_mean(np.array(change), seed=context.seed).to_json(),
            }
            for point, both, change in zip(points, values, changes, strict=True)
        ]  # fmt: skip
        figures = {"coefficient": coefficients[place], "tolerance": own.tolerance, "curve": curve}
        return Outcome([], decided="interpolate", learnt_new=coefficients[place] > 0, figures=figures)


def mix_weights(before: Mapping[str, Tensor], after: Mapping[str, Tensor], coefficient: float) -> dict[str, Tensor]:
    """Interpolate weights and buffers.

    :param before: weights at coefficient 0.
    :param after: weights at coefficient 1; integers, and tensors missing in ``before``, are taken from here.
    :param coefficient: in [0, 1]; exact at both ends.
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
    """Choose the place of the first point with the lowest RPS within the tolerance.

    :param points: by ascending coefficient, from 0.
    """
    best = 0
    for place, point in enumerate(points):
        allowed = point.id_change >= -tolerance - 1e-12 or math.isnan(point.id_change)
        if allowed and point.rps < points[best].rps - 1e-12:
            best = place
    return best


def mean(values: Collection[float]) -> float:
    """Average over queries; NaN without any."""
    return float(np.mean(list(values))) if values else math.nan
