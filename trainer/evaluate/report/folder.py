"""The folder of an evaluation: written beside its place, then renamed, so that a half of it is never seen."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from darl_opensearch.bundle import replace_folder
from darl_opensearch.errors import UsageError
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.measured import grades_of
from trainer.evaluate.report.page import render_page
from trainer.evaluate.trec import write_qrels, write_run

RESULT, PAGE, RUNS = "evaluation.json", "evaluation.html", "runs"
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


def check_folder(folder: Path) -> None:
    """Refuse to replace what is not an evaluation.

    :param folder: where one is to go.
    :raises UsageError: when something else is there.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, not a folder", where=str(folder), todo="name another with --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RESULT).is_file():
        raise UsageError(
            "the folder holds something that is not an evaluation", where=str(folder), todo="name another with --out"
        )


def write_folder(folder: Path, found: Evaluation) -> None:
    """Write result, page, judgments and rankings.

    :param folder: where; an evaluation that is there is replaced.
    :param found: the evaluation.
    :raises UsageError: when the folder holds something else.
    :raises MissingExtra: without matplotlib, which draws the pictures.
    """
    check_folder(folder)
    target = Path(os.path.abspath(folder))  # noqa: PTH100  "." has no name to put a sibling beside; links stay
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    target.parent.mkdir(parents=True, exist_ok=True)
    work.mkdir()
    try:
        text = json.dumps(found.result, indent=2, ensure_ascii=False, allow_nan=False)
        (work / RESULT).write_text(text + "\n", encoding="utf-8")
        (work / PAGE).write_text(render_page(found.result), encoding="utf-8")
        (work / RUNS).mkdir()
        for part in found.parts:
            write_qrels(work / RUNS / f"{part.name}.qrels", grades_of(part))
        for (system, name, depth), ranked in found.runs.items():
            words = [_ODD.sub("_", system), name, *([f"depth{depth}"] if depth is not None else [])]
            write_run(work / RUNS / f"{'.'.join(words)}.trec", ranked, tag=system)
        replace_folder(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
