"""Which items of a selected query to label: even ranks, leading ranks or the top of the serving model's list.

``python -m benchmarks.cycle.items``. On the insurance sample, whose later part judges some fifty candidates a query, a
head is fitted on the training part, as in the first version. Then half of the later queries of new kinds, drawn by
seed, get labels for a few of their items each, and the head is refitted as a cycle does: every fifth of them stops the
fit. The other half tests, with all their labels, and both versions' grades are calibrated alike.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import describe_machine, write_result
from darl_opensearch.errors import DarlError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.resources import insurance_sample
from darl_opensearch.settings import read_toml
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.text import ItemRenderer
from trainer.config import Config, parse_config
from trainer.dasa.mix import Listed, lead_items, spread_items
from trainer.models.heads import Head
from trainer.models.split import SplitReranker
from trainer.stages.calibrated import QueryFigures, measure_calibrated
from trainer.stages.head_stage import fit_head
from trainer.stages.objective import Objective, predict
from trainer.stages.robust import HeadData
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs

RESULT = Path(__file__).parent / "results" / "items.json"
Choose = Callable[[list[Listed], int], list[Listed]]
RULES: Mapping[str, Choose] = {
    "even": spread_items,
    "leading": lead_items,
    "top": lambda listed, count: sorted(listed, key=lambda item: -(item.score or 0.0))[:count],
}
COUNTS, SEEDS, CUTOFF, DEV = (5, 10), 10, 10, 5


class World:
    """The sample, encoded once, and the first version's head."""

    def __init__(self, folder: Path) -> None:
        path = folder / "darl.toml"
        self.config: Config = parse_config(read_toml(path), where=str(path))
        self.model = SplitReranker.from_base(self.config, self.config.loss.grade)
        renderer = ItemRenderer(self.config.template.item_template, self.model.tokenizer(), self.config.model.item_cap)
        self.items = {}
        for name in ("items", "new_items"):
            for where, row in read_jsonl(folder / f"{name}.jsonl"):
                self.items[row["id"]] = Item(row["id"], renderer(row, where=where), row["kind"])
        self.model.fit_texts(item.text for item in self.items.values())
        self.features = Features(self.model)
        self.objective = Objective.make(self.config.loss, self.config.grades.scale.gains)
        seen = {row["query_id"]: row["seen"] for name in ("later_traffic", "test_queries")
                for _, row in read_jsonl(folder / f"{name}.jsonl")}  # fmt: skip
        later, test = read_judged(folder / "later_judgments.jsonl"), read_judged(folder / "test_judgments.jsonl")
        self.later = [query for query in later if not seen[query.query_id]]
        self.id_test = self.encode([query for query in test if seen[query.query_id]])
        self.train, self.dev = (read_judged(folder / f"{name}.jsonl") for name in ("judgments", "dev_judgments"))
        self.head = self.fit(self.model.head, self.train, self.dev)

    def encode(self, queries: Sequence[JudgedQuery]) -> HeadData:
        """Encode judged queries for a head."""
        pairs = Pairs.of_judged(queries, self.items)
        return HeadData(pairs, self.features.of(pairs).head_input, None)

    def fit(self, start: Head, train: Sequence[JudgedQuery], dev: Sequence[JudgedQuery]) -> Head:
        """Fit a head from another one."""
        head, limits = copy.deepcopy(start), self.config.stages
        fit_head(
            head, self.encode(train), dev=self.encode(dev), objective=self.objective, steps=limits.head_steps,
            patience=limits.patience, standardise=self.model.standardises,
        )  # fmt: skip
        return head

    def measure(self, head: Head, part: HeadData) -> QueryFigures:
        """Measure a head, its grades calibrated on the part's other folds."""
        return measure_calibrated(head, part.pairs, part.head_input, self.config.grades.scale.gains, cutoff=CUTOFF)

    def choose(self, query: JudgedQuery, rule: Choose, count: int) -> JudgedQuery:
        """Keep the labels of the items that a rule chooses by the first version's scores."""
        data = self.encode([query])
        score = predict(self.head, data.head_input).latent
        listed = [Listed(item_id, "-", float(value)) for item_id, value in zip(query.item_ids, score, strict=True)]
        chosen = {item.item_id for item in rule([one_above(item, score) for item in listed], count)}
        kept = [(i, g) for i, g in zip(query.item_ids, query.grades, strict=True) if i in chosen]
        return JudgedQuery(
            query.query_id, query.query, tuple(i for i, _ in kept), tuple(g for _, g in kept), query.slice
        )


