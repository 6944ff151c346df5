"""What training the default learner gains over the untrained bi-encoder, stage by stage, on sets that can tell.

A run trains on one split of one set and keeps every query's figures under ``--work``; the result gathers all runs that
are there, so that settings can run side by side and a run that was broken off goes on where it was. ``--set`` changes a
key of the configuration and names another variant. ``--beside`` compares with another program's predictions for the
same test queries: ``SET-SPLIT-trained.npz`` with grade probabilities ``p [n, k]``, scores ``z [n]``, grades ``y [n]``
and query numbers ``q [n]``, and the queries' ids in ``names``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import data_folder, describe_machine, write_result
from darl_opensearch.errors import DarlError, InputError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.writing import write_file
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.stats.bootstrap import bootstrap_mean
from darl_opensearch.stats.grades import confusion, macro_f1, quadratic_kappa
from darl_opensearch.text import ItemRenderer
from trainer.config import Config, parse_config
from trainer.models.split import SplitReranker
from trainer.stages import STAGES
from trainer.stages.calibrated import Floats, Ints, calibrate_afresh, measure_by_query
from trainer.stages.objective import Objective, Predictions, predict
from trainer.stages.registry import Context
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs
from trainer.training_data.run_data import RunData

HERE = Path(__file__).parent
RESULT = HERE / "results" / "learner.json"
CUTOFF, ITEMS = 10, 10
UNTRAINED, DEFAULT, OTHER = "untrained", "default", "other program"
PER_QUERY = ("ndcg", "rps")


@dataclass(frozen=True)
class Set:
    """A set of judgments.

    :param items: its file of items.
    :param fields: of an item that are read.
    :param grades: how many.
    :param sizes: queries to train, for dev, and at most to test.
    """

    items: str
    fields: tuple[str, ...]
    grades: int
    sizes: tuple[int, int, int]

    def files(self, name: str) -> tuple[str, str]:
        """Files of items and of judgments below ``DARL_DATA``."""
        return f"{name}/{self.items}.jsonl.gz", f"{name}/judgments.jsonl.gz"


SETS = {
    "epqa": Set("items", ("=text",), 3, (300, 60, 300)),
    "semeval_cqa_a": Set("items", ("=text",), 3, (300, 60, 300)),
    "feedbackqa": Set("passages", ("=title", "=text"), 4, (300, 60, 300)),
    "esci": Set("products", ("=title", "=brand", "=color", "=bullet_points"), 4, (50, 20, 300)),
}


@dataclass(frozen=True)
class Split:
    """Queries of one split.

    :param items: by id.
    """

    items: dict[str, Item]
    train: list[JudgedQuery]
    dev: list[JudgedQuery]
    test: list[JudgedQuery]


def read_split(folder: Path, name: str, number: int, renderer: ItemRenderer) -> Split:
    """Draw a split: queries with items of two grades, shuffled, with ten items at most.

    :param folder: what ``DARL_DATA`` names.
    :param number: of the split; seeds the shuffle.
    :raises InputError: when a file is missing or not what it should be.
    """
    spec = SETS[name]
    items_file, judgments_file = (folder / file for file in spec.files(name))
    rows = {str(row["doc_id"]): (where, row) for where, row in read_jsonl(items_file)}
    judged: dict[str, list[dict[str, Any]]] = {}
    for _, row in read_jsonl(judgments_file):
        if str(row["doc_id"]) in rows:
            judged.setdefault(row["query_id"], []).append(row)
    ids = [query for query in sorted(judged) if len({row["grade"] for row in judged[query]}) > 1]
    random.Random(1000 + number).shuffle(ids)
    items: dict[str, Item] = {}
    queries = []
    for query in ids:
        chosen = list(judged[query])
        random.Random(f"{query}0").shuffle(chosen)
        chosen = chosen[:ITEMS]
        for row in chosen:
            item_id = str(row["doc_id"])
            where, item = rows[item_id]
            if not any(item.get(field.removeprefix("=")) for field in spec.fields):
                item = {"text": "-"}
            if item_id not in items:
                items[item_id] = Item(item_id, renderer(item, where=where), "")
        item_ids, grades = tuple(str(row["doc_id"]) for row in chosen), tuple(int(row["grade"]) for row in chosen)
        queries.append(JudgedQuery(query, str(chosen[0]["query"]), item_ids, grades))
    train, dev, test = spec.sizes
    return Split(items, queries[:train], queries[train : train + dev], queries[train + dev : train + dev + test])


def configuration(name: str, number: int, overrides: Sequence[str]) -> Config:
    """Build the configuration: the product's defaults, with short caps.

    :param number: of the split; seeds everything random.
    :param overrides: as ``--set`` gives them.
    """
    spec = SETS[name]
    tables: dict[str, Any] = {
        "model": {"name": "learner", "query_cap": 48, "item_cap": 110},
        "data": {"items": "-", "judgments": "-"}, "seed": number,
        "grades": {"names": [str(g) for g in range(spec.grades)]},
        "template": {"fields": list(spec.fields), "id_field": "doc_id"},
    }  # fmt: skip
    for text in overrides:  # TABLE.KEY=VALUE is a line of TOML
        for table, keys in tomllib.loads(text).items():
            tables[table] = tables.get(table, {}) | keys
    return parse_config(tables, where="--set")


def begin_run(folder: Path, name: str, number: int, overrides: Sequence[str]) -> tuple[Config, Split, Features]:
    """Make the untrained model and read a split.

    :param folder: what ``DARL_DATA`` names.
    :param number: of the split; seeds everything random.
    :param overrides: as ``--set`` gives them.
    """
    torch.manual_seed(number)
    config = configuration(name, number, overrides)
    model = SplitReranker.from_base(config, "cumulative")
    renderer = ItemRenderer(config.template.item_template, model.tokenizer(), config.model.item_cap)
    split = read_split(folder, name, number, renderer)
    model.fit_texts(item.text for item in split.items.values())
    return config, split, Features(model)


def train(folder: Path, name: str, number: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train on one split, every stage unconditionally, and measure the test queries after each.

    :return: JSON-ready figures by stage.
    """
    config, split, features = begin_run(folder, name, number, overrides)
    data = RunData(split.items, split.train, split.dev, [])
    pairs = {role: data.judged(queries) for role, queries in (("train", split.train), ("dev", split.dev))}
    test = data.judged(split.test)
    objective = Objective.make(config.loss, config.grades.scale.gains)
    found = {"query_ids": [query.query_id for query in split.test], "pairs": len(pairs["train"].grades)}
    stages = {UNTRAINED: measure(features, pairs["dev"], test, config)}
    with tempfile.TemporaryDirectory() as run:
        context = Context(features, objective, config, data, pairs, Path(), Path(run), lambda what, done, total: None)
        for place, stage in enumerate(config.stages.run):
            begin = time.perf_counter()
            STAGES[stage].make().run(dataclasses.replace(context, number=place))
            seconds = time.perf_counter() - begin
            stages[stage] = measure(features, pairs["dev"], test, config) | {
                "seconds": round(seconds, 1), "threads": torch.get_num_threads(),
            }  # fmt: skip
    return found | {"stages": stages}


