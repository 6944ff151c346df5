"""A release of a changed encoder under a steady load of searches, with and without warming its item states first.

``python -m benchmarks.cycle.release_states BUNDLE`` with a node that runs (``darl node up``) and a bundle of real size;
``darl demo`` leaves one in ``demo-out/bundle``. By connector, with a scorer for each version on one folder of item
states. The earlier version knows every item of the index; the later one has the same weights under another encoder's
name, so it finds no state and costs what a changed encoder costs. While clients search at a fixed rate, the later
version is released: at once, as ``darl release`` does by itself, or after ``--warm all`` has encoded the index. Arms
take turns, each with scorers and a folder of its own. Everything that it makes in the cluster is removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cycle.releases import as_version, clean, serving, steady_load
from benchmarks.measuring import choose_out, describe_machine, write_result
from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, ScorerAddress, load_items
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.release import ReleaseOptions, release
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.resources import insurance_sample
from darl_opensearch.search import PipelineSearch
from darl_opensearch.version import __version__
from darl_opensearch.warm import WarmOptions, warm_index

RESULT = Path(__file__).parent / "results" / "release_states.json"
ARMS = {"without --warm": False, "with --warm all": True}


def measure(
    cluster: Cluster, bundles: Sequence[Bundle], index: str, queries: Sequence[str], given: argparse.Namespace, *,
    warm: bool,
) -> dict[str, Any]:  # fmt: skip
    """Release the later version once under load.

    :param bundles: the earlier version and the later one.
    """
    pipeline = f"{index}-pipeline"
    with tempfile.TemporaryDirectory() as states, contextlib.ExitStack() as stack:
        encoding = WarmOptions(states=Path(states))
        scorers = [stack.enter_context(serving(bundle, "--states", states)) for bundle in bundles]

        def release_version(place: int) -> None:
            options = ReleaseOptions(
                pipeline=pipeline, mode="connector", scorer=ScorerAddress(scorers[place]), index=index,
                history=pipeline, max_k=given.pairs, oversample=max(1, given.pairs // 10), apply_settings=True,
            )  # fmt: skip
            release(bundles[place], cluster, options)

        def client() -> PipelineSearch:
            opened = Cluster.open(ClusterOptions(url=cluster.url))
            return PipelineSearch(opened.client, bundles[0], index, pipeline)

        stack.callback(clean, cluster, bundles, pipeline, pipeline)
        warm_index(bundles[0], cluster, index, "all", encoding)
        release_version(0)
        with steady_load(client, queries, clients=given.clients, rate=given.rate) as seen:
            time.sleep(given.quiet)
            began = time.perf_counter()
            report = warm_index(bundles[1], cluster, index, "all", encoding) if warm else None
            warmed = time.perf_counter()
            release_version(1)
            switched = time.perf_counter()
            time.sleep(given.first)
            settled = time.perf_counter()
            time.sleep(given.quiet)
    windows = {
        "before": (0.0, began), "while_warming": (began, warmed), "during_the_release": (warmed, switched),
        "first_seconds_after": (switched, settled), "later": (settled, float("inf")),
    }  # fmt: skip
    return {
        "encoded": report.encoded if report else 0, "warm_s": round(warmed - began, 2),
        "release_s": round(switched - warmed, 2),
        **{name: seen.figures([window]) for name, window in windows.items() if warm or name != "while_warming"},
        "errors": seen.errors[:5],
    }  # fmt: skip


def main() -> None:
    """Run both arms and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:9200")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=4.0, help="searches a second, all clients together")
    parser.add_argument("--pairs", type=int, default=50, help="pairs scored a search")
    parser.add_argument("--rounds", type=int, default=3, help="releases of each arm")
    parser.add_argument("--quiet", type=float, default=15.0, help="seconds of load before, and at the end")
    parser.add_argument("--first", type=float, default=15.0, help="seconds after the release that are shown apart")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    given = parser.parse_args()
    out = choose_out(given.out, RESULT)
    cluster = Cluster.open(ClusterOptions(url=given.url))
    sample, index = insurance_sample(), f"bench-{uuid.uuid4().hex[:8]}"
    queries = list(dict.fromkeys(str(row["query"]) for _, row in read_jsonl(sample / "test_queries.jsonl")))
    rows: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as work:
        whole = Bundle.open(given.bundle)
        bundles = [
            as_version(whole, Path(work), "bench-1"), as_version(whole, Path(work), "bench-2", encoder="changed")
        ]  # fmt: skip
        load_items(cluster, bundles[0], sample / "items.jsonl", index).check()
        items = int(cluster.read("GET", join_path(index, "_count"), absent={})["count"])
        try:
            for number in range(given.rounds):
                for arm in ARMS if number % 2 == 0 else reversed(ARMS):
                    rows[arm].append(measure(cluster, bundles, index, queries, given, warm=ARMS[arm]))
                    sys.stderr.write(f"{arm}: {json.dumps(rows[arm][-1], ensure_ascii=False)}\n")
        finally:
            cluster.send("DELETE", join_path(index))
    result = {
        "darl": __version__, "opensearch": cluster.identify().number, **describe_machine("onnxruntime"),
        "model_bytes": whole.file("model.onnx").stat().st_size, "identity": whole.identity, "items": items,
        "queries": len(queries), "clients": given.clients, "searches_per_second": given.rate,
        "pairs_per_search": given.pairs, "first_seconds": given.first, "rounds": given.rounds, "arms": rows,
    }  # fmt: skip
    write_result(out, result)


if __name__ == "__main__":
    main()
