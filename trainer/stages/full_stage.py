"""Stage 2: fine-tune encoder and head together, a few queries a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import Config
from trainer.stages.fit import Fit, FitSettings, StepLoss
from trainer.stages.objective import Objective, Totals
from trainer.stages.registry import STAGES, Context, Outcome, Stage
from trainer.stages.robust import GroupDroLoss, Groups, HeadData, dev_objective, find_groups
from trainer.training_data.features import Features
from trainer.training_data.source import Batch, JudgedSource, Source


@STAGES.register("full", cite="Howard and Ruder 2018, arXiv:1801.06146 (head first, then everything)")
class FullStage(Stage):
    """Fine-tune encoder and head on the judged pairs, with early stopping"""

    def run(self, context: Context) -> Outcome:
        """Fine-tune."""
        limits, config = context.config.stages, context.config
        data = context.data
        source = JudgedSource(data.train, data.items, cap=limits.items_per_query, seed=context.seed)
        settings = fit_settings(
            config, epochs=limits.full_epochs, learning_rate=limits.full_learning_rate,
            head_learning_rate=limits.head_learning_rate, rate_key="[stages] full_learning_rate",
        )  # fmt: skip
        loss = graded_loss(context.objective, find_groups(config.loss, context.data.train))
        evaluate = dev_loss(context, {"dev": context.data.dev})
        return Outcome(descend(context, "full", loss, evaluate, settings, source))


class GradedLoss:
    """The objective as a step's loss.

    :param objective: grade terms, rank terms, penalty.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def counts(self, batch: Batch) -> Tensor:
        """Pairs, and queries that the rank terms can learn from.

        :return: ``[2]`` float.
        """
        totals = self.objective.totals(batch.grades, batch.query_index)
        return torch.tensor([totals.pairs, totals.queries])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Contribution of some queries to the loss of the batch that holds them."""
        head_input = model.pair_features(batch.queries, batch.items).head_input
        grades, query_index = (t.to(head_input.device) for t in (batch.grades, batch.query_index))
        totals = Totals(*whole.tolist())
        return self.objective(model.head, head_input, grades, query_index, totals, share=share)


def graded_loss(objective: Objective, groups: Groups | None) -> StepLoss:
    """Choose the loss of a step: the mean over queries, or with groups the worst of them.

    :param groups: slices of the training queries, or None.
    """
    return GradedLoss(objective) if groups is None else GroupDroLoss(objective, groups)


def dev_loss(context: Context, parts: Mapping[str, Sequence[JudgedQuery]]) -> Callable[[], float]:
    """Make the dev loss of the model as it is: the mean over the parts, each weighing alike.

    :param context: whose pairs, by role.
    """
    model, objective = context.model, context.objective
    groups = {role: find_groups(context.config.loss, queries) for role, queries in parts.items()}

    def evaluate() -> float:
        features = Features(model, device=context.config.stages.device)
        losses = [
            dev_objective(objective, model.head, HeadData(pairs, features.of(pairs).head_input, groups[role]))
            for role in parts
            if (pairs := context.pairs[role])
        ]
        return sum(losses) / len(losses)

    return evaluate


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
    """Complete a stage's own settings by those that all stages share.

    :param learning_rate: peak, of the encoder.
    :param head_learning_rate: peak, of the head.
    :param rate_key: key of the learning rate, to name where the loss is no number any more.
    :param ema: decay of the moving average of the weights.
    :param l2_to_start: weight of the squared distance to the weights that the stage starts from.
    """
    shared = config.stages
    return FitSettings(
        epochs=epochs, learning_rate=learning_rate, head_learning_rate=head_learning_rate,
        batch_queries=shared.batch_queries, evaluations=shared.evaluations, patience=shared.patience,
        micro_queries=shared.micro_queries, ema=ema, l2_to_start=l2_to_start, device=shared.device,
        precision=shared.precision, checkpoint_steps=shared.checkpoint_steps, rate_key=rate_key,
    )  # fmt: skip


def descend(
    context: Context,
    name: str,
    loss: StepLoss,
    evaluate: Callable[[], float],
    settings: FitSettings,
    source: Source,
) -> list[dict[str, float]]:
    """Train the model of a stage; broken off, the same call goes on from the last evaluation.

    :param name: of the stage, for the report.
    :param evaluate: the dev loss of the model as it is.
    :raises DarlError: when the loss is no longer a number; the last good checkpoint stays.
    """
    fit = Fit(context.model, loss, evaluate, settings, source, seed=context.seed, folder=context.place)
    history = fit.run(lambda step, total: context.report(f"stage {name}", step, total))
    context.features.forget()
    return history
