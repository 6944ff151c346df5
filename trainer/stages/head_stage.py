"""Stage 1: fit the head on frozen features. With a few hundred queries it brings most of the gain."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from trainer.models.heads import Head
from trainer.stages.data import Pairs
from trainer.stages.objective import Objective
from trainer.stages.threads import one_thread


@one_thread()
def fit_head(
    head: Head,
    objective: Objective,
    train: tuple[Pairs, Tensor],
    dev: tuple[Pairs, Tensor],
    *,
    steps: int,
    patience: int,
    advance: Callable[[int, float], object] = lambda step, loss: None,
) -> list[dict[str, float]]:
    """Fit weights and thresholds by L-BFGS, keeping the step with the best dev loss.

    The whole problem fits in one batch and is smooth, so a quasi-Newton method (Liu and Nocedal 1989) ends
    in a second where SGD would need a schedule.

    :param head: fitted in place; its standardisation is set from the training features.
    :param objective: the loss.
    :param train: training pairs and their ``[n, f]`` features.
    :param dev: dev pairs and their features.
    :param steps: most steps.
    :param patience: steps of five iterations without a better dev loss before it ends.
    :param advance: called with each step and its dev loss.
    :return: losses of each step.
    """
    pairs, features = train
    head.standardise(features)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=5, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective(head, features, pairs.grades, pairs.query_index)
        loss.backward()
        return loss

    best, best_loss, since, history = copy.deepcopy(head.state_dict()), float("inf"), 0, []
    for step in range(steps):
        train_loss = float(optimiser.step(closure).detach())
        dev_loss = dev_objective(objective, head, dev)
        history.append({"step": step, "train_loss": train_loss, "dev_loss": dev_loss})
        advance(step, dev_loss)
        since += 1
        if dev_loss < best_loss - 1e-6:
            best, best_loss, since = copy.deepcopy(head.state_dict()), dev_loss, 0
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
) -> Tensor:
    """Score every training query by a head that was not fitted on it.

    A head is fitted in a second, so its gain can be measured on all queries instead of on the few of the dev
    set, where a gain of .02 drowns in noise.

    :param head: where each fold starts; not changed.
    :param objective: the loss.
    :param train: training pairs and their ``[n, f]`` features.
    :param dev: dev pairs and their features, for early stopping.
    :param steps: most steps a fold.
    :param patience: as in :func:`fit_head`.
    :param folds: parts of the queries.
    :return: ``[n]`` latent of each training pair, out of fold.
    """
    pairs, features = train
    latent = torch.zeros(len(features))
    part = pairs.query_index % min(folds, max(2, len(pairs.queries)))
    for fold in part.unique().tolist():
        inside = torch.nonzero(part != fold).squeeze(1)
        model = copy.deepcopy(head)
        rest = dataclasses.replace(pairs, index=pairs.index[inside], grades=pairs.grades[inside])
        fit_head(model, objective, (rest, features[inside]), dev, steps=steps, patience=patience)
        with torch.no_grad():
            # Each fold has its own origin and unit; only the order within a query is compared.
            latent[part == fold] = model.latent(features[part == fold])
    return latent


@torch.no_grad()
def dev_objective(objective: Objective, head: Head, dev: tuple[Pairs, Tensor]) -> float:
    """Loss on the dev pairs, without the penalty.

    :param objective: the loss.
    :param head: the head.
    :param dev: dev pairs and their features.
    :return: the loss.
    """
    pairs, features = dev
    loss = objective(head, features, pairs.grades, pairs.query_index)
    return float(loss - objective.config.l2 * head.penalty())


@one_thread()
def calibrate_grades(head: Head, pairs: Pairs, features: Tensor, *, prior: float = 0.01) -> None:
    """Calibrate the grades on the dev pairs; what that may change is the head's own.

    :param head: calibrated in place.
    :param pairs: dev pairs.
    :param features: ``[n, f]`` their features.
    :param prior: weight of the pull towards what is there, for grades that the dev pairs hardly have.
    """
    head.calibrate(features, pairs.grades, prior=prior)
