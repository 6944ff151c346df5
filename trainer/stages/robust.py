"""Group distributionally robust optimisation: training for the worst slice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from darl_opensearch.errors import UsageError
from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import Loss
from trainer.models.heads import Head
from trainer.stages.objective import Objective, Totals
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import Batch


@dataclass(frozen=True)
class Groups:
    """Groups of queries by slice.

    :param number: group of each slice; slices with too few queries share one.
    :param share: ``[g]`` double, share of the queries in each group.
    :param of_query: ``[q]`` int64, the group of each query.
    :param step: step size of the group weights.
    """

    number: Mapping[str, int]
    share: Tensor
    of_query: Tensor
    step: float

    def __len__(self) -> int:
        """Number of groups."""
        return len(self.share)

    def index(self, slices: Sequence[str]) -> Tensor:
        """Look up the groups of slices, ``[n]`` int64."""
        return torch.tensor([self.number[name] for name in slices], dtype=torch.long)

    def rows(self, pairs: Pairs) -> list[Tensor]:
        """Split the pairs of the groups' queries into row indices by non-empty group."""
        of_pair = self.of_query[pairs.query_index]
        return [torch.nonzero(of_pair == group).squeeze(1) for group in of_pair.unique().tolist()]


def find_groups(config: Loss, queries: Sequence[JudgedQuery], weights: Sequence[float] | None = None) -> Groups | None:
    """Group queries by slice, if ``[loss] groups`` is set; else None.

    :param config: table ``[loss]``.
    :param weights: relative frequency of each query; None: all alike.
    """
    if not config.groups:
        return None
    slices = [query.slice for query in queries]
    counts = Counter(slices)
    large = sorted(name for name, n in counts.items() if n >= config.group_queries)
    number = {name: place for place, name in enumerate(large)}
    number |= {name: len(large) for name in counts if name not in number}
    of_query = torch.tensor([number[name] for name in slices], dtype=torch.long)
    weight = torch.ones(len(slices), dtype=torch.double) if weights is None else torch.tensor(weights).double()
    total = torch.zeros(max(number.values()) + 1, dtype=torch.double).index_add(0, of_query, weight)
    return Groups(number, total / total.sum(), of_query, config.group_step)


def check_groups(config: Loss, queries: Sequence[JudgedQuery], *, where: str) -> None:
    """Refuse ``[loss] groups`` if all queries are in one group, with a UsageError.

    :param config: table ``[loss]``.
    """
    groups = find_groups(config, queries)
    if groups is not None and len(groups) < 2:
        raise UsageError(
            f"[loss] groups = {config.groups}, but no two slices have {config.group_queries} queries",
            where=where,
            todo="add a field 'slice' to the judgments, lower [loss] group_queries, or omit groups",
        )


def ascend(weights: Tensor, exponent: Tensor) -> Tensor:
    """Take a step of exponentiated gradient ascent on the simplex.

    :param weights: ``[g]``, summing to 1.
    :param exponent: ``[g]`` step size times loss.
    :return: ``[g]`` proportional to ``weights * exp(exponent)``, summing to 1.
    """
    return torch.softmax(weights.log() + exponent, dim=0)


class HeadData(NamedTuple):
    """Judged pairs with the head's input.

    :param head_input: ``[n, f]`` float.
    :param groups: groups of their queries, to fit the worst one; None: fit the mean.
    """

    pairs: Pairs
    head_input: Tensor
    groups: Groups | None = None


class WholeSetDro:
    """Group DRO for steps over all queries, as in the head stage.

    Sagawa et al. 2019, arXiv:1911.08731, with the weights fixed inside a quasi-Newton step. A step covers an epoch of
    descent, so it moves the weights as far: by ``step`` per query.
    """

    def __init__(self, objective: Objective, groups: Groups, pairs: Pairs, head_input: Tensor) -> None:
        self.objective, self.groups, self.pairs, self.head_input = objective, groups, pairs, head_input
        self.step = groups.step * len(pairs.query_index.unique())
        present = len(groups.rows(pairs))
        self.weights = torch.full((present,), 1 / max(present, 1), dtype=torch.double)

    def __call__(self, head: Head) -> Tensor:
        """Compute the weighted loss of the groups plus the penalty, ``[]`` float."""
        loss = self.objective.config.l2 * head.penalty()
        for weight, part in zip(self.weights.tolist(), self._losses(head), strict=True):
            loss = loss + weight * part
        return loss

    @torch.no_grad()
    def reweight(self, head: Head) -> None:
        """Move the weights towards the groups with a high loss."""
        losses = torch.stack([part.double() for part in self._losses(head)])
        self.weights = ascend(self.weights, self.step * losses)

    def _losses(self, head: Head) -> list[Tensor]:
        return _group_losses(self.objective, head, self.groups, self.pairs, self.head_input)


