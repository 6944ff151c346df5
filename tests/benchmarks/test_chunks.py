"""The benchmark of long items: its pages, and what its variants compare."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from benchmarks.quality import chunks
from benchmarks.quality.chunks import best_rows, measure, read_world
from benchmarks.quality.report import CHUNKS, render_chunks
from trainer.training_data.pairs import Pairs


@pytest.fixture
def folder(tmp_path):
    """Four web pages of twelve passages of 100 words, and one that is too short."""
    passages = [
        {"doc_id": f"{page}-{n}", "domain": "UK", "page": page, "title": f"T{n}", "text": " ".join(["word"] * 100)}
        for page, size in (("A", 12), ("B", 12), ("C", 12), ("D", 12), ("short", 2))
        for n in range(size)
    ]
    rows = [
        ("q1", "A-3", 1), ("q1", "A-4", 3), ("q1", "B-0", 0), ("q2", "C-1", 2), ("q2", "short-0", 3), ("q3", "D-0", 0),
    ]  # fmt: skip
    judged = [{"query_id": q, "query": f"about {q}", "doc_id": doc, "grade": grade} for q, doc, grade in rows]
    (tmp_path / "feedbackqa").mkdir()
    for name, lines in (("passages", passages), ("judgments", judged)):
        with gzip.open(tmp_path / "feedbackqa" / f"{name}.jsonl.gz", "wt") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    return tmp_path


def test_pages_are_long_and_have_the_best_grade_on_them(folder):
    world = read_world(folder, queries=10, seed=0)
    assert sorted(world.queries) == ["about q1", "about q2"]  # q3 has no relevant page
    for page in world.pages:
        assert 500 <= len(page.item["text"].split()) <= 2000 and page.key[1] != "short"
        numbers = [int(passage.split("-")[1]) for passage in page.passages]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    lists = dict(zip(world.queries, world.judged, strict=True))
    for place, grade in lists["about q1"]:
        page = world.pages[place]
        best = max([3 * ("A-4" in page.passages), 1 * ("A-3" in page.passages)])
        assert grade == (best if page.key[1] == "A" else 0)
    assert {world.pages[place].key[1] for place, _ in lists["about q2"]} == {"A", "B", "C"}


def test_the_best_chunk_of_each_pair():
    assert best_rows(np.array([0.1, 0.9, 0.9, 0.3, 0.2]), np.array([0, 0, 0, 1, 1])).tolist() == [1, 3]


def test_a_change_is_that_of_the_same_queries():
    index = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    pairs = Pairs(("a", "b"), ("x", "y"), index, torch.tensor([0, 1, 1, 0]))
    right = np.array([0.0, 1.0, 1.0, 0.0])
    scores = dict.fromkeys(chunks.VARIANTS, right) | {chunks.FIRST: -right}
    found = measure(pairs, None, scores)
    worst = 1 / np.log2(3)
    assert found[chunks.FIRST]["ndcg"] == {"mean": pytest.approx(worst, abs=1e-5), "queries": 2}
    assert found["max of 2"]["ndcg"]["change"]["mean"] == pytest.approx(1 - worst, abs=1e-5)
    assert found["mean of 2"]["ndcg"]["from_max"]["mean"] == 0


def test_the_section_is_of_the_result():
    text = render_chunks(json.loads(CHUNKS.read_text(encoding="utf-8")))
    assert "| first chunk |" in text and "mean of 16 − max of 16: nDCG@10" in text
