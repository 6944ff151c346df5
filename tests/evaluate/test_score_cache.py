"""Scores that are read again: the same to the last digit, and never those of anything else."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from darl_opensearch.bundle import MODEL, TOKENIZER, Bundle
from darl_opensearch.scoring import Scorer
from tests.helpers.bundles import ITEMS, TEMPLATE, copy_bundle, correct_digests, tiny_bundle, with_slope
from tests.helpers.files import write_rows
from trainer.evaluate import score_cache
from trainer.evaluate.evaluation import evaluate
from trainer.evaluate.gate import gate
from trainer.evaluate.score_cache import ScoreCache
from trainer.evaluate.settings import EvaluationOptions, GateOptions

TEXTS = [TEMPLATE.render(item) for item in ITEMS]
REQUESTS = [("stolen bicycle", TEXTS), ("ski rescue", TEXTS[:3]), ("kitchen fire", TEXTS[2:])]
OPTIONS = GateOptions(draws=400, threads=1, min_queries=5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    plain = tiny_bundle(folder / "plain", name="shoes")
    return with_slope(plain, folder / "old", -10), with_slope(plain, folder / "new", 10)


@pytest.fixture
def data(tmp_path):
    """80 queries: more than are scored in one go."""
    parts = {"id_test": ("b", {}), "control": ("t", {"arm": "control"})}
    files = {
        name: write_rows(tmp_path / f"{name}.jsonl", [
            {"query_id": f"{kind}{n}", "query": f"{['stolen', 'luggage', 'roof'][n % 3]} {kind}word{n}",
             "item_id": item["id"], "grade": int(item["id"].startswith(kind)) + int(item["id"] == f"{kind}1")} | more
            for n in range(80) for item in ITEMS
        ])
        for name, (kind, more) in parts.items()
    }  # fmt: skip
    return files | {"items": write_rows(tmp_path / "items.jsonl", ITEMS)}


@pytest.fixture
def calls(monkeypatch):
    """Queries that a graph scored."""
    seen, real = [], Scorer.score_many

    def spy(self, requests):
        seen.extend((self.bundle.path.name, query) for query, _ in requests)
        return real(self, requests)

    monkeypatch.setattr(Scorer, "score_many", spy)
    return seen


def decided(bundles, data, kept=None):
    """What the gate says, without the time it said it at."""
    said = gate(*bundles, **data, options=OPTIONS, score_cache=kept).to_json()
    return json.dumps(said | {"created": ""}, sort_keys=True)


def evaluated(bundles, data, **settings):
    """The scores that an evaluation kept; it has the models the other way round."""
    kept, (old, new) = ScoreCache(), bundles
    evaluate(EvaluationOptions(
        models=(new.path,), items=(data["items"],), against=(str(old.path),), draws=100, threads=2,
        parts=(("id", data["id_test"]), ("control", data["control"])), **settings,
    ), score_cache=kept)  # fmt: skip
    return kept


def test_the_gate_says_the_same_to_the_last_digit_and_scores_nothing(bundles, data, tmp_path, calls):
    without = decided(bundles, data)
    assert len(calls) == 2 * 2 * 80
    digest = evaluated(bundles, data).write(tmp_path / "scores.npz")
    calls.clear()
    assert decided(bundles, data, ScoreCache.read(tmp_path / "scores.npz", digest)) == without
    assert calls == []


def test_a_file_that_was_tampered_with_is_not_used(bundles, data, tmp_path, calls):
    without, path = decided(bundles, data), tmp_path / "scores.npz"
    digest = evaluated(bundles, data).write(path)
    with np.load(path) as kept:
        better = {key: np.ascontiguousarray(kept[key][::-1]) for key in kept.files}
    ScoreCache(better).write(path)
    assert decided(bundles, data, ScoreCache(better)) != without  # so it would have changed the decision
    calls.clear()
    assert decided(bundles, data, ScoreCache.read(path, digest)) == without and len(calls) == 320


@pytest.mark.parametrize("damage", ["gone", "cut", "another digest", "no digest"])
def test_a_file_that_is_not_the_one_that_was_written_holds_nothing(bundles, tmp_path, calls, damage):
    path, kept = tmp_path / "scores.npz", ScoreCache()
    with Scorer.open(bundles[0], threads=1) as scorer:
        kept.wrap(scorer)(REQUESTS)
        digest = kept.write(path)
        if damage == "gone":
            path.unlink()
        if damage == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        given = {"another digest": "0" * 64, "no digest": None}.get(damage, digest)
        ScoreCache.read(path, given).wrap(scorer)(REQUESTS)
    assert len(calls) == 2 * len(REQUESTS)


def test_what_is_read_is_what_was_scored(bundles, tmp_path, calls):
    kept = ScoreCache()
    with Scorer.open(bundles[0], threads=1) as scorer:
        first = kept.wrap(scorer)(REQUESTS)
        digest = kept.write(tmp_path / "scores.npz")
        again = ScoreCache.read(tmp_path / "scores.npz", digest).wrap(scorer)(REQUESTS)
        assert ScoreCache().wrap(scorer)([]) == []
    assert [s.data.tobytes() for s in first] == [s.data.tobytes() for s in again]
    assert [s.alpha for s in first] == [s.alpha for s in again] and len(calls) == len(REQUESTS)


@pytest.mark.parametrize(
    "requests",
    [
        REQUESTS[::-1],
        REQUESTS[:2],
        [("stolen bicycles", TEXTS), *REQUESTS[1:]],
        [("stolen bicycle", TEXTS[::-1]), *REQUESTS[1:]],
        [("stolen bicycle", [*TEXTS[:-1], TEXTS[-1] + "."]), *REQUESTS[1:]],
        [("stolen bicycle", TEXTS[:5]), ("ski rescue", [TEXTS[5], *TEXTS[:3]]), REQUESTS[2]],
    ],
)
def test_other_pairs_or_another_order_are_scored_anew(bundles, calls, requests):
    kept = ScoreCache()
    with Scorer.open(bundles[0], threads=1) as scorer:
        kept.wrap(scorer)(REQUESTS)
        calls.clear()
        found = kept.wrap(scorer)(requests)
        assert len(calls) == len(requests)
        expected = scorer.score_many(requests)
    assert [s.data.tobytes() for s in found] == [s.data.tobytes() for s in expected]


@pytest.mark.parametrize("changed", [MODEL, TOKENIZER, "card", "other", "budget", "version", "machine"])
def test_another_graph_or_another_program_is_asked_itself(bundles, tmp_path, calls, monkeypatch, changed):
    old, new = bundles
    kept, folder, budget = ScoreCache(), copy_bundle(old, tmp_path / "same"), None
    with Scorer.open(old, threads=1) as scorer:
        kept.wrap(scorer)(REQUESTS)
    with Scorer.open(folder, threads=2) as scorer:  # another folder, other threads: the same rows
        calls.clear()
        kept.wrap(scorer)(REQUESTS)
        assert calls == []
    if changed in (MODEL, TOKENIZER):
        path = folder / changed
        path.write_bytes((new.path / MODEL).read_bytes() if changed == MODEL else path.read_bytes() + b"\n")
        correct_digests(folder)
    if changed == "budget":
        budget = 64
    if changed == "version":
        monkeypatch.setattr(score_cache, "__version__", "0.0.0")
    if changed == "machine":
        monkeypatch.setattr(score_cache.platform, "node", lambda: "elsewhere")
    bundle = Bundle.open(new.path if changed == "other" else folder)
    if changed == "card":
        bundle = dataclasses.replace(bundle, card=dataclasses.replace(bundle.card, query_cap=bundle.card.query_cap - 1))
    with Scorer.open(bundle, threads=1, token_budget=budget) as scorer:
        kept.wrap(scorer)(REQUESTS)
    assert len(calls) == len(REQUESTS)


def test_another_seed_orders_the_items_otherwise_and_is_scored_anew(bundles, data, calls):
    kept = evaluated(bundles, data, seed=1)
    without = decided(bundles, data)
    calls.clear()
    assert decided(bundles, data, kept) == without and len(calls) == 320
