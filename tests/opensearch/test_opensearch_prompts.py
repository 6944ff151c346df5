"""A base with prompts and a Dense layer, from its checkpoint to a search in the cluster.

ML Commons reads the prompts from the pair template of ``tokenizer.json``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from darl_opensearch.cluster import load_items
from darl_opensearch.scoring import Scorer
from tests.helpers.cluster import clean_up
from tests.helpers.described import dense, describe
from tests.helpers.files import read_rows
from tests.helpers.trained import train_and_export
from tests.helpers.training_project import write_base, write_project
from tests.opensearch.conftest import Place

pytestmark = pytest.mark.opensearch


@pytest.fixture(scope="module")
def prompted(cluster, tmp_path_factory):
    """A trained bundle, its items in an index, and the model in the cluster."""
    folder = tmp_path_factory.mktemp("prompted")
    torch.manual_seed(3)
    base = describe(
        write_base(folder / "base", "bert", scale=0.2), "new", pooling="mean", layers=[dense(32, 16, nn.Tanh())],
        prompts={"query": "fire theft ", "passage": "cover against "},
    )  # fmt: skip
    config = write_project(folder / "data", base, model={"name": "prompted"}, stages={"run": ["head"]})
    trained, bundle = train_and_export(folder, config)
    place = Place(cluster, bundle, "t-prompted")
    place.register("local")
    load_items(cluster, bundle, folder / "data" / "items.jsonl", place.index).check()
    yield trained, place, read_rows(folder / "data" / "items.jsonl")
    clean_up(cluster, bundle, pipeline_names=place.used, indexes={place.index})


@pytest.mark.parametrize("query", ["bike theft", "pet cover", "cover against fire"])
def test_a_score_in_the_cluster_is_the_local_one(prompted, query):
    trained, place, items = prompted
    texts = [place.bundle.renderer(item) for item in items]
    with Scorer.open(place.bundle) as scorer:
        local = scorer.score(query, texts).score
    model = trained.model
    head_input = model.pair_features([query] * len(texts), texts).head_input
    assert np.abs(local - model.head.score(model.head(head_input)).detach().numpy()).max() <= 1e-4
    found = place.search().search(query, size=10)
    assert found.reranked and len(found.hits) > 3
    by_id = {item["id"]: score for item, score in zip(items, local, strict=True)}
    for hit in found.hits:
        assert hit.score == pytest.approx(by_id[hit.source["darl_id"]], abs=1e-4)
