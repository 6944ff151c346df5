"""Stage 1: fit the head on frozen features, which brings most of the gain with a few hundred queries."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from darl_opensearch.io.progress import count_up
from darl_opensearch.records.judgments import JudgedQuery
from trainer.models.heads import Head
from trainer.stages.calibrated import Gains, measure_held_out, use_one_thread
from trainer.stages.objective import Objective
from trainer.stages.registry import STAGES, Context, Outcome, Stage
from trainer.stages.robust import HeadData, WholeSetDro, dev_objective, find_groups
from trainer.training_data.pairs import Pairs


@STAGES.register("head", cite="Liu and Nocedal 1989, doi:10.1007/BF01589116 (L-BFGS); out-of-fold gain: ours")
class HeadStage(Stage):
    """Fit the head on frozen features, with its gain also measured out of fold on the training queries"""

    def run(self, context: Context) -> Outcome:
        """Fit the head."""
        config, data, head = context.config, context.data, context.model.head
        limits = config.stages
        train = encode_for_head(context, data.sampled, context.pairs["train"])
        dev = encode_for_head(context, data.dev, context.pairs["dev"])
        fit = bind_fit(context, dev)
        gains = cross_fit(head, train, dev, fit, config.grades.scale.gains, cutoff=limits.cutoff)
        history = fit(head, train, advance=lambda step, loss: context.report("stage head", step + 1, limits.head_steps))
        return Outcome(history, gains=gains)


def encode_for_head(context: Context, queries: Sequence[JudgedQuery], pairs: Pairs) -> HeadData:
    """Encode pairs for the head."""
    return HeadData(pairs, context.features.of(pairs).head_input, find_groups(context.config.loss, queries))


def bind_fit(context: Context, dev: HeadData) -> Callable[..., list[dict[str, float]]]:
    """Bind the configuration to :func:`fit_head`; head and training pairs remain as arguments."""
    limits = context.config.stages
    return partial(
        fit_head, objective=context.objective, dev=dev, steps=limits.head_steps, patience=limits.patience,
        standardise=context.model.standardises,
    )  # fmt: skip


@use_one_thread()
def fit_head(
    head: Head,
    train: HeadData,
    *,
    dev: HeadData,
    objective: Objective,
    steps: int,
    patience: int,
    standardise: bool = True,
    advance: Callable[[int, float], object] = lambda step, loss: None,
) -> list[dict[str, float]]:
    """Fit weights and thresholds by L-BFGS, keeping the step with the best dev loss.

    The problem is smooth and fits in one batch, so a quasi-Newton method (Liu and Nocedal 1989) takes a second and
    needs no schedule.

    :param head: fitted in place.
    :param patience: steps of five iterations without a better dev loss before it stops.
    :param standardise: whether to standardise the head's input by the training pairs.
    :param advance: called with each step and its dev loss.
    :return: the history.
    """
    pairs, head_input, groups = train
    if standardise:
        head.fit_scale(head_input)
    robust = None if groups is None else WholeSetDro(objective, groups, pairs, head_input)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = robust(head) if robust else objective(head, head_input, pairs.grades, pairs.query_index)
        loss.backward()
        return loss

    best, best_loss, since, history = copy.deepcopy(head.state_dict()), float("inf"), 0, []
    for step in count_up(range(steps), "fitting the head", steps):
        train_loss = float(optimiser.step(closure).detach())
        if robust:
            robust.reweight(head)
        loss = dev_objective(objective, head, dev)
        history.append({"step": step, "train_loss": train_loss, "dev_loss": loss})
        advance(step, loss)
        since += 1
        if loss < best_loss - 1e-6:
            best, best_loss, since = copy.deepcopy(head.state_dict()), loss, 0
        if since >= patience:
            break
    head.load_state_dict(best)
    return history


def cross_fit(
    head: Head, train: HeadData, dev: HeadData, fit: Callable[[Head, HeadData], object], gains: Sequence[float], *,
    cutoff: int, folds: int = 5,
) -> Gains:  # fmt: skip
    """Measure what fitting the head gains on every training query by a head that was not fitted on it.

    Fitting a head takes a second, so its gain can be measured on all queries instead of the few dev queries, where a
    gain of .02 is lost in noise.

    :param head: initial head of each fold; not changed.
    :param dev: pairs that calibrate the grades before and after.
    :param fit: fits a head on some of the pairs.
    :param gains: of the grades.
    """
    pairs, head_input, _ = train
    before, found = measure_held_out(head, train[:2], dev[:2], gains, cutoff=cutoff), Gains()
    fold_of = pairs.query_index % min(folds, max(2, len(pairs.queries)))
    names = fold_of.unique().tolist()
    for fold in count_up(names, "fitting the head out of fold", len(names)):
        rows, others = (torch.nonzero(mask).squeeze(1) for mask in (fold_of == fold, fold_of != fold))
        fold_head = copy.deepcopy(head)
        fit(fold_head, train._replace(pairs=pairs.select(others), head_input=head_input[others]))
        held_out = pairs.select(rows), head_input[rows]
        found += before.gains_to(measure_held_out(fold_head, held_out, dev[:2], gains, cutoff=cutoff))
    return found
