"""The tests' training project with everything that the later stages read: new samples, OOD dev queries, a pool."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from tests.helpers.files import write_rows
from tests.helpers.forked import Forked
from tests.helpers.training_project import KINDS, PERILS, write_project
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import JudgedSource

ROOT = Path(__file__).parents[2]
STAGES = {"folds": 0, "full_epochs": 2, "full_learning_rate": 1e-3, "patience": 100, "head_steps": 8}


def source_of(pairs: Pairs, slices: Sequence[str] = ()) -> JudgedSource:
    """Pairs to draw from, query by query."""
    rows: list[list[tuple[str, int]]] = [[] for _ in pairs.queries]
    for (query, item), grade in zip(pairs.index.tolist(), pairs.grades.tolist(), strict=True):
        rows[query].append((str(item), grade))
    queries = [
        JudgedQuery(str(n), text, tuple(i for i, _ in judged), tuple(g for _, g in judged), slice_)
        for n, (text, judged, slice_) in enumerate(zip(pairs.queries, rows, slices or [""] * len(rows), strict=True))
    ]
    items = {str(row): Item(str(row), text, "") for row, text in enumerate(pairs.items)}
    return JudgedSource(queries, items, cap=9, seed=0)


def read_items(folder: Path) -> dict[str, str]:
    """Titles of the first 14 items: the others stay unjudged, for the OOD calibration."""
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    return {row["id"]: row["title"] for row in rows[:14]}


def write_plan(folder: Path, base: Path, *, contrary: bool = False, **tables: Mapping[str, Any]) -> Path:
    """The project of :func:`write_project` with ``new.jsonl``, ``ood_dev.jsonl`` and ``pool.jsonl``, all named."""
    merged: dict[str, dict[str, Any]] = {
        "data": {"new": "new.jsonl", "ood_dev": "ood_dev.jsonl"},
        "stages": dict(STAGES),
        "augment": {"epochs": 2, "learning_rate": 1e-3},
    }
    for table, keys in tables.items():
        merged.setdefault(table, {}).update(keys)
    path = write_project(folder, base, contrary=contrary, **merged)
    items, rng = read_items(folder), random.Random(3)
    for name, queries in (("new", 8), ("ood_dev", 6)):
        rows = []
        for n in range(queries):
            words = (rng.choice(KINDS), rng.choice(PERILS), f"{name}{n}")
            for item_id in rng.sample(sorted(items), 5):
                grade = len(set(words) & set(items[item_id].split()))
                rows.append({"query": " ".join(words), "item_id": item_id, "grade": grade, "slice": words[0]})
        write_rows(folder / f"{name}.jsonl", rows)
    pool = [{"query": f"pool {n} {rng.choice(PERILS)}", "items": rng.sample(sorted(items), 4)} for n in range(6)]
    write_rows(folder / "pool.jsonl", pool)
    return path


def write_scores(folder: Path, score: Callable[[str, str], float]) -> Path:
    """A teacher's file: ``score(query, title)`` of every judged pair and every pair of the pool."""
    items, rows = read_items(folder), {}
    for line in (folder / "judgments.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows[row["query"], row["item_id"]] = None
    for line in (folder / "pool.jsonl").read_text().splitlines():
        row = json.loads(line)
        rows |= {(row["query"], item_id): None for item_id in row["items"]}
    told = [{"query": q, "item_id": i, "score": score(q, items[i])} for q, i in rows]
    return write_rows(folder / "scores.jsonl", told)


def kill_in_stage(path: Path, run: Path, place: str, step: int = 2) -> None:
    """Start ``darl train`` in a process of its own, and kill it -9 once a stage's checkpoint has come so far."""
    process = Forked(["-m", "darl_opensearch", "train", path, "--run", run])
    progress, limit = run / "stages" / place / "progress.json", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < limit:
        try:
            if json.loads(progress.read_text())["state"]["step"] >= step:
                break
        except (OSError, ValueError):
            time.sleep(0.005)
    process.kill()
    assert not (run / "result.json").exists()


def weights(run: Path) -> dict[str, Any]:
    """A finished run's weights."""
    return load_file(run / "checkpoint" / "model.safetensors")
