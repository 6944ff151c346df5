"""The control arm in shares: which of its queries are judged by which look, and which never were.

The order is random over the whole arm. Queries kept from the previous arm are older traffic; if they came first because
their labels are there, the first looks would be at older traffic, and a gain in it alone could end the judging. So they
wait for their turn, and then cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.io.writing import write_rows
from darl_opensearch.text import same_text
from trainer.cycle.inputs import read_each
from trainer.cycle.samples import read_rows
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, TASKS
from trainer.dasa.labelled import draw_bits
from trainer.evaluate.looks import Look, plan_looks

FORMER = "select/former.jsonl"
Row = Mapping[str, Any]


def order_arm(tasks: Iterable[Row], seed: int) -> list[str]:
    """Order the control arm's queries at random, by :func:`darl_opensearch.text.same_text`."""
    arm = sorted({same_text(task["query"]) for task in tasks})
    # The arm seeds the order as well: with the seed alone, what was early now would be early in the next cycle, too.
    purpose = "looks\0" + "\0".join(arm)
    return sorted(arm, key=lambda key: (draw_bits(key, seed, purpose), key))


def divide_arm(folder: Path, seed: int, count: int) -> tuple[tuple[Look, ...], dict[str, int]]:
    """Plan the looks of a cycle.

    :param folder: the cycle's.
    :param count: looks at most.
    :return: the looks, and by normalised query the number of the look that sees it first.
    """
    order = order_arm((row for name in CONTROL_TASKS for row in read_rows(folder / name, "query")), seed)
    looks = plan_looks(len(order), count)
    turns: dict[str, int] = {}
    for look in looks:
        turns |= {key: look.number for key in order[len(turns) : look.seen]}
    return looks, turns


def list_former(earlier: Sequence[Path], folder: Path) -> list[Path]:
    """List the task files of the previous cycle's control arm, without queries that nobody was asked about.

    Those return to the log's other queries: they may be selected, or drawn again.

    :param earlier: folders of the cycles that have judgments, oldest first.
    :param folder: of this cycle, where the files are written if any query was spared.
    """
    if not earlier:
        return []
    last = earlier[-1]
    asked = {row.get("task") for row in read_each(earlier, JUDGMENTS)} | {
        row["task"] for row in read_rows(last / TASKS)
    }
    tasks = [row for name in CONTROL_TASKS for row in read_rows(last / name, "query")]
    known = {same_text(row["query"]) for row in tasks if row["task"] in asked}
    former = [row for row in tasks if same_text(row["query"]) in known]
    if len(former) == len(tasks):
        return [last / name for name in CONTROL_TASKS]
    write_rows(folder / FORMER, former, fixed_name=True)
    return [folder / FORMER]
