"""Stage: learn from a teacher's scores, on judged pairs and on an unjudged pool."""

from __future__ import annotations

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
from trainer.stages.full_stage import descend, dev_rps, fit_settings
from trainer.stages.objective import Objective, Totals
from trainer.stages.registry import STAGES, Context, Outcome, Stage, require_key
from trainer.teachers import Teacher, TeacherFiles, TeacherRequest, fetch_scores, find_teacher, normalise_scores
from trainer.training_data.mixing import Taught, Together
from trainer.training_data.run_data import RunData
from trainer.training_data.source import Batch, JudgedSource, Source

SCORES = "teacher"  # folder of the run with the teacher's scores
Scores = dict[str, dict[str, float]]


@STAGES.register("distill", cite="Hinton et al. 2015, arXiv:1503.02531", table=Distill)
class DistillStage(Stage):
    """Learn a teacher's scores of judged and unjudged pairs, with the graded loss mixed in

    The labels decide on early stopping and on keeping the weights.
    """

    def check(self, config: Config) -> None:
        """Require a registered teacher and a registered loss."""
        require_key(config.distill.teacher, "distill", "[distill] teacher", "write file:…, bundle:… or a URL")
        find_teacher(config.distill.teacher, config.distill.teacher_params)
        DISTILLATION_LOSSES.resolve(config.distill.loss, config.distill.loss_params)

    def ready(self, config: Config, base: Path) -> None:
        """Open the teacher once, to fail early."""
        _teacher(config, base).close()

    def run(self, context: Context) -> Outcome:
        """Score with the teacher, then train."""
        config, own, data = context.config, context.config.distill, context.data
        requests = [*_make_requests(data.in_memory, data), *_make_requests(data.pool, data)]
        answers = self._ask(context, requests)
        missing = sum(score is None for scores in answers for score in scores)
        pairs = sum(len(request.item_ids) for request in requests)
        if missing > own.max_missing * pairs:
            raise _refuse_missing(own, requests, answers, missing, pairs)
        loss, params = DISTILLATION_LOSSES.resolve(own.loss, own.loss_params)
        distilled = DistilledLoss(context.objective, partial(loss, **params), weight=own.weight, graded=own.graded)
        settings = fit_settings(
            config, epochs=own.epochs, learning_rate=own.learning_rate, head_learning_rate=own.head_learning_rate,
            rate_key="[distill] learning_rate",
        )  # fmt: skip
        source = _make_source(context, requests, answers)
        history = descend(context, distilled, dev_rps(context, {"dev": data.dev}), settings, source)
        return Outcome(history, figures={"teacher": own.teacher, "taught_pairs": pairs - missing, "missing": missing})

    def _ask(self, context: Context, requests: Sequence[TeacherRequest]) -> list[list[float | None]]:
        teacher = _teacher(context.config, context.base)
        try:
            return distributed.main_first(lambda: fetch_scores(
                teacher, requests, context.run / SCORES,
                advance=lambda done, total: context.report("scoring with the teacher", done, total),
            ))  # fmt: skip
        finally:
            teacher.close()


class DistilledLoss:
    """The loss of a step: a distillation loss plus the graded objective."""

    def __init__(self, objective: Objective, loss: Callable[..., Tensor], *, weight: float, graded: float) -> None:
        self.objective, self.loss, self.weight, self.graded = objective, loss, weight, graded

    def counts(self, batch: Batch) -> Tensor:
        """Count judged pairs, comparable judged queries, queries with different teacher scores, and pairs, ``[4]``.

        :param batch: some queries; a grade of -1 for unjudged pairs, NaN for missing teacher scores.
        """
        judged, taught = batch.grades >= 0, batch.teacher.isfinite()
        totals = self.objective.totals(batch.grades[judged], batch.query_index[judged])
        queries = float(count_comparable(batch.teacher[taught], batch.query_index[taught]))
        return torch.tensor([totals.pairs, totals.queries, queries, float(len(judged))])

    def __call__(self, model: Any, batch: Batch, whole: Tensor, *, share: float = 1.0) -> Tensor:
        """Compute some queries' part of the loss of the whole batch."""
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
        comparable = float(count_comparable(teacher[taught], query_index[taught]))
        score = head.rank_score(head(head_input[taught]))
        weight = self.weight * comparable / max(lists, 1.0)
        total: Tensor = loss + weight * self.loss(score, teacher[taught], query_index[taught])
        return total


def _teacher(config: Config, base: Path) -> Teacher:
    make, target, params = find_teacher(config.distill.teacher, config.distill.teacher_params)
    teacher: Teacher = make(target, TeacherFiles(base, base / config.data.items), **params)
    return teacher


def _make_requests(queries: Sequence[JudgedQuery] | Sequence[TrafficQuery], data: RunData) -> list[TeacherRequest]:
    return [
        TeacherRequest(q.query_id, q.query, q.item_ids, tuple(data.items[i].text for i in q.item_ids)) for q in queries
    ]


def _make_source(
    context: Context, requests: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]]
) -> Source:
    config, data = context.config, context.data
    judged_source = partial(JudgedSource, items=data.items, cap=config.stages.items_per_query, seed=context.seed)
    source: Source = judged_source(data.train)
    if data.pool:
        pool = [JudgedQuery(q.query_id, q.query, q.item_ids, (-1,) * len(q.item_ids)) for q in data.pool]
        source = Together(source, judged_source(pool))
    return Taught(source, key_by_text(requests, answers, config.distill.normalise, where=config.distill.teacher))


def key_by_text(
    requests: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]], how: str, *, where: str
) -> Scores:
    """Normalise scores per query and key them by the texts that the student reads.

    :param how: as in :func:`trainer.teachers.normalise_scores`.
    :return: scores by query text and item text, averaged over items with the same text.
    """
    scores_of: dict[str, dict[str, list[float]]] = {}
    for request, scores in zip(requests, answers, strict=True):
        items = scores_of.setdefault(request.query, {})
        for text, score in zip(request.texts, normalise_scores(scores, how, where=where), strict=True):
            if score is not None:
                items.setdefault(text, []).append(score)
    return {
        query: {text: math.fsum(values) / len(values) for text, values in items.items()}
        for query, items in scores_of.items()
    }


def _refuse_missing(
    own: Distill, requests: Sequence[TeacherRequest], answers: Sequence[Sequence[float | None]], missing: int,
    pairs: int,
) -> InputError:  # fmt: skip
    query, item = next(
        (request.query, item_id)
        for request, scores in zip(requests, answers, strict=True)
        for item_id, score in zip(request.item_ids, scores, strict=True)
        if score is None
    )
    return InputError(
        f"{missing} of {pairs} pairs have no score, the first is query {query!r} with item {item!r}",
        where=own.teacher,
        todo="score them, or raise [distill] max_missing",
    )
