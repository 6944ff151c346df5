"""What is compared: every method is a head on some columns, fitted and calibrated by the project's own code.

All methods share splits, dev queries and grade calibration. They differ in what the head reads and in the
loss it is fitted by; an untrained one reads a single column and is only calibrated.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality.data import GAINS, Judged, Rows
from trainer.config import Loss, Stages
from trainer.losses import GRADE_LOSSES
from trainer.models.heads import HEADS, CumulativeHead, Head
from trainer.stages.calibrated import calibrate_grades
from trainer.stages.head_stage import fit_head
from trainer.stages.objective import Objective, Predictions, predict
from trainer.stages.robust import HeadData
from trainer.training_data.pairs import Pairs

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
        return torch.zeros(len(judged.head_input), 1)
    table = {"similarity": judged.head_input, "bm25": judged.bm25}[method.source]
    return table[:, list(method.columns)] if method.columns else table


def fit(method: Method, judged: Judged, train: Rows, dev: Rows) -> Head:
    """Fit and calibrate a method on frozen features.

    :param method: the method.
    :param judged: all judged pairs.
    :param train: queries that fit.
    :param dev: queries that stop the fit and calibrate.
    :return: a head of ``k`` grades.
    """
    table = features(method, judged)
    sides = [(judged.part(queries), table[judged.rows(queries)]) for queries in (train, dev)]
    return calibrated(method, fitted(method, sides[0], sides[1]), sides[1])


def objective(method: Method) -> Objective:
    """What a method's head is fitted by.

    :param method: the method.
    :return: its loss, on its own scale of grades.
    :raises ValueError: for a method that fits nothing.
    """
    if method.loss is None:
        raise ValueError(f"{method.name} fits nothing")
    return Objective.make(method.loss, scale(method))


def scale(method: Method) -> tuple[float, ...]:
    """Gains that a method sees.

    :param method: the method.
    :return: yes and no, or every grade's.
    """
    return (0.0, 1.0) if method.yes_from else GAINS


def seen(method: Method, pairs: Pairs) -> Pairs:
    """Grades that a method sees.

    The objective's rank term reads gains; on a scale of two grades those are yes and no too, so nothing finer
    reaches the model.

    :param method: the method.
    :param pairs: judged pairs.
    :return: the same, or with grades 0 and 1.
    """
    return as_yes_no(pairs, method.yes_from) if method.yes_from else pairs


def fitted(method: Method, train: tuple[Pairs, Tensor], dev: tuple[Pairs, Tensor]) -> Head:
    """Fit a head on features.

    :param method: the method.
    :param train: training pairs and their ``[n, f]`` features.
    :param dev: dev pairs and their features.
    :return: a head of the grades that the method sees.
    """
    width = train[1].shape[1]
    if method.loss is None:
        untrained = CumulativeHead(width, GAINS)
        untrained.fit_scale(train[1])
        return untrained
    head: Head = HEADS[GRADE_LOSSES[method.loss.grade].head].make(width, scale(method))
    sides = [(seen(method, pairs), table) for pairs, table in (train, dev)]
    fit_head(
        head,
        HeadData(*sides[0]),
        dev=HeadData(*sides[1]),
        objective=objective(method),
        steps=LIMITS.head_steps,
        patience=LIMITS.patience,
    )
    return head


def calibrated(method: Method, head: Head, dev: tuple[Pairs, Tensor]) -> Head:
    """Calibrate a head; one of yes and no first hands its latent to one of ``k`` grades.

    Its one threshold goes to its place, the others one unit apart, for the calibration to start from.

    :param method: the method.
    :param head: fitted.
    :param dev: dev pairs and their ``[n, f]`` features.
    :return: a head of ``k`` grades.
    """
    if method.yes_from:
        answers, head = head, CumulativeHead(dev[1].shape[1], GAINS)
        if not isinstance(answers, CumulativeHead):
            raise TypeError("yes/no is a cumulative head of two grades")
        with torch.no_grad():
            for name in ("weight", "shift", "scale"):
                getattr(head, name).copy_(getattr(answers, name))
            head.rescale(1.0, answers.first + torch.arange(head.k - 1) - (method.yes_from - 1))
    calibrate_grades(head, *dev, prior=PRIOR)
    return head


def as_yes_no(pairs: Pairs, yes_from: int) -> Pairs:
    """Hide the grades but for yes and no.

    :param pairs: judged pairs.
    :param yes_from: lowest grade that counts as yes.
    :return: the same with grades 0 and 1.
    """
    return dataclasses.replace(pairs, grades=(pairs.grades >= yes_from).long())


def apply(method: Method, head: Head, judged: Judged, queries: Rows) -> tuple[Predictions, Pairs]:
    """Predict some queries' pairs.

    :param method: the method.
    :param head: fitted.
    :param judged: all judged pairs.
    :param queries: which queries.
    :return: predictions and the pairs they are of.
    """
    rows = judged.rows(queries)
    return predict(head, features(method, judged)[rows]), judged.pairs.select(rows)
