"""Stage 1: fit the head on frozen features. With a few hundred queries it brings most of the gain."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.models.heads import Head
from trainer.stages.objective import Objective, predict
from trainer.stages.registry import STAGES, Context, Outcome, Stage
from trainer.stages.robust import HeadData, WholeSetDro, dev_objective, find_groups
from trainer.stages.threads import one_thread
from trainer.training_data.pairs import Pairs


@STAGES.register("head", cite="Liu and Nocedal 1989, doi:10.1007/BF01589116 (L-BFGS); out-of-fold gain: ours")
class HeadStage(Stage):
    """Fit the head on frozen features; its gain is measured on the training queries too, out of fold"""

    def run(self, context: Context) -> Outcome:
        """Fit the head.

        :return: history, and the gains of the training queries.
        """
        data, limits, head = context.data, context.config.stages, context.model.head
        train = encode_for_head(context, data.sampled, context.pairs["train"])
        fit = bind_fit(context, encode_for_head(context, data.dev, context.pairs["dev"]))
        held_out = cross_fit(head, train, fit).numpy()
        _, gain, query_index = train.pairs.numpy(context.config.grades.scale.gains)
        start = predict(head, train.head_input).latent
        before, after = (ndcg_per_query(s, gain, query_index, cutoff=limits.cutoff) for s in (start, held_out))
        history = fit(head, train, advance=lambda step, loss: context.report("stage head", step + 1, limits.head_steps))
        return Outcome(history, gains=[after[q] - before[q] for q in before])


def encode_for_head(context: Context, queries: Sequence[JudgedQuery], pairs: Pairs) -> HeadData:
    """Encode pairs for the head."""
    return HeadData(pairs, context.features.of(pairs).head_input, find_groups(context.config.loss, queries))


def bind_fit(context: Context, dev: HeadData) -> Callable[..., list[dict[str, float]]]:
    """:func:`fit_head` with what the configuration says of it; head and training pairs are left to give."""
    limits = context.config.stages
    return partial(
        fit_head, objective=context.objective, dev=dev, steps=limits.head_steps, patience=limits.patience,
        standardise=context.model.standardises,
    )  # fmt: skip


@one_thread()
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

    The whole problem fits in one batch and is smooth, so a quasi-Newton method (Liu and Nocedal 1989) ends
    in a second where SGD would need a schedule.

    :param head: fitted in place; its standardisation is set from the training pairs.
    :param patience: steps of five iterations without a better dev loss before it ends.
    :param standardise: whether its input may be brought to mean 0 and spread 1.
    :param advance: called with each step and its dev loss.
    """
    pairs, head_input, groups = train
    if standardise:
        head.standardise(head_input)
    robust = None if groups is None else WholeSetDro(objective, groups, pairs, head_input)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = robust(head) if robust else objective(head, head_input, pairs.grades, pairs.query_index)
        loss.backward()
        return loss

    best, best_loss, since, history = copy.deepcopy(head.state_dict()), float("inf"), 0, []
    for step in range(steps):
        train_loss = float(optimiser.step(closure).detach())
        if robust:
            robust.reweight(head)
        now = dev_objective(objective, head, dev)
        history.append({"step": step, "train_loss": train_loss, "dev_loss": now})
        advance(step, now)
        since += 1
        if now < best_loss - 1e-6:
            best, best_loss, since = copy.deepcopy(head.state_dict()), now, 0
        if since >= patience:
            break
    head.load_state_dict(best)
    return history


def cross_fit(head: Head, train: HeadData, fit: Callable[[Head, HeadData], object], *, folds: int = 5) -> Tensor:
    """Score every training query by a head that was not fitted on it.

    A head is fitted in a second, so its gain can be measured on all queries instead of on the few of the dev
    set, where a gain of .02 drowns in noise.

    :param head: where each fold starts; not changed.
    :param fit: fits a head on some of the pairs.
    :return: ``[n]`` latent of each training pair, out of fold.
    """
    pairs, head_input, _ = train
    latent = torch.zeros(len(head_input))
    part = pairs.query_index % min(folds, max(2, len(pairs.queries)))
    for fold in part.unique().tolist():
        rest = torch.nonzero(part != fold).squeeze(1)
        fold_head = copy.deepcopy(head)
        rest_pairs = dataclasses.replace(pairs, index=pairs.index[rest], grades=pairs.grades[rest])
        fit(fold_head, train._replace(pairs=rest_pairs, head_input=head_input[rest]))
        with torch.no_grad():
            # Each fold has its own origin and unit; only the order within a query is compared.
            latent[part == fold] = fold_head.latent(head_input[part == fold])
    return latent


@one_thread()
def calibrate_grades(head: Head, pairs: Pairs, head_input: Tensor, *, prior: float = 0.01) -> None:
    """Calibrate the grades on the dev pairs; what that may change is the head's own.

    :param head_input: ``[n, f]`` float.
    :param prior: weight of the pull towards what is there, for grades that the dev pairs hardly have.
    """
    head.calibrate(head_input, pairs.grades, prior=prior)