def predict_test(features: Features, dev: Pairs, test: Pairs) -> Predictions:
    """Predict the test pairs by the current model, its grades calibrated on dev."""
    head = copy.deepcopy(features.model.head)
    calibrate_afresh(head, dev, features.of(dev).head_input)
    return predict(head, features.of(test).head_input)


def measure(features: Features, dev: Pairs, test: Pairs, config: Config) -> dict[str, Any]:
    """Measure the current model on the test queries, its grades calibrated on dev."""
    found = predict_test(features, dev, test)
    return figures_of(found.grade_probs, found.latent, *test.numpy(config.grades.scale.gains))


def figures_of(probs: Floats, score: Floats, grades: Ints, gain: Floats, query: Ints) -> dict[str, Any]:
    """Compute figures of predictions: nDCG and RPS of every query, macro-F1 and kappa of all pairs."""
    found = measure_by_query(probs, score, grades, gain, query, cutoff=CUTOFF)
    table = confusion(grades, probs.argmax(1), probs.shape[1])
    return {
        "ndcg": {str(q): round(value, 5) for q, value in found.ndcg.items()},
        "rps": {str(q): round(value, 5) for q, value in found.rps.items()},
        "macro_f1": round(float(macro_f1(table)), 4), "kappa": round(float(quadratic_kappa(table)), 4),
    }  # fmt: skip


