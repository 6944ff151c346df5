"""What is compared: every method is a head on some columns, fitted and calibrated by the project's own code.

All methods share splits, dev queries and grade calibration. They differ in what the head reads and in the
loss it is fitted by; an untrained one reads a single column and is only calibrated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality.data import GAINS, Judged, Rows, select
from trainer.config import Loss, Stages
from trainer.models.heads import CumulativeHead
from trainer.stages.data import Pairs
from trainer.stages.head_stage import calibrate_grades, fit_head
from trainer.stages.objective import Objective, Predictions, predict

# The calibration's pull towards the thresholds that it finds. A yes/no head has trained one of three, so the
# product's weak pull (.01) would hold two of them where nothing put them; this one hardly pulls anybody.
PRIOR = 1e-4
LIMITS = Stages()  # steps and patience of the product


@dataclass(frozen=True)
class Method:
    """One row of the table.

    :param name: what the table calls it.
    :param loss: what the head is fitted by; none: an untrained head reads the first column.
    :param yes_from: lowest grade that counts as yes, for a model that sees yes and no only; 0: it sees grades.
    :param source: ``similarity``, ``bm25`` or ``nothing`` (a constant).
    :param columns: columns of the source; empty: all.
    """

    name: str
    loss: Loss | None = None
    yes_from: int = 0
    source: str = "similarity"
    columns: tuple[int, ...] = ()


YES_NO = Loss(grade="yes_no")
OURS = Method("graded + rank", Loss())
METHODS = (
    Method("no model", source="nothing"),
    Method("BM25", source="bm25"),
    Method("cosine"),
    Method("yes/no", dataclasses.replace(YES_NO, rank_weight=0.0), yes_from=2),
    Method("yes/no + rank", YES_NO, yes_from=2),
    Method("graded", Loss(rank_weight=0.0)),
    OURS,
    Method("yes/no from 1", dataclasses.replace(YES_NO, rank_weight=0.0), yes_from=1),
    Method("yes/no from 1 + rank", YES_NO, yes_from=1),
    Method("rank alone", Loss(grade_weight=0.0)),
)


def features(method: Method, judged: Judged) -> Tensor:
    """What a method's head reads.

    :param method: the method.
    :param judged: all judged pairs.
    :return: ``[n, f]`` float.
    """
    if method.source == "nothing":
        return torch.zeros(len(judged.similarity), 1)
    table = {"similarity": judged.similarity, "bm25": judged.bm25}[method.source]
    return table[:, list(method.columns)] if method.columns else table


def fit(method: Method, judged: Judged, train: Rows, dev: Rows) -> CumulativeHead:
    """Fit and calibrate a method.

    :param method: the method.
    :param judged: all judged pairs.
    :param train: queries that fit.
    :param dev: queries that stop the fit and calibrate.
    :return: a head of ``k`` grades.
    """
    table = features(method, judged)
    sides = [(judged.part(queries), table[judged.rows(queries)]) for queries in (train, dev)]
    head = CumulativeHead(table.shape[1], GAINS)
    if method.loss is None:
        head.standardise(sides[0][1])
    elif method.yes_from:
        _fit_yes_no(head, method.loss, method.yes_from, sides[0], sides[1])
    else:
        _fit(head, method.loss, GAINS, sides[0], sides[1])
    calibrate_grades(head, *sides[1], prior=PRIOR)
    return head


def _fit(
    head: CumulativeHead,
    loss: Loss,
    gains: Sequence[float],
    train: tuple[Pairs, Tensor],
    dev: tuple[Pairs, Tensor],
) -> None:
    fit_head(head, Objective.make(loss, tuple(gains)), train, dev, steps=LIMITS.head_steps, patience=LIMITS.patience)


def _fit_yes_no(
    head: CumulativeHead, loss: Loss, yes_from: int, train: tuple[Pairs, Tensor], dev: tuple[Pairs, Tensor]
) -> None:
    """Fit a head of two grades on yes and no, and hand its latent to one of ``k`` grades.

    The objective's rank term reads gains; on a scale of two grades those are yes and no too, so nothing finer
    reaches the model. The one threshold goes to its place, the others one unit apart, for the calibration to
    start from.
    """
    answers = CumulativeHead(len(head.weight), (0.0, 1.0))
    sides = [(as_yes_no(pairs, yes_from), table) for pairs, table in (train, dev)]
    _fit(answers, loss, (0.0, 1.0), sides[0], sides[1])
    with torch.no_grad():
        for name in ("weight", "shift", "scale"):
            getattr(head, name).copy_(getattr(answers, name))
        head.rescale(1.0, answers.first + torch.arange(head.k - 1) - (yes_from - 1))


def as_yes_no(pairs: Pairs, yes_from: int) -> Pairs:
    """Hide the grades but for yes and no.

    :param pairs: judged pairs.
    :param yes_from: lowest grade that counts as yes.
    :return: the same with grades 0 and 1.
    """
    return dataclasses.replace(pairs, grades=(pairs.grades >= yes_from).long())


def apply(method: Method, head: CumulativeHead, judged: Judged, queries: Rows) -> tuple[Predictions, Pairs]:
    """Predict some queries' pairs.

    :param method: the method.
    :param head: fitted.
    :param judged: all judged pairs.
    :param queries: which queries.
    :return: predictions and the pairs they are of.
    """
    rows = judged.rows(queries)
    return predict(head, features(method, judged)[rows]), select(judged.pairs, rows)
