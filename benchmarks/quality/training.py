"""One model: a method fitted on some queries, its head alone or the encoder with it, and what it then predicts."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.quality.data import GAINS, Judged, Rows
from benchmarks.quality.methods import LIMITS, Method, calibrated, fit, fitted, objective, seen
from benchmarks.quality.methods import features as columns
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.grades import confusion, quadratic_kappa
from trainer.models.heads import Head
from trainer.models.split import SplitReranker
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Predictions, predict
from trainer.stages.robust import HeadData, dev_objective
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import JudgedSource

FULL_EPOCHS, ITEMS_PER_QUERY = 1, 16


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A calibrated head, and the features it reads.

    :param head: of ``k`` grades.
    :param table: ``[n, f]`` features of every judged pair that is asked for.
    """

    head: Head
    table: Tensor

    def predict(self, rows: Tensor) -> Predictions:
        """Apply the head.

        :param rows: of the pairs.
        :return: its predictions.
        """
        return predict(self.head, self.table[rows])


def train_head(method: Method, judged: Judged, train: Rows, dev: Rows) -> Fitted:
    """Fit and calibrate a head on frozen features.

    :param method: the method.
    :param judged: all judged pairs.
    :param train: queries that fit.
    :param dev: queries that stop and calibrate.
    :return: the head.
    """
    return Fitted(fit(method, judged, train, dev), columns(method, judged))


def train_full(
    method: Method, model: SplitReranker, start: Mapping[str, Tensor], judged: Judged, train: Rows, dev: Rows,
    wanted: Tensor, *, seed: int,
) -> Fitted:  # fmt: skip
    """Fit the head, then head and encoder together.

    :param method: the method.
    :param model: whose encoder is trained; left changed.
    :param start: the untrained encoder's weights.
    :param judged: all judged pairs.
    :param train: queries that fit.
    :param dev: queries that stop and calibrate.
    :param wanted: rows of the pairs that will be predicted.
    :param seed: of order and dropout.
    :return: the head, with features of the wanted pairs and the dev pairs.
    """
    loss = objective(method)
    model.load_state_dict(start, strict=False)
    sides = [(judged.part(q), judged.head_input[judged.rows(q)]) for q in (train, dev)]
    model.head = fitted(method, sides[0], sides[1])
    train_pairs, dev_pairs = (_compact(seen(method, pairs)) for pairs, _ in sides)

    def dev_loss() -> float:
        return dev_objective(loss, model.head, HeadData(dev_pairs, Features(model).of(dev_pairs).head_input))

    settings = FitSettings(
        epochs=FULL_EPOCHS, learning_rate=LIMITS.full_learning_rate, head_learning_rate=LIMITS.head_learning_rate,
        batch_queries=LIMITS.batch_queries, evaluations=1, patience=LIMITS.patience,
    )  # fmt: skip
    source = source_of(train_pairs, cap=ITEMS_PER_QUERY, seed=seed)
    with tempfile.TemporaryDirectory() as work:
        Fit(model, GradedLoss(loss), dev_loss, settings, source, seed=seed, folder=Path(work) / "full").run()
    rows = torch.cat([wanted, judged.rows(dev)]).unique()
    compact = _compact(judged.pairs.select(rows))
    table = torch.zeros_like(judged.head_input)
    table[rows] = model.feature_table(compact.queries, compact.items, compact.index).head_input
    return Fitted(calibrated(method, model.head, (judged.part(dev), table[judged.rows(dev)])), table)


def cut_points(fitted: Fitted, pairs: Pairs, rows: Tensor) -> NDArray[np.float64]:
    """Choose ``k - 1`` cuts of the score that agree best with the dev grades: kappa, one cut after the other.

    :param fitted: the model.
    :param pairs: dev pairs.
    :param rows: theirs.
    :return: ``[k-1]`` ascending cuts of the latent.
    """
    latent, grades = fitted.predict(rows).latent, pairs.grades.numpy()

    def agreement(cuts: NDArray[np.float64]) -> float:
        kappa = float(quadratic_kappa(confusion(np.searchsorted(cuts, latent), grades, len(GAINS))))
        return kappa if np.isfinite(kappa) else -1.0

    candidates = np.quantile(latent, np.linspace(0.01, 0.99, 99))
    cuts = np.quantile(latent, [(grades < g).mean() for g in range(1, len(GAINS))])
    for place in [*range(len(cuts))] * 3:
        tried = [np.sort(np.append(np.delete(cuts, place), cut)) for cut in (cuts[place], *candidates)]
        cuts = max(tried, key=agreement)
    return np.asarray(cuts)


def source_of(pairs: Pairs, *, cap: int, seed: int) -> JudgedSource:
    """Draw batches from pairs.

    :param pairs: judged pairs, queries numbered from 0.
    :param cap: most items of a query in a step.
    :param seed: of the draw.
    :return: the source.
    """
    rows: list[list[tuple[int, int]]] = [[] for _ in pairs.queries]
    for (query, item), grade in zip(pairs.index.tolist(), pairs.grades.tolist(), strict=True):
        rows[query].append((item, grade))
    queries = [
        JudgedQuery(str(n), text, tuple(str(item) for item, _ in judged), tuple(grade for _, grade in judged))
        for n, (text, judged) in enumerate(zip(pairs.queries, rows, strict=True))
    ]
    items = {str(row): Item(str(row), text, "") for row, text in enumerate(pairs.items)}
    return JudgedSource(queries, items, cap=cap, seed=seed)


def _compact(pairs: Pairs) -> Pairs:
    """Leave out the texts that no pair has, and number queries from 0."""
    columns = []
    texts: list[tuple[str, ...]] = []
    for side, known in enumerate((pairs.queries, pairs.items)):
        rows, place = pairs.index[:, side].unique(return_inverse=True)
        columns.append(place)
        texts.append(tuple(known[i] for i in rows.tolist()))
    return Pairs(texts[0], texts[1], torch.stack(columns, dim=1), pairs.grades)
