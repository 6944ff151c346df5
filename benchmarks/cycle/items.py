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
from numpy.typing import NDArray

from benchmarks.measuring import describe_machine, write_result
from darl_opensearch.errors import DarlError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.records.judgments import read_judgments
from darl_opensearch.resources import insurance_sample
from darl_opensearch.settings import read_toml
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.text import ItemRenderer
from trainer.config import Config, parse_config
from trainer.dasa.mix import Listed, lead_items, spread_items
from trainer.evaluate.parts import read_catalogue
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
Rows = NDArray[np.int64]
RULES: Mapping[str, Choose] = {
    "even": spread_items,
    "leading": lead_items,
    "top": lambda listed, count: sorted(listed, key=lambda item: -(item.score or 0.0))[:count],
}
COUNTS, SEEDS, CUTOFF, DEV = (5, 10), 10, 10, 5
PARTS = ("judgments", "dev_judgments", "later_judgments", "test_judgments")


class World:
    """The sample, encoded once, and the first version's head."""

    def __init__(self, folder: Path) -> None:
        path = folder / "darl.toml"
        self.config: Config = parse_config(read_toml(path), where=str(path))
        self.model = SplitReranker.from_base(self.config, self.config.loss.grade)
        renderer = ItemRenderer(self.config.template.item_template, self.model.tokenizer(), self.config.model.item_cap)
        items = read_catalogue([folder / "items.jsonl", folder / "new_items.jsonl"], renderer)
        self.model.fit_texts(item.text for item in items.values())
        self.objective = Objective.make(self.config.loss, self.config.grades.scale.gains)
        seen = {
            row["query_id"]: row["seen"]
            for name in ("later_traffic", "test_queries")
            for _, row in read_jsonl(folder / f"{name}.jsonl")
        }
        k = self.config.grades.scale.k
        parts = {name: read_judgments(folder / f"{name}.jsonl", items, k) for name in PARTS}
        queries = [query for part in parts.values() for query in part]
        self.pairs = Pairs.of_judged(queries, items)
        self.head_input = Features(self.model).of(self.pairs).head_input
        first = np.cumsum([0, *(len(query.grades) for query in queries)])
        rows = {query.query_id: np.arange(*first[[n, n + 1]]) for n, query in enumerate(queries)}
        self.train, self.dev = ([rows[q.query_id] for q in parts[name]] for name in PARTS[:2])
        self.later = [rows[q.query_id] for q in parts[PARTS[2]] if not seen[q.query_id]]
        self.id_test = [rows[q.query_id] for q in parts[PARTS[3]] if seen[q.query_id]]
        self.head = self.fit(self.model.head, self.train, self.dev)
        self.latent = predict(self.head, self.head_input).latent

    def data(self, queries: Sequence[Rows]) -> HeadData:
        """Select what a head reads.

        :param queries: rows of the pairs of each query.
        """
        rows = torch.from_numpy(np.concatenate(queries))
        return HeadData(self.pairs.select(rows), self.head_input[rows], None)

    def fit(self, start: Head, train: Sequence[Rows], dev: Sequence[Rows]) -> Head:
        """Fit a head from another one."""
        head, limits = copy.deepcopy(start), self.config.stages
        fit_head(
            head, self.data(train), dev=self.data(dev), objective=self.objective, steps=limits.head_steps,
            patience=limits.patience, standardise=self.model.standardises,
        )  # fmt: skip
        return head

    def measure(self, head: Head, queries: Sequence[Rows]) -> QueryFigures:
        """Measure a head, its grades calibrated on the part's other folds."""
        part = self.data(queries)
        return measure_calibrated(head, part.pairs, part.head_input, self.config.grades.scale.gains, cutoff=CUTOFF)

    def choose(self, rows: Rows, rule: Choose, count: int) -> Rows:
        """Choose the pairs of a query to label, by the first version's order."""
        order = rows[np.argsort(-self.latent[rows], kind="stable")]
        listed = [Listed(str(row), "-", 1 - place / len(order)) for place, row in enumerate(order.tolist())]
        return np.array([int(item.item_id) for item in rule(listed, count)])


def run(folder: Path, seeds: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Label, refit and measure by every rule, on the same queries in each seed.

    :return: JSON-ready result.
    """
    begin, world = time.perf_counter(), World(folder)
    found: dict[tuple[int, str, str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    relevant: dict[tuple[int, str], list[int]] = defaultdict(list)
    for seed in range(seeds):
        order = np.random.default_rng([seed, 3]).permutation(len(world.later))
        half = len(order) // 2
        pool, test = ([world.later[place] for place in part] for part in (order[:half], order[half:]))
        parts = {"new kinds": test, "known kinds": world.id_test}
        before = {name: world.measure(world.head, part) for name, part in parts.items()}
        for count in COUNTS:
            for name, rule in RULES.items():
                chosen = [world.choose(rows, rule, count) for rows in pool]
                grades = world.pairs.grades.numpy()[np.concatenate(chosen)]
                relevant[count, name].append(int((grades > 0).sum()))
                new = [rows for place, rows in enumerate(chosen) if place % DEV != DEV - 1]
                head = world.fit(world.head, [*world.train, *new], [*world.dev, *chosen[DEV - 1 :: DEV]])
                for part, queries in parts.items():
                    after = world.measure(head, queries)
                    for measure, sign in (("ndcg", 1.0), ("rps", -1.0)):
                        old, now = getattr(before[part], measure), getattr(after, measure)
                        for query in now:
                            found[count, name, part, measure][query].append(sign * (now[query] - old[query]))
        say(f"seed {seed}")
    rows = []
    for count in COUNTS:
        for part in ("new kinds", "known kinds"):
            for measure in ("ndcg", "rps"):
                values = {name: found[count, name, part, measure] for name in RULES}
                numbers = sorted(values["even"])
                means = {name: np.array([np.mean(by[n]) for n in numbers]) for name, by in values.items()}
                rows.append({
                    "items": count, "part": part, "measure": measure, "queries": len(numbers),
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
