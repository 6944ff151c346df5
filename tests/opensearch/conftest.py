"""A cluster, a bundle of one's own, and what was registered of it: all removed again."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, PipelineOptions, RegisterOptions, ScorerAddress, load_items, register
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.compatibility import supports
from darl_opensearch.cluster.pipelines import put_pipelines, render_pipelines
from darl_opensearch.cluster.preflight import Mode
from darl_opensearch.cluster.register import Registration
from darl_opensearch.connect import ClusterOptions, Identity
from darl_opensearch.node import NodeSpec, NodeStatus, node_possible, process, running_node, status
from darl_opensearch.node.manifest import DEFAULT_VERSION
from darl_opensearch.scoring import Scorer
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import ITEMS, tiny_bundle
from tests.helpers.cluster import RunningScorer, clean_up

NODE_VERSION = os.environ.get("DARL_NODE_VERSION", DEFAULT_VERSION)  # of the node that is started
FEW = 20
WORDS = ["bike", "lost", "luggage", "roof", "storm", "ski", "fire", "kitchen", "flight", "stolen", "house"]


def many_items(count: int) -> list[dict[str, str]]:
    """Items that all hold the word "cover", so that a match on it finds them all."""
    made = [
        {
            "id": f"m-{n}",
            "name": f"{WORDS[n % 11]} {WORDS[(n // 11) % 11]}",
            "kind": "made",
            "cover": f"cover {'pipes ' * (n % 7)}",
        }
        for n in range(count - len(ITEMS))
    ]
    return ITEMS + made


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests of a mode that the version to start does not support."""
    if not supports(Identity(NODE_VERSION, "").version, "local"):
        local = [item for item in items if mode_of(item) == "local"]
        items[:] = [item for item in items if item not in local]
        config.hook.pytest_deselected(items=local)


def mode_of(item: pytest.Item) -> str | None:
    """The mode that a test is about, by its parameter or mark; None: both, or none."""
    if item.get_closest_marker("local_mode"):
        return "local"
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("mode") if callspec else None


@pytest.fixture(scope="session")
def node() -> Iterator[NodeStatus]:
    """A real OpenSearch node with ML Commons, its own for this run, of which nothing is left.

    Without Java and Maven or Docker the tests that ask for it are skipped, unless ``DARL_REQUIRE_OPENSEARCH=1``:
    then they fail.
    """
    possible = node_possible(NodeSpec(version=NODE_VERSION))
    if not possible:
        reason = f"no real OpenSearch node: {possible.reason}"
        if os.environ.get("DARL_REQUIRE_OPENSEARCH") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with running_node(version=NODE_VERSION, timeout_s=400) as running:
        yield running
    gone = status(running.port)
    assert gone.state == "stopped"
    assert not gone.folder.exists()
    if running.engine == "java":
        assert process.look(running.pid) is None
        assert not process.group_lives(running.pid)


@pytest.fixture(scope="session")
def opensearch_url(request: pytest.FixtureRequest) -> str:
    """The node's address; ``DARL_TEST_OPENSEARCH_URL`` names one that runs already."""
    return os.environ.get("DARL_TEST_OPENSEARCH_URL") or request.getfixturevalue("node").url


@pytest.fixture(scope="session")
def cluster(opensearch_url: str) -> Iterator[Cluster]:
    found = Cluster.open(ClusterOptions(url=opensearch_url))
    yield found
    found.client.close()


@dataclass
class Place:
    """A bundle with names of its own in the cluster."""

    cluster: Cluster
    bundle: Bundle
    name: str
    used: set[str] = field(default_factory=set)

    @property
    def index(self) -> str:
        return f"{self.name}-items"

    def pipeline(self, suffix: str = "", **options: object) -> PipelineOptions:
        self.used.add(self.name + suffix)
        return PipelineOptions(name=self.name + suffix, **options)

    def register(
        self, mode: str, scorer: RunningScorer | None = None, suffix: str = "", **options: object
    ) -> Registration:
        key = options.pop("key", None)
        address = ScorerAddress(scorer.url, key) if scorer else None
        pipeline = self.pipeline(suffix, **options.pop("pipeline", {}))
        chosen = RegisterOptions(mode=mode, scorer=address, pipeline=pipeline, **options)
        return register(self.bundle, self.cluster, chosen)

    def search(self, suffix: str = "") -> PipelineSearch:
        return PipelineSearch(self.cluster.client, self.bundle, self.index, self.name + suffix)

    def send(self, suffix: str, body: Mapping[str, Any], query: str = "stolen bike cover") -> dict[str, Any]:
        """The answer to a search as any client sends it, of a pipeline with or without grades."""
        texts = {"ml_inference": {"query_text": query}, "rerank": {"query_context": {"query_text": query}}}
        place = f"{join_path(self.index, '_search')}?search_pipeline={self.name}{suffix}"
        return self.cluster.read("POST", place, {"query": {"match": {"darl_text": query}}, "ext": texts} | dict(body))


def score_everywhere(
    trained: Any, place: Place, items: Sequence[Mapping[str, Any]], query: str
) -> tuple[NDArray[Any], NDArray[Any], dict[str, float]]:
    """Score items by torch, by the exported graph and, those that a search finds, in the cluster.

    :return: scores by torch and by the graph, each ``[n]``; and in the cluster, by item.
    """
    texts = [place.bundle.renderer(item) for item in items]
    with Scorer.open(place.bundle) as scorer:
        local = scorer.score(query, texts).score
    head_input = trained.model.pair_features([query] * len(texts), texts).head_input
    by_torch = trained.model.head.score(trained.model.head(head_input)).detach().numpy()
    found = place.search().search(query, size=10)
    assert found.reranked and len(found.hits) > 3
    return by_torch, local, {hit.source["darl_id"]: hit.score for hit in found.hits}


def make_place(cluster: Cluster, folder: Path, **card: str) -> Place:
    name = f"t{uuid.uuid4().hex[:10]}"
    return Place(cluster, tiny_bundle(folder / name, name=name, **card), name)


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    made = make_place(cluster, tmp_path)
    yield made
    clean_up(cluster, made.bundle, pipeline_names=made.used, indexes={made.index})


@dataclass
class Both(Place):
    """One bundle, registered in both modes over the same index of 400 items; few pairs are scored per search."""

    scorer: RunningScorer = None  # type: ignore[assignment]
    local_scorer: Scorer = None  # type: ignore[assignment]
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        """The first mode that this version supports."""
        return next(iter(self.ids))

    def write_pipelines(self, mode: Mode, suffix: str, **options: object) -> None:
        """Further pipelines of the models that are registered."""
        chosen = self.pipeline(f"-{mode}{suffix}", **options)
        put_pipelines(self.cluster, render_pipelines(self.bundle.card, mode, self.ids[mode], chosen))


@pytest.fixture(scope="session")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("both")
    made = make_place(cluster, folder)
    place = Both(cluster, made.bundle, made.name)
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in many_items(400)), encoding="utf-8")
    with RunningScorer(place.bundle) as scorer, Scorer.open(place.bundle) as local_scorer:
        place.scorer, place.local_scorer = scorer, local_scorer
        try:
            place.ids = {
                mode: place.register(
                    mode, scorer if mode == "connector" else None, f"-{mode}", pipeline={"max_k": FEW}
                ).model_id
                for mode in ("local", "connector")
                if supports(cluster.identify().version, mode)
            }
            load_items(cluster, place.bundle, items, place.index).check()
            yield place
        finally:
            clean_up(cluster, place.bundle, pipeline_names=place.used, indexes={place.index})