def read_beside(path: Path, query_ids: Sequence[str]) -> dict[str, Any]:
    """Read another program's predictions.

    :raises InputError: if they are of other queries.
    """
    with np.load(path) as stored:
        if stored["names"].tolist() != list(query_ids):
            raise InputError("the predictions are of other queries", where=str(path), todo="use the same split")
        grades = stored["y"].astype(np.int64)
        return figures_of(stored["p"].astype(np.float64), stored["z"], grades, grades.astype(float), stored["q"])


def gather(work: Path, beside: Path | None) -> dict[str, Any]:
    """Gather all runs: means by set, and each stage against the untrained model, the default and the other program."""
    found: dict[str, dict[str, list[tuple[dict[str, Any], dict[str, Any]]]]] = {}  # runs and figures by set and variant
    for path in sorted(work.glob("*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        variants = {s if s == UNTRAINED else f"{run['variant']}, {s}": figures for s, figures in run["stages"].items()}
        predictions = None if beside is None else beside / f"{run['set']}-{run['split']}-trained.npz"
        if predictions is not None and predictions.is_file() and run["variant"] == DEFAULT:
            variants[OTHER] = read_beside(predictions, run["query_ids"])
        for variant, figures in variants.items():
            found.setdefault(run["set"], {}).setdefault(variant, []).append((run, figures))
    return {name: _compare_variants(variants) for name, variants in found.items()}


def _compare_variants(variants: Mapping[str, Sequence[tuple[dict[str, Any], dict[str, Any]]]]) -> dict[str, Any]:
    """Summarise the variants of a set: means by split, and differences to those that they are held against."""
    values = {variant: {key: _by_query_id(runs, key) for key in PER_QUERY} for variant, runs in variants.items()}
    against = [v for v in variants if v in (UNTRAINED, OTHER) or v.startswith(DEFAULT)]
    return {
        variant: {
            "splits": {str(run["split"]): _means(figures) for run, figures in runs},
            "against": {
                other: {key: compare(values[variant][key], values[other][key]) for key in PER_QUERY}
                for other in against if other != variant
            },
        }
        for variant, runs in variants.items()
    }  # fmt: skip


def _by_query_id(runs: Sequence[tuple[dict[str, Any], dict[str, Any]]], key: str) -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for run, figures in runs:
        for number, value in figures[key].items():
            values.setdefault(run["query_ids"][int(number)], []).append(value)
    return values


def _means(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        **{key: figures[key] for key in ("macro_f1", "kappa", "seconds", "threads") if key in figures},
        **{key: round(float(np.mean(list(figures[key].values()))), 5) for key in PER_QUERY},
    }


def compare(one: Mapping[str, list[float]], two: Mapping[str, list[float]]) -> dict[str, Any]:
    """Difference over queries; a query that several splits test is averaged over them, and left out if they differ."""
    shared = sorted(q for q in one.keys() & two.keys() if len(one[q]) == len(two[q]))
    return bootstrap_mean(np.array([np.mean(one[q]) - np.mean(two[q]) for q in shared]), seed=0).to_json()


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.learner", description=__doc__)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=["epqa", "semeval_cqa_a"])
    parser.add_argument("--splits", nargs="*", type=int, default=list(range(5)), help="default: 0 1 2 3 4")
    parser.add_argument("--variant", default=DEFAULT, help="name of the settings (default: default)")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change a setting")
    parser.add_argument("--beside", type=Path, help="folder with another program's predictions")
    parser.add_argument("--work", type=Path, default=HERE / "work" / "learner", help="where runs are kept")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write")
    args = parser.parse_args(argv)
    if bool(args.set) == (args.variant == DEFAULT):
        parser.error("--set needs the name of a --variant, and a variant needs a --set")
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        folder = data_folder()
        for number in args.splits:
            for name in args.sets:
                path = args.work / f"{name}-{number}-{args.variant}.json"
                if not path.is_file():
                    run = train(folder, name, number, args.set)
                    facts = {"set": name, "split": number, "variant": args.variant, "settings": args.set}
                    write_file(path, json.dumps(facts | run))
                    print(name, number, args.variant, {
                        stage: _means(figures) for stage, figures in run["stages"].items()
                    }, flush=True)  # fmt: skip
        found = gather(args.work, args.beside)
        data = {file: digest_file(folder / file) for name in found for file in SETS[name].files(name)}
        result = {"sets": found, "data": data, "circumstances": describe_machine("torch")}
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    write_result(args.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
