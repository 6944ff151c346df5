"""A base of another shape, vocabulary and writing system, from its checkpoint to a search in the cluster.

An XLM-R encoder of random weights with a SentencePiece (unigram) tokenizer, and items that are not in English.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from darl_opensearch.cluster import load_items
from darl_opensearch.cluster.probe import probe_search
from darl_opensearch.cluster.verify import PROBES
from tests.helpers.cluster import clean_up
from tests.helpers.files import write_rows
from tests.helpers.trained import train_and_export
from tests.helpers.training_project import EVENTS, SUBJECTS, write_base, write_project
from tests.opensearch.conftest import Place, score_everywhere

pytestmark = [pytest.mark.opensearch, pytest.mark.local_mode]
ITEMS = [
    {"id": f"i{n}", "title": f"{subject} {event}", "kind": subject}
    for n, (subject, event) in enumerate(itertools.product(SUBJECTS, EVENTS))
]


@pytest.fixture(scope="module")
def foreign(cluster, tmp_path_factory):
    """A trained bundle, its items in an index, and the model in the cluster."""
    folder = tmp_path_factory.mktemp("foreign")
    path = write_project(
        folder / "data",
        write_base(folder / "base", "xlm-roberta"),
        model={"name": "foreign"},
        stages={"full_epochs": 1},
    )
    write_rows(folder / "data" / "items.jsonl", ITEMS)
    judged = []
    for n, (subject, event) in enumerate(itertools.product(SUBJECTS[:6], EVENTS[:4])):
        for item in ITEMS[n % 3 :: 5][:10]:
            grade = (subject in item["title"]) + (event in item["title"])
            judged.append({"query_id": f"q{n}", "query": f"{event}: {subject}", "item_id": item["id"], "grade": grade})
    write_rows(folder / "data" / "judgments.jsonl", judged)
    traffic = [{"query": f"{event} ?", "items": [item["id"] for item in ITEMS[n::9]]} for n, event in enumerate(EVENTS)]
    write_rows(folder / "data" / "traffic.jsonl", traffic)
    trained, bundle = train_and_export(folder, path)
    place = Place(cluster, bundle, "t-foreign")
    model_id = place.register("local").model_id
    load_items(cluster, bundle, folder / "data" / "items.jsonl", place.index).check()
    yield trained, place, model_id
    clean_up(cluster, bundle, pipeline_names=place.used, indexes={place.index})


def test_the_bundle_reads_every_script(foreign):
    _, place, _ = foreign
    tokenizer = place.bundle.tokenizer
    unknown = tokenizer.token_to_id("<unk>")
    assert not any(unknown in tokenizer.encode(item["title"]).ids for item in ITEMS)


@pytest.mark.parametrize("query", ["自転車 盗難", "Küche überschwemmt", "आग भवन"])
def test_a_score_does_not_depend_on_where_it_is_computed(foreign, query):
    """Torch, the exported graph and the cluster agree."""
    trained, place, _ = foreign
    by_torch, local, in_cluster = score_everywhere(trained, place, ITEMS, query)
    assert np.abs(local - by_torch).max() < 0.005
    by_id = {item["id"]: score for item, score in zip(ITEMS, local, strict=True)}
    for item_id, score in in_cluster.items():
        assert score == pytest.approx(by_id[item_id], abs=0.005)


def test_probes_longer_than_the_query_cap_are_cut(foreign):
    """To a small vocabulary plain English is many tokens: registering and releasing still compare like with like."""
    _, place, model_id = foreign
    assert len(place.bundle.tokenizer.encode(PROBES[0][0]).ids) - 2 > place.bundle.card.query_cap
    assert probe_search(place.cluster, place.bundle, "local", model_id, place.index).deviation < 0.005
