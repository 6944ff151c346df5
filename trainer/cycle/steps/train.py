"""Train a new version from the checkpoint of the one that serves."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.records.judgments import JudgedQuery
from trainer.config import Config, parse_config
from trainer.cycle.folder import write_json
from trainer.cycle.samples import Roles, assign, lineage, native, read_rows, write_items, write_rows
from trainer.cycle.steps.base import CONTROL_TASKS, JUDGMENTS, SELECTED, Context
from trainer.models.continued import BUNDLE
from trainer.stages import plan
from trainer.stages.registry import check_plan
from trainer.toml_tables import read_toml
from trainer.training_data.reading import read_data
from trainer.training_data.run_data import RunData

ITEMS, OLD, NEW, DEV, OOD_DEV, TRAFFIC = (
    "items.jsonl", "judgments.jsonl", "new.jsonl", "dev.jsonl", "ood_dev.jsonl", "traffic.jsonl",
)  # fmt: skip
CONTROL, LINEAGE = "control.jsonl", "lineage.jsonl"
_OOD_FIGURES = ("alpha", "calibration_pairs", "calibration_queries", "false_alarms_seen_items")
_KEPT = ("sample_pairs", "store", "held_out_queries")  # of [data]: how much is held in memory


def run(context: Context) -> Mapping[str, Any]:
    """Write what is trained on, and train.

    :return: the run's figures, and what was trained on.
    """
    folder = context.file("train")
    roles, tasks = samples(context)
    config = write_project(context, folder, roles, tasks)
    write_rows(context.file(LINEAGE), lineage(roles, tasks, cycle=context.cycle.name))
    trained = plan.train(config, folder, folder / "run", report=context.world.report)
    counts = {role: len(getattr(roles, role)) for role in ("new", "ood_dev", "control", "old")}
    return {
        "version": config.model.version, "from": context.serving.identity, "pairs": counts,
        "stages": [{key: stage.get(key) for key in ("stage", "kept", "gain")} for stage in trained.result["stages"]],
        "dev": {"before": trained.result["start"], "after": trained.result["dev"]},
        "ood": {key: trained.result["ood"].get(key) for key in _OOD_FIGURES},
    }  # fmt: skip


def samples(context: Context) -> tuple[Roles, list[dict[str, Any]]]:
    """Give every judged pair its role.

    :return: the roles, and the tasks that they came from.
    """
    asked, judged = ("task", "query", "item_id", "text"), ("query", "query_id", "item_id", "arm")
    now = {name: read_rows(context.file(name), *asked) for name in (SELECTED, *CONTROL_TASKS)}
    tasks = [row for name, rows in now.items() for row in [*context.former_rows(name, *asked), *rows]]
    roles = assign(
        read_rows(context.file(JUDGMENTS), *judged), context.former_rows(JUDGMENTS, *judged),
        (row["query"] for name in CONTROL_TASKS for row in now[name]),
        share=context.config.train.ood_dev_share, seed=context.config.seed,
    )  # fmt: skip
    return roles, tasks


def write_project(context: Context, folder: Path, roles: Roles, tasks: Iterable[Mapping[str, Any]]) -> Config:
    """Write a training project: files, and the configuration that names them.

    The first training's split into training, dev and traffic queries is spelt out, so that no query changes sides.

    :param roles: what each judged pair is used for.
    :param tasks: the pairs with their texts, for items that no catalogue has.
    """
    first = context.training
    write_items(folder / ITEMS, context.catalogues, first.template.item_template, tasks)
    data = first_data(context)
    write_rows(folder / OLD, [*spelt(data.train), *spelt(data.new), *native(roles.old)])
    write_rows(folder / NEW, native(roles.new))
    write_rows(folder / DEV, spelt(data.dev))
    write_rows(folder / OOD_DEV, [*spelt(data.ood_dev), *native(roles.ood_dev)])
    write_rows(folder / CONTROL, native(roles.control))
    write_rows(folder / TRAFFIC, held_traffic(data))
    tables = read_toml(context.training_path, context.config.train.set)
    tables["model"] = tables["model"] | {
        "base": BUNDLE + os.path.relpath(context.serving.path, folder),
        "version": next_version(context),
    }
    tables["data"] = {key: value for key, value in tables["data"].items() if key in _KEPT} | {
        "items": ITEMS, "judgments": OLD, "new": NEW, "dev": DEV, "traffic": TRAFFIC, "allow_near": True,
        "ood_dev": OOD_DEV if data.ood_dev or roles.ood_dev else "",
    }  # fmt: skip
    tables["stages"] = dict(tables.get("stages", {})) | {"run": list(context.config.train.stages)}
    config = parse_config(tables, where=str(context.training_path))
    check_plan(config, str(context.training_path))
    write_json(folder / "config.json", dataclasses.asdict(config))
    return config


def first_data(context: Context) -> RunData:
    """Read what the first bundle was trained on.

    :return: the data, split as then.
    """
    return read_data(context.training, context.training_path.parent, context.serving.tokenizer)


def held_traffic(data: RunData) -> list[dict[str, Any]]:
    """Write out the queries that the OOD score is calibrated on.

    :param data: what the first bundle was trained on.
    """
    queries = {q.query_id: q for q, _ in [*data.traffic, *data.familiar]}
    return [
        {"query_id": q.query_id, "query": q.query}
        | ({"items": list(q.item_ids)} if q.item_ids else {})
        | ({"slice": q.slice} if q.slice else {})
        for q in queries.values()
    ]


def spelt(queries: Sequence[JudgedQuery]) -> Iterator[dict[str, Any]]:
    """Write judged queries out as rows."""
    for query in queries:
        for item_id, grade in zip(query.item_ids, query.grades, strict=True):
            row = {"query_id": query.query_id, "query": query.query, "item_id": item_id, "grade": grade}
            yield row | ({"slice": query.slice} if query.slice else {})


def next_version(context: Context) -> str:
    """Number the new version: whole numbers count up, others get the cycle's number behind them.

    :return: a version that no former cycle has made.
    """
    earlier = (cycle for cycle in context.cycles.all() if cycle.number < context.cycle.number)
    made = [str((cycle.done("train") or {}).get("version", "")) for cycle in earlier]
    serving = context.serving.card.version
    known = [serving, *filter(None, made)]
    if all(re.fullmatch(r"\d{1,9}", version) for version in known):
        return str(max(map(int, known)) + 1)
    return f"{re.sub(r'-c[0-9]+$', '', serving)}-c{context.cycle.number}"
