"""The results of judging: labels, answers, disagreements and the report."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import GateRefused, InputError, short
from darl_opensearch.io.writing import write_file, write_rows
from trainer.judging.agreement import compare_raters
from trainer.judging.base import Answer
from trainer.judging.combine import combine, estimate_shares, tabulate_habits
from trainer.judging.config import JudgeConfig
from trainer.judging.prepare import FORMAT, Prepared, write_json
from trainer.judging.scoring import WAITING, ScoredRater, keep_graded

JUDGMENTS, RATINGS, REPORT, ANSWERS, DISAGREEMENTS = (
    "judgments.jsonl", "judgments.csv", "report.json", "answers.jsonl", "disagreements.jsonl",
)  # fmt: skip


@dataclass(frozen=True)
class JudgeReport:
    """Outcome of judging.

    :param pending: people have yet to answer; only their tasks and the report were written.
    :param judgments: the file of labels; None while pending.
    :param details: contents of ``report.json``.
    """

    pending: bool
    judgments: Path | None
    labels: int
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return dict(self.details)


def conclude(ready: Prepared, config: JudgeConfig, raters: Sequence[ScoredRater], notes: Sequence[str]) -> JudgeReport:
    """Label each task and write all results.

    :raises GateRefused: if no judge can be used; the report is written first.
    :raises InputError: if none has answered any task, in the same way.
    """
    out = ready.job.out
    tasks = frozenset(task.task for task in ready.tasks)
    pending = any(rater.verdict == WAITING for rater in raters)
    used = [rater for rater in raters if rater.usable]
    labels = {} if pending else _labels(ready, config, used)
    disagreements = _list_disagreements(ready, used, labels)
    arms = Counter(task.arm for task in ready.tasks if task.task in labels)
    grades = Counter(answer.grade for answer, _ in labels.values())
    written = (ANSWERS,) if pending else (JUDGMENTS, RATINGS, ANSWERS, DISAGREEMENTS)
    details = {
        "format": FORMAT,
        "pending": pending,
        "tasks": len(ready.tasks),
        "gold": len(ready.drawn),
        "judges": [rater.to_json(tasks) for rater in raters],
        "agreement": _measure_agreements(ready, config, raters),
        "labels": len(labels),
        "unjudged": 0 if pending else len(ready.tasks) - len(labels),
        "arms": dict(sorted(arms.items())),
        "grades": [grades.get(grade, 0) for grade in range(ready.job.scale.k)],
        "disagreements": len(disagreements),
        "notes": list(notes),
        "files": {name: str(out / name) for name in written},
    }
    write_rows(out / ANSWERS, _answers(ready, raters))
    if pending or not used:
        for name in (JUDGMENTS, RATINGS, DISAGREEMENTS):  # outdated results of an earlier call
            (out / name).unlink(missing_ok=True)
    else:
        write_rows(out / DISAGREEMENTS, disagreements)
        write_rows(out / JUDGMENTS, _judgments(ready, labels))
        write_file(out / RATINGS, _ratings(ready, labels))
    write_json(out / REPORT, details)
    if not pending and not used:
        reasons = "; ".join(f"judge {rater.name!r}: {rater.why}" for rater in raters)
        raise GateRefused(
            f"no judge can be used: {reasons}", where=str(out / REPORT),
            todo="improve the guideline or the prompt, use another judge, or deliberately lower [judge] min_kappa",
        )  # fmt: skip
    if not pending and tasks and not any(tasks & rater.answers.keys() for rater in used):
        task = ready.tasks[0]
        raise InputError(
            f"none of the {len(tasks):,} pairs was answered", where=str(out / REPORT),
            todo="existing labels are matched by query text and item id: compare them with those of the tasks, such as "
            f"{short(task.query)} and {short(task.item_id)}",
        )  # fmt: skip
    return JudgeReport(pending, None if pending else out / JUDGMENTS, len(labels), details)


def _labels(ready: Prepared, config: JudgeConfig, used: Sequence[ScoredRater]) -> dict[str, tuple[Answer, str]]:
    """Return each task's label, and the judges that it comes from."""
    k = ready.job.scale.k
    gold = {task.task: ready.gold.grades[task.task] for task in (*ready.gold.tasks, *ready.drawn.tasks)}
    tables = {rater.name: tabulate_habits(rater.answers, gold, k, smoothing=config.smoothing) for rater in used}
    prior = estimate_shares(gold, k, smoothing=config.smoothing)
    labels = {}
    for task in ready.tasks:
        raters = [r for r in used if (a := r.answers.get(task.task)) is not None and a.grade is not None]
        if raters:
            answers = [rater.answers[task.task] for rater in raters]
            label = combine(answers, [tables[rater.name] for rater in raters], prior)
            labels[task.task] = label, "+".join(rater.name for rater in raters)
    return labels


