"""Stage 2: fine-tune encoder and head together, a few queries a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.config import Stages
from trainer.stages.data import Features, Pairs
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.head_stage import dev_objective
from trainer.stages.objective import Objective, Totals
from trainer.stages.source import Batch, JudgedSource


class GradedLoss:
    """The objective as a step's loss.

    :param objective: grade term, rank term, penalty.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def counts(self, batch: Batch) -> Tensor:
        """Pairs, and queries that the rank term can learn from.

        :param batch: some queries.
        :return: ``[2]`` float.
        """
        totals = self.objective.totals(batch.grades, batch.query_index)
        return torch.tensor([totals.pairs, totals.queries])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Contribution of some queries to the loss of the batch that holds them.

        :param model: the backbone, training.
        :param batch: some queries.
        :param whole: ``[2]`` counts of the whole batch.
        :param share: of the penalty.
        :return: ``[]`` float.
        """
        features = model.pair_features(batch.queries, batch.items).similarity
        grades, query_index = (t.to(features.device) for t in (batch.grades, batch.query_index))
        totals = Totals(*whole.tolist())
        return self.objective.part(model.head, features, grades, query_index, totals, share=share)


def full_stage(
    model: Any, objective: Objective, config: Stages, train: Pairs, dev: Pairs, *, seed: int, folder: Path
) -> Fit:
    """Prepare fine-tuning on judged pairs.

    :param model: trained in place.
    :param objective: the loss.
    :param config: table ``[stages]``.
    :param train: training pairs.
    :param dev: dev pairs.
    :param seed: of order and dropout.
    :param folder: where its checkpoints go.
    :return: the descent, to be run.
    """

    def dev_loss() -> float:
        return dev_objective(objective, model.head, (dev, Features(model).of(dev).similarity))

    settings = FitSettings(
        epochs=config.full_epochs, learning_rate=config.full_learning_rate,
        head_learning_rate=config.head_learning_rate, batch_queries=config.batch_queries,
        evaluations=config.evaluations, patience=config.patience,
    )  # fmt: skip
    source = JudgedSource(train, cap=config.items_per_query, seed=seed)
    return Fit(model, GradedLoss(objective), dev_loss, settings, source, seed=seed, folder=folder)
