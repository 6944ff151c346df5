"""A base with prompts and a Dense layer, from its checkpoint to a search in the cluster.

ML Commons reads the prompts from the pair template of ``tokenizer.json``.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from darl_opensearch.cluster import load_items
from tests.helpers.cluster import clean_up
from tests.helpers.described import dense, describe
from tests.helpers.files import read_rows
from tests.helpers.trained import train_and_export
from tests.helpers.training_project import write_base, write_project
from tests.opensearch.conftest import Place, score_everywhere

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
    by_torch, local, in_cluster = score_everywhere(trained, place, items, query)
    assert np.abs(local - by_torch).max() <= 1e-4
    by_id = {item["id"]: score for item, score in zip(items, local, strict=True)}
    for item_id, score in in_cluster.items():
        assert score == pytest.approx(by_id[item_id], abs=1e-4)
