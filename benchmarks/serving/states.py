"""What item states save: a hundred items of a search, scored cold and warm, beside pairs and sentence-transformers.

One bundle of all-MiniLM-L6-v2 is trained on the sample and exported; the texts are ESCI products of ``DARL_DATA``, the
queries its own. Engines take turns in shuffled rounds in one process, one thread a core, and each round asks for other
queries. Which items are searched for follows Zipf's law, so that a warm store holds the frequent ones in memory. The
peer reads the same pairs with a model of the same shape (its head is random: only its speed is compared), and needs the
environment of ``requirements/peers.txt``; without it the row is left out and said so.

    DARL_DATA=… python -m benchmarks.serving.states --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import describe_machine, spread, write_result, zipf_shares
from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import StateStore

RESULT = Path(__file__).parent / "results" / "states.json"
SAMPLE = Path(__file__).parents[2] / "examples" / "insurance"
FIELDS = ("title", "brand", "color", "description")
ITEMS, SHOWN, QUERIES = 4000, 100, 6  # items in all, items of a search, searches of an engine and a round
Score = Callable[[str, Sequence[str]], Any]


def read_texts(folder: Path, tokenizer: Any, most: int = ITEMS) -> tuple[list[str], list[str], float]:
    """Read products and queries of ESCI.

    :param tokenizer: without padding, and with no truncation below the length of a pair.
    :param most: maximum items; the file holds 6,764.
    :return: item texts, queries, and the mean number of tokens of a pair.
    """
    from darl_opensearch.text import cut_to_tokens

    with gzip.open(folder / "esci" / "products.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    raw = [" | ".join(str(row.get(name) or "") for name in FIELDS) for row in rows]
    items = [cut_to_tokens(text, tokenizer, 96) for text in itertools.islice(dict.fromkeys(raw), most)]
    with gzip.open(folder / "esci" / "judgments.jsonl.gz", "rt", encoding="utf-8") as file:
        queries = list(dict.fromkeys(json.loads(line)["query"] for line in file))
    tokens = [len(tokenizer.encode(queries[n % len(queries)], text).ids) for n, text in enumerate(items[:500])]
    return items, queries, float(np.mean(tokens))


def make_bundle(folder: Path, given: Path | None = None) -> Bundle:
    """Train the sample's model and export it to ``bundle`` in a folder, or link a bundle that is given there."""
    if given is not None:
        (folder / "bundle").symlink_to(given.resolve())
        return Bundle.open(folder / "bundle")
    from trainer.config import read_config
    from trainer.export import export_run
    from trainer.stages.plan import train

    config = read_config(SAMPLE / "darl.toml")
    return export_run(train(config, SAMPLE, folder / "run"), SAMPLE, folder / "bundle", checkpoint=False)


def add_pair_graph(bundle: Bundle, folder: Path) -> Bundle:
    """Copy a bundle and add ``model_int8.onnx``, which reads pairs; with item states none is exported."""
    from trainer.export.int8 import quantise

    with files.writing(folder, bundle.card) as work:
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        (work / files.CARD).unlink()
        quantise(bundle.file(files.MODEL), work / files.MODEL_INT8)
    return Bundle.open(folder)


def open_peer() -> tuple[str, Score] | None:
    """Open sentence-transformers' CrossEncoder with its defaults, on a model of the same shape."""
    try:
        from sentence_transformers import CrossEncoder
    except ModuleNotFoundError:
        return None
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    from trainer.models.sources import find_packaged_minilm

    base = find_packaged_minilm()
    with tempfile.TemporaryDirectory() as folder:
        config = BertConfig.from_pretrained(base, num_labels=1)
        BertForSequenceClassification.from_pretrained(base, config=config).save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        model = CrossEncoder(folder, device="cpu", max_length=160)
    name = f"sentence-transformers {version('sentence-transformers')} CrossEncoder, default"
    return name, lambda query, items: model.predict([(query, item) for item in items])


def draw(rng: np.random.Generator, items: Sequence[str], shares: np.ndarray[Any, Any]) -> list[str]:
    """Draw the distinct items of a search."""
    return [items[n] for n in rng.choice(len(items), SHOWN, replace=False, p=shares)]


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Run all engines.

    :return: milliseconds of a search of a hundred items, by engine.
    """
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as open_:
        bundle = make_bundle(Path(work))
        items, queries, tokens = read_texts(Path(os.environ["DARL_DATA"]), bundle.tokenizer)
        shares = zipf_shares(len(items))
        engines: dict[str, Score] = {}
        for name, int8 in (("fp32", False), ("int8", True)):
            of_pairs = add_pair_graph(bundle, Path(work) / "pairs") if int8 else bundle
            engines[f"pairs, {name}"] = open_.enter_context(Scorer.open(of_pairs, int8=int8)).score
            store = open_.enter_context(StateStore(Path(work) / name))
            warm = open_.enter_context(Scorer.open(bundle, int8=int8, states=store))
            for start in range(0, len(items), SHOWN):
                warm.score("warm up", items[start : start + SHOWN])
            engines[f"item states, {name}, warm"] = warm.score
            empty = open_.enter_context(StateStore(None, memory_bytes=0))
            cold = open_.enter_context(Scorer.open(bundle, int8=int8, states=empty))
            engines[f"item states, {name}, cold"] = cold.score
        if (peer := open_peer()) is not None:
            engines[peer[0]] = peer[1]
        for score in engines.values():
            score("warm up", items[:SHOWN])
        times: dict[str, list[float]] = {name: [] for name in engines}
        asked = iter(rng.permutation(len(queries)).tolist() * (1 + rounds * QUERIES * len(engines) // len(queries)))
        for _ in range(rounds):
            for place in rng.permutation(len(engines)).tolist():
                name = list(engines)[place]
                for _ in range(QUERIES):
                    query, shown = queries[next(asked)], draw(rng, items, shares)
                    started = time.perf_counter()
                    engines[name](query, shown)
                    times[name].append(1000 * (time.perf_counter() - started))
    return {
        "items": len(items), "shown": SHOWN, "mean_tokens_of_a_pair": round(tokens, 1), "zipf": 1.0, "rounds": rounds,
        "searches": rounds * QUERIES, "seed": seed, **describe_machine("onnxruntime", "torch", "sentence-transformers"),
        "milliseconds": {name: spread(values) for name, values in times.items()},
    }  # fmt: skip


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = measure(options.rounds, options.seed)
    write_result(options.out, result)
    for name, times in result["milliseconds"].items():
        print(f"{name:60} p50 {times['p50']:8.1f} ms   {times['p5']:8.1f} to {times['p95']:8.1f}")
    if result["versions"]["sentence-transformers"] is None:
        print("sentence-transformers is not installed: its row is left out")


if __name__ == "__main__":
    main()
