"""The demo's second act: later traffic is searched, logged, selected, judged, trained on, gated and released.

The judgments are held back from the sample. If the gate refuses the new version, that is shown, and the switch and
the rollback are done by hand.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.backends import (
    INDEX,
    LOCAL_PIPELINE,
    choose_local,
    open_bm25,
    open_log,
    search_in_cluster,
    search_in_python,
)
from darl_opensearch.cli.demo.measure import RouteRun
from darl_opensearch.cli.demo.sample import Sample, TestQuery, read_queries
from darl_opensearch.connect import ClusterOptions, connect
from darl_opensearch.errors import DarlError, load
from darl_opensearch.ood import OodLog
from darl_opensearch.records.lines import LineKind
from darl_opensearch.search import PipelineSearch

Update = Callable[[str, int, int], object]
RELEASED = "released"


@dataclass(frozen=True)
class SecondAct:
    """Outcome of the second act. The test queries are searched in Python, and some of them through the pipeline.

    :param outcome: ``released``, or ``refused`` by the gate.
    :param before: all test queries with version 1.
    :param after: the same with version 2.
    :param served: what the pipeline answers of them with version 1, with version 2, and after the rollback.
    :param first: version 1.
    :param bundle: version 2.
    """

    cycle: Mapping[str, Any]
    outcome: str
    reason: str
    before: RouteRun
    after: RouteRun
    served: tuple[RouteRun, RouteRun, RouteRun]
    first: Bundle
    bundle: Bundle

    @property
    def rolled_back(self) -> bool:
        """Whether version 1 answers again, hit for hit."""
        before, _, back = self.served
        return all(before.ranked[query] == ids for query, ids in back.ranked.items())


class DemoBackend:
    """Where the second act searches, logs and releases.

    :param bundle: version 1.
    :param url: of the cluster, if any.
    :param states: folder of item states.
    """

    def __init__(
        self, bundle: Bundle, sample: Sample, folder: Path, url: str | None, states: Path | None = None
    ) -> None:
        self.bundle, self.sample, self.folder, self.url, self.states = bundle, sample, folder, url, states
        self.client = connect(ClusterOptions(url=url)) if url else None
        self.first_stage = open_bm25(bundle, sample, self.client)

    def search_served(
        self, name: str, bundle: Bundle, queries: Sequence[TestQuery], advance: Callable[[], object]
    ) -> RouteRun:
        """Search through the pipeline; in Python without a cluster.

        :param bundle: the serving version.
        """
        if self.client is None:
            return search_in_python(name, bundle, self.first_stage, queries, advance, states=self.states)
        pipeline = PipelineSearch(self.client, bundle, INDEX, LOCAL_PIPELINE)
        return search_in_cluster(name, pipeline, queries, advance)

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
            url=self.url or "", index=INDEX if self.url else "", pipeline=LOCAL_PIPELINE,
            warm=_WARM.format(states=_toml(self.states.resolve())) if self.url and self.states else "",
        ), encoding="utf-8")  # fmt: skip
        return path

    def ship(self, spool: Path) -> None:
        """Ship the spool, as ``darl ship`` does, and wait until its records can be searched."""
        if self.client is None:
            return
        from darl_opensearch.ood import STREAM, Shipper

        with Shipper(spool, self.client) as shipper:
            shipper.ship_all()
        self.client.indices.refresh(index=STREAM)

    def by_hand(self, new: Bundle, note: str) -> None:
        """Release version 2 without a gate, to show the switch after a refusal.

        :param note: reason for the history.
        """
        if self.client is None:
            return
        from darl_opensearch.cluster import Cluster
        from darl_opensearch.cluster.release import ReleaseOptions, release

        release(new, Cluster(self.client), ReleaseOptions(pipeline=LOCAL_PIPELINE, note=note))

    def back(self) -> None:
        """Roll back to version 1."""
        if self.client is None:
            return  # the next search opens version 1
        from darl_opensearch.cluster import Cluster
        from darl_opensearch.cluster.release import RollbackOptions, rollback

        rollback(Cluster(self.client), RollbackOptions(pipeline=LOCAL_PIPELINE, note="the demo ends"))


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
{warm}"""

_WARM = """
[warm]
items = "all"
states = {states}
"""


def read_later_traffic(sample: Sample) -> list[TestQuery]:
    """Read the traffic after the launch of the new kinds."""
    return read_queries(sample.folder / "later_traffic.jsonl")


def play_second_act(
    place: DemoBackend, darl_toml: Path, update: Update, say: Callable[[str], object], *,
    earlier: Sequence[RouteRun] = (), settings: Sequence[str] = (),
) -> SecondAct:  # fmt: skip
    """Play the second act.

    :param darl_toml: that version 1 was trained with.
    :param update: shows progress: step, done, total.
    :param earlier: the test queries searched with version 1 in Python and through the pipeline, if that was done.
    :param settings: further keys of the cycle, as ``table.key=value``.
    :raises DarlError: if no cycle started, or it produced nothing.
    """
    from darl_opensearch.cli.cycle_world import Surroundings

    run = load("trainer.cycle.run", "train")
    config_module = load("trainer.cycle.config", "train")
    sample, spool = place.sample, place.folder / "later.sqlite"
    served_queries = choose_local(sample.queries)

    def advance(name: str, total: int) -> Callable[[], object]:
        done = itertools.count(1)
        return lambda: update(f"searching, {name}", next(done), total)

    def search(name: str, bundle: Bundle, queries: Sequence[TestQuery], log: OodLog | None = None) -> RouteRun:
        return search_in_python(
            name, bundle, place.first_stage, queries, advance(name, len(queries)), log, place.states
        )

    def search_served(name: str, bundle: Bundle, queries: Sequence[TestQuery]) -> RouteRun:
        return place.search_served(name, bundle, queries, advance(name, len(queries)))

    before, served = earlier or (
        search("version 1", place.bundle, sample.queries),
        search_served("version 1 served", place.bundle, served_queries),
    )
    with open_log(spool, place.bundle) as log:
        search("later traffic", place.bundle, read_later_traffic(sample), log)
    place.ship(spool)
    path = place.write_config(darl_toml)
    config = config_module.read_cycle(path, settings)
    world = Surroundings(config, path.parent, ClusterOptions(), say=say, report=update).world()
    result = run.run_cycle(config, path.parent, world)
    if result.cycle:
        load("trainer.report", "train").write_report(path.parent / config.folder / result.cycle)
    if "gate" not in result.steps:
        raise DarlError(f"the cycle made no version: {result.reason}", where=str(path), todo="see the cycle's folder")
    new = Bundle.open(path.parent / config.folder / result.cycle / "bundle")
    if result.outcome != RELEASED:
        place.by_hand(new, "the gate refused it; released by hand to show the switch")
    after = search("version 2", new, sample.queries)
    served_after = search_served("version 2 served", new, served_queries)
    place.back()
    back = search_served("version 1 again", place.bundle, served_queries[::2])
    return SecondAct(
        result.to_json()["steps"], result.outcome, result.reason, before, after, (served, served_after, back),
        place.bundle, new,
    )  # fmt: skip
