"""Pairs a second and peak memory of LoRA training, beside a plain loop around peft.

SmolLM2-135M-Instruct on judged pairs of ePQA: the same prompts, pairs a step and adapters, each engine in a process of
its own with one thread, in turns; pairs are counted per second of processor time, so that a busy machine matters less.
The plain loop has no queries: each of its steps is a batch of pairs of similar length, in one pass, with the
cross-entropy of the grade words at the last token. Run as ``python -m benchmarks.training.llm``, with ``DARL_DATA``
naming the folder of real judgments. ``--precision bf16`` is for processors that have it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import data_folder, describe_machine, write_result
from benchmarks.quality import report
from benchmarks.quality.learner import SETS, read_split
from darl_opensearch.errors import DarlError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.text import ItemRenderer
from trainer.config import Config, parse_config
from trainer.models.converted import find_packaged_smollm2
from trainer.models.llm import LlmReranker
from trainer.models.lora import find_targets
from trainer.models.sources import load_tokenizer
from trainer.stages.fit import Fit, FitSettings
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Objective
from trainer.training_data.source import Batch

SET = "epqa"
QUERIES, ITEMS, STEPS, WARM = 2, 3, 3, 1  # of a step; items of each query; steps; the first of them are not counted
PAIRS = QUERIES * ITEMS
THREADS = {"OMP_NUM_THREADS": "1"}  # with more, processor time counts their waiting for each other
PEFT, DARL = "plain peft loop", "darl train"
LAYERS = (0, 8)  # top layers with adapters; 0: all
GRADES = ("irrelevant", "partly", "fully")
Row = tuple[int, str, str, int, list[int]]  # number of the query, query, item, grade, tokens of the prompt
RESULT = Path(__file__).parents[1] / "quality" / "results" / "llm_speed.json"


def configured(layers: int) -> Config:
    """The configuration of both engines.

    :param layers: number of top layers that get adapters; 0: all.
    """
    return parse_config(
        {
            "model": {"name": "speed", "backbone": "llm", "base": "packaged:SmolLM2-135M-Instruct", "query_cap": 48,
                      "item_cap": 110},
            "data": {"items": "-", "judgments": "-"}, "grades": {"names": list(GRADES)},
            "template": {"fields": list(SETS[SET].fields), "id_field": "doc_id"},
            "loss": {"grade": "cross_entropy"}, "lora": {"layers": layers},
        },
        where="benchmark",
    )  # fmt: skip


def draw_steps(folder: Path) -> list[list[Row]]:
    """Draw the steps: some queries each, with their first items.

    :param folder: what ``DARL_DATA`` names.
    """
    tokenizer = LlmReranker.from_base(configured(0), "nominal").tokenizer()
    config = configured(0)
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    found = read_split(folder, SET, 0, renderer)
    queries = [query for query in found.train if len(query.item_ids) >= ITEMS]
    rows: list[Row] = []
    for number, query in enumerate(queries[: STEPS * QUERIES]):
        for item_id, grade in zip(query.item_ids[:ITEMS], query.grades, strict=False):
            text = found.items[item_id].text
            rows.append((number, query.query, text, grade, tokenizer.encode(query.query, text).ids))
    return [rows[at : at + PAIRS] for at in range(0, len(rows), PAIRS)]


class InOrder:
    """The steps in their order, whatever the epoch shuffles."""

    def __init__(self, steps: Sequence[Sequence[Row]]) -> None:
        self.n_queries, self._next = len(steps), iter(steps)

    def batch(self, queries: Sequence[int], epoch: int) -> Batch:
        numbers, texts, items, grades, _ = zip(*next(self._next), strict=True)
        return Batch(
            list(texts), list(items), torch.tensor(numbers), torch.tensor(grades), torch.zeros(0), [""] * PAIRS
        )


def ours(steps: Sequence[Sequence[Row]], layers: int, precision: str) -> list[float]:
    """Train as ``darl train`` does, and return the processor times at which steps ended, in seconds."""
    config = configured(layers)
    model = LlmReranker.from_base(config, "nominal")
    settings = FitSettings(epochs=1, learning_rate=5e-5, head_learning_rate=2e-3, batch_queries=1, evaluations=1,
                           patience=9, precision=precision, device="cpu")  # fmt: skip
    loss = GradedLoss(Objective.make(config.loss, config.grades.scale.gains))
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        fit = Fit(model, loss, lambda: 0.0, settings, InOrder(steps), seed=0, folder=Path(work) / "fit")
        fit.run(lambda done, total: ends.append(time.process_time()))
    return ends


def theirs(steps: Sequence[Sequence[Row]], layers: int, precision: str) -> list[float]:
    """Train by a plain loop around peft, and return the processor times at which steps ended, in seconds."""
    import peft
    from transformers import AutoModelForCausalLM

    config = configured(layers)
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    base = AutoModelForCausalLM.from_pretrained(find_packaged_smollm2(), dtype=kind)
    depth = base.config.num_hidden_layers
    settings = peft.LoraConfig(
        r=config.lora.rank, lora_alpha=int(config.lora.alpha), lora_dropout=config.lora.dropout, task_type="CAUSAL_LM",
        target_modules=find_targets(base.model, ()),
        layers_to_transform=list(range(depth - layers, depth)) if layers else None,
    )  # fmt: skip
    model = peft.get_peft_model(base, settings)
    words = [load_tokenizer(config.model.base)(word)["input_ids"][0] for word in GRADES]
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=5e-5)
    ends: list[float] = []
    model.train()
    for ids, mask, labels in bucketed(steps):
        optimiser.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits[:, -1, words]
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        ends.append(time.process_time())
    return ends


def bucketed(steps: Sequence[Sequence[Row]]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Make batches of similar length, padded on the left: first of the uncounted steps' pairs, then of the others'."""
    made = []
    for part in (steps[:WARM], steps[WARM:]):
        rows = sorted((row for step in part for row in step), key=lambda row: len(row[-1]))
        batches = [rows[at : at + PAIRS] for at in range(0, len(rows), PAIRS)]
        for place in np.random.default_rng(0).permutation(len(batches)).tolist():
            width = len(batches[place][-1][-1])
            gaps = [width - len(ids) for *_, ids in batches[place]]
            padded = torch.tensor([[0] * gap + ids for gap, (*_, ids) in zip(gaps, batches[place], strict=True)])
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
            made.append((padded, mask, torch.tensor([row[3] for row in batches[place]])))
    return made


