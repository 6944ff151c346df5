"""Stage 1: fit the head on frozen features. With a few hundred queries it brings most of the gain."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from darl_opensearch.stats.ranking import ndcg_per_query
from trainer.models.heads import Head
from trainer.stages.objective import Objective, predict
from trainer.stages.registry import STAGES, Context, Outcome, Stage
from trainer.stages.robust import Groups, WholeSetDro, dev_objective, groups_of
from trainer.stages.threads import one_thread
from trainer.training_data.pairs import Pairs


@STAGES.register("head", cite="Liu and Nocedal 1989, doi:10.1007/BF01589116 (L-BFGS); out-of-fold gain: ours")
class HeadStage(Stage):
    """Fit the head on frozen features; its gain is measured on the training queries too, out of fold"""

    def run(self, context: Context) -> Outcome:
        """Fit the head.

        :return: history, and the gains of the training queries.
        """
        head, limits, features = context.model.head, context.config.stages, context.features
        train, dev = ((context.pairs[part], features.of(context.pairs[part]).similarity) for part in ("train", "dev"))
        groups = groups_of(context.config.loss, context.data.sampled)
        dev_groups = groups_of(context.config.loss, context.data.dev)
        standardise = context.model.standardises
        held_out = cross_fitted_latent(
            head, context.objective, train, dev, steps=limits.head_steps, patience=limits.patience,
            standardise=standardise, groups=groups, dev_groups=dev_groups,
        ).numpy()  # fmt: skip
        _, gain, query_index = context.pairs["train"].numpy(context.config.grades.scale.gains)
        start = predict(head, train[1]).latent
        before, after = (ndcg_per_query(s, gain, query_index, cutoff=limits.cutoff) for s in (start, held_out))
        history = fit_head(
            head, context.objective, train, dev, steps=limits.head_steps, patience=limits.patience,
            standardise=standardise, groups=groups, dev_groups=dev_groups,
            advance=lambda step, loss: context.report("stage head", step + 1, limits.head_steps),
        )  # fmt: skip
        return Outcome(history, gains=[after[q] - before[q] for q in before])


@one_thread()
def fit_head(
    head: Head,
    objective: Objective,
    train: tuple[Pairs, Tensor],
    dev: tuple[Pairs, Tensor],
    *,
    steps: int,
    patience: int,
    standardise: bool = True,
    groups: Groups | None = None,
    dev_groups: Groups | None = None,
    advance: Callable[[int, float], object] = lambda step, loss: None,
) -> list[dict[str, float]]:
    """Fit weights and thresholds by L-BFGS, keeping the step with the best dev loss.

    The whole problem fits in one batch and is smooth, so a quasi-Newton method (Liu and Nocedal 1989) ends
    in a second where SGD would need a schedule.

    :param head: fitted in place; its standardisation is set from the training features.
    :param train: training pairs and their ``[n, f]`` features.
    :param dev: dev pairs and their features.
    :param patience: steps of five iterations without a better dev loss before it ends.
    :param standardise: whether the features may be brought to mean 0 and spread 1.
    :param groups: slices of the training queries, to fit the worst of them; None: their mean.
    :param dev_groups: slices of the dev queries; the dev loss is the worst one's then.
    :param advance: called with each step and its dev loss.
    """
    pairs, features = train
    if standardise:
        head.standardise(features)
    robust = None if groups is None else WholeSetDro(objective, groups, pairs, features)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = robust(head) if robust else objective(head, features, pairs.grades, pairs.query_index)
        loss.backward()
        return loss

    best, best_loss, since, history = copy.deepcopy(head.state_dict()), float("inf"), 0, []
    for step in range(steps):
        train_loss = float(optimiser.step(closure).detach())
        if robust:
            robust.reweight(head)
        now = dev_objective(objective, head, dev, dev_groups)
        history.append({"step": step, "train_loss": train_loss, "dev_loss": now})
        advance(step, now)
        since += 1
        if now < best_loss - 1e-6:
            best, best_loss, since = copy.deepcopy(head.state_dict()), now, 0
        if since >= patience:
            break
    head.load_state_dict(best)
    return history


def cross_fitted_latent(
    head: Head,
    objective: Objective,
    train: tuple[Pairs, Tensor],
    dev: tuple[Pairs, Tensor],
    *,
    steps: int,
    patience: int,
    folds: int = 5,
    standardise: bool = True,
    groups: Groups | None = None,
    dev_groups: Groups | None = None,
) -> Tensor:
    """Score every training query by a head that was not fitted on it.

    A head is fitted in a second, so its gain can be measured on all queries instead of on the few of the dev
    set, where a gain of .02 drowns in noise.

    :param head: where each fold starts; not changed.
    :param train: training pairs and their ``[n, f]`` features.
    :param dev: dev pairs and their features, for early stopping.
    :param patience: as in :func:`fit_head`.
    :param standardise: as in :func:`fit_head`.
    :param groups: as in :func:`fit_head`.
    :param dev_groups: as in :func:`fit_head`.
    :return: ``[n]`` latent of each training pair, out of fold.
    """
    pairs, features = train
    latent = torch.zeros(len(features))
    part = pairs.query_index % min(folds, max(2, len(pairs.queries)))
    for fold in part.unique().tolist():
        inside = torch.nonzero(part != fold).squeeze(1)
        model = copy.deepcopy(head)
        rest = dataclasses.replace(pairs, index=pairs.index[inside], grades=pairs.grades[inside])
        fit_head(
            model, objective, (rest, features[inside]), dev, steps=steps, patience=patience,
            standardise=standardise, groups=groups, dev_groups=dev_groups,
        )  # fmt: skip
        with torch.no_grad():
            # Each fold has its own origin and unit; only the order within a query is compared.
            latent[part == fold] = model.latent(features[part == fold])
    return latent


@one_thread()
def calibrate_grades(head: Head, pairs: Pairs, features: Tensor, *, prior: float = 0.01) -> None:
    """Calibrate the grades on the dev pairs; what that may change is the head's own.

    :param features: ``[n, f]`` their features.
    :param prior: weight of the pull towards what is there, for grades that the dev pairs hardly have.
    """
    head.calibrate(features, pairs.grades, prior=prior)
