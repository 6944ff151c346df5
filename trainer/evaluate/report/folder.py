"""The output folder of an evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from darl_opensearch.errors import UsageError
from darl_opensearch.io.writing import new_folder
from trainer.evaluate.evaluation import Evaluation
from trainer.evaluate.measured import map_grades
from trainer.evaluate.report.page import render_evaluation_page
from trainer.evaluate.trec import write_qrels, write_run

RESULT, PAGE, RUNS = "evaluation.json", "evaluation.html", "runs"
TREC, QRELS = ".trec", ".qrels"
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_MOST_CHARS = 150  # of a system's name in a file name: most file systems allow 255


def check_folder(folder: Path) -> None:
    """Refuse to replace anything but an evaluation."""
    if folder.is_symlink():
        raise UsageError("this is a link, not a folder", where=str(folder), todo="use the folder that it points to")
    if folder.exists() and not folder.is_dir():
        raise UsageError("this is a file, not a folder", where=str(folder), todo="choose another with --out")
    if folder.is_dir() and any(folder.iterdir()) and not _is_evaluation(folder):
        raise UsageError(
            "the folder exists and is not an evaluation", where=str(folder), todo="choose another with --out"
        )


def _is_evaluation(folder: Path) -> bool:
    """Whether :func:`write_folder` wrote everything in the folder: it is replaced as a whole."""
    names = {path.name for path in folder.iterdir()}
    if RESULT not in names or names - {RESULT, PAGE, RUNS}:
        return False
    return RUNS not in names or all(path.suffix in (TREC, QRELS) for path in (folder / RUNS).iterdir())


def write_folder(folder: Path, evaluation: Evaluation) -> None:
    """Write result, page, judgments and rankings, replacing an earlier evaluation.

    :raises UsageError: if the folder contains anything else.
    :raises MissingExtra: without matplotlib, which draws the pictures.
    """
    check_folder(folder)
    with new_folder(folder, replace=True) as work:
        text = json.dumps(evaluation.result, indent=2, ensure_ascii=False, allow_nan=False)
        (work / RESULT).write_text(text + "\n", encoding="utf-8")
        (work / PAGE).write_text(render_evaluation_page(evaluation.result), encoding="utf-8")
        (work / RUNS).mkdir()
        for part in evaluation.parts:
            write_qrels(work / RUNS / f"{part.name}{QRELS}", map_grades(part))
        names = _names(evaluation.runs)
        for key, ranked in evaluation.runs.items():
            write_run(work / RUNS / f"{names[key]}{TREC}", ranked, tag=key[0])


def _names(keys: Iterable[tuple[str, str, int | None]]) -> dict[tuple[str, str, int | None], str]:
    """Name the file of each ranking: unsafe characters are replaced, repeated names numbered."""
    names: dict[tuple[str, str, int | None], str] = {}
    used_names: set[str] = set()
    for system, part, depth in keys:
        words = [_ODD.sub("_", system)[:_MOST_CHARS], part, *([f"depth{depth}"] if depth is not None else [])]
        name, number = ".".join(words), 1
        while name.casefold() in used_names:  # some file systems ignore case
            number += 1
            name = f"{'.'.join(words)}-{number}"
        used_names.add(name.casefold())
        names[system, part, depth] = name
    return names
