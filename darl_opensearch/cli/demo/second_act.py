"""The demo's second act: later traffic is searched, logged, selected, judged, trained on, gated and released.

The judgments are held back from the sample. If the gate refuses the new version, that is shown, and the switch and
the rollback are done by hand.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.backends import INDEX, SIZE, WINDOW, as_response, open_log
from darl_opensearch.cli.demo.measure import RouteRun
from darl_opensearch.cli.demo.sample import Sample, TestQuery, read_queries
from darl_opensearch.errors import DarlError, load
from darl_opensearch.ood import OodLog
from darl_opensearch.records.lines import LineKind
from darl_opensearch.reranker import Reranker
from darl_opensearch.scores import is_ood
from darl_opensearch.search import PipelineSearch

PIPELINE = "darl-local"
Update = Callable[[str, int, int], object]
RELEASED = "released"


@dataclass(frozen=True)
class SecondAct:
    """Outcome of the second act.

    :param outcome: ``released``, or ``refused`` by the gate.
    :param before: the test queries, searched with version 1.
    :param after: the same with version 2.
    :param first: version 1.
    :param bundle: version 2.
    """

    cycle: Mapping[str, Any]
    outcome: str
    reason: str
    before: RouteRun
    after: RouteRun
    back: RouteRun
    first: Bundle
    bundle: Bundle

    @property
    def rolled_back(self) -> bool:
        """Whether version 1 answers again, hit for hit."""
        return all(self.before.ranked[query] == ids for query, ids in self.back.ranked.items())


class DemoBackend:
    """Where the second act searches, logs and releases.

    :param bundle: version 1.
    :param url: of the cluster, if any.
    """

    def __init__(self, bundle: Bundle, sample: Sample, folder: Path, url: str | None) -> None:
        self.bundle, self.sample, self.folder, self.url = bundle, sample, folder, url
        self._index = None if url else Bm25Index(sample.texts.items())

    def search(
        self, name: str, bundle: Bundle, queries: Sequence[TestQuery], advance: Callable[[], object]
    ) -> RouteRun:
        """Search with the serving version.

        :param bundle: the serving one; in a cluster the pipeline decides, and this supplies its card.
        """
        run = RouteRun(name)
        if self.url is None:
            self._rerank(run, bundle, queries, None, advance)
            return run
        through = PipelineSearch(self._client(), bundle, INDEX, PIPELINE)
        for query in queries:
            out = through.search(query.query, size=SIZE, query_id=query.query_id, slice=query.slice)
            flags = [bool(hit.is_ood) for hit in out.hits]
            run.add(query, [hit.id for hit in out.hits], out.took_ms, reranked=out.reranked, is_ood=flags)
            advance()
        return run

    def search_later(self, queries: Sequence[TestQuery], spool: Path, advance: Callable[[], object]) -> None:
        """Search later traffic with version 1 in Python, where item states make it quick, and log it."""
        with open_log(spool, self.bundle) as log:
            self._rerank(RouteRun("later traffic"), self.bundle, queries, log, advance)
            log.flush()

    def _rerank(
        self, run: RouteRun, bundle: Bundle, queries: Sequence[TestQuery], log: OodLog | None,
        advance: Callable[[], object],
    ) -> None:  # fmt: skip
        with Reranker(bundle, ood_log=log) as reranker:
            for query in queries:
                about: dict[str, Any] = {"size": SIZE, "query_id": query.query_id, "slice": query.slice}
                started = time.perf_counter()
                if self._index is None:
                    answer = reranker.search(self._client(), INDEX, query.query, window=WINDOW, **about)
                else:
                    retrieved = as_response(self._index.search(query.query, WINDOW), self.sample)
                    answer = reranker.rerank(query.query, retrieved, **about)
                hits = answer["hits"]["hits"]
                flags = [bool(is_ood(hit["_source"]["darl_ood_score"], bundle.card.ood.alpha)) for hit in hits]
                run.add(
                    query, [hit["_id"] for hit in hits], 1000 * (time.perf_counter() - started),
                    reranked=answer["darl"]["reranked"] or not hits, is_ood=flags,
                )  # fmt: skip
                advance()

    def _client(self) -> Any:
        from darl_opensearch.connect import ClusterOptions, connect

        return connect(ClusterOptions(url=self.url or ""))

    def write_config(self, darl_toml: Path) -> Path:
        """Write the cycle's configuration.

        :param darl_toml: that version 1 was trained with.
        """
        seen = {query.query_id for query in self.sample.queries if query.seen}
        lines = LineKind().read(self.sample.folder / "test_judgments.jsonl")
        text = "".join(json.dumps(line.row, ensure_ascii=False) + "\n" for line in lines if line.query_id in seen)
        (self.folder / "id_test.jsonl").write_text(text, encoding="utf-8")
        sample, log = self.sample.folder.resolve(), 'spool = "later.sqlite"\n' if self.url is None else ""
        path = self.folder / "cycle.toml"
        path.write_text(_CYCLE.format(
            bundle=_toml(self.bundle.path.resolve()), config=_toml(darl_toml.resolve()), log=log,
            catalogue=_toml(sample / "new_items.jsonl"), held=_toml(sample / "test_queries.jsonl"),
            answers=_toml(sample / "later_judgments.jsonl"), guideline=_toml(sample / "GUIDELINE.md"),
            url=self.url or "", index=INDEX if self.url else "", pipeline=PIPELINE,
        ), encoding="utf-8")  # fmt: skip
        return path

    def ship(self, spool: Path) -> None:
        """Ship the spool, as ``darl ship`` does, and wait until its records can be searched."""
        if self.url is None:
            return
        from darl_opensearch.connect import ClusterOptions, connect
        from darl_opensearch.ood import STREAM, Shipper

        client = connect(ClusterOptions(url=self.url))
        with Shipper(spool, client) as shipper:
            shipper.ship_all()
        client.indices.refresh(index=STREAM)

    def by_hand(self, made: Bundle, note: str) -> None:
        """Release version 2 without a gate, to show the switch after a refusal.

        :param note: reason for the history.
        """
        if self.url is None:
            return
        from darl_opensearch.cluster import Cluster
        from darl_opensearch.cluster.release import ReleaseOptions, release
        from darl_opensearch.connect import ClusterOptions

        release(made, Cluster.open(ClusterOptions(url=self.url)), ReleaseOptions(pipeline=PIPELINE, note=note))

    def back(self) -> None:
        """Roll back to version 1."""
        if self.url is None:
            return  # the next search opens version 1
        from darl_opensearch.cluster import Cluster
        from darl_opensearch.cluster.release import RollbackOptions, rollback
        from darl_opensearch.connect import ClusterOptions

        rollback(Cluster.open(ClusterOptions(url=self.url)), RollbackOptions(pipeline=PIPELINE, note="the demo ends"))


def _toml(value: object) -> str:
    return json.dumps(str(value), ensure_ascii=False)


_CYCLE = """\
# The second act of darl demo: what was searched later, judged by the sample's held-back judgments.
seed = 7

