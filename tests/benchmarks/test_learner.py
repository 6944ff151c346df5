"""The benchmark of the default learner: its splits, its comparisons, and a whole run on a small set."""

from __future__ import annotations

import gzip
import json
import random

import numpy as np
import pytest

from benchmarks.quality import learner
from benchmarks.quality.learner import SETS, Set, compare, read_beside, read_split
from benchmarks.quality.report import render_learner
from darl_opensearch.errors import InputError
from darl_opensearch.text import ItemRenderer, ItemTemplate
from tests.helpers.training_project import TEXTS, tiny_tokenizer, write_base

QUERIES, SIZES = 24, (12, 6, 4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set whose grades follow shared words; one query has a single grade, and one item no text."""
    rng = random.Random(0)
    items = [{"doc_id": f"i{n}", "text": rng.choice(TEXTS) if n else ""} for n in range(60)]
    rows = []
    for n in range(QUERIES):
        words = set(rng.choice(TEXTS).split()[:2])
        for item in rng.sample(items, 12):
            shared = len(words & set(item["text"].split()))
            grade = 1 if n == 3 else min(shared, 2)
            query = {"query_id": f"q{n:02}", "query": " ".join(sorted(words))}
            rows.append(query | {"doc_id": item["doc_id"], "grade": grade})
    (tmp_path / "epqa").mkdir()
    for name, lines in (("items", items), ("judgments", rows)):
        with gzip.open(tmp_path / "epqa" / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    monkeypatch.setitem(SETS, "epqa", Set("items", ("=text",), 3, SIZES))
    monkeypatch.setenv("DARL_DATA", str(tmp_path))
    return tmp_path


def test_a_split(folder):
    renderer = ItemRenderer(ItemTemplate(("=text",), "doc_id"), tiny_tokenizer("bert")[0], 32)
    one, again, other = (read_split(folder, "epqa", number, renderer) for number in (0, 0, 1))
    parts = [{query.query_id for query in part} for part in (one.train, one.dev, one.test)]
    assert [len(part) for part in parts] == list(SIZES) and len(set.union(*parts)) == sum(SIZES)
    assert "q03" not in set.union(*parts)  # its items have one grade
    assert one == again and one.train != other.train
    assert all(len(query.item_ids) == 10 and set(query.item_ids) <= one.items.keys() for query in one.train)


def test_a_query_of_several_splits_is_one_draw():
    one, two = {"a": [0.5, 0.7], "b": [0.4], "c": [1.0]}, {"a": [0.5, 0.5], "b": [0.1], "c": [0.0, 0.0], "d": [0.0]}
    found = compare(one, two)
    assert found["n"] == 2 and found["mean"] == pytest.approx((0.1 + 0.3) / 2)


def test_predictions_of_other_queries_are_refused(tmp_path):
    path = tmp_path / "epqa-0-trained.npz"
    probs = np.array([[0.2, 0.8], [0.9, 0.1]])
    np.savez(path, p=probs, z=np.array([1.0, 0.0]), y=np.array([1, 0]), q=np.array([0, 0]), names=np.array(["a"]))
    assert read_beside(path, ["a"])["rps"] == {"0": pytest.approx((0.2**2 + 0.1**2) / 2)}
    assert read_beside(path, ["a"])["ndcg"] == {"0": 1.0}
    with pytest.raises(InputError, match="of other queries"):
        read_beside(path, ["b"])


def test_a_whole_run(folder, capsys):
    """A run that is there is not run again, and another variant stands beside it."""
    arguments = ["--sets", "epqa", "--splits", "0", "--work", str(folder / "work"), "--out", str(folder / "out.json")]
    tiny = json.dumps(str(write_base(folder / "bert", "bert")))
    base = ["--variant", "tiny", "--set", f"model.base={tiny}", "--set", "stages.full_epochs=1"]
    assert learner.main([*arguments, *base]) == 0 and "epqa 0 tiny" in capsys.readouterr().out
    assert learner.main([*arguments, *base]) == 0 and "epqa" not in capsys.readouterr().out
    result = json.loads((folder / "out.json").read_text())
    found = result["sets"]["epqa"]
    assert list(found) == ["untrained", "tiny, head", "tiny, full"]
    assert found["tiny, full"]["against"]["untrained"]["ndcg"]["n"] == SIZES[2]
    assert render_learner(result).startswith("| ePQA (splits)")
    with pytest.raises(SystemExit):
        learner.main([*arguments, "--set", "stages.full_epochs=1"])  # a variant without a name
