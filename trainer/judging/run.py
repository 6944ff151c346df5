"""Judging from end to end: tasks in, judges scored on gold, judgments out.

Everything lies in one folder, and the same call goes on where the last one stopped: people's answers and an LLM's are
read from where they were committed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import GateRefused, InputError, UsageError
from darl_opensearch.scores import GradeScale
from trainer.data.writing import new_file
from trainer.judging.agreement import agreement, between
from trainer.judging.base import Answer, Job, Report, Task
from trainer.judging.combine import combine, habits, shares
from trainer.judging.config import JudgeConfig
from trainer.judging.scoring import REFUSED, Scored, graded, score
from trainer.judging.tasks import Gold, blind_order, digest, draw_gold, read_gold, read_tasks

JUDGMENTS, REPORT, ANSWERS, DISAGREEMENTS, ABOUT = (
    "judgments.jsonl", "report.json", "answers.jsonl", "disagreements.jsonl", "job.json",
)  # fmt: skip
FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """What is to be judged, read and checked.

    :param tasks: what wants labels, in the order of the files.
    :param gold: every pair with a known grade.
    :param drawn: those that are mixed among the tasks of a judge that costs something.
    :param job: grades, guideline and place.
    """

    tasks: tuple[Task, ...]
    gold: Gold
    drawn: Gold
    job: Job

    def mixed(self, seed: int) -> list[Task]:
        """Mix tasks and gold for people.

        :param seed: of the order.
        :return: what they judge, in order.
        """
        return blind_order([*self.tasks, *self.drawn.tasks], seed)

    def gold_for(self, judge: Any) -> Gold:
        """Choose the gold that a judge is asked.

        :param judge: the judge.
        :return: all of it where asking costs nothing.
        """
        return self.gold if judge.free else self.drawn


@dataclass(frozen=True)
class JudgeReport:
    """What came of judging.

    :param pending: people have yet to answer; nothing was written but their tasks and the report.
    :param judgments: the file of labels; None while pending.
    :param labels: how many there are.
    :param details: everything, as ``report.json`` holds it.
    """

    pending: bool
    judgments: Path | None
    labels: int
    details: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``.

        :return: JSON-ready values.
        """
        return dict(self.details)


def _silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def prepare(
    config: JudgeConfig,
    tasks: Sequence[Path],
    gold: Path | None,
    *,
    scale: GradeScale,
    out: Path,
    base: Path = Path(),
    guideline: str | None = None,
    texts: Mapping[str, str] | None = None,
) -> Prepared:
    """Read tasks and gold, without writing anything.

    :param config: who judges.
    :param tasks: task files.
    :param gold: judgments with known grades, or None.
    :param scale: the grades.
    :param out: folder of the work.
    :param base: folder that the configuration's paths are relative to.
    :param guideline: Markdown; None: the file that the configuration names.
    :param texts: item texts by id, for gold without any.
    :return: what is to be judged.
    :raises InputError: for a broken line, or a gold task without a known grade.
    :raises UsageError: for a judge that may not be used unscored, where there is no gold.
    """
    everything = read_tasks(tasks)
    wanted = tuple(task for task in everything if task.arm != "gold")
    known = Gold((), {})
    if gold is not None:
        known = read_gold(gold, scale, {task.item_id: task.text for task in everything} | dict(texts or {}))
    for task in everything:
        if task.arm == "gold" and task.task not in known.grades:
            raise InputError(
                "the arm is 'gold', but no file of gold knows this pair", where=task.where, todo="name it by --gold"
            )
    if not known:
        for name in config.judges:
            if not _trusted(name, config):
                raise UsageError(
                    f"judge {name!r} cannot be used before it is scored, and there is no gold",
                    todo="name judgments of known grades by --gold, or name it in [judge] trusted",
                )
    placed = Gold(tuple(task for task in everything if task.arm == "gold"), known.grades)
    drawn = draw_gold(known, everything, max(0, config.gold_pairs - len(placed)), config.seed)
    chosen = (*placed.tasks, *drawn.tasks)
    mixed = Gold(chosen, {task.task: known.grades[task.task] for task in chosen})
    # A pair to be judged whose grade is known is a task; asked as gold as well it would be seen twice.
    taken = {task.task for task in wanted}
    known = Gold(tuple(task for task in known.tasks if task.task not in taken), known.grades)
    said = config.guideline_text(base) if guideline is None else guideline
    return Prepared(wanted, known, mixed, Job(scale, said, out, base))


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
    report: Report = _silent,
) -> JudgeReport:
    """Have tasks judged: score each judge on gold, refuse the bad ones, weigh the rest, write labels.

    :param config: who judges, and how good a judge has to be.
    :param tasks: task files: JSONL, a pair a line.
    :param gold: judgments with known grades, or None where only people and known judgments are asked.
    :param scale: the grades.
    :param out: folder of the work; made where it is missing, gone on with where it is there.
    :param base: folder that the configuration's paths are relative to.
    :param guideline: Markdown; None: the file that the configuration names.
    :param texts: item texts by id, for gold lines without ``text``.
    :param report: called with what is done, how many, and how many in all.
    :return: labels and report; pending where people have yet to answer.
    :raises InputError: for a broken file, or a folder that holds another job.
    :raises UsageError: for parameters that do not fit.
    :raises GateRefused: when no judge is good enough; ``report.json`` is written before.
    """
    ready = prepare(config, tasks, gold, scale=scale, out=out, base=base, guideline=guideline, texts=texts)
    open_folder(ready, config)
    raters: list[Scored] = []
    notes: list[str] = []
    for name in config.judges:
        found, said = _ask(name, ready, config, report)
        raters += found
        notes += said
    return _conclude(ready, config, raters, notes)


