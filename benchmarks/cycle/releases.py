"""Ten releases and ten rollbacks under a steady load of searches: what fails, what is not reranked, what it costs.

``python -m benchmarks.cycle.releases BUNDLE`` with a node that runs (``darl node up``); ``darl demo`` leaves a bundle
in ``demo-out/bundle``. The bundle is released as two versions of the same weights, in turn, while several clients
search the insurance sample through the pipeline at a fixed rate. Once with both versions kept deployed, and once with
the one that was replaced undeployed at once (``keep`` 0), so that each rollback loads it again; in the cluster, and by
connector with a scorer for each version. Everything that it makes in the cluster is removed again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from darl_opensearch.bundle import Bundle, writing
from darl_opensearch.cluster import Cluster, ScorerAddress, load_items, models, pipelines
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.outcome import Release
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.cluster.release import ReleaseOptions, RollbackOptions, release, rollback
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import DarlError
from darl_opensearch.io.http import HttpClient, HttpError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.writing import write_file
from darl_opensearch.resources import insurance_sample
from darl_opensearch.search import PipelineSearch
from darl_opensearch.version import __version__

RESULT = Path(__file__).parent / "results" / "releases.json"
MODES: tuple[Mode, ...] = ("local", "connector")
VERSIONS = ("bench-1", "bench-2")


@dataclass
class Searches:
    """What the clients saw.

    :param rows: start, milliseconds and outcome of each search: ``reranked``, ``not reranked`` or ``failed``.
    :param errors: the first words of what failed.
    """

    rows: list[tuple[float, float, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def figures(self, windows: Sequence[tuple[float, float]] | None = None) -> dict[str, Any]:
        """Count and time the searches that overlap any of the windows; None: all of them."""
        rows = [
            row
            for row in self.rows
            if windows is None or any(row[0] < end and row[0] + row[1] / 1000 > start for start, end in windows)
        ]
        took = np.array([row[1] for row in rows]) if rows else np.array([np.nan])
        return {
            "searches": len(rows),
            "failed": sum(row[2] == "failed" for row in rows),
            "not_reranked": sum(row[2] == "not reranked" for row in rows),
            **{f"p{q}_ms": round(float(np.percentile(took, q)), 1) for q in (50, 95, 99)},
            "max_ms": round(float(took.max()), 1),
        }


@contextlib.contextmanager
def steady_load(
    client: Callable[[], PipelineSearch], queries: Sequence[str], *, clients: int, rate: float
) -> Iterator[Searches]:
    """Search at a fixed rate by several clients until the block is left."""
    seen, lock, stop = Searches(), threading.Lock(), threading.Event()

    def run(number: int) -> None:
        mine, turn = client(), number
        due = time.perf_counter() + number / rate
        while not stop.wait(max(0.0, due - time.perf_counter())):
            started, error, outcome = time.perf_counter(), "", "failed"
            try:
                outcome = "reranked" if mine.search(queries[turn % len(queries)], size=10).reranked else "not reranked"
            except DarlError as err:  # whatever is not answered with 200
                error = str(err)
            took = (time.perf_counter() - started) * 1000
            with lock:
                seen.rows.append((started, took, outcome))
                if error:
                    seen.errors.append(error)
            turn += clients
            due = max(due + clients / rate, time.perf_counter())  # a client that is late does not hurry after

    workers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(clients)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        stop.set()
        for worker in workers:
            worker.join(120)


def as_version(bundle: Bundle, folder: Path, version: str, *, encoder: str = "") -> Bundle:
    """The same weights under another version.

    :param encoder: name for the encoder, so that no item state of another one is found; empty: its own.
    """
    target, states = folder / version, {"encoder": encoder} if encoder else bundle.card.states
    with writing(target, replace(bundle.card, name="darl-bench", version=version, states=states)) as work:
        for name in bundle.digests:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(bundle.path / name, work / name)
    return Bundle.open(target)


@contextlib.contextmanager
def serving(bundle: Bundle, *options: str) -> Iterator[str]:
    """Run ``darl serve`` on a free port; gives its rerank route."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "darl_opensearch", "serve", str(bundle.path), "--port", str(port), "--no-ood-log"]
    command += options
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            with HttpClient(2.0, proxies=False) as client, contextlib.suppress(HttpError):
                if client.send("GET", f"http://127.0.0.1:{port}/ready").status == 200:
                    break
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("darl serve did not come up")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1/rerank"
    finally:
        process.terminate()
        process.wait(30)


@dataclass(frozen=True)
class Stand:
    """What every run shares.

    :param cluster: the node.
    :param bundles: both versions.
    :param scorers: their scorers' routes.
    :param queries: what is searched.
    :param name: of index and pipelines.
    :param settings: the command's arguments.
    """

    cluster: Cluster
    bundles: Sequence[Bundle]
    scorers: Sequence[str]
    queries: Sequence[str]
    name: str
    settings: argparse.Namespace


