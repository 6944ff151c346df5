"""A judging job: its tasks and gold, read and checked, and its work folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.digest import digest_json
from darl_opensearch.io.writing import write_file
from darl_opensearch.scores import GradeScale
from trainer.judging.base import JudgingJob, Task
from trainer.judging.config import JudgeConfig
from trainer.judging.tasks import Gold, draw_gold, order_blindly, read_gold, read_tasks

ABOUT, FORMAT = "job.json", 1


@dataclass(frozen=True)
class Prepared:
    """A checked job.

    :param tasks: to be labelled, in file order.
    :param drawn: gold to mix into the tasks of judges that are not free.
    :param job: grades, guideline and work folder.
    """

    tasks: tuple[Task, ...]
    gold: Gold
    drawn: Gold
    job: JudgingJob

    def mix_in_gold(self, seed: int) -> list[Task]:
        """Mix tasks and gold for people, in judging order."""
        return order_blindly([*self.tasks, *self.drawn.tasks], seed)

    def gold_for(self, judge: Any) -> Gold:
        """Choose the gold for a judge."""
        return self.gold if judge.free else self.drawn


def prepare_judging(
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
) -> Prepared:
    """Read tasks and gold without writing anything.

    :param gold: judgments with known grades, or None.
    :param base: folder that the configuration's paths are relative to.
    :param guideline: Markdown; None: the configured file.
    :param texts: item texts by id, for gold without texts.
    :param images: of items by id, for tasks and gold that name none.
    :raises InputError: for an invalid line, or a gold task without a known grade.
    :raises UsageError: without gold for a judge that must be scored.
    """
    all_tasks = _with_images(read_tasks(tasks), images or {})
    unlabelled = tuple(task for task in all_tasks if task.arm != "gold")
    all_gold = Gold((), {})
    if gold is not None:
        all_gold = read_gold(gold, scale, {task.item_id: task.text for task in all_tasks} | dict(texts or {}))
        all_gold = replace(all_gold, tasks=tuple(_with_images(all_gold.tasks, images or {})))
    for task in all_tasks:
        if task.arm == "gold" and task.task not in all_gold.grades:
            raise InputError("the arm is 'gold', but the pair is in no gold file", where=task.where, todo="pass --gold")
    if not all_gold:
        for name in config.judges:
            if not may_go_unscored(name, config):
                raise UsageError(
                    f"judge {name!r} must be scored before use, but there is no gold",
                    todo="pass judgments with known grades as --gold, or list the judge in [judge] trusted",
                )
    gold_in_tasks = tuple(task for task in all_tasks if task.arm == "gold")
    sampled = draw_gold(all_gold, all_tasks, max(0, config.gold_pairs - len(gold_in_tasks)), config.seed)
    mixed_in = (*gold_in_tasks, *sampled.tasks)
    drawn = Gold(mixed_in, {task.task: all_gold.grades[task.task] for task in mixed_in})
    # A task with a known grade stays a task only: as gold as well it would be shown twice.
    task_ids = {task.task for task in unlabelled}
    all_gold = Gold(tuple(task for task in all_gold.tasks if task.task not in task_ids), all_gold.grades)
    guideline_text = config.guideline_text(base) if guideline is None else guideline
    return Prepared(unlabelled, all_gold, drawn, JudgingJob(scale, guideline_text, out, base))


def _with_images(tasks: Iterable[Task], images: Mapping[str, str]) -> list[Task]:
    return [replace(task, image=images.get(task.item_id, "")) if not task.image else task for task in tasks]


def open_work(ready: Prepared, config: JudgeConfig) -> None:
    """Create the work folder, or check that it belongs to this job.

    :raises InputError: if it holds another job.
    """
    out = ready.job.out
    pairs = sorted((task.task, task.query, task.text, task.arm) for task in (*ready.tasks, *ready.drawn.tasks))
    digest = digest_json([pairs, ready.job.scale.names, config.seed], ensure_ascii=False)
    about = {
        "format": FORMAT, "digest": digest, "tasks": len(ready.tasks), "gold": len(ready.drawn),
        "grades": list(ready.job.scale.names), "seed": config.seed,
    }  # fmt: skip
    path = out / ABOUT
    if path.exists():
        try:
            existing = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise InputError("not JSON", where=str(path), todo="choose another folder") from err
        if not isinstance(existing, dict) or existing.get("digest") != digest:
            raise InputError(
                "the folder holds work on other tasks, gold, grades or another seed",
                where=str(path),
                todo="choose another folder, or pass the same tasks as before",
            )
        return
    write_json(path, about)


def may_go_unscored(name: str, config: JudgeConfig) -> bool:
    """Whether a judge may be used with too little gold to score it: people, existing judgments and trusted ones may."""
    judge, _ = config.make(name)
    return name in config.trusted or judge.people or name.partition(":")[0] == "judgments"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_file(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")
