"""Does the memory of a training run grow with the file of judgments?

Run as ``python -m benchmarks.training.memory``. Synthetic judgments are written to a temporary folder, then read,
checked, stored and drawn for one epoch in a process of its own, which reports its peak resident memory: with the data
on disk and, for comparison, in memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.feedbackqa import circumstances

PAIRS_PER_QUERY, PAIRS_PER_ITEM, BATCH_QUERIES, CAP, TRAFFIC = 10, 10, 8, 16, 50
STORES = ("disk", "memory")
KEYS = {"held_out_queries": 2000, "sample_pairs": 50_000}


def words(generator: random.Random, count: int) -> str:
    """Some of 20,000 words, the first ones often."""
    return " ".join(f"word{int(20_000 * generator.random() ** 3)}" for _ in range(count))


def write(folder: Path, pairs: int, seed: int) -> None:
    """Write a project: items, judgments in no order, traffic, darl.toml."""
    generator = random.Random(seed)
    n_items = pairs // PAIRS_PER_ITEM
    with (folder / "items.jsonl").open("w", encoding="utf-8") as file:
        for n in range(n_items + TRAFFIC):
            file.write(
                json.dumps({"id": f"item-{n}", "title": words(generator, 8), "text": words(generator, 20)}) + "\n"
            )
    order = np.random.default_rng(seed).permutation(pairs)
    with (folder / "judgments.jsonl").open("w", encoding="utf-8") as file:
        for pair in order.tolist():
            query, place = divmod(pair, PAIRS_PER_QUERY)
            text = words(random.Random(f"{seed}/{query}"), 4)
            item = (query * 7919 + place * 104_729) % n_items
            row = {"query_id": f"query-{query}", "query": text, "item_id": f"item-{item}", "grade": (query + place) % 3}
            file.write(json.dumps(row) + "\n")
    with (folder / "traffic.jsonl").open("w", encoding="utf-8") as file:
        for n in range(TRAFFIC):
            row = {"query": f"traffic {words(generator, 3)}", "items": [f"item-{n_items + n}"]}
            file.write(json.dumps(row) + "\n")
    lines = [
        '[model]\nname = "memory"', '[data]\nitems = "items.jsonl"', 'judgments = "judgments.jsonl"',
        'traffic = "traffic.jsonl"', *(f"{key} = {value}" for key, value in KEYS.items()),
        '[grades]\nnames = ["no", "some", "yes"]', '[template]\nfields = ["=title", "text"]',
    ]  # fmt: skip
    (folder / "darl.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def peak() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux, getrusage begins with what the parent had
        lines = status.read_text(encoding="utf-8").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def measure(folder: Path, store: str) -> dict[str, Any]:
    """Read, check, keep and draw one epoch, in this process."""
    from tokenizers import Tokenizer

    from trainer.config import read_config
    from trainer.models.sources import find_packaged_minilm
    from trainer.training_data.reading import read_data
    from trainer.training_data.source import JudgedSource

    tokenizer = Tokenizer.from_file(str(find_packaged_minilm() / "tokenizer.json"))
    config = read_config(folder / "darl.toml", [f"data.store={store}"])
    place = folder / "store.sqlite"
    told: dict[str, Any] = {"mib_before": peak()}
    begin = time.perf_counter()
    data = read_data(config, folder, tokenizer, store=place)
    told["seconds_read"] = round(time.perf_counter() - begin, 1)
    told["mib_read"] = peak()
    begin = time.perf_counter()
    source, pairs = JudgedSource(data.train, data.items, cap=CAP, seed=0), 0
    for batch in epoch(source.n_queries):
        pairs += len(source.batch(batch, 0).grades)
    told["seconds_epoch"] = round(time.perf_counter() - begin, 1)
    told["mib"] = peak()
    if store == "disk":
        begin = time.perf_counter()
        read_data(config, folder, tokenizer, store=place)
        told["seconds_opened_again"] = round(time.perf_counter() - begin, 1)
        told["store_mib"] = round(place.stat().st_size / 2**20, 1)
    return told | {"queries": source.n_queries, "drawn_pairs": pairs, "dev_queries": len(data.dev),
                   "sampled_pairs": sum(len(q.grades) for q in data.sampled)}  # fmt: skip


def epoch(queries: int) -> Iterator[list[int]]:
    """Queries in random order, some at a time."""
    order = np.random.default_rng(0).permutation(queries)
    for begin in range(0, queries, BATCH_QUERIES):
        yield order[begin : begin + BATCH_QUERIES].tolist()


def run(sizes: list[int], seed: int) -> dict[str, Any]:
    """Measure every size and store."""
    found: dict[str, Any] = {}
    for pairs in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder, pairs, seed)
            files = [folder / name for name in ("items.jsonl", "judgments.jsonl")]
            row: dict[str, Any] = {"files_mib": round(sum(f.stat().st_size for f in files) / 2**20, 1)}
            for store in STORES:
                print(f"{pairs} pairs, {store}", file=sys.stderr)
                command = [sys.executable, "-m", "benchmarks.training.memory", "--measure", store, str(folder)]
                row[store] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[str(pairs)] = row
    return {
        "config": {"sizes": sizes, "seed": seed, "pairs_per_query": PAIRS_PER_QUERY, "pairs_per_item": PAIRS_PER_ITEM,
                   "batch_queries": BATCH_QUERIES, "cap": CAP, **KEYS},
        **circumstances(),
        "pairs": found,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/quality/results/memory.json"))
    parser.add_argument("--measure", choices=STORES, help=argparse.SUPPRESS)
    parser.add_argument("folder", type=Path, nargs="?", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.folder, options.measure)))
        return
    result = run(options.sizes, options.seed)
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["pairs"], indent=2))


if __name__ == "__main__":
    main()
