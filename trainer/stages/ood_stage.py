"""Fit the detector on what was trained on, and calibrate it on what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darl_opensearch.errors import InputError
from darl_opensearch.scores import is_ood
from trainer.config import Ood
from trainer.evaluate.bootstrap import bootstrap_ratio
from trainer.ood import DETECTORS, ConformalCalibration, halves, view
from trainer.stages.data import Features, Pairs, RunData


@dataclass(frozen=True)
class FittedOod:
    """What the graph needs for its OOD columns.

    :param detector: the fitted detector.
    :param calibration: its conformal calibration.
    :param space: the features it reads.
    :param report: figures for the card.
    """

    detector: Any
    calibration: ConformalCalibration
    space: str
    report: dict[str, Any]


@torch.no_grad()
def fit_ood(features: Features, config: Ood, data: RunData) -> FittedOod:
    """Fit on training and dev pairs, calibrate on held-out traffic.

    :param features: of the trained backbone.
    :param config: table ``[ood]``.
    :param data: the run's data.
    :return: detector, calibration and figures.
    :raises InputError: when the traffic is too small for alpha.
    """
    make, params = DETECTORS.resolve(config.detector, config.params)
    parts = halves(config.features, features.model.halves)
    rows = view(features.halves(data.judged(data.learnt)), config.features)
    detector = make(rows.shape[1], halves=parts, **params)
    try:
        detector.fit(rows)
    except ValueError as err:
        raise InputError(f"the detector cannot be fitted: {err}", where="[ood]", todo="judge more queries") from err
    detector.eval()
    traffic = data.unjudged(data.traffic)
    distances = _distances(features, detector, config.features, traffic)
    calibration = ConformalCalibration.fit(distances, config.alpha)
    familiar = data.unjudged(data.familiar)
    known = _distances(features, detector, config.features, familiar)
    report = {
        "detector": config.detector,
        "features": config.features,
        "halves": parts,
        "params": params,
        "width": rows.shape[1],
        "alpha": config.alpha,
        "calibration_pairs": len(distances),
        "calibration_queries": len(data.traffic),
        "false_alarms_unseen_items": two_fold_alarms(distances, traffic, config.alpha),
        "false_alarms_seen_items": _share(_flagged(calibration, known, config.alpha), familiar),
    }
    return FittedOod(detector, calibration, config.features, report)


def _distances(features: Features, detector: Any, space: str, pairs: Pairs) -> Tensor:
    if not len(pairs.index):
        return torch.zeros(0)
    distances: Tensor = detector(view(features.halves(pairs), space))
    return distances


def two_fold_alarms(distances: Tensor, pairs: Pairs, alpha: float) -> dict[str, Any] | None:
    """False alarms on traffic: each half of the queries judged by the other half's calibration.

    :param distances: ``[n]`` of the traffic pairs.
    :param pairs: the traffic.
    :param alpha: false-alarm rate asked for.
    :return: share with its interval by query, or None where the halves are too small for alpha.
    """
    half = pairs.query_index % 2 == 0
    flagged = torch.zeros(len(distances), dtype=torch.bool)
    for test in (half, ~half):
        try:
            other = ConformalCalibration.fit(distances[~test], alpha)
        except InputError:
            return None  # too small to be halved
        flagged[test] = _flagged(other, distances[test], alpha)
    return _share(flagged, pairs)


def _flagged(calibration: ConformalCalibration, distances: Tensor, alpha: float) -> Tensor:
    """Which distances are OOD, by the one rule that scorer and client have."""
    return torch.from_numpy(is_ood(calibration(distances)[:, 0].numpy(), alpha))


def _share(flagged: Tensor, pairs: Pairs) -> dict[str, Any] | None:
    if not len(flagged):
        return None
    query = pairs.query_index.numpy()
    hits = np.bincount(query, weights=flagged.double().numpy(), minlength=len(pairs.queries)).astype(float)
    counts = np.bincount(query, minlength=len(pairs.queries)).astype(float)
    return bootstrap_ratio(hits[counts > 0], counts[counts > 0]).to_json()
