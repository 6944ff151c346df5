"""Get the selected pairs labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.writing import write_rows
from darl_opensearch.records.lines import LineKind
from trainer.cycle.folder import NOTHING
from trainer.cycle.inputs import read_each
from trainer.cycle.ports import Report
from trainer.cycle.samples import read_rows, render_catalogue
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, Ending, StepResult, Waiting
from trainer.judging.config import JudgeConfig
from trainer.judging.run import judge

TASKS = "judge/tasks.jsonl"


def collect_judgments(
    config: JudgeConfig, base: Path, serving: Bundle, *, catalogues: Sequence[Path], earlier: Sequence[Path],
    folder: Path, report: Report,
) -> dict[str, Any] | Waiting:  # fmt: skip
    """Collect judgments, except of pairs that earlier cycles judged.

    :param base: folder that the configuration's paths are relative to.
    :return: number of labels by arm, and the judging report.
    :raises GateRefused: if no judge is good enough.
    """
    judged_before = {row.get("task") for row in read_each(earlier, JUDGMENTS)}
    chosen = [row for name in (SELECTED, *CONTROL_TASKS) for row in read_rows(folder / name)]
    tasks = [row for row in chosen if row["task"] not in judged_before]
    write_rows(folder / TASKS, tasks, fixed_name=True)
    counts = {"asked": len(tasks), "known": len(chosen) - len(tasks)}
    if not tasks:  # the control arm was judged before, and nothing was selected
        write_rows(folder / JUDGMENTS, [], fixed_name=True)
        return counts | {"selected": 0, "control": 0, "report": {}}
    work, gold = folder / "judge/work", config.gold_path(base)
    judging = judge(
        config, [folder / TASKS], gold, scale=serving.card.scale, out=work, base=base,
        texts=_read_gold_texts(gold, catalogues, serving) if gold else {}, report=report,
    )  # fmt: skip
    if judging.pending or judging.judgments is None:
        return Waiting("; ".join(judging.details["notes"]) or f"see {work}, then run the same command again")
    rows = read_rows(judging.judgments)
    write_rows(folder / JUDGMENTS, rows, fixed_name=True)
    arms = Counter(row["arm"] for row in rows)
    return counts | {"selected": arms["selected"], "control": arms["control"], "report": judging.to_json()}


def end_without_judgments(result: StepResult) -> Ending | None:
    """End the cycle if no selected pair was judged."""
    return None if result["selected"] else Ending(NOTHING, "no selected pair was judged")


def _read_gold_texts(gold: Path, catalogues: Sequence[Path], serving: Bundle) -> dict[str, str]:
    """Look up the texts of gold items that the gold file leaves out."""
    missing = {line.item_id for line in LineKind().read(gold) if not line.row.get("text")}
    return render_catalogue(catalogues, serving.renderer, missing) if missing else {}