def open_folder(ready: Prepared, config: JudgeConfig) -> None:
    """Make the folder of the work, or see that it is this job's.

    :param ready: the job.
    :param config: its seed counts too.
    :raises InputError: when the folder holds another job.
    """
    out = ready.job.out
    pairs = sorted((task.task, task.query, task.text, task.arm) for task in (*ready.tasks, *ready.drawn.tasks))
    mine = digest(pairs, ready.job.scale.names, config.seed)
    about = {
        "format": FORMAT, "digest": mine, "tasks": len(ready.tasks), "gold": len(ready.drawn),
        "grades": list(ready.job.scale.names), "seed": config.seed,
    }  # fmt: skip
    path = out / ABOUT
    if path.exists():
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise InputError("not JSON", where=str(path), todo="name another folder") from err
        if not isinstance(there, dict) or there.get("digest") != mine:
            raise InputError(
                "the folder holds the work on other tasks, other gold, other grades or another seed",
                where=str(path),
                todo="name another folder, or give the tasks that it was made with",
            )
        return
    _write_json(path, about)


def _trusted(name: str, config: JudgeConfig) -> bool:
    judge, _ = config.make(name)
    return name in config.trusted or judge.people or name.partition(":")[0] == "judgments"


def _ask(name: str, ready: Prepared, config: JudgeConfig, report: Report) -> tuple[list[Scored], list[str]]:
    """Ask one judge: people everything at once, any other first what is known, and the rest only if it passes."""
    judge, label = config.make(name)
    job = Job(ready.job.scale, ready.job.guideline, ready.job.out, ready.job.base, label)
    gold = ready.gold_for(judge)
    queries = {task.task: task.query for task in (*ready.tasks, *gold.tasks)}

    def scored(rater: str, answers: Mapping[str, Answer], waiting: bool, counts: Mapping[str, Any]) -> Scored:
        known = {task.task: gold.grades[task.task] for task in gold.tasks}
        return score(
            f"{name}/{rater}" if rater else name, answers, known, queries, config, k=job.scale.k,
            trusted=_trusted(name, config), waiting=waiting, counts=counts,
        )  # fmt: skip

    def say(what: str, done: int, total: int) -> None:
        report(f"{name}: {what}", done, total)

    if judge.people:
        verdict = judge.judge(ready.mixed(config.seed), job, say)
        waiting = verdict.pending and not config.partial
        answers = verdict.answers or {"": {}}
        return [scored(r, a, waiting, verdict.counts) for r, a in answers.items()], list(verdict.notes)
    first: Mapping[str, Answer] = {}
    counts: Mapping[str, Any] = {}
    notes: list[str] = []
    if gold:
        verdict = judge.judge(blind_order(gold.tasks, config.seed), job, say)
        first, counts, notes = verdict.answers.get("", {}), verdict.counts, list(verdict.notes)
    trial = scored("", first, False, counts)
    if trial.verdict == REFUSED:
        return [trial], notes
    verdict = judge.judge(blind_order(ready.tasks, config.seed), job, say)
    return [scored("", {**first, **verdict.answers.get("", {})}, False, _added(counts, verdict.counts))], list(
        verdict.notes
    )


