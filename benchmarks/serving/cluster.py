"""What a search costs in a real node, by mode: in the cluster (fp32, int8, thread settings), by connector, in Python.

One node with ML Commons, started for this and gone afterwards, and ``darl serve`` beside it on the same cores. ML
Commons runs a model on one pair at a time; the archive's ``serving.properties`` sets how many threads ONNX Runtime
takes for it. Items and queries are those of the insurance sample. Modes take turns in shuffled rounds, one search at a
time; the first stage alone is a mode, too. ``int8`` in the cluster is ``model.onnx`` quantised and packed in its
place, which ``darl register`` does not do by itself.

    python -m benchmarks.serving.cluster --rounds 4
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import choose_out, describe_machine, write_result
from benchmarks.serving.load import serve
from benchmarks.serving.sample import SAMPLE, make_bundle
from darl_opensearch import bundle as files
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.sample import read_queries
from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, ScorerAddress, load_items, register
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.io.digest import digest_file
from darl_opensearch.node import running_node
from darl_opensearch.reranker import Reranker
from darl_opensearch.search import PipelineSearch
from darl_opensearch.stats.numbers import round_figure
from trainer.export.int8 import quantise

RESULT = Path(__file__).parent / "results" / "cluster.json"
INDEX, HITS, DEPTHS, QUERIES = "darl-benchmark", 10, (10, 50), 6  # queries of a mode, a depth and a round
LOCAL: dict[str, tuple[str, Mapping[str, str]]] = {
    "in the cluster, fp32": (files.MODEL, {}),
    "in the cluster, fp32, one thread": (files.MODEL, {"option.intraOpNumThreads": "1"}),
    "in the cluster, int8": (files.MODEL_INT8, {}),
    "in the cluster, int8, one thread": (files.MODEL_INT8, {"option.intraOpNumThreads": "1"}),
}
Search = Callable[[str], None]


def pack(bundle: Bundle, folder: Path, number: int, graph: str, properties: Mapping[str, str]) -> Bundle:
    """Write a bundle whose archive for ML Commons holds another graph or other settings."""
    card = dataclasses.replace(bundle.card, version=f"{bundle.card.version}-{number}")
    with files.writing(folder, card) as work:
        shutil.copytree(bundle.path, work, dirs_exist_ok=True)
        (work / files.CARD).unlink()
        if graph == files.MODEL_INT8:
            quantise(bundle.file(files.MODEL), work / files.MODEL)
    if properties:  # added to what is written: the digests follow
        with zipfile.ZipFile(folder / files.ZIP, "a") as archive:
            archive.writestr("serving.properties", "".join(f"{name}={value}\n" for name, value in properties.items()))
        data = json.loads((folder / files.CARD).read_text(encoding="utf-8"))
        data["files"][files.ZIP] = digest_file(folder / files.ZIP)
        (folder / files.CARD).write_text(json.dumps(data), encoding="utf-8")
    return Bundle.open(folder)


def open_modes(stack: contextlib.ExitStack, folder: Path, given: Path | None) -> dict[str, Search]:
    """Start everything, and give a search function for each mode and depth, under ``mode, k``."""
    bundle = make_bundle(folder, given)
    node = stack.enter_context(running_node(heap="3g"))
    cluster = Cluster.open(ClusterOptions(url=node.url))
    load_items(cluster, bundle, SAMPLE / "items.jsonl", INDEX).check()
    cluster.client.indices.refresh(index=INDEX)
    modes: dict[str, Search] = {}
    plain = PipelineSearch(cluster.client, bundle, INDEX)
    modes[f"first stage alone, {HITS}"] = lambda query: _check(len(plain.first_stage(query, size=HITS)))

    def add(name: str, made: Bundle, **options: Any) -> None:
        for depth in DEPTHS:
            pipeline = PipelineOptions(name=f"bench-{len(modes)}", oversample=depth // HITS, max_k=depth)
            register(made, cluster, RegisterOptions(pipeline=pipeline, apply_settings=True, verify=False, **options))
            modes[f"{name}, {depth}"] = _through(PipelineSearch(cluster.client, made, INDEX, pipeline.name))

    for number, (name, (graph, properties)) in enumerate(LOCAL.items()):
        add(name, pack(bundle, folder / f"local-{number}", number, graph, properties))
    for name, options in {
        "by connector, cold": ["--states-memory", "0"], "by connector, warm": [],
        "by connector, warm, int8": ["--int8"],
    }.items():  # fmt: skip
        url = stack.enter_context(serve(bundle, folder / f"{len(modes)}.log", *options))
        named = pack(bundle, folder / f"connector-{len(modes)}", 100 + len(modes), files.MODEL, {})
        add(name, named, mode="connector", scorer=ScorerAddress(f"{url}/v1/rerank", None))
    for name, int8 in (("in Python, warm", False), ("in Python, warm, int8", True)):
        reranker = stack.enter_context(Reranker(bundle, int8=int8))
        for depth in DEPTHS:
            modes[f"{name}, {depth}"] = _in_python(reranker, cluster, depth)
    return modes


def _through(pipeline: PipelineSearch) -> Search:
    def search(query: str) -> None:
        out = pipeline.search(query, size=HITS)
        _check(len(out.hits), reranked=out.reranked)

    return search


def _in_python(reranker: Reranker, cluster: Cluster, depth: int) -> Search:
    def search(query: str) -> None:
        answer = reranker.search(cluster.client, INDEX, query, HITS, window=depth)
        _check(len(answer["hits"]["hits"]), reranked=answer["darl"]["reranked"])

    return search


def _check(hits: int, *, reranked: bool = True) -> None:
    if not hits or not reranked:
        raise SystemExit("a search came back empty, or not reranked")


def run(*, given: Path | None, rounds: int, seed: int) -> dict[str, Any]:
    """Measure all modes; milliseconds as the client sees them."""
    queries = [query.query for query in read_queries(SAMPLE / "test_queries.jsonl") if query.seen]
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        modes = open_modes(stack, Path(scratch), given)
        for search in modes.values():  # item states are made here, and Java compiles
            for query in queries[:20]:
                search(query)
        times: dict[str, list[float]] = {name: [] for name in modes}
        for number in range(rounds):
            for name in draw.sample(sorted(modes), len(modes)):
                for query in draw.sample(queries, QUERIES):
                    started = time.perf_counter()
                    modes[name](query)
                    times[name].append(1000 * (time.perf_counter() - started))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    rows = {
        name: {
            f"p{percent}_ms": round_figure(float(np.percentile(values, percent))) for percent in (5, 50, 95)
        }
        for name, values in times.items()
    }  # fmt: skip
    return {
        "rounds": rounds, "seed": seed, "queries": QUERIES, "hits": HITS, **describe_machine("onnxruntime"),
        "modes": rows,
    }  # fmt: skip


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.cluster", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of all modes (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    logging.getLogger("opensearch").setLevel(logging.ERROR)  # looking for a pipeline that is not there answers 404
    out = choose_out(args.out, RESULT)
    result = run(given=args.bundle, rounds=args.rounds, seed=args.seed)
    write_result(out, result)
    for name, row in sorted(result["modes"].items(), key=lambda item: item[1]["p50_ms"]):
        print(f"{name:<40} {row['p50_ms']:8.1f} ms  ({row['p5_ms']:.1f} to {row['p95_ms']:.1f})")


if __name__ == "__main__":
    main()