def _group_losses(
    objective: Objective, head: Head, groups: Groups, pairs: Pairs, head_input: Tensor
) -> list[Tensor]:  # fmt: skip
    """Compute the loss of each non-empty group, without the penalty."""
    return [
        objective(head, head_input[rows], pairs.grades[rows], pairs.query_index[rows], share=0.0)
        for rows in groups.rows(pairs)
    ]


@torch.no_grad()
def dev_objective(objective: Objective, head: Head, dev: HeadData) -> float:
    """Compute the loss on dev pairs without the penalty: the mean, or with groups the worst group's."""
    pairs, head_input, groups = dev
    if groups is not None:
        return max(map(float, _group_losses(objective, head, groups, pairs, head_input)))
    loss = objective(head, head_input, pairs.grades, pairs.query_index)
    return float(loss - objective.config.l2 * head.penalty())


class GroupDroLoss:
    """The loss of a step by group DRO: weighted losses of the groups, with ascending weights.

    Sagawa et al. 2019, arXiv:1911.08731, algorithm 1, for queries sampled uniformly instead of by group: a group with
    ``m`` of a batch's ``M`` queries and the share ``p`` of all queries counts ``m / (M p)`` times, in the loss and in
    the ascent, so that both equal uniform sampling of groups on average. Weights move between steps, by losses summed
    over all processes, so every process has the same weights.
    """

    def __init__(self, objective: Objective, groups: Groups) -> None:
        self.objective, self.groups = objective, groups
        self.weights = torch.full((len(groups),), 1 / len(groups), dtype=torch.double)
        self._losses = torch.zeros(len(groups), dtype=torch.double)  # this process's part of the step's losses

    def counts(self, batch: Batch) -> Tensor:
        """Count pairs, comparable queries and queries of each group, ``[3 g]`` float."""
        rows = self._rows(batch)
        totals = [self.objective.totals(batch.grades[r], batch.query_index[r]) for r in rows]
        queries = [float(len(batch.query_index[r].unique())) for r in rows]
        return torch.tensor([*(t.pairs for t in totals), *(t.queries for t in totals), *queries])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Compute some queries' part of the loss of the whole batch."""
        pairs, comparable, queries = whole.detach().cpu().double().chunk(3)
        head_input = model.pair_features(batch.queries, batch.items).head_input
        frequency = queries / queries.sum().clamp_min(1.0) / self.groups.share
        loss: Tensor = self.objective.config.l2 * share * model.head.penalty()
        for group, rows in enumerate(self._rows(batch)):
            if not len(rows):
                continue
            grades, query_index = (t[rows].to(head_input.device) for t in (batch.grades, batch.query_index))
            totals = Totals(float(pairs[group]), float(comparable[group]))
            part = self.objective(model.head, head_input[rows], grades, query_index, totals, share=0.0)
            self._losses[group] += float(frequency[group]) * float(part.detach())
            loss = loss + float(self.weights[group] * frequency[group]) * part
        return loss

    def after_step(self, total: Callable[[Tensor], object]) -> None:
        """Move the weights of the groups by the losses of the step.

        :param total: sums a tensor over the processes, in place.
        """
        total(self._losses)
        self.weights = ascend(self.weights, self.groups.step * self._losses)
        self._losses = torch.zeros_like(self._losses)

    def state_dict(self) -> dict[str, Tensor]:
        """State for the checkpoint."""
        return {"weights": self.weights.clone()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state of a checkpoint."""
        self.weights = state_dict["weights"].clone()

    def _rows(self, batch: Batch) -> list[Tensor]:
        number = self.groups.index(batch.groups)
        return [torch.nonzero(number == group).squeeze(1) for group in range(len(self.groups))]
