"""Where the demo searches: a real node, or the embedded default."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.measure import RouteRun
from darl_opensearch.cli.demo.sample import Sample, TestQuery
from darl_opensearch.errors import DarlError
from darl_opensearch.io.http import HttpClient, HttpError
from darl_opensearch.node import process
from darl_opensearch.node.guard import ExitGuard
from darl_opensearch.ood import OodLog
from darl_opensearch.ood.record import PairRecord
from darl_opensearch.reranker import Reranker
from darl_opensearch.scores import is_ood
from darl_opensearch.search import PipelineSearch
from darl_opensearch.text import ID_FIELD, TEXT_FIELD

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

INDEX, LOCAL_PIPELINE, SIZE, WINDOW = "darl-demo-insurance", "darl-local", 10, 50
FIRST_STAGE, LOCAL, CONNECTOR, PYTHON = "BM25", "in the cluster", "by connector", "in Python"
Advance = Callable[[], object]


class FirstStage(Protocol):
    """Retrieves candidates."""

    def __call__(self, query: str, *, size: int) -> Sequence[Mapping[str, Any]]:
        """Retrieve OpenSearch hits, best first."""
        ...


def open_log(spool: Path, bundle: Bundle) -> OodLog:
    """Open a log that keeps every pair, for the demo to count."""
    card = bundle.card
    return OodLog.open(spool, model=card.name, version=card.version, alpha=card.ood.alpha, sample_rate=1.0)


def open_bm25(bundle: Bundle, sample: Sample, client: OpenSearch | None) -> FirstStage:
    """Open BM25 over the sample's items: in the node's index, or without a node in memory."""
    if client is not None:
        return PipelineSearch(client, bundle, INDEX).first_stage
    index = Bm25Index(sample.texts.items())

    def retrieve(query: str, *, size: int) -> list[Mapping[str, Any]]:
        return [
            {"_id": hit.item_id, "_score": hit.score,
             "_source": {ID_FIELD: hit.item_id, TEXT_FIELD: sample.texts[hit.item_id]}}
            for hit in index.search(query, size)
        ]  # fmt: skip

    return retrieve


def search_first_stage(first_stage: FirstStage, queries: Sequence[TestQuery]) -> RouteRun:
    """Search without reranking."""
    run = RouteRun(FIRST_STAGE)
    for query in queries:
        started = time.perf_counter()
        hits = first_stage(query.query, size=SIZE)
        run.add(query, [hit["_id"] for hit in hits], 1000 * (time.perf_counter() - started))
    return run


def search_in_python(
    name: str, bundle: Bundle, first_stage: FirstStage, queries: Sequence[TestQuery], advance: Advance,
    log: OodLog | None = None, states: Path | None = None,
) -> RouteRun:  # fmt: skip
    """Search by the Python reranker.

    :param states: folder of item states; None: they are kept in memory.
    """
    run = RouteRun(name)
    with Reranker(bundle, ood_log=log, states=states) as reranker:
        for query in queries:
            started = time.perf_counter()
            answer = reranker.rerank(
                query.query, {"hits": {"hits": first_stage(query.query, size=WINDOW)}}, size=SIZE,
                query_id=query.query_id, slice=query.slice,
            )  # fmt: skip
            took, hits = 1000 * (time.perf_counter() - started), answer["hits"]["hits"]
            flags = [bool(is_ood(hit["_source"]["darl_ood_score"], bundle.card.ood.alpha)) for hit in hits]
            ids = [hit["_id"] for hit in hits]
            run.add(query, ids, took, reranked=answer["darl"]["reranked"] or not hits, is_ood=flags)
            advance()
    if log is not None:
        log.flush()
    return run


def search_in_cluster(
    name: str, pipeline: PipelineSearch, queries: Sequence[TestQuery], advance: Advance
) -> RouteRun:  # fmt: skip
    """Search through a pipeline that reranks."""
    run = RouteRun(name)
    for query in queries:
        out = pipeline.search(query.query, size=SIZE, query_id=query.query_id, slice=query.slice)
        flags = [bool(hit.is_ood) for hit in out.hits]
        run.add(query, [hit.id for hit in out.hits], out.took_ms, reranked=out.reranked, is_ood=flags)
        advance()
    return run


def search_embedded(
    bundle: Bundle, sample: Sample, spool: Path, states: Path, advance: Advance
) -> tuple[list[RouteRun], list[PairRecord]]:
    """Search without OpenSearch: SQLite BM25, the Python reranker, and the spool as the store.

    :return: the results of each route, and the logged pairs.
    """
    from darl_opensearch.ood.store import SpoolStore

    first_stage = open_bm25(bundle, sample, None)
    with open_log(spool, bundle) as log:
        python = search_in_python(PYTHON, bundle, first_stage, sample.queries, advance, log, states)
    with SpoolStore(spool) as store:
        return [search_first_stage(first_stage, sample.queries), python], list(store.pairs())


@contextlib.contextmanager
def run_scorer(bundle: Bundle, spool: Path, states: Path, url: str, key: str, log_path: Path) -> Iterator[str]:
    """Run ``darl serve`` for the cluster.

    :raises DarlError: if it does not start.
    """
    command = [
        sys.executable, "-m", "darl_opensearch", "serve", str(bundle.path), "--port", "0", "--ood-log", str(spool),
        "--ood-sample-rate", "1", "--states", str(states), "--ship-to", url,
    ]  # fmt: skip
    environment = {**os.environ, "DARL_API_KEY": key}
    pid, state = process.start(command, env=environment, cwd=Path.cwd(), log=log_path, account=None)
    guard = ExitGuard.of_process(pid, state.start)
    try:
        yield f"{_address(pid, log_path)}/v1/rerank"
    finally:
        process.stop(pid, 30.0)
        guard.dismiss()


def _address(pid: int, log_path: Path, seconds: float = 60.0) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.look(pid) is not None:
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
    bundle: Bundle, sample: Sample, url: str, scorer_url: str, key: str, spool: Path, states: Path, advance: Advance,
    say: Callable[[str], object],
) -> tuple[list[RouteRun], list[PairRecord]]:  # fmt: skip
    """Register both modes in a real node and search by every route.

    :return: the results of each route, and the pairs in the data stream.
    """
    from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, ScorerAddress, register
    from darl_opensearch.cluster import load_items as load
    from darl_opensearch.connect import ClusterOptions

    cluster = Cluster.open(ClusterOptions(url=url))
    say("indexing")
    for number, path in enumerate(sample.item_files):
        load(cluster, bundle, path, INDEX, recreate=number == 0).check()
    cluster.client.indices.refresh(index=INDEX)
    say("registering in the cluster")
    register(bundle, cluster, RegisterOptions(
        mode="local", pipeline=PipelineOptions(name=LOCAL_PIPELINE, max_k=WINDOW), apply_settings=True,
    ))  # fmt: skip
    say("registering the connector")
    register(bundle, cluster, RegisterOptions(
        mode="connector", scorer=ScorerAddress(scorer_url, key),
        pipeline=PipelineOptions(name="darl", max_k=WINDOW, with_query_id=True), apply_settings=True,
    ))  # fmt: skip
    first_stage, queries = open_bm25(bundle, sample, cluster.client), sample.queries
    local, connector = (PipelineSearch(cluster.client, bundle, INDEX, name) for name in (LOCAL_PIPELINE, "darl"))
    say("searching")
    with open_log(spool, bundle) as log:
        runs = [
            search_first_stage(first_stage, queries),
            search_in_cluster(LOCAL, local, choose_local(queries), advance),
            search_in_cluster(CONNECTOR, connector, queries, advance),
            search_in_python(PYTHON, bundle, first_stage, queries, advance, log, states),
        ]
    say("waiting for the OOD log")
    return runs, _shipped(cluster.client, bundle, queries)


def choose_local(queries: Sequence[TestQuery]) -> Sequence[TestQuery]:
    """Choose the queries that are searched in the cluster, where fifty pairs take a second: every fourth."""
    return queries[::4]


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
