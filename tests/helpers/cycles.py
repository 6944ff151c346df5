"""A cycle in seconds: the random BERT's bundle, a spool of later traffic, and answers that turn its order around.

The old model cannot do worse on these answers than it does, so whatever learns from them gains.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.ood import OodLog, RankedRequest, SpoolStore
from darl_opensearch.scoring import Scorer
from tests.helpers.files import read_rows, write_rows
from tests.helpers.trained import SAMPLE

QUERIES, DEPTH = 44, 12


def write_cycle(folder: Path, bundle: Bundle, training: Path, **tables: Mapping[str, Any]) -> Path:
    """``cycle.toml``, a spool, answers, an ID test; gives the file.

    :param folder: where to.
    :param bundle: what serves.
    :param training: its darl.toml.
    :param **tables: keys by table, over those set here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "new_items.jsonl", read_rows(SAMPLE / "new_items.jsonl"))
    _log_traffic(folder, bundle)
    seen = {row["query_id"] for row in read_rows(SAMPLE / "test_queries.jsonl") if row["seen"]}
    tests = [row for row in read_rows(SAMPLE / "test_judgments.jsonl") if row["query_id"] in seen]
    kept = sorted({row["query_id"] for row in tests})[:16]
    write_rows(folder / "id_test.jsonl", [row for row in tests if row["query_id"] in kept])
    merged: dict[str, dict[str, Any]] = {
        "model": {"bundle": str(bundle.path), "config": str(training), "catalogue": ["new_items.jsonl"]},
        "log": {"spool": "spool.sqlite", "since": ""},
        "start": {"when": "always"},
        "select": {
            "selector": "random",
            "budget": 80,
            "items_per_query": 4,
            "control_queries": 12,
            "noise": 0.0,
            "depth": DEPTH,
        },
        "judge": {"judges": ["judgments"], "params": {"judgments": {"path": "answers.jsonl"}}},
        "train": {"int8": False},
        "gate": {"id_test": "id_test.jsonl", "tolerance": 1.0, "min_queries": 5, "draws": 1000, "seed": 3},
    }
    for table, keys in tables.items():
        merged.setdefault(table, {}).update(keys)
    lines = []
    for table, keys in merged.items():
        flat = {key: value for key, value in keys.items() if not isinstance(value, dict)}
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in flat.items())]
        for key, value in keys.items():
            for name, params in value.items() if isinstance(value, dict) else ():
                lines += [f"[{table}.{key}.{name}]", *(f"{k} = {json.dumps(v)}" for k, v in params.items())]
    path = folder / "cycle.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _log_traffic(folder: Path, bundle: Bundle) -> None:
    items = [*read_rows(SAMPLE / "items.jsonl"), *read_rows(SAMPLE / "new_items.jsonl")]
    texts = {row["id"]: bundle.renderer(row) for row in items}
    index = Bm25Index(texts.items())
    card, answers = bundle.card, []
    log = OodLog.open(
        folder / "spool.sqlite", model=card.name, version=card.version, alpha=card.ood.alpha, sample_rate=1.0
    )
    with log, Scorer.open(bundle) as scorer:
        for number, row in enumerate(read_rows(SAMPLE / "later_traffic.jsonl")[-QUERIES:]):
            found = [hit.item_id for hit in index.search(row["query"], DEPTH)]
            scores = scorer.score(row["query"], [texts[item] for item in found])
            order = sorted(range(len(found)), key=lambda place: -scores.data[place, 0])
            for rank, place in enumerate(order):
                grade = 3 * rank // len(order)
                answers.append({"query": row["query"], "item_id": found[place], "grade": grade})
            log.offer(RankedRequest(
                request_id=str(uuid.UUID(int=number)), timestamp=datetime(2026, 3, 1, 12, number, tzinfo=UTC),
                query=row["query"], query_id=row["query_id"], slice=row["slice"], doc_ids=found,
                documents=[texts[item] for item in found], scores=scores, latency_ms=1.0, route="python",
            ))  # fmt: skip
        log.flush()
    write_rows(folder / "answers.jsonl", answers)


class Deployed:
    """A deployment that notes what it was asked, in a file that outlives the process."""

    def __init__(self, path: Path, *, broken: bool = False) -> None:
        self.path, self.broken = path, broken

    def _note(self, **line: Any) -> Mapping[str, Any]:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return line

    def register(self, bundle: Bundle) -> Mapping[str, Any]:
        """Note it, or fail as a cluster does."""
        if self.broken:
            from darl_opensearch.errors import ClusterError

            raise ClusterError("is not there", where="http://127.0.0.1:1", todo="start it")
        return self._note(did="register", sha256=bundle.identity)

    def release(self, bundle: Bundle, *, cycle: str, gate: Mapping[str, Any]) -> Mapping[str, Any]:
        """Note it."""
        return self._note(did="release", sha256=bundle.identity, cycle=cycle, passed=gate["passed"])


def world(
    folder: Path, *, start: Callable[[Bundle], Any] | None = None, told: list[Any] | None = None, **more: Any
) -> Any:
    """A world with the spool of a folder."""
    from trainer.cycle.ports import StartDecision, World

    def tell(event: str, figures: Any, delivery: str) -> bool:
        if told is not None:
            told.append((event, figures))
        return True

    def store() -> AbstractContextManager[Any]:
        return SpoolStore(folder / "spool.sqlite")

    return World(
        store=store, start=start or (lambda bundle: StartDecision(True, ("asked for",))),
        deployment=more.pop("deployment", Deployed(folder / "deployed.jsonl")), item_texts=lambda ids: {},
        tell=more.pop("tell", tell), **more,
    )  # fmt: skip