def measure(stand: Stand, mode: Mode, keep: int) -> dict[str, Any]:
    """Release and roll back in turn, under load."""
    pipeline = history = f"{stand.name}-{mode}-{keep}"
    given = stand.settings

    def options(place: int) -> ReleaseOptions:
        scorer = ScorerAddress(stand.scorers[place]) if mode == "connector" else None
        return ReleaseOptions(
            pipeline=pipeline, mode=mode, scorer=scorer, keep=keep, index=stand.name, history=history,
            max_k=given.pairs, oversample=1, apply_settings=True,
        )  # fmt: skip

    def client() -> PipelineSearch:
        url = stand.cluster.url
        return PipelineSearch(Cluster.open(ClusterOptions(url=url)).client, stand.bundles[0], stand.name, pipeline)

    def forth() -> Release:
        return release(stand.bundles[1], stand.cluster, options(1))

    def back() -> Release:
        return rollback(stand.cluster, RollbackOptions(pipeline=pipeline, history=history))

    windows: list[tuple[float, float]] = []
    try:
        release(stand.bundles[0], stand.cluster, options(0))
        forth()  # the second version is uploaded before the load, as by darl register --no-pipelines
        back()
        with steady_load(client, stand.queries, clients=given.clients, rate=given.rate) as seen:
            time.sleep(given.quiet)
            calm = time.perf_counter()
            for _ in range(given.rounds):
                for switch in (forth, back):
                    started = time.perf_counter()
                    done = switch()
                    windows.append((started, time.perf_counter()))
                    if not done.changed:
                        raise SystemExit("a release or a rollback changed nothing")
                    time.sleep(given.pause)
            time.sleep(given.quiet)
    finally:
        clean(stand.cluster, stand.bundles, pipeline, history)
    seconds = [end - start for start, end in windows]
    return {
        "mode": mode,
        "keep": keep,
        "releases": given.rounds,
        "rollbacks": given.rounds,
        "release_seconds": [round(one, 2) for one in seconds[::2]],
        "rollback_seconds": [round(one, 2) for one in seconds[1::2]],
        "all": seen.figures(),
        "before_the_first": seen.figures([(0.0, calm)]),
        "during_a_switch": seen.figures(windows),
        "errors": seen.errors[:5],
    }


def clean(cluster: Cluster, bundles: Sequence[Bundle], pipeline: str, history: str) -> None:
    """Remove pipelines, models and history of a run."""
    pipelines.remove_pipelines(cluster, pipelines.PipelineOptions(name=pipeline))
    for bundle in bundles:
        for name in (models.local_name(bundle.card), models.connector_name(bundle.card)):
            for model in models.find_models(cluster, name):
                models.remove_model(cluster, model)
    if cluster.read("GET", join_path(history), absent={}):
        cluster.send("DELETE", join_path(history))


def main() -> None:
    """Run everything and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:9200")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=10.0, help="searches a second, all clients together")
    parser.add_argument("--pairs", type=int, default=10, help="pairs scored a search")
    parser.add_argument("--rounds", type=int, default=10, help="releases, and as many rollbacks")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two switches")
    parser.add_argument("--quiet", type=float, default=10.0, help="seconds of load before the first and after the last")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    cluster = Cluster.open(ClusterOptions(url=given.url))
    sample = insurance_sample()
    queries = list(dict.fromkeys(str(row["query"]) for _, row in read_jsonl(sample / "test_queries.jsonl")))
    name = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as work, contextlib.ExitStack() as stack:
        bundles = [as_version(Bundle.open(given.bundle), Path(work), version) for version in VERSIONS]
        scorers = [stack.enter_context(serving(bundle)) for bundle in bundles]
        load_items(cluster, bundles[0], sample / "items.jsonl", name).check()
        about = {
            "backbone": bundles[0].card.backbone, "model_bytes": bundles[0].file("model.onnx").stat().st_size,
            "identity": bundles[0].identity,
        }  # fmt: skip
        stand = Stand(cluster, bundles, scorers, queries, name, given)
        rows = []
        try:
            for mode in MODES:
                for keep in (2, 0):
                    rows.append(measure(stand, mode, keep))
                    sys.stderr.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
        finally:
            cluster.send("DELETE", join_path(name))
    result = {
        "darl": __version__,
        "opensearch": cluster.identify().number,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "bundle": about,
        "items": "examples/insurance/items.jsonl", "queries": len(queries), "clients": given.clients,
        "searches_per_second": given.rate, "pairs_per_search": given.pairs, "failed_means": "no answer with status 200",
        "rows": rows,
    }  # fmt: skip
    write_file(given.out, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
