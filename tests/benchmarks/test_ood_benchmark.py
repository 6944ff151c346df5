"""The detectors' benchmark: its own parts, closed forms and oracles; whether a detector is good is what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.ood import detectors, report
from benchmarks.ood.encoding import SPEECH, TYPOS, Encoded
from benchmarks.ood.measures import Part, claims, figures, interval, over_repetitions, resamples
from benchmarks.ood.perturb import SPOKEN_BY_DIGEST, digest, misspelt
from benchmarks.pages import filled
from trainer.ood import DETECTORS

RNG = np.random.default_rng(0)


def part(n: int = 80, m: int = 50, *, ties: bool = False) -> Part:
    distances = RNG.normal(size=n), RNG.normal(1, 1, size=m)
    if ties:
        distances = tuple(np.round(d) for d in distances)
    return Part(distances[0], RNG.integers(0, 20, n), distances[1], RNG.integers(20, 30, m))


@pytest.mark.parametrize("ties", [False, True])
def test_figures_against_scikit_learn(ties):
    """With and without weights, which are how often a query was drawn."""
    one = part(ties=ties)
    weight = resamples(30, 6, seed=1)
    found = figures(one, weight)
    truth = np.repeat([0, 1], [len(one.inside), len(one.outside)])
    distance = np.concatenate([one.inside, one.outside])
    queries = np.concatenate([one.inside_query, one.outside_query])
    for row, times in enumerate(weight):
        w = times[queries]
        assert found["auroc"][row] == pytest.approx(roc_auc_score(truth, distance, sample_weight=w))
        assert found["aupr"][row] == pytest.approx(average_precision_score(truth, distance, sample_weight=w))


def test_fpr95_in_closed_form():
    """Of the known 1..20 the threshold that 95 % pass is 19; two of four strange ones pass it."""
    one = Part(np.arange(1.0, 21), np.zeros(20, np.int64), np.array([3.0, 19, 19.5, 40]), np.ones(4, np.int64))
    assert figures(one, np.ones((1, 2)))["fpr95"].tolist() == [2 / 4]


def test_repetitions_are_averaged_and_intervals_hold_the_point():
    parts, weight = [part(), part()], resamples(30, 200, seed=0)
    both = over_repetitions(parts, weight)["auroc"]
    assert both[0] == pytest.approx(np.mean([figures(p, weight[:1])["auroc"][0] for p in parts]))
    told = interval(both)
    assert told["low"] < told["mean"] < told["high"] and told["high"] - told["low"] > 0.01


def test_claims():
    draws = np.concatenate([[0.1], RNG.normal(0.1, 0.02, 999)])
    found = claims({"clear": draws, "none": draws - 0.1})
    assert found["clear"]["p_holm"] == pytest.approx(2 * 2 / 1000, abs=1e-5)  # no resample of 999 is below 0
    assert found["none"]["p"] > 0.5 and found["clear"]["low"] > 0 > found["none"]["low"]


def test_a_typo_changes_a_long_word_and_nothing_else():
    query = "can my landlord evict me at Christmas"
    seen = {misspelt(query, seed=seed) for seed in range(40)}
    assert query not in seen and len(seen) > 20
    for text in seen:
        words = text.split(" ")
        changed = [one for one, other in zip(words, query.split(" "), strict=True) if one != other]
        assert words[1:2] == ["my"] and 1 <= len(changed) <= 3
        assert all(abs(len(one) - 8) <= 5 for one in changed)
    assert misspelt(query, seed=[0, 3]) == misspelt(query, seed=[0, 3]) and misspelt("a is", seed=1) == "a is"


def test_translations_are_of_different_questions():
    assert len(SPOKEN_BY_DIGEST) == len(set(SPOKEN_BY_DIGEST.values())) == 30
    assert all(len(name) == 12 and digest(text) != name for name, text in SPOKEN_BY_DIGEST.items())


def made() -> Encoded:
    """Forty known queries of three items each out of sixty, ten strange ones, and five of the known ones misspelt."""
    rng = np.random.default_rng(3)
    domain = np.array(["UK"] * 40 + ["Australia"] * 10 + [TYPOS] * 5 + [SPEECH] * 2)
    origin = np.concatenate([np.arange(50), np.arange(5), [5, 6]])
    items = [rng.choice(60, 3, replace=False) for _ in range(40)] + [rng.choice(40, 3, replace=False) + 60
                                                                     for _ in range(10)]  # fmt: skip
    items += [items[q] for q in origin[50:]]
    index = np.array([(q, i) for q, row in enumerate(items) for i in row])
    query, item = (rng.normal(size=(n, 2, 8)).astype(np.float32) for n in (57, 100))
    item[60:, :, 0] += 2.0
    for halves in (query, item):
        halves /= np.linalg.norm(halves, axis=2, keepdims=True)
    return Encoded(
        query, item, rng.normal(size=(len(index), 12)).astype(np.float32), index, rng.integers(0, 4, len(index)),
        domain, np.array(["UK"] * 60 + ["Australia"] * 40), origin,
    )  # fmt: skip


SHIFT = detectors.Shift(
    ("UK",), {"near: Australia": ("Australia",), TYPOS: (TYPOS,), SPEECH: (SPEECH,)}, ("UK", "Australia")
)


@pytest.mark.parametrize("seed", range(4))
def test_no_part_shares_a_query_or_an_item_with_the_fit(seed):
    data = made()
    parts = detectors.split(data, SHIFT, seed=seed)
    query, item = data.index.T
    fit_queries, fit_items = set(query[parts.fit]), set(item[parts.fit])
    assert len(fit_queries) == 20
    for rows in (parts.held, parts.test, *parts.outside.values()):
        assert not fit_items & set(item[rows]) and not fit_queries & set(query[rows])
    assert not set(query[parts.held]) & set(query[parts.test])
    assert set(item[parts.seen]) <= fit_items and set(query[parts.seen]) <= set(query[parts.test]) | {
        q for q in range(40) if q not in fit_queries
    }
    assert not fit_queries & set(data.origin[query[parts.outside[SPEECH]]])
    assert set(data.origin[query[parts.outside[TYPOS]]]) <= set(query[parts.test])


def test_every_system_gives_every_pair_a_distance():
    data = made()
    bench = detectors.Bench(data, SHIFT, detectors.split(data, SHIFT, seed=0))
    assert {system.detector for system in detectors.SYSTEMS.values()} == set(DETECTORS)
    for name, system in detectors.SYSTEMS.items():
        distance = bench.distances(system)
        assert distance.shape == (len(data.index),) and np.isfinite(distance).all(), name
    blind, whole = (bench.distances(detectors.System("catalogue", "pair", blind=blind)) for blind in (True, False))
    assert DETECTORS["catalogue"].make.fits_catalogue and not np.allclose(blind, whole)


def test_shares_by_query():
    weight = np.array([[1.0, 1, 1], [0, 2, 1]])
    flags = [(np.array([True, False, False]), np.array([0, 0, 1])), (np.array([True]), np.array([2]))]
    told = detectors.share(flags, weight)
    assert told["mean"] == pytest.approx(2 / 4) and told["low"] == pytest.approx(1 / 3, abs=1e-5)
    assert detectors.share([(np.zeros(0, bool), np.zeros(0, np.int64))], weight) is None


def test_the_readme_shows_the_result():
    text = report.README.read_text(encoding="utf-8")
    assert report.RESULT.is_file() and filled(text, report.SECTIONS) == text