def work(engine: str, layers: int, precision: str, path: Path) -> dict[str, float]:
    """Train in this process.

    :param path: JSON with the steps.
    :return: pairs per second of processor time, and peak resident memory in MiB.
    """
    torch.manual_seed(0)
    steps = json.loads(path.read_text(encoding="utf-8"))
    ends = (theirs if engine == PEFT else ours)(steps, layers, precision)
    return {
        "pairs_per_second": round(PAIRS * (len(ends) - WARM) / (ends[-1] - ends[WARM - 1]), 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def run(*, rounds: int, layers: Sequence[int], precision: str) -> dict[str, Any]:
    """Measure both engines in turns.

    :param rounds: repetitions, in each of which every engine runs once.
    :param layers: numbers of top layers with adapters; 0: all.
    :return: JSON-ready result.
    """
    begin = time.perf_counter()
    steps = draw_steps(data_folder())
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "steps.json"
        path.write_text(json.dumps(steps), encoding="utf-8")
        for number, top in itertools.product(range(rounds), layers):
            name = f"adapters in the top {top} layers" if top else "adapters in all layers"
            for engine in np.random.default_rng([number, top]).permutation([PEFT, DARL]).tolist():
                command = [sys.executable, "-m", "benchmarks.training.llm", "--worker", engine, str(top), str(path),
                           "--precision", precision]  # fmt: skip
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | THREADS)
                figures = json.loads(done.stdout.splitlines()[-1])
                found.setdefault(name, {}).setdefault(engine, []).append(figures)
                print(f"{name}, {engine}: {figures}", file=sys.stderr, flush=True)
    return {
        "found": found,
        "circumstances": describe_machine("torch", "transformers", "peft"),
        "seconds": round(time.perf_counter() - begin, 1),
        "config": {
            "rounds": rounds, "precision": precision, "pairs_a_step": PAIRS, "steps": STEPS, "warm_up_steps": WARM,
            "tokens_a_pair": round(float(np.mean([len(row[-1]) for step in steps for row in step])), 1),
            "lora": {k: v for k, v in dataclasses.asdict(configured(0).lora).items() if k != "layers"},
            "data": {file: digest_file(data_folder() / file) for file in SETS[SET].files(SET)},
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Run from the command line.

    :param argv: arguments; none: those of the process.
    :return: exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training.llm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions (default: 3)")
    parser.add_argument("--layers", type=int, nargs="*", default=list(LAYERS), help="default: 0 8; 0 is all layers")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON to write")
    parser.add_argument("--worker", nargs=3, metavar=("ENGINE", "LAYERS", "STEPS"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.worker:
            print(json.dumps(work(args.worker[0], int(args.worker[1]), args.precision, Path(args.worker[2]))))
            return 0
        result = run(rounds=args.rounds, layers=args.layers, precision=args.precision)
    except DarlError as err:
        print(f"error: {err}", file=sys.stderr)
        return err.exit_code
    write_result(args.out, result)
    report.refresh()
    return 0


if __name__ == "__main__":
    sys.exit(main())
