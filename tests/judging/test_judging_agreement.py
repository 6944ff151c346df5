"""Agreement with an interval, and one label from several judges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from trainer.judging.agreement import compare_raters, measure_agreement
from trainer.judging.base import Answer
from trainer.judging.combine import combine, estimate_shares, tabulate_habits, to_probs

GRADES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


def compare(rows, *, a_query: int = 3, k: int = 3, draws: int = 200):
    first = {str(n): a for n, (a, _) in enumerate(rows)}
    second = {str(n): b for n, (_, b) in enumerate(rows)}
    queries = {str(n): str(n // a_query) for n in range(len(rows))}
    return measure_agreement(first, second, queries, k, draws=draws, seed=1)


# ---- agreement


@given(GRADES)
def test_kappa_is_scikit_learns(rows):
    found = compare(rows, draws=100)
    first, second = zip(*rows, strict=True)
    for weights, mine in (("quadratic", found.quadratic), (None, found.nominal)):
        if len(set(first)) == 1 and set(first) == set(second):
            assert math.isnan(mine.mean)  # no disagreement was possible: scikit-learn warns and gives nan, too
        else:
            theirs = cohen_kappa_score(first, second, labels=[0, 1, 2], weights=weights)
            assert mine.mean == pytest.approx(theirs, abs=1e-9)
    assert found.same.mean == pytest.approx(np.mean(np.equal(first, second)))
    assert found.pairs == len(rows) and np.sum(found.confusion) == len(rows)
    for figure in (found.quadratic, found.nominal, found.same):
        assert math.isnan(figure.low) or figure.low <= figure.high


@given(GRADES)
def test_who_comes_first_does_not_count(rows):
    one, other = compare(rows, draws=100), compare([(b, a) for a, b in rows], draws=100)
    for name in ("mean", "low", "high"):
        mine, theirs = getattr(one.quadratic, name), getattr(other.quadratic, name)
        assert mine == pytest.approx(theirs, nan_ok=True)


def test_pairs_of_one_query_count_as_one_draw():
    """Whole queries are right or wrong: to take their ten pairs for ten draws would promise far too much."""
    rows = [(n % 3, n % 3 if n // 10 % 4 else (n + 1) % 3) for n in range(200)]
    pairs, queries = compare(rows, a_query=1, draws=1000), compare(rows, a_query=10, draws=1000)
    assert pairs.quadratic.mean == queries.quadratic.mean and (pairs.queries, queries.queries) == (200, 20)
    widths = [a.quadratic.high - a.quadratic.low for a in (pairs, queries)]
    assert widths[1] > 2 * widths[0]


def test_the_interval_covers_about_as_often_as_it_says():
    """Two judges who are right by .8 of a uniform truth of two grades: kappa is (.68 - .5) / .5 = 9 / 25."""
    rng, inside, trials = np.random.default_rng(0), 0, 100
    for _ in range(trials):
        true = rng.integers(0, 2, 120)
        said = [np.where(rng.random(120) < 0.8, true, 1 - true) for _ in range(2)]
        found = compare(list(zip(said[0].tolist(), said[1].tolist(), strict=True)), a_query=1, k=2, draws=200)
        inside += found.quadratic.low <= 9 / 25 <= found.quadratic.high
    assert inside / trials > 0.9


def test_nothing_in_common_is_no_number():
    found = measure_agreement({"a": 1}, {"b": 1}, {"a": "q", "b": "q"}, 3, draws=100, seed=0)
    assert found.pairs == 0 and found.to_json()["quadratic"] == {"mean": None, "low": None, "high": None, "n": 0}
    compared = compare_raters({"x": {}, "y": {}, "z": {}}, {}, 3, draws=100, seed=0)
    assert [(first, second) for first, second, _ in compared] == [("x", "y"), ("x", "z"), ("y", "z")]


# ---- several judges


def test_habits_are_counts_on_gold_beside_the_prior():
    gold = {"a": 0, "b": 0, "c": 1}
    answers = {"a": Answer(0), "b": Answer(1), "c": Answer(None), "d": Answer(1)}
    near = math.exp(-1)
    table = tabulate_habits(answers, gold, 2, smoothing=2.0)
    prior = np.array([1 / (1 + near), near / (1 + near)])
    assert table[0] == pytest.approx((2 * prior + [1, 1]) / 4)
    assert table[1] == pytest.approx(prior[::-1])  # the pair that was passed over, and the one outside, count nothing
    assert estimate_shares(gold, 2, smoothing=2.0) == pytest.approx([3 / 5, 2 / 5])
    assert estimate_shares({}, 4, smoothing=1.0) == pytest.approx([1 / 4] * 4)


def test_soft_answers_count_softly():
    table = tabulate_habits({"a": Answer.of([0.25, 0.75])}, {"a": 1}, 2, smoothing=1e-9)
    assert table[1] == pytest.approx([0.25, 0.75])
    assert to_probs(Answer(1), 3).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="a skipped pair has no grade"):
        to_probs(Answer(None), 3)


def test_the_posterior_is_bayes_rule():
    good, poor = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.5, 0.5], [0.4, 0.6]])
    label = combine([Answer(1), Answer(0)], [good, poor], np.array([0.7, 0.3]))
    no, yes = 0.7 * 0.1 * 0.5, 0.3 * 0.8 * 0.4
    assert label.grade == 1 and label.grade_probs == pytest.approx([no / (no + yes), yes / (no + yes)], abs=1e-9)
    soft = combine([Answer.of([0.5, 0.5]), Answer(0)], [good, poor], np.array([0.7, 0.3]))
    no, yes = 0.7 * 0.5 * 0.5, 0.3 * 0.5 * 0.4
    assert soft.grade_probs == pytest.approx([no / (no + yes), yes / (no + yes)], abs=1e-9)


def test_one_judge_is_taken_at_its_word():
    assert combine([Answer(2)], [np.eye(3)[::-1]], np.array([0.98, 0.01, 0.01])) == Answer(2)


def test_two_who_are_equally_good_meet_in_the_middle_or_below():
    table, even = tabulate_habits({}, {}, 3, smoothing=4.0), np.full(3, 1 / 3)
    assert combine([Answer(0), Answer(2)], [table, table], even).grade == 1
    two = tabulate_habits({}, {}, 2, smoothing=4.0)
    assert combine([Answer(0), Answer(1)], [two, two], np.full(2, 1 / 2)).grade == 0  # in doubt the lower


@given(st.permutations(range(3)), st.lists(st.integers(0, 2), min_size=3, max_size=3), st.integers(0, 1000))
def test_the_order_of_judges_does_not_count(order, grades, seed):
    rng = np.random.default_rng(seed)
    tables = [t / t.sum(1, keepdims=True) for t in rng.random((3, 3, 3)) + 0.01]
    answers = [Answer(grade) for grade in grades]
    one = combine(answers, tables, np.full(3, 1 / 3))
    assert combine([answers[n] for n in order], [tables[n] for n in order], np.full(3, 1 / 3)) == one


def test_weighing_by_gold_beats_counting_heads():
    """Two careless judges of the same bias outvote a good one; weighed, they do not."""
    rng, n = np.random.default_rng(3), 600
    true = rng.integers(0, 3, n)
    good = np.where(rng.random(n) < 0.9, true, rng.integers(0, 3, n))
    lazy = [np.where(rng.random(n) < 0.35, true, 0) for _ in range(2)]
    names = [str(i) for i in range(n)]
    answers = [{t: Answer(int(g)) for t, g in zip(names, said, strict=True)} for said in (good, *lazy)]
    gold = {t: int(g) for t, g in zip(names[:150], true, strict=False)}
    tables = [tabulate_habits(said, gold, 3, smoothing=4.0) for said in answers]
    prior = estimate_shares(gold, 3, smoothing=4.0)
    rest = range(150, n)
    weighed = np.array([combine([said[names[i]] for said in answers], tables, prior).grade for i in rest])
    heads = np.array([np.bincount([good[i], lazy[0][i], lazy[1][i]], minlength=3).argmax() for i in rest])
    right = [float(np.mean(said == true[150:])) for said in (weighed, heads, good[150:])]
    assert right[0] > right[1] + 0.2 and right[0] >= right[2]
