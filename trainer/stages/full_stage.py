"""Stage 2: fine-tune encoder and head together, a few queries per step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import Config
from trainer.stages.calibrated import measure_current
from trainer.stages.fit import Fit, FitSettings, StepLoss
from trainer.stages.objective import Objective, Totals
from trainer.stages.registry import STAGES, Context, Outcome, Stage
from trainer.stages.robust import GroupDroLoss, Groups, find_groups
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import Batch, JudgedSource, Source


@STAGES.register("full", cite="Howard and Ruder 2018, arXiv:1801.06146 (head first, then everything)")
class FullStage(Stage):
    """Fine-tune encoder and head on the judged pairs, with early stopping"""

    cross_validated = True

    def run(self, context: Context) -> Outcome:
        """Fine-tune."""
        limits, config, data = context.config.stages, context.config, context.data
        source = JudgedSource(data.train, data.items, cap=limits.items_per_query, seed=context.seed)
        settings = fit_settings(
            config, epochs=limits.full_epochs, learning_rate=limits.full_learning_rate,
            head_learning_rate=limits.head_learning_rate, rate_key="[stages] full_learning_rate",
        )  # fmt: skip
        loss = choose_loss(context.objective, find_groups(config.loss, data.train))
        return Outcome(descend(context, loss, dev_rps(context, {"dev": data.dev}), settings, source))


class GradedLoss:
    """The loss of a step: the objective."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def counts(self, batch: Batch) -> Tensor:
        """Count pairs and comparable queries, ``[2]`` float."""
        totals = self.objective.totals(batch.grades, batch.query_index)
        return torch.tensor([totals.pairs, totals.queries])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Compute some queries' part of the loss of the whole batch."""
        head_input = model.pair_features(batch.queries, batch.items).head_input
        grades, query_index = (t.to(head_input.device) for t in (batch.grades, batch.query_index))
        totals = Totals(*whole.tolist())
        return self.objective(model.head, head_input, grades, query_index, totals, share=share)


def choose_loss(objective: Objective, groups: Groups | None) -> StepLoss:
    """Choose the loss of a step: the mean over queries, or with groups the worst group's."""
    return GradedLoss(objective) if groups is None else GroupDroLoss(objective, groups)


def dev_rps(context: Context, parts: Mapping[str, Sequence[JudgedQuery]]) -> Callable[[], float]:
    """Make a function that computes the current dev RPS, with grades that are calibrated on the other dev queries.

    So a descent stops by what the model knows: the loss of uncalibrated grades also falls while thresholds move, and
    rises with a latent that is merely too steep. The encoder's passes are in the precision of training.

    :param parts: queries by role, with equal weights; of groups, the worst one's RPS counts.
    """
    model, config = context.model, context.config
    groups = {role: find_groups(config.loss, queries) for role, queries in parts.items()}

    def evaluate() -> float:
        features = Features(model, device=config.stages.device, precision=config.stages.precision)
        return float(np.mean([
            _worst_rps(measure_current(features, context.pairs[role], config).rps, context.pairs[role], groups[role])
            for role in parts
        ]))  # fmt: skip

    return evaluate


def _worst_rps(rps: Mapping[int, float], pairs: Pairs, groups: Groups | None) -> float:
    """Average over queries, or with groups over those of the worst group."""
    if groups is None:
        return float(np.mean(list(rps.values())))
    queries = (pairs.query_index[rows].unique().tolist() for rows in groups.rows(pairs))
    return max(float(np.mean([rps[query] for query in group])) for group in queries)


def fit_settings(
    config: Config,
    *,
    epochs: int,
    learning_rate: float,
    head_learning_rate: float,
    rate_key: str,
    ema: float = 0.0,
    l2_to_start: float = 0.0,
) -> FitSettings:
    """Complete a stage's own settings by those that all stages share."""
    shared = config.stages
    return FitSettings(
        epochs=epochs, learning_rate=learning_rate, head_learning_rate=head_learning_rate,
        batch_queries=shared.batch_queries, evaluations=shared.evaluations, patience=shared.patience,
        micro_queries=shared.micro_queries, ema=ema, l2_to_start=l2_to_start, device=shared.device,
        precision=shared.precision, checkpoint_steps=shared.checkpoint_steps, rate_key=rate_key,
    )  # fmt: skip


def descend(
    context: Context, loss: StepLoss, evaluate: Callable[[], float], settings: FitSettings, source: Source
) -> list[dict[str, float]]:
    """Train the model of a stage, resuming from the last checkpoint, and return the history.

    :param evaluate: returns the current dev RPS.
    :raises DarlError: if the loss is not finite; the last good checkpoint is kept.
    """
    fit = Fit(context.model, loss, evaluate, settings, source, seed=context.seed, folder=context.place)
    history = fit.run(lambda step, total: context.report(f"stage {context.name}", step, total))
    context.features.forget()
    return history
