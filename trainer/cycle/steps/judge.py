"""Have the chosen pairs judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from darl_opensearch.io.jsonl import read_jsonl
from trainer.cycle.samples import catalogue_texts, read_rows, write_rows
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, Context, Waiting
from trainer.judging.run import judge

TASKS = "judge/tasks.jsonl"


def run(context: Context) -> Mapping[str, Any]:
    """Ask the judges; what former cycles had judged is not asked again.

    :return: labels by arm, and how good the judges are.
    :raises Waiting: when people have yet to answer.
    """
    config = context.config.judge
    before = {row.get("task") for row in context.former_rows(JUDGMENTS)}
    chosen = [row for name in (SELECTED, *CONTROL_TASKS) for row in read_rows(context.file(name))]
    tasks = [row for row in chosen if row["task"] not in before]
    write_rows(context.file(TASKS), tasks)
    if not tasks:  # the control arm was judged before, and nothing was selected
        write_rows(context.file(JUDGMENTS), [])
        return {"asked": 0, "known": len(chosen), "selected": 0, "control": 0, "report": {}}
    said = judge(
        config, [context.file(TASKS)], config.gold_path(context.base), scale=context.serving.card.scale,
        out=context.file("judge/work"), base=context.base, texts=_gold_texts(context), report=context.world.report,
    )  # fmt: skip
    if said.pending or said.judgments is None:
        raise Waiting(
            "; ".join(said.details["notes"]) or f"see {context.file('judge/work')}, then give the same command again"
        )
    rows = read_rows(said.judgments)
    write_rows(context.file(JUDGMENTS), rows)
    arms = Counter(row["arm"] for row in rows)
    return {
        "asked": len(tasks), "known": len(chosen) - len(tasks), "selected": arms["selected"],
        "control": arms["control"], "report": said.to_json(),
    }  # fmt: skip


def _gold_texts(context: Context) -> dict[str, str]:
    """Texts of the gold's items, which its file may leave out."""
    gold = context.config.judge.gold_path(context.base)
    if gold is None:
        return {}
    wanted = {str(row.get("item_id")) for _, row in read_jsonl(gold) if not row.get("text")}
    return catalogue_texts(context.catalogues if wanted else [], context.serving.renderer, wanted)
