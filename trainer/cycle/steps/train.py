"""Train a new version from the serving version's checkpoint."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.writing import write_rows
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.settings import read_toml
from trainer.config import Config, parse_config
from trainer.cycle.config import TrainTable
from trainer.cycle.folder import Cycle, write_record
from trainer.cycle.inputs import FirstTraining, read_each
from trainer.cycle.ports import Report
from trainer.cycle.samples import Roles, assign_roles, read_rows, reduce_rows, trace_lineage, write_items
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, TRAINING
from trainer.models import continued
from trainer.stages import plan
from trainer.stages.registry import check_plan
from trainer.training_data.run_data import RunData

ITEMS, OLD, NEW, DEV, OOD_DEV, TRAFFIC = (
    "items.jsonl", "judgments.jsonl", "new.jsonl", "dev.jsonl", "ood_dev.jsonl", "traffic.jsonl",
)  # fmt: skip
CONTROL, LINEAGE = "control.jsonl", "lineage.jsonl"
CHOOSING = frozenset({"interpolate"})  # stages that choose by the queries kept for early stopping
_OOD_FIGURES = ("alpha", "calibration_pairs", "calibration_queries", "false_alarms_seen_items")
_MEMORY_KEYS = ("sample_pairs", "store", "held_out_queries")  # of [data]


def train_version(
    config: TrainTable, first: FirstTraining, serving: Bundle, *, version: str, catalogues: Sequence[Path],
    earlier: Sequence[Path], folder: Path, seed: int, report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Write the training data, train, and return the run's figures with the number of pairs by role."""
    project = folder / TRAINING
    roles, tasks = read_samples(folder, earlier, share=config.ood_dev_share, seed=seed)
    data = first.read_data(serving.tokenizer)
    write_items(project / ITEMS, catalogues, first.config.template.item_template, tasks)
    write_data(project, data, roles)
    project_config = derive_config(
        config, first, serving, project, version=version, with_ood_dev=bool(data.ood_dev or roles.ood_dev)
    )
    write_record(project / "config.json", dataclasses.asdict(project_config))
    write_rows(folder / LINEAGE, trace_lineage(roles, tasks, cycle=folder.name), fixed_name=True)
    trained = plan.train(project_config, project, project / "run", report=report)
    result = trained.result
    return {
        "version": version, "from": serving.identity,
        "pairs": {role: len(getattr(roles, role)) for role in ("new", "ood_dev", "control", "old")},
        "stages": [
            {key: stage.get(key) for key in ("stage", "kept", "rps_gain", "gain")} for stage in result["stages"]
        ],
        "left_out": [stage for stage in config.stages if stage not in project_config.stages.run],
        "dev": {"before": result["start"], "after": result["dev"]},
        "ood": {key: result["ood"].get(key) for key in _OOD_FIGURES},
    }  # fmt: skip


def read_samples(
    folder: Path, earlier: Sequence[Path], *, share: float, seed: int
) -> tuple[Roles, list[dict[str, Any]]]:
    """Read the judged pairs by role, and their tasks.

    :param share: share of the selected queries for early stopping.
    """
    asked, judged = ("task", "query", "item_id", "text"), ("query", "query_id", "item_id", "arm")
    selection = {name: read_rows(folder / name, *asked) for name in (SELECTED, *CONTROL_TASKS)}
    tasks = [row for name, rows in selection.items() for row in [*read_each(earlier, name, *asked), *rows]]
    roles = assign_roles(
        read_rows(folder / JUDGMENTS, *judged), read_each(earlier, JUDGMENTS, *judged),
        (row["query"] for name in CONTROL_TASKS for row in selection[name]), share=share, seed=seed,
    )  # fmt: skip
    return roles, tasks


