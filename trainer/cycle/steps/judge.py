"""Get the selected pairs labelled, and the control arm or the share of it that the gate looks at first."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.writing import write_rows
from darl_opensearch.records.lines import LineKind
from darl_opensearch.text import same_text
from trainer.cycle.folder import NOTHING
from trainer.cycle.inputs import read_each
from trainer.cycle.ports import Report
from trainer.cycle.samples import read_rows, render_catalogue
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, TASKS, Ending, StepResult, Waiting
from trainer.cycle.steps.looks import divide_arm
from trainer.judging.config import JudgeConfig
from trainer.judging.run import judge


@dataclasses.dataclass(frozen=True)
class Judging:
    """Asks the judges of a cycle.

    :param base: folder that the configuration's paths are relative to.
    :param earlier: folders of the earlier cycles, whose pairs are not judged again.
    :param folder: the cycle's.
    """

    config: JudgeConfig
    base: Path
    serving: Bundle
    catalogues: Sequence[Path]
    earlier: Sequence[Path]
    folder: Path
    report: Report

    def find_new(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the tasks that no earlier cycle has judged."""
        judged_before = {row.get("task") for row in read_each(self.earlier, JUDGMENTS)}
        return [row for row in rows if row["task"] not in judged_before]

    def ask(self, tasks: Path, work: Path, *, seed: int) -> tuple[list[dict[str, Any]], dict[str, Any]] | Waiting:
        """Have a file of tasks judged.

        :param work: folder that keeps the answers, so that nobody is asked twice.
        :param seed: of the task order and the gold sample.
        :return: the judgments, and the judging report.
        :raises GateRefused: if no judge is good enough.
        """
        config, gold = dataclasses.replace(self.config, seed=seed), self.config.gold_path(self.base)
        judging = judge(
            config, [tasks], gold, scale=self.serving.card.scale, out=work, base=self.base,
            texts=_read_gold_texts(gold, self.catalogues, self.serving) if gold else {}, report=self.report,
        )  # fmt: skip
        if judging.pending or judging.judgments is None:
            return Waiting("; ".join(judging.details["notes"]) or f"see {work}, then run the same command again")
        return read_rows(judging.judgments), judging.to_json()


def collect_judgments(judging: Judging, *, looks: int, seed: int) -> dict[str, Any] | Waiting:
    """Collect judgments, except of pairs that earlier cycles judged.

    :param looks: of the gate at the control arm; the queries of its first one are judged here.
    :param seed: of the order of the control arm.
    :return: number of labels by arm, and the judging report.
    :raises GateRefused: if no judge is good enough.
    """
    folder = judging.folder
    _, turns = divide_arm(folder, seed, looks)
    control = [row for name in CONTROL_TASKS for row in read_rows(folder / name)]
    chosen = [*read_rows(folder / SELECTED), *(row for row in control if turns[same_text(row["query"])] == 1)]
    tasks = judging.find_new(chosen)
    write_rows(folder / TASKS, tasks, fixed_name=True)
    counts = {"asked": len(tasks), "known": len(chosen) - len(tasks)}
    if not tasks:  # the control arm was judged before, and nothing was selected
        write_rows(folder / JUDGMENTS, [], fixed_name=True)
        return counts | {"selected": 0, "control": 0, "report": {}}
    judged = judging.ask(folder / TASKS, folder / "judge/work", seed=judging.config.seed)
    if isinstance(judged, Waiting):
        return judged
    rows, report = judged
    write_rows(folder / JUDGMENTS, rows, fixed_name=True)
    arms = Counter(row["arm"] for row in rows)
    return counts | {"selected": arms["selected"], "control": arms["control"], "report": report}


def judge_share(judging: Judging, look: int, turns: dict[str, int]) -> Waiting | None:
    """Have the control queries judged that a look sees first, and add them to the cycle's judgments.

    :param turns: by normalised query the number of the look that sees it first.
    :return: None once they are judged.
    """
    folder, work = judging.folder, judging.folder / f"judge/look-{look}"
    rows = [row for name in CONTROL_TASKS for row in read_rows(folder / name)]
    tasks = judging.find_new([row for row in rows if turns[same_text(row["query"])] == look])
    if not tasks:
        return None
    write_rows(work / "tasks.jsonl", tasks, fixed_name=True)
    # Other gold than before, which people would recognise.
    judged = judging.ask(work / "tasks.jsonl", work / "work", seed=judging.config.seed + look - 1)
    if isinstance(judged, Waiting):
        return judged
    new, _ = judged
    replaced = {row["task"] for row in new}
    before = [row for row in read_rows(folder / JUDGMENTS) if row["task"] not in replaced]
    write_rows(folder / JUDGMENTS, [*before, *new], fixed_name=True)
    return None


def end_without_judgments(result: StepResult) -> Ending | None:
    """End the cycle if no selected pair was judged."""
    return None if result["selected"] else Ending(NOTHING, "no selected pair was judged")


def _read_gold_texts(gold: Path, catalogues: Sequence[Path], serving: Bundle) -> dict[str, str]:
    """Look up the texts of gold items that the gold file leaves out."""
    missing = {line.item_id for line in LineKind().read(gold) if not line.row.get("text")}
    return render_catalogue(catalogues, serving.renderer, missing) if missing else {}