def one_above(item: Listed, score: np.ndarray[Any, np.dtype[np.float64]]) -> Listed:
    """Move a latent score above 0, where lists expect it."""
    return Listed(item.item_id, item.text, (item.score or 0.0) - float(score.min()) + 1.0)


def read_judged(path: Path) -> list[JudgedQuery]:
    """Read judgments, their queries in the order of the file."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, row in read_jsonl(path):
        rows[row["query_id"]].append(row)
    return [
        JudgedQuery(
            query_id,
            part[0]["query"],
            tuple(row["item_id"] for row in part),
            tuple(row["grade"] for row in part),
            part[0].get("slice", ""),
        )  # fmt: skip
        for query_id, part in rows.items()
    ]


def run(folder: Path, seeds: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Label, refit and measure by every rule, on the same queries in each seed.

    :return: JSON-ready result.
    """
    begin, world = time.perf_counter(), World(folder)
    found: dict[tuple[int, str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    relevant: dict[tuple[int, str], list[int]] = defaultdict(list)
    for seed in range(seeds):
        order = np.random.default_rng([seed, 3]).permutation(len(world.later))
        half = len(order) // 2
        pool, test = ([world.later[place] for place in part] for part in (order[:half], order[half:]))
        parts = {"new kinds": (world.encode(test), test), "known kinds": (world.id_test, None)}
        before = {name: world.measure(world.head, data) for name, (data, _) in parts.items()}
        for count in COUNTS:
            for name, rule in RULES.items():
                chosen = [world.choose(query, rule, count) for query in pool]
                relevant[count, name].append(sum(grade > 0 for query in chosen for grade in query.grades))
                new = [query for place, query in enumerate(chosen) if place % DEV != DEV - 1]
                head = world.fit(world.head, [*world.train, *new], [*world.dev, *chosen[DEV - 1 :: DEV]])
                for part, (data, _) in parts.items():
                    after = world.measure(head, data)
                    for measure, sign in (("ndcg", 1.0), ("rps", -1.0)):
                        old, now = getattr(before[part], measure), getattr(after, measure)
                        for query in now:
                            text = data.pairs.queries[query]
                            found[count, name, part, measure][text].append(sign * (now[query] - old[query]))
        say(f"seed {seed}")
    rows = []
    for count in COUNTS:
        for part in ("new kinds", "known kinds"):
            for measure in ("ndcg", "rps"):
                values = {name: found[count, name, part, measure] for name in RULES}
                texts = sorted(values["even"])
                means = {name: np.array([np.mean(by[text]) for text in texts]) for name, by in values.items()}
                rows.append({
                    "items": count, "part": part, "measure": measure, "queries": len(texts),
                    "gain": {name: bootstrap_mean(each).to_json() for name, each in means.items()},
                    "minus_even": {
                        name: bootstrap_mean(means[name] - means["even"]).to_json() for name in ("leading", "top")
                    },
                })  # fmt: skip
    labels = [
        {"items": count, "rule": name, "relevant": float(np.mean(counts))} for (count, name), counts in relevant.items()
    ]
    return {
        "rows": rows, "relevant_labels": labels, "pool_queries": len(world.later) // 2, "seeds": seeds,
        "seconds": round(time.perf_counter() - begin, 1), "machine": describe_machine("torch", "transformers"),
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle.items", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"splits of the later queries (default: {SEEDS})")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    try:
        result = run(insurance_sample(), args.seeds, lambda text: print(text, file=sys.stderr, flush=True))
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    write_result(args.out, result)
    print(json.dumps(result["rows"], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