def _judgments(ready: Prepared, labels: Mapping[str, tuple[Answer, str]]) -> Iterable[dict[str, Any]]:
    for task in ready.tasks:
        if task.task not in labels:
            continue
        answer, judge = labels[task.task]
        row: dict[str, Any] = {
            "query_id": task.query_id, "query": task.query, "item_id": task.item_id, "grade": answer.grade,
        }  # fmt: skip
        row |= {"slice": task.slice} if task.slice else {}
        row |= {"arm": task.arm, "task": task.task, "judge": judge}
        row |= {"grade_probs": [round(p, 6) for p in answer.grade_probs]} if answer.grade_probs else {}
        row |= {"model_score": task.other_fields["score"]} if "score" in task.other_fields else {}
        yield row


def _ratings(ready: Prepared, labels: Mapping[str, tuple[Answer, str]]) -> str:
    """Write ``query,docid,rating``, as Quepid and the Search Relevance Workbench import it.

    Quepid splits the file at line breaks before it looks for quotes, so that a query gets blanks for them.
    """
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("query", "docid", "rating"))
    for task in ready.tasks:
        if task.task in labels:
            table.writerow((" ".join(task.query.split()), task.item_id, labels[task.task][0].grade))
    return text.getvalue()


def _answers(ready: Prepared, raters: Sequence[ScoredRater]) -> Iterable[dict[str, Any]]:
    by_name = {task.task: task for task in (*ready.gold.tasks, *ready.drawn.tasks, *ready.tasks)}
    for rater in raters:
        for name, answer in sorted(rater.answers.items()):
            task = by_name[name]
            row: dict[str, Any] = {
                "task": name, "judge": rater.name, "arm": task.arm, "query": task.query, "item_id": task.item_id,
                "grade": answer.grade,
            }  # fmt: skip
            row |= {"grade_probs": [round(p, 6) for p in answer.grade_probs]} if answer.grade_probs else {}
            yield row | ({"note": answer.note} if answer.note else {})


def _list_disagreements(
    ready: Prepared, used: Sequence[ScoredRater], labels: Mapping[str, tuple[Answer, str]]
) -> list[dict[str, Any]]:
    """List the tasks that judges grade differently, largest difference first."""
    rows = []
    for task in ready.tasks:
        grades = {r.name: a.grade for r in used if (a := r.answers.get(task.task)) is not None and a.grade is not None}
        if len(set(grades.values())) > 1 and task.task in labels:
            rows.append({
                "task": task.task, "query": task.query, "item_id": task.item_id, "text": task.text, "grades": grades,
                "grade": labels[task.task][0].grade,
            })  # fmt: skip
    return sorted(rows, key=lambda row: min(row["grades"].values()) - max(row["grades"].values()))


def _measure_agreements(ready: Prepared, config: JudgeConfig, raters: Sequence[ScoredRater]) -> list[dict[str, Any]]:
    queries = {task.task: task.query for task in (*ready.tasks, *ready.gold.tasks, *ready.drawn.tasks)}
    grades = {rater.name: keep_graded(rater.answers) for rater in raters}
    compared = compare_raters(grades, queries, ready.job.scale.k, draws=config.draws, seed=config.seed)
    return [{"judges": [first, second]} | agreement.to_json() for first, second, agreement in compared]