[model]
bundle = {bundle}
config = {config}
catalogue = [{catalogue}]
held_out = [{held}] # the demo's own test queries

[log]
{log}since = ""

[start]
when = "drift"

[drift]
min_queries = 20

[select]
budget = 400
items_per_query = 10
control_queries = 50
control_items = 50 # all that the demo reranks: the sample's judgments know them
depth = 50
flagged_share = 0.1 # of fifty candidates few are of a new kind

[judge]
judges = ["judgments"]
guideline = {guideline}

[judge.params.judgments]
path = {answers}

[gate]
id_test = "id_test.jsonl"
tolerance = 0.02 # 48 queries cannot show less

[release]
url = "{url}"
index = "{index}"
pipeline = "{pipeline}"
"""


def read_later_traffic(sample: Sample) -> list[TestQuery]:
    """Read the traffic after the launch of the new kinds."""
    return read_queries(sample.folder / "later_traffic.jsonl")


def play_second_act(
    place: DemoBackend, darl_toml: Path, update: Update, say: Callable[[str], object], *,
    before: RouteRun | None = None, settings: Sequence[str] = (),
) -> SecondAct:  # fmt: skip
    """Play the second act.

    :param darl_toml: that version 1 was trained with.
    :param update: shows progress: step, done, total.
    :param before: the test queries searched with version 1, if that was done.
    :param settings: further keys of the cycle, as ``table.key=value``.
    :raises DarlError: if no cycle started, or it produced nothing.
    """
    from darl_opensearch.cli.cycle_world import Surroundings
    from darl_opensearch.connect import ClusterOptions

    run = load("trainer.cycle.run", "train")
    config_module = load("trainer.cycle.config", "train")
    sample, spool = place.sample, place.folder / "later.sqlite"

    def advance(name: str, total: int) -> Callable[[], object]:
        done = itertools.count(1)
        return lambda: update(f"searching, {name}", next(done), total)

    def searched(name: str, bundle: Bundle, queries: Sequence[TestQuery]) -> RouteRun:
        return place.search(name, bundle, queries, advance(name, len(queries)))

    before = before or searched("version 1", place.bundle, sample.queries)
    later = read_later_traffic(sample)
    place.search_later(later, spool, advance("later traffic", len(later)))
    place.ship(spool)
    path = place.write_config(darl_toml)
    config = config_module.read_cycle(path, settings)
    world = Surroundings(config, path.parent, ClusterOptions(), say=say, report=update).world()
    result = run.run_cycle(config, path.parent, world)
    if "gate" not in result.steps:
        raise DarlError(f"the cycle made no version: {result.reason}", where=str(path), todo="see the cycle's folder")
    made = Bundle.open(path.parent / config.folder / result.cycle / "bundle")
    if result.outcome != RELEASED:
        place.by_hand(made, "the gate refused it; released by hand to show the switch")
    after = searched("version 2", made, sample.queries)
    place.back()
    back = searched("version 1 again", place.bundle, sample.queries[::7])
    return SecondAct(result.to_json()["steps"], result.outcome, result.reason, before, after, back, place.bundle, made)