def write_data(project: Path, data: RunData, roles: Roles) -> None:
    """Write the judgments of a training.

    The first training's split into training, dev and traffic queries is written out, so that no query changes sides.

    :param roles: the pairs judged since.
    """
    write_rows(project / OLD, [*spell_out(data.train), *spell_out(data.new), *reduce_rows(roles.old)], fixed_name=True)
    write_rows(project / NEW, reduce_rows(roles.new), fixed_name=True)
    write_rows(project / DEV, spell_out(data.dev), fixed_name=True)
    write_rows(project / OOD_DEV, [*spell_out(data.ood_dev), *reduce_rows(roles.ood_dev)], fixed_name=True)
    write_rows(project / CONTROL, reduce_rows(roles.control), fixed_name=True)
    write_rows(project / TRAFFIC, spell_out_traffic(data), fixed_name=True)


def derive_config(
    config: TrainTable, first: FirstTraining, serving: Bundle, project: Path, *, version: str, with_ood_dev: bool
) -> Config:
    """Derive the configuration of a training: the first training's with other files, stages and start.

    :param project: folder of the training, which the paths are relative to.
    :param with_ood_dev: whether queries are kept for early stopping; without them the stages that choose by them are
        left out.
    """
    tables = read_toml(first.path, config.set)
    tables["model"] = tables["model"] | {
        "base": continued.BUNDLE + os.path.relpath(serving.path, project), "version": version,
    }  # fmt: skip
    tables["data"] = {key: value for key, value in tables["data"].items() if key in _MEMORY_KEYS} | {
        "items": ITEMS, "judgments": OLD, "new": NEW, "dev": DEV, "traffic": TRAFFIC, "allow_near": True,
        "ood_dev": OOD_DEV if with_ood_dev else "",
    }  # fmt: skip
    run = [stage for stage in config.stages if with_ood_dev or stage not in CHOOSING]
    tables["stages"] = dict(tables.get("stages", {})) | {"run": run}
    if "distill" in tables:
        tables["distill"] = _move_paths(tables["distill"], first.path.parent, project)
    project_config = parse_config(tables, where=str(first.path))
    check_plan(project_config, str(first.path))
    return project_config


def _move_paths(distill: Mapping[str, Any], base: Path, project: Path) -> dict[str, Any]:
    """Write the paths of ``[distill]``, which are relative to a folder, relative to another one."""
    moved = dict(distill)
    kind, colon, target = str(distill.get("teacher", "")).partition(":")
    if kind in ("file", "bundle") and target:
        moved["teacher"] = kind + colon + os.path.relpath(base / target, project)
    if pool := distill.get("pool"):
        moved["pool"] = os.path.relpath(base / str(pool), project)
    return moved


def spell_out_traffic(data: RunData) -> list[dict[str, Any]]:
    """List the queries of the OOD calibration as rows."""
    queries = {q.query_id: q for q, _ in [*data.traffic, *data.familiar]}
    return [
        {"query_id": q.query_id, "query": q.query}
        | ({"items": list(q.item_ids)} if q.item_ids else {})
        | ({"slice": q.slice} if q.slice else {})
        for q in queries.values()
    ]


def spell_out(queries: Iterable[JudgedQuery]) -> Iterator[dict[str, Any]]:
    """Yield judged queries as rows."""
    for query in queries:
        for item_id, grade in zip(query.item_ids, query.grades, strict=True):
            row = {"query_id": query.query_id, "query": query.query, "item_id": item_id, "grade": grade}
            yield row | ({"slice": query.slice} if query.slice else {})


def number_version(serving: str, number: int, cycles: Iterable[Cycle]) -> str:
    """Number the new version, unlike any earlier cycle's: whole numbers count up, others get the cycle's appended."""
    trained = [cycle.read_result("train") or {} for cycle in cycles if cycle.number < number]
    versions = [serving, *filter(None, (str(result.get("version", "")) for result in trained))]
    if all(re.fullmatch(r"\d{1,9}", version) for version in versions):
        return str(max(map(int, versions)) + 1)
    return f"{re.sub(r'-c[0-9]+$', '', serving)}-c{number}"
