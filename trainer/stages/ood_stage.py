"""Fits the detector on training pairs, and calibrates it on held-out traffic."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.digest import hash_int
from darl_opensearch.scores import is_ood
from darl_opensearch.stats.bootstrap import bootstrap_ratio, resample
from darl_opensearch.stats.flagged import flagged_figures
from trainer.config import Ood
from trainer.ood import DETECTORS, ConformalCalibration, count_halves
from trainer.ood.base import CHUNK
from trainer.ood.fitted import FittedOod
from trainer.stages.dev_sets import dev_sets, predict_dev_set
from trainer.stages.served import choose_chunks
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

MOST_CATALOGUE = 16_384  # maximum unjudged items encoded for a detector that reads the catalogue


@torch.no_grad()
def fit_ood(features: Features, config: Ood, data: RunData) -> FittedOod:
    """Fit on training and dev pairs, and calibrate on held-out traffic.

    :param config: table ``[ood]``.
    :raises InputError: if the traffic is too small for alpha.
    """
    _, params = DETECTORS.resolve(config.detector, config.params)
    check_ood(config, features.model.halves)
    parts = count_halves(config.features, features.model.halves)
    width = parts * features.model.width
    try:
        detector = _fit_detector(features, config, data)
    except ValueError as err:
        raise InputError(f"the detector cannot be fitted: {err}", where="[ood]", todo="judge more queries") from err
    traffic = choose_chunks(features, data.unjudged(data.traffic), data.chunks)
    distances = _distances(features, detector, config, traffic)
    calibration = ConformalCalibration.fit(distances, config.alpha)
    familiar = choose_chunks(features, data.unjudged(data.familiar), data.chunks)
    familiar_distances = _distances(features, detector, config, familiar)
    report = {
        "detector": config.detector,
        "features": config.features,
        "layers": config.layers,
        "halves": parts,
        "params": params,
        "width": width,
        "alpha": config.alpha,
        "calibration_pairs": len(distances),
        "calibration_queries": len(data.traffic),
        "false_alarms_unseen_items": two_fold_alarms(distances, traffic, config.alpha),
        "false_alarms_seen_items": share_flagged(_flagged(calibration, familiar_distances, config.alpha), familiar),
    }
    if data.set_aside:
        report["items_set_aside"] = len(data.set_aside)
    return FittedOod(detector, calibration, config.features, report, config.layers)


def _fit_detector(features: Features, config: Ood, data: RunData) -> Any:
    """Fit a detector, with a ValueError for too few judged pairs."""
    make, params = DETECTORS.resolve(config.detector, config.params)
    parts = count_halves(config.features, features.model.halves)
    detector: Any = make(parts * features.model.width, halves=parts, **params)
    learnt = partial(_read_learnt, features, config, [data.judged(queries) for queries in data.learnt_by_role])
    if DETECTORS[config.detector].make.fits_catalogue:
        detector.fit(learnt, partial(_read_unjudged, features, config, data))
    else:
        detector.fit(learnt)
    return detector.eval()


@torch.no_grad()
def measure_flagged(
    features: Features, config: Ood, data: RunData, pairs: Mapping[str, Pairs], *, seed: int
) -> dict[str, Any]:
    """Measure how wrong the grades of flagged pairs are, beside the others.

    The dev queries are flagged by a detector that is fitted without them.

    :param pairs: judged pairs by role as they are served; ``dev`` and ``ood_dev`` are measured.
    :return: figures by role; empty if a detector without the dev queries cannot be fitted or calibrated.
    """
    try:
        detector = _fit_detector(features, config, dataclasses.replace(data, dev=[]))
        traffic = choose_chunks(features, data.unjudged(data.traffic), data.chunks)
        calibration = ConformalCalibration.fit(_distances(features, detector, config, traffic), config.alpha)
    except (ValueError, InputError):
        return {}
    found = {}
    for role, part in dev_sets(pairs).items():
        probs, query = predict_dev_set(features, role, part), part.query_index.numpy()
        flagged = _flagged(calibration, _distances(features, detector, config, part), config.alpha)
        figures = flagged_figures(probs, part.grades.numpy(), flagged, query, len(part.queries))
        resampled = resample(figures, draws=2000, seed=seed)
        found[role] = {
            "flagged": int(flagged.sum()),
            "pairs": len(flagged),
            **{name: one.interval().to_json() for name, one in resampled.items()},
        }
    return found


def check_ood(config: Ood, backbone: int) -> None:
    """Refuse a detector that does not fit the features or the backbone with a UsageError.

    :param config: table ``[ood]``.
    :param backbone: halves that the backbone encodes separately, 1 or 2.
    """
    DETECTORS.resolve(config.detector, config.params)
    count_halves(config.features, backbone)
    if DETECTORS[config.detector].make.fits_catalogue and (backbone == 1 or config.features == "query"):
        raise UsageError(
            f"[ood] detector {config.detector} reads only items",
            todo='choose the split backbone and features "pair" or "item", or another detector',
        )


def _read_chunks(features: Features, config: Ood, pairs: Pairs) -> Iterator[tuple[Tensor, ...]]:
    """Yield the detector's inputs for some pairs in chunks."""
    names = DETECTORS[config.detector].make.reads
    if "features" in names:
        tables, rows = features.tables(pairs, layers=config.layers)
        sides = {"query": (0,), "item": (1,), "pair": tuple(range(len(tables)))}[config.features]
    for part in torch.arange(len(pairs.index)).split(CHUNK):
        inputs: dict[str, Tensor] = {}
        if "features" in names:
            inputs["features"] = torch.cat([tables[side][rows[part, side]] for side in sides], dim=1)
        if "energy" in names or "grade_probs" in names:
            head = features.model.head
            raw = head(features.of(pairs, layers=config.layers).head_input[part])
            inputs |= {"energy": head.energy(raw), "grade_probs": head.grade_probs(raw)}
        yield tuple(inputs[name] for name in names)