def _added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Add up what gold and tasks cost."""
    total = dict(first)
    for key, value in second.items():
        before = total.get(key)
        adds = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (before, value))
        total[key] = before + value if adds else value
    return total


def _conclude(ready: Prepared, config: JudgeConfig, raters: Sequence[Scored], notes: Sequence[str]) -> JudgeReport:
    out = ready.job.out
    tasks = frozenset(task.task for task in ready.tasks)
    pending = any(rater.verdict == "waiting" for rater in raters)
    used = [rater for rater in raters if rater.usable]
    labels = {} if pending else _labels(ready, config, used)
    apart = _apart(ready, used, labels)
    arms = Counter(task.arm for task in ready.tasks if task.task in labels)
    grades = Counter(answer.grade for answer, _ in labels.values())
    details = {
        "format": FORMAT,
        "pending": pending,
        "tasks": len(ready.tasks),
        "gold": len(ready.drawn),
        "judges": [rater.to_json(tasks) for rater in raters],
        "agreement": _between(ready, config, raters),
        "labels": len(labels),
        "unjudged": 0 if pending else len(ready.tasks) - len(labels),
        "arms": dict(sorted(arms.items())),
        "grades": [grades.get(grade, 0) for grade in range(ready.job.scale.k)],
        "disagreements": len(apart),
        "notes": list(notes),
        "files": {name: str(out / name) for name in ((ANSWERS,) if pending else (JUDGMENTS, ANSWERS, DISAGREEMENTS))},
    }
    _write_lines(out / ANSWERS, _answers(ready, raters))
    if pending or not used:
        for name in (JUDGMENTS, DISAGREEMENTS):  # of an earlier call: nobody should train on them now
            (out / name).unlink(missing_ok=True)
    else:
        _write_lines(out / DISAGREEMENTS, apart)
        _write_lines(out / JUDGMENTS, _judgments(ready, labels))
    _write_json(out / REPORT, details)
    if not pending and not used:
        told = "; ".join(f"judge {rater.name!r}: {rater.why}" for rater in raters)
        raise GateRefused(
            f"no judge may be used: {told}", where=str(out / REPORT),
            todo="mend the guideline or the prompt, ask another judge, or lower [judge] min_kappa knowingly",
        )  # fmt: skip
    return JudgeReport(pending, None if pending else out / JUDGMENTS, len(labels), details)


def _labels(ready: Prepared, config: JudgeConfig, used: Sequence[Scored]) -> dict[str, tuple[Answer, str]]:
    """Give each task its label, and who it is from."""
    k = ready.job.scale.k
    known = {task.task: ready.gold.grades[task.task] for task in (*ready.gold.tasks, *ready.drawn.tasks)}
    tables = {rater.name: habits(rater.answers, known, k, smoothing=config.smoothing) for rater in used}
    prior = shares(known, k, smoothing=config.smoothing)
    labels = {}
    for task in ready.tasks:
        said = [r for r in used if (a := r.answers.get(task.task)) is not None and a.grade is not None]
        if said:
            answers = [rater.answers[task.task] for rater in said]
            label = combine(answers, [tables[rater.name] for rater in said], prior)
            labels[task.task] = label, "+".join(rater.name for rater in said)
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
        row |= {"model_score": task.told["score"]} if "score" in task.told else {}
        yield row


def _answers(ready: Prepared, raters: Sequence[Scored]) -> Iterable[dict[str, Any]]:
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


def _apart(ready: Prepared, used: Sequence[Scored], labels: Mapping[str, tuple[Answer, str]]) -> list[dict[str, Any]]:
    """List the tasks that judges grade differently, the farthest apart first."""
    rows = []
    for task in ready.tasks:
        said = {r.name: a.grade for r in used if (a := r.answers.get(task.task)) is not None and a.grade is not None}
        if len(set(said.values())) > 1 and task.task in labels:
            rows.append({
                "task": task.task, "query": task.query, "item_id": task.item_id, "text": task.text, "grades": said,
                "grade": labels[task.task][0].grade,
            })  # fmt: skip
    return sorted(rows, key=lambda row: min(row["grades"].values()) - max(row["grades"].values()))


def _between(ready: Prepared, config: JudgeConfig, raters: Sequence[Scored]) -> list[dict[str, Any]]:
    queries = {task.task: task.query for task in (*ready.tasks, *ready.gold.tasks, *ready.drawn.tasks)}
    grades = {rater.name: graded(rater.answers) for rater in raters}
    return [
        {"judges": [a, b]}
        | agreement(grades[a], grades[b], queries, ready.job.scale.k, draws=config.draws, seed=config.seed).to_json()
        for a, b in between(grades)
    ]


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with new_file(path) as work, work.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with new_file(path) as work:
        work.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def estimate(ready: Prepared, config: JudgeConfig) -> list[dict[str, Any]]:
    """Say what judging would cost, without asking anybody.

    :param ready: the job.
    :param config: who judges.
    :return: for each judge its name and pairs, and where it knows them calls, tokens and cost.
    """
    found = []
    for name in config.judges:
        judge, label = config.make(name)
        job = Job(ready.job.scale, ready.job.guideline, ready.job.out, ready.job.base, label)
        pairs = [*ready.tasks, *ready.gold_for(judge).tasks]
        foresee: Callable[[Sequence[Task], Job], Mapping[str, Any]] | None = getattr(judge, "foresee", None)
        found.append({"judge": name, "pairs": len(pairs), **(foresee(pairs, job) if foresee else {})})
    return found
