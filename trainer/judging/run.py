"""Judging from end to end: tasks in, judges scored on gold, judgments out.

All work is in one folder, and the same call resumes it: the answers of people and LLMs are committed there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.scores import GradeScale
from trainer.judging.base import Answer, JudgingJob, Report, Task
from trainer.judging.conclude import JudgeReport, conclude
from trainer.judging.config import JudgeConfig
from trainer.judging.prepare import Prepared, may_go_unscored, open_work, prepare_judging
from trainer.judging.scoring import REFUSED, ScoredRater, score_rater
from trainer.judging.tasks import order_blindly

__all__ = ["JudgeReport", "estimate", "judge"]


def judge(
    config: JudgeConfig,
    tasks: Sequence[Path],
    gold: Path | None,
    *,
    scale: GradeScale,
    out: Path,
    base: Path = Path(),
    guideline: str | None = None,
    texts: Mapping[str, str] | None = None,
    images: Mapping[str, str] | None = None,
    report: Report = lambda what, done, total: None,
) -> JudgeReport:
    """Label tasks: score each judge on gold, refuse the bad ones, weight the others, write labels.

    :param config: the judges, and how good they must be.
    :param tasks: task files: JSONL, one pair per line.
    :param gold: judgments with known grades; None if only people and existing judgments are used.
    :param out: work folder; created if missing, resumed if not.
    :param base: folder that the configuration's paths are relative to.
    :param guideline: Markdown; None: the configured file.
    :param texts: item texts by id, for gold lines without ``text``.
    :param images: of items by id, for tasks and gold lines without ``image``.
    :param report: called with the step's name, items done and items in all.
    :return: labels and report; pending while people have yet to answer.
    :raises InputError: for an invalid file, or a folder that holds another job.
    :raises UsageError: for invalid parameters.
    :raises GateRefused: if no judge is good enough; ``report.json`` is written first.
    """
    ready = prepare_judging(
        config, tasks, gold, scale=scale, out=out, base=base, guideline=guideline, texts=texts, images=images
    )
    open_work(ready, config)
    raters: list[ScoredRater] = []
    notes: list[str] = []
    for name in config.judges:
        new_raters, new_notes = _ask(name, ready, config, report)
        raters += new_raters
        notes += new_notes
    return conclude(ready, config, raters, notes)


def estimate(ready: Prepared, config: JudgeConfig) -> list[dict[str, Any]]:
    """Estimate the cost of judging without asking any judge.

    :return: for each judge its name and pairs, and if known calls, tokens and cost.
    """
    estimates = []
    for name in config.judges:
        judge, label = config.make(name)
        job = dataclasses.replace(ready.job, label=label)
        pairs = [*ready.tasks, *ready.gold_for(judge).tasks]
        foresee: Callable[[Sequence[Task], JudgingJob], Mapping[str, Any]] | None = getattr(judge, "foresee", None)
        estimates.append({"judge": name, "pairs": len(pairs), **(foresee(pairs, job) if foresee else {})})
    return estimates


def _ask(name: str, ready: Prepared, config: JudgeConfig, report: Report) -> tuple[list[ScoredRater], list[str]]:
    """Run one judge: people on all pairs at once, others on gold first and on the tasks only if they pass."""
    judge, label = config.make(name)
    job = dataclasses.replace(ready.job, label=label)
    gold = ready.gold_for(judge)
    queries = {task.task: task.query for task in (*ready.tasks, *gold.tasks)}

    def scored(rater: str, answers: Mapping[str, Answer], waiting: bool, counts: Mapping[str, Any]) -> ScoredRater:
        grades = {task.task: gold.grades[task.task] for task in gold.tasks}
        return score_rater(
            f"{name}/{rater}" if rater else name, answers, grades, queries, config, k=job.scale.k,
            trusted=may_go_unscored(name, config), waiting=waiting, counts=counts,
        )  # fmt: skip

    def say(what: str, done: int, total: int) -> None:
        report(f"{name}: {what}", done, total)

    if judge.people:
        result = judge.judge(ready.mix_in_gold(config.seed), job, say)
        waiting = result.pending and not config.partial
        answers = result.answers or {"": {}}
        return [scored(r, a, waiting, result.counts) for r, a in answers.items()], list(result.notes)
    first: Mapping[str, Answer] = {}
    counts: Mapping[str, Any] = {}
    notes: list[str] = []
    if gold:
        result = judge.judge(order_blindly(gold.tasks, config.seed), job, say)
        first, counts, notes = result.answers.get("", {}), result.counts, list(result.notes)
    trial = scored("", first, False, counts)
    if trial.verdict == REFUSED:
        return [trial], notes
    result = judge.judge(order_blindly(ready.tasks, config.seed), job, say)
    # What a free judge counts is in its file, which it has read twice.
    counts = result.counts if judge.free else _add_counts(counts, result.counts)
    return [scored("", {**first, **result.answers.get("", {})}, False, counts)], list(result.notes)


def _add_counts(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    total = dict(first)
    for key, value in second.items():
        before = total.get(key)
        adds = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, value))
        total[key] = before + value if adds else value
    return total
