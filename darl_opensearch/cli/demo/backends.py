"""Where the demo searches: a real node, or the embedded default."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.bm25 import Bm25Hit, Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.measure import RouteRun
from darl_opensearch.cli.demo.sample import Sample
from darl_opensearch.errors import DarlError
from darl_opensearch.io.http import HttpClient, HttpError
from darl_opensearch.ood import OodLog
from darl_opensearch.ood.record import PairRecord
from darl_opensearch.reranker import Reranker
from darl_opensearch.text import ID_FIELD, TEXT_FIELD

INDEX, SIZE, WINDOW = "darl-demo-insurance", 10, 50
FIRST_STAGE, LOCAL, CONNECTOR, PYTHON = "BM25", "in the cluster", "by connector", "in Python"
Advance = Callable[[], object]


def open_log(spool: Path, bundle: Bundle) -> OodLog:
    """Open a log that keeps every pair, for the demo to count."""
    card = bundle.card
    return OodLog.open(spool, model=card.name, version=card.version, alpha=card.ood.alpha, sample_rate=1.0)


def search_embedded(
    bundle: Bundle, sample: Sample, spool: Path, advance: Advance
) -> tuple[list[RouteRun], list[PairRecord]]:
    """Search without OpenSearch: SQLite BM25, the Python reranker, and the spool as the store.

    :return: the results of each route, and the logged pairs.
    """
    from darl_opensearch.ood.store import SpoolStore

    index = Bm25Index(sample.texts.items())
    first, python = RouteRun(FIRST_STAGE), RouteRun(PYTHON)
    with open_log(spool, bundle) as log, Reranker(bundle, ood_log=log) as reranker:
        for query in sample.queries:
            started = time.perf_counter()
            retrieved = index.search(query.query, WINDOW)
            middle = time.perf_counter()
            answer = reranker.rerank(
                query.query, as_response(retrieved, sample), size=SIZE, query_id=query.query_id, slice=query.slice
            )
            done = time.perf_counter()
            first.add(query, [h.item_id for h in retrieved[:SIZE]], 1000 * (middle - started))
            ids = [h["_id"] for h in answer["hits"]["hits"]]
            python.add(query, ids, 1000 * (done - started), reranked=answer["darl"]["reranked"] or not ids)
            advance()
        log.flush()
    with SpoolStore(spool) as store:
        return [first, python], list(store.pairs())


def as_response(retrieved: Sequence[Bm25Hit], sample: Sample) -> dict[str, Any]:
    """Give hits the form of a search response."""
    hits = [
        {"_id": h.item_id, "_score": h.score, "_source": {ID_FIELD: h.item_id, TEXT_FIELD: sample.texts[h.item_id]}}
        for h in retrieved
    ]
    return {"hits": {"hits": hits}}


@contextlib.contextmanager
def run_scorer(bundle: Bundle, spool: Path, url: str, key: str, log_path: Path) -> Iterator[str]:
    """Run ``darl serve`` for the cluster.

    :raises DarlError: if it does not start.
    """
    command = [
        sys.executable, "-m", "darl_opensearch", "serve", str(bundle.path), "--port", "0", "--ood-log", str(spool),
        "--ood-sample-rate", "1", "--ship-to", url,
    ]  # fmt: skip
    environment = {**os.environ, "DARL_API_KEY": key}
    with log_path.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        yield f"{_address(process, log_path)}/v1/rerank"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], log_path: Path, seconds: float = 60.0) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if match := re.search(r"listening on (http://[\w.\[\]:-]+:\d+)\s", log_path.read_text(encoding="utf-8")):
            with HttpClient(2.0, proxies=False) as client, contextlib.suppress(HttpError):
                if client.send("GET", f"{match[1]}/ready").status == 200:
                    return match[1]
        time.sleep(0.1)
    raise DarlError("the scorer did not start", where=str(log_path), todo="see its log")


@contextlib.contextmanager
def run_node(*, keep: bool) -> Iterator[str]:
    """Run a temporary node, or leave one running on the default port."""
    from darl_opensearch.node import running_node, up

    if keep:
        yield up().url
    else:
        with running_node(heap="3g") as status:
            yield status.url


def search_cluster(
    bundle: Bundle, sample: Sample, url: str, scorer_url: str, key: str, spool: Path, advance: Advance,
    say: Callable[[str], object],
) -> tuple[list[RouteRun], list[PairRecord]]:  # fmt: skip
    """Register both modes in a real node and search by every route.

    :return: the results of each route, and the pairs in the data stream.
    """
    from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, ScorerAddress, register
    from darl_opensearch.cluster import load_items as load
    from darl_opensearch.connect import ClusterOptions
    from darl_opensearch.search import PipelineSearch

    cluster = Cluster.open(ClusterOptions(url=url))
    say("indexing")
    for number, path in enumerate(sample.item_files):
        load(cluster, bundle, path, INDEX, recreate=number == 0).check()
    cluster.client.indices.refresh(index=INDEX)
    say("registering in the cluster")
    register(bundle, cluster, RegisterOptions(mode="local", pipeline=PipelineOptions(name="darl-local"),
                                              apply_settings=True))  # fmt: skip
    say("registering the connector")
    register(bundle, cluster, RegisterOptions(
        mode="connector", scorer=ScorerAddress(scorer_url, key),
        pipeline=PipelineOptions(name="darl", with_query_id=True), apply_settings=True,
    ))  # fmt: skip
    first, local, connector, python = (RouteRun(name) for name in (FIRST_STAGE, LOCAL, CONNECTOR, PYTHON))
    client = cluster.client
    pipelines = {name: PipelineSearch(client, bundle, INDEX, name) for name in ("darl-local", "darl")}
    say("searching")
    with open_log(spool, bundle) as log, Reranker(bundle, ood_log=log) as reranker:
        for query in sample.queries:
            started = time.perf_counter()
            before = pipelines["darl"].first_stage(query.query, size=SIZE)
            first.add(query, [h["_id"] for h in before], 1000 * (time.perf_counter() - started))
            for run, name in ((local, "darl-local"), (connector, "darl")):
                out = pipelines[name].search(query.query, size=SIZE, query_id=query.query_id, slice=query.slice)
                flags = [bool(h.is_ood) for h in out.hits]
                run.add(query, [h.id for h in out.hits], out.took_ms, reranked=out.reranked, is_ood=flags)
            started = time.perf_counter()
            answer = reranker.search(client, INDEX, query.query, SIZE, window=WINDOW, query_id=query.query_id,
                                     slice=query.slice)  # fmt: skip
            ids = [h["_id"] for h in answer["hits"]["hits"]]
            took = 1000 * (time.perf_counter() - started)
            python.add(query, ids, took, reranked=answer["darl"]["reranked"] or not ids)
            advance()
    say("waiting for the OOD log")
    return [first, local, connector, python], _shipped(cluster.client, bundle, sample.queries)


def _shipped(client: object, bundle: Bundle, queries: Sequence[object], seconds: float = 60.0) -> list[PairRecord]:
    """Read the data stream until the scorer has shipped every request."""
    from darl_opensearch.ood.store import StreamStore

    store = StreamStore(client)  # type: ignore[arg-type]
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(DarlError):  # the stream is made with the first record
            logged = [r for r in store.requests() if r.model == bundle.card.name and r.query_id]
            if len(logged) >= len(queries) or time.monotonic() > end:
                return [p for p in store.pairs() if p.model == bundle.card.name and p.query_id]
        if time.monotonic() > end:
            return []
        time.sleep(0.5)
