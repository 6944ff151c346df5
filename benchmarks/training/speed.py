"""Pairs a second of a training step, beside sentence-transformers' CrossEncoder trainer.

The same weights, texts, lengths and pairs a step, each engine in a process of its own, in turns. Needs the
environment of ``requirements/peers.txt``; run there as ``python -m benchmarks.training.speed``, with ``DARL_DATA``
naming the folder of real judgments and nothing else running.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import data_folder
from benchmarks.quality import report, sets
from benchmarks.quality.data import GAINS
from benchmarks.quality.feedbackqa import circumstances
from benchmarks.quality.training import source_of
from darl_opensearch.errors import DarlError
from darl_opensearch.text import cut_to_tokens
from trainer.config import Config, Data, Grades, Model, Template
from trainer.models.cross import CrossEncoder
from trainer.models.sources import find_packaged_minilm
from trainer.models.split import SplitReranker
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Objective
from trainer.training_data.pairs import Pairs
from trainer.training_data.source import JudgedSource

CAPS: dict[str, Any] = {"query_cap": 60, "item_cap": 192}
LENGTH = 256  # of a pair, special tokens included
PAIRS, STEPS, WARM = 16, 12, 2  # pairs a step; steps; the first of them are not counted
ITEMS = {"FeedbackQA": 3, "ESCI": 16}  # of a query: what was judged, or its first
ENGINES = ("sentence-transformers", "cross", "split")


def texts(folder: Path, name: str, *, seed: int) -> list[tuple[str, str, int, int]]:
    """Pairs in an order that keeps those of a query together, texts cut to the caps.

    :param folder: what ``DARL_DATA`` names.
    :param name: ``FeedbackQA`` or ``ESCI``.
    :param seed: of the order.
    :return: query, item, whether it is relevant, number of the query.
    """
    found = sets.read_texts(folder, name.lower(), seed=seed)
    tokenizer = sets.untrained(Model(name="speed", **CAPS)).tokenizer()
    rows = []
    for place, q in enumerate(np.random.default_rng(seed).permutation(len(found.queries)).tolist()):
        query = cut_to_tokens(found.queries[q], tokenizer, CAPS["query_cap"])
        for item_id, grade in found.judged[q][: ITEMS[name]]:
            item = cut_to_tokens(found.passages[item_id], tokenizer, CAPS["item_cap"])
            rows.append((query, item, int(grade >= 2), place))
        if len(rows) >= PAIRS * STEPS:
            break
    return rows[: PAIRS * STEPS]


def ours(rows: list[tuple[str, str, int, int]], backbone: str, precision: str) -> list[float]:
    """Train one of the project's backbones.

    :param rows: the pairs.
    :param backbone: ``cross`` or ``split``.
    :param precision: ``fp32`` or ``bf16``.
    :return: times at which steps ended, in seconds.
    """
    base = Model(name="speed", base=str(find_packaged_minilm()), backbone=backbone, **CAPS)
    config = Config(model=base, data=Data(items="-", judgments="-"), grades=Grades(names=("no", "yes")),
                    template=Template(fields=("=text",)))  # fmt: skip
    make: Any = {"cross": CrossEncoder, "split": SplitReranker}[backbone]
    model = make.from_base(config, "cumulative")
    items = list(dict.fromkeys(row[1] for row in rows))
    where = {text: i for i, text in enumerate(items)}
    # A step has as many pairs as the other engine's: queries are cut where a step ends.
    steps = [rows[i : i + PAIRS] for i in range(0, len(rows), PAIRS)]
    queries, index = [], []
    for number, step in enumerate(steps):
        for query, item, _, _ in step:
            if (number, query) not in queries:
                queries.append((number, query))
            index.append((queries.index((number, query)), where[item]))
    pairs = Pairs(tuple(q for _, q in queries), tuple(items), torch.tensor(index), torch.tensor([r[2] for r in rows]))
    settings = FitSettings(epochs=1, learning_rate=2e-5, head_learning_rate=1e-3, batch_queries=1, evaluations=1,
                           patience=9, precision=precision, device="cpu")  # fmt: skip
    source = _Steps(source_of(pairs, cap=PAIRS, seed=0), [[i for i, (n, _) in enumerate(queries) if n == number]
                                                           for number in range(len(steps))])  # fmt: skip
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        fit = Fit(model, GradedLoss(Objective.make(config.loss, (0.0, 1.0))), lambda: 0.0, settings, source, seed=0,
                  folder=Path(work) / "fit")  # fmt: skip
        fit.run(lambda done, total: ends.append(time.perf_counter()))
    return ends


class _Steps:
    """Whole steps in the place of queries."""

    def __init__(self, source: JudgedSource, steps: list[list[int]]) -> None:
        self.source, self.steps = source, steps

    @property
    def n_queries(self) -> int:
        return len(self.steps)

    def batch(self, queries: Any, epoch: int) -> Any:
        return self.source.batch([q for number in queries for q in self.steps[number]], epoch)


def theirs(rows: list[tuple[str, str, int, int]], precision: str) -> list[float]:
    """Train by sentence-transformers.

    :param rows: the pairs.
    :param precision: ``fp32`` or ``bf16``.
    :return: times at which steps ended, in seconds.
    """
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )
    from transformers import TrainerCallback

    model = CrossEncoder(str(find_packaged_minilm()), num_labels=1, max_length=LENGTH, device="cpu")
    data = Dataset.from_dict({"query": [r[0] for r in rows], "item": [r[1] for r in rows],
                              "label": [float(r[2]) for r in rows]})  # fmt: skip
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as work:
        arguments = CrossEncoderTrainingArguments(
            output_dir=work, per_device_train_batch_size=PAIRS, num_train_epochs=1, save_strategy="no",
            report_to=[], use_cpu=True, bf16=precision == "bf16", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        CrossEncoderTrainer(model=model, args=arguments, train_dataset=data, callbacks=[Clock()],
                            loss=losses.BinaryCrossEntropyLoss(model)).train()  # fmt: skip
    return ends


def work(engine: str, precision: str, path: Path) -> None:
    """Train in this process and print pairs a second.

    :param engine: one of ``ENGINES``.
    :param precision: ``fp32`` or ``bf16``.
    :param path: JSON with the pairs.
    """
    rows: list[Any] = [tuple(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    torch.manual_seed(0)
    ends = theirs(rows, precision) if engine == ENGINES[0] else ours(rows, engine, precision)
    print(json.dumps({"pairs_per_second": PAIRS * (len(ends) - WARM) / (ends[-1] - ends[WARM - 1])}))


def run(folder: Path, *, rounds: int, precisions: tuple[str, ...]) -> dict[str, Any]:
    """Time every engine in turns.

    :param folder: what ``DARL_DATA`` names.
    :param rounds: repetitions, in each of which every engine runs once.
    :param precisions: of the forward passes.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    found: dict[str, Any] = {}
    for name in ITEMS:
        rows = texts(folder, name, seed=0)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "pairs.json"
            path.write_text(json.dumps(rows), encoding="utf-8")
            for precision in precisions:
                times: dict[str, list[float]] = {engine: [] for engine in ENGINES}
                for number in range(rounds):
                    for engine in np.random.default_rng(number).permutation(ENGINES).tolist():
                        command = [sys.executable, "-m", "benchmarks.training.speed", "--worker", engine,
                                   "--precision", precision, "--pairs", str(path)]  # fmt: skip
                        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                        times[engine].append(json.loads(done.stdout.splitlines()[-1])["pairs_per_second"])
                        print(f"{name}, {precision}, {engine}: {times[engine][-1]:.1f} pairs/s", file=sys.stderr)
                found[f"{name}, {precision}"] = {
                    engine: {
                        "pairs_per_second": [round(v, 2) for v in values],
                        "times_sentence_transformers": [
                            round(v / o, 3) for v, o in zip(values, times[ENGINES[0]], strict=True)
                        ],
                    }
                    for engine, values in times.items()
                }
    where = circumstances()
    where["versions"]["sentence-transformers"] = version("sentence-transformers")
    return {
        "found": found, "circumstances": where, "seconds": round(time.perf_counter() - begin, 1),
        "config": {"rounds": rounds, "pairs_a_step": PAIRS, "steps": STEPS, "warm_up_steps": WARM, "length": LENGTH,
                   **CAPS, "items": ITEMS, "gains": GAINS, "data": sets.digests(folder, ("esci", "feedbackqa"))},
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.speed", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--precision", action="append", choices=("fp32", "bf16"), help="default: both")
    parser.add_argument("--out", type=Path, default=here.parent / "quality" / "results" / "speed.json")
    parser.add_argument("--worker", choices=ENGINES, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    precisions = tuple(args.precision or ("fp32", "bf16"))
    if args.worker:
        work(args.worker, precisions[0], args.pairs)
        return 0
    try:
        result = run(data_folder(), rounds=args.rounds, precisions=precisions)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(report.render_speed(result))
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
