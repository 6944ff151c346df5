"""Stage: learn from a teacher's scores, on judged pairs and on a pool that nobody judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from darl_opensearch.errors import InputError
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.records.traffic import TrafficQuery
from trainer import distributed
from trainer.config import Config, Distill
from trainer.losses import DISTILLATION_LOSSES
from trainer.losses.registries import count_comparable
from trainer.stages.full_stage import descend, fit_settings
from trainer.stages.objective import Objective, Totals
from trainer.stages.registry import STAGES, Context, Outcome, Stage, need
from trainer.stages.robust import HeadData, dev_objective
from trainer.teachers import Teacher, TeacherFiles, TeacherRequest, fetch_scores, find_teacher, normalise_scores
from trainer.training_data.features import Features
from trainer.training_data.mixing import Taught, Together
from trainer.training_data.run_data import RunData
from trainer.training_data.source import Batch, JudgedSource, Source

SCORES = "teacher"  # folder of the run with what the teacher said
Scores = dict[str, dict[str, float]]


@STAGES.register("distill", cite="Hinton et al. 2015, arXiv:1503.02531", table=Distill)
class DistillStage(Stage):
    """Learn a teacher's scores of judged and unjudged pairs, with the graded loss mixed in

    The labels decide when it stops and whether it stays: the dev loss is the within-query loss of the dev pairs,
    and ``graded`` times the whole graded loss.
    """

    def check(self, config: Config) -> None:
        """Ask for a teacher and a loss that there are.

        :raises UsageError: for what there is not.
        """
        need(config.distill.teacher, "distill", "[distill] teacher", "write file:…, bundle:… or a URL")
        find_teacher(config.distill.teacher, config.distill.teacher_params)
        DISTILLATION_LOSSES.resolve(config.distill.loss, config.distill.loss_params)

    def ready(self, config: Config, base: Path) -> None:
        """Open the teacher once.

        :param base: folder its paths are relative to.
        :raises DarlError: when it is not there.
        """
        _teacher(config, base).close()

    def run(self, context: Context) -> Outcome:
        """Ask the teacher, then train.

        :return: history, and what the teacher left out.
        """
        config, own, data = context.config, context.config.distill, context.data
        asks = [*_ask_of(data.in_memory, data), *_ask_of(data.pool, data)]
        answers = self._ask(context, asks)
        missing = sum(score is None for scores in answers for score in scores)
        pairs = sum(len(ask.item_ids) for ask in asks)
        if missing > own.max_missing * pairs:
            raise _left_out(own, asks, answers, missing, pairs)
        loss, params = DISTILLATION_LOSSES.resolve(own.loss, own.loss_params)
        distilled = DistilledLoss(context.objective, partial(loss, **params), weight=own.weight, graded=own.graded)
        settings = fit_settings(
            config, epochs=own.epochs, learning_rate=own.learning_rate, head_learning_rate=own.head_learning_rate,
            rate_key="[distill] learning_rate",
        )  # fmt: skip
        source = _source(context, asks, answers)
        history = descend(context, "distill", distilled, _dev_loss(context), settings, source)
        return Outcome(history, figures={"teacher": own.teacher, "taught_pairs": pairs - missing, "missing": missing})

    def _ask(self, context: Context, asks: Sequence[TeacherRequest]) -> list[list[float | None]]:
        teacher = _teacher(context.config, context.base)
        try:
            return distributed.main_first(lambda: fetch_scores(
                teacher, asks, context.run / SCORES,
                advance=lambda done, total: context.report("scoring with the teacher", done, total),
            ))  # fmt: skip
        finally:
            teacher.close()


class DistilledLoss:
    """A distillation loss and the graded objective as a step's loss."""

    def __init__(self, objective: Objective, loss: Callable[..., Tensor], *, weight: float, graded: float) -> None:
        self.objective, self.loss, self.weight, self.graded = objective, loss, weight, graded

    def counts(self, batch: Batch) -> Tensor:
        """Judged pairs, judged queries that can be ordered, queries whose teacher scores differ, and all pairs.

        :param batch: some queries; a grade of -1 where nobody judged, NaN where the teacher has no score.
        :return: ``[4]`` float.
        """
        judged, taught = batch.grades >= 0, batch.teacher.isfinite()
        totals = self.objective.totals(batch.grades[judged], batch.query_index[judged])
        queries = float(count_comparable(batch.teacher[taught], batch.query_index[taught]))
        return torch.tensor([totals.pairs, totals.queries, queries, float(len(judged))])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Contribution of some queries to the loss of the batch that holds them."""
        head = model.head
        head_input = model.pair_features(batch.queries, batch.items).head_input
        grades, query_index, teacher = (
            t.to(head_input.device) for t in (batch.grades, batch.query_index, batch.teacher)
        )
        judged, taught = grades >= 0, teacher.isfinite()
        pairs, queries, lists, _ = whole.tolist()
        loss = self.objective.config.l2 * share * head.penalty()
        if self.graded:
            totals = Totals(pairs, queries)
            part = self.objective(head, head_input[judged], grades[judged], query_index[judged], totals, share=0.0)
            loss = loss + self.graded * part
        here = float(count_comparable(teacher[taught], query_index[taught]))
        score = head.rank_score(head(head_input[taught]))
        weight = self.weight * here / max(lists, 1.0)
        total: Tensor = loss + weight * self.loss(score, teacher[taught], query_index[taught])
        return total


def _teacher(config: Config, base: Path) -> Teacher:
    make, target, params = find_teacher(config.distill.teacher, config.distill.teacher_params)
    teacher: Teacher = make(target, TeacherFiles(base, base / config.data.items), **params)
    return teacher


def _ask_of(queries: Sequence[JudgedQuery] | Sequence[TrafficQuery], data: RunData) -> list[TeacherRequest]:
    return [
        TeacherRequest(q.query_id, q.query, q.item_ids, tuple(data.items[i].text for i in q.item_ids)) for q in queries
    ]


def _source(context: Context, asks: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]]) -> Source:
    config, data = context.config, context.data
    judged_source = partial(JudgedSource, items=data.items, cap=config.stages.items_per_query, seed=context.seed)
    source: Source = judged_source(data.train)
    if data.pool:
        pool = [JudgedQuery(q.query_id, q.query, q.item_ids, (-1,) * len(q.item_ids)) for q in data.pool]
        source = Together(source, judged_source(pool))
    return Taught(source, key_by_text(asks, answers, config.distill.normalise, where=config.distill.teacher))


def key_by_text(
    asks: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]], how: str, *, where: str
) -> Scores:
    """Normalise scores query by query and key them by what the student sees: the texts.

    :param how: as in :func:`trainer.teachers.normalise_scores`.
    :return: scores by query text and item text; the mean where two items read the same.
    """
    scores_of: dict[str, dict[str, list[float]]] = {}
    for ask, scores in zip(asks, answers, strict=True):
        items = scores_of.setdefault(ask.query, {})
        for text, score in zip(ask.texts, normalise_scores(scores, how, where=where), strict=True):
            if score is not None:
                items.setdefault(text, []).append(score)
    return {
        query: {text: math.fsum(values) / len(values) for text, values in items.items()}
        for query, items in scores_of.items()
    }


def _dev_loss(context: Context) -> Callable[[], float]:
    """The labels' word: within-query order, and the graded loss as far as it trains."""
    model, objective, graded = context.model, context.objective, context.config.distill.graded
    order = dataclasses.replace(
        objective, terms=tuple(dataclasses.replace(t, weight=float(t.kind == "rank")) for t in objective.terms)
    )

    def evaluate() -> float:
        features = Features(model, device=context.config.stages.device)
        dev = HeadData(context.pairs["dev"], features.of(context.pairs["dev"]).head_input)
        loss = dev_objective(order, model.head, dev)
        return loss + graded * dev_objective(objective, model.head, dev) if graded else loss

    return evaluate


def _left_out(
    own: Distill, asks: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]], missing: int, pairs: int
) -> InputError:
    first = next(
        (ask.query, item_id)
        for ask, scores in zip(asks, answers, strict=True)
        for item_id, score in zip(ask.item_ids, scores, strict=True)
        if score is None
    )
    return InputError(
        f"{missing} of {pairs} pairs have no score, the first is query {first[0]!r} with item {first[1]!r}",
        where=own.teacher,
        todo="score them, or raise [distill] max_missing",
    )