def _read_learnt(features: Features, config: Ood, parts: Sequence[Pairs]) -> Iterator[tuple[Tensor, ...]]:
    """Yield the detector's inputs for the judged pairs in chunks, role by role: so the stages have encoded them."""
    for pairs in parts:
        yield from _read_chunks(features, config, pairs)


def _read_unjudged(features: Features, config: Ood, data: RunData) -> Iterator[tuple[Tensor, ...]]:
    """Yield features of unjudged items in chunks; a sample by the hashes of their ids if there are too many."""
    judged = {item_id for query in data.learnt for item_id in query.item_ids}
    sample = heapq.nsmallest(MOST_CATALOGUE, (item_id for item_id in data.items if item_id not in judged), key=hash_int)
    for start in range(0, len(sample), CHUNK):
        texts = [data.items[item_id].text for item_id in sample[start : start + CHUNK]]
        yield (features.apart((), texts, layers=config.layers)[1],)


def _distances(features: Features, detector: Any, config: Ood, pairs: Pairs) -> Tensor:
    if not len(pairs.index):
        return torch.zeros(0)
    return torch.cat([detector(*chunk) for chunk in _read_chunks(features, config, pairs)])


def two_fold_alarms(distances: Tensor, pairs: Pairs, alpha: float) -> dict[str, Any] | None:
    """Measure false alarms on traffic, each half of the queries with the other half's calibration.

    :param distances: ``[n]`` of the traffic pairs.
    :return: share with its interval by query, or None if the halves are too small for alpha.
    """
    half = pairs.query_index.numpy() % 2 == 0
    flagged = np.zeros(len(distances), dtype=bool)
    for test in (half, ~half):
        try:
            other = ConformalCalibration.fit(distances[~test], alpha)
        except InputError:
            return None
        flagged[test] = _flagged(other, distances[test], alpha)
    return share_flagged(flagged, pairs)


def _flagged(calibration: ConformalCalibration, distances: Tensor, alpha: float) -> NDArray[np.bool_]:
    """Flag the OOD distances, by the rule that scorer and client share."""
    flags: NDArray[np.bool_] = is_ood(calibration(distances)[:, 0].numpy(), alpha)
    return flags


def share_flagged(flagged: NDArray[np.bool_], pairs: Pairs) -> dict[str, Any] | None:
    """Compute the share of flagged pairs with its interval by query, or None without pairs."""
    if not len(flagged):
        return None
    query = pairs.query_index.numpy()
    hits = np.bincount(query, weights=flagged, minlength=len(pairs.queries)).astype(float)
    counts = np.bincount(query, minlength=len(pairs.queries)).astype(float)
    return bootstrap_ratio(hits[counts > 0], counts[counts > 0]).to_json()
