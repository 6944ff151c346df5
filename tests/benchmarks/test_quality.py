"""The quality benchmark's own parts; whether its numbers are good is what the benchmark is for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import pages
from benchmarks.measuring import data_folder
from benchmarks.quality import feedbackqa, report, study
from benchmarks.quality.data import GAINS, Judged, Texts, bm25_scores, half_split, lay_out, read_texts
from benchmarks.quality.measures import Claim, claims_json, compare_paired, over_splits, ranked_probability_score
from benchmarks.quality.methods import METHODS, OURS, Method, apply, as_yes_no, fit
from darl_opensearch.errors import UsageError
from darl_opensearch.stats.bootstrap import Interval

NAMES = [method.name for method in METHODS]


@pytest.fixture(scope="module")
def made() -> Judged:
    """180 queries whose second feature tells the grade; the first, the cosine, hardly does."""
    rng = np.random.default_rng(0)
    n, per = 180, 3
    grades = rng.integers(0, 4, size=(n, per))
    judged = [[(f"{q}-{i}", int(g)) for i, g in enumerate(row)] for q, row in enumerate(grades)]
    pairs = lay_out([f"q{q}" for q in range(n)], judged, {f"{q}-{i}": "" for q in range(n) for i in range(per)})
    truth = pairs.grades.numpy()
    columns = [0.2 * truth + rng.normal(size=len(truth)), truth + 0.5 * rng.normal(size=len(truth))]
    domain = np.array(["UK"] * 70 + ["CDC"] * 70 + ["Australia"] * 40)
    bm25 = torch.tensor(rng.normal(size=(len(truth), 1)), dtype=torch.float32)
    return Judged(pairs, torch.tensor(np.stack(columns, 1), dtype=torch.float32), bm25, domain)


def test_ranked_probability_score_closed_forms() -> None:
    sure, even = np.eye(4), np.full((4, 4), 0.25)
    grades = np.arange(4)
    assert ranked_probability_score(sure, grades) == pytest.approx([0, 0, 0, 0])
    assert ranked_probability_score(sure[::-1], grades) == pytest.approx([1, 1 / 3, 1 / 3, 1])
    uniform = ((3 / 4) ** 2 + (1 / 2) ** 2 + (1 / 4) ** 2) / 3  # the given grade at an end of the scale
    middle = ((1 / 4) ** 2 + (1 / 2) ** 2 + (1 / 4) ** 2) / 3
    assert ranked_probability_score(even, grades) == pytest.approx([uniform, middle, middle, uniform])


def test_ranked_probability_score_of_two_grades_is_the_brier_score() -> None:
    p = np.random.default_rng(0).random(50)
    grades = np.random.default_rng(1).integers(0, 2, 50)
    assert ranked_probability_score(np.stack([1 - p, p], 1), grades) == pytest.approx((p - grades) ** 2)


def test_half_split_parts_share_no_query_and_are_repeatable() -> None:
    queries = np.arange(10, 111)
    split = half_split(queries, seed=3, number=7)
    parts = [split.train, split.dev, split.test]
    assert np.array_equal(np.sort(np.concatenate(parts)), queries)
    assert [len(part) for part in parts] == [40, 10, 51]
    again, other = (half_split(queries, seed=3, number=number) for number in (7, 8))
    assert np.array_equal(again.test, split.test)
    assert not np.array_equal(other.test, split.test)


def test_parts_of_the_pairs_follow_the_queries(made: Judged) -> None:
    some = np.array([3, 5, 150])
    assert set(made.part(some).query_index.tolist()) == set(some.tolist())
    assert len(made.rows(some)) == len(made.part(some).grades) == 9
    assert set(made.domain[made.queries("UK", "CDC")]) == {"UK", "CDC"}


def test_a_query_is_averaged_over_the_splits_that_tested_it() -> None:
    values = over_splits([{0: 1.0, 1: 0.5}, {0: 0.0}], 3)
    assert values[:2] == pytest.approx([0.5, 0.5])
    assert np.isnan(values[2])


def test_paired_needs_a_difference_to_find_one() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(300)
    base[::50] = np.nan
    nothing = compare_paired(base, base, draws=500)
    assert (nothing.interval.mean, nothing.interval.low, nothing.p) == (0.0, 0.0, 1.0)
    better = compare_paired(base + 0.1 + 0.1 * rng.normal(size=300), base, draws=500)
    assert better.interval.low > 0
    assert better.interval.n == 294
    assert better.p == pytest.approx(1 / 501)
    worse = compare_paired(base, base + 0.1, draws=500)
    assert worse.interval.high < 0
    assert worse.p == pytest.approx(1 / 501)


def test_paired_p_of_few_queries_is_exact_in_the_limit() -> None:
    """Three queries, all better by the same: 2 of the 8 sign patterns are as extreme."""
    claim = compare_paired(np.full(3, 0.1), np.zeros(3), draws=20_000)
    assert claim.p == pytest.approx(2 / 8, abs=0.02)


def test_claims_in_json() -> None:
    one = claims_json({"a": Claim(Interval(0.1, 0.05, 0.15, 9), 0.02)})
    assert one == {"a": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 9, "p": 0.02, "p_holm": 0.02}}


def test_methods_have_names_of_their_own() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert set(feedbackqa.AGAINST) <= set(NAMES)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_method_is_calibrated_on_all_grades(made: Judged, method: Method) -> None:
    split = half_split(made.queries("UK", "CDC"), seed=0, number=0)
    head = fit(method, made, split.train, split.dev)
    predictions, pairs = apply(method, head, made, split.dev)
    assert predictions.grade_probs.shape == (len(pairs.grades), len(GAINS))
    assert (predictions.grade_probs >= 0).all()
    assert predictions.grade_probs.sum(1) == pytest.approx(np.ones(len(pairs.grades)))
    shares = np.bincount(pairs.grades.numpy(), minlength=4) / len(pairs.grades)
    assert predictions.grade_probs.mean(0) == pytest.approx(shares, abs=0.06)


def test_yes_no_learns_from_yes_and_no_alone(made: Judged) -> None:
    """Grades that differ only on one side of the threshold give the very same order."""
    method = next(m for m in METHODS if m.name == "yes/no + rank")
    split = half_split(made.queries("UK", "CDC"), seed=0, number=0)
    coarse = torch.where(made.pairs.grades >= 2, 3, 0)
    hidden = replace(made, pairs=replace(made.pairs, grades=coarse))
    fitted = [fit(method, judged, split.train, split.dev) for judged in (made, hidden)]
    directions = [head.weight.detach() / head.weight.detach().norm() for head in fitted]
    torch.testing.assert_close(directions[0], directions[1])
    assert set(as_yes_no(made.pairs, 2).grades.tolist()) == {0, 1}


def test_measure_and_summary_find_what_was_put_in(made: Judged) -> None:
    found = feedbackqa.measure(made, METHODS[2:7], splits=2, seed=0)
    found["ID"]["BM25"] = found["ID"]["cosine"]
    found["OOD"]["BM25"] = found["OOD"]["cosine"]
    summary = feedbackqa.summarise(found, len(made.domain), seed=0)
    for name in ("ID", "OOD"):
        assert summary["means"][name][OURS.name]["ndcg@3"] > summary["means"][name]["cosine"]["ndcg@3"] + 0.05
        assert summary["claims"]["ndcg@3"][f"{name}: {OURS.name} - cosine"]["low"] > 0
        assert summary["claims"]["rps"][f"{name}: {OURS.name} - cosine"]["high"] < 0
    assert feedbackqa.counts(made)["OOD"]["queries"] == 40
    assert json.loads(json.dumps(summary)) == summary


def test_cross_validation_measures_each_query_once(made: Judged) -> None:
    queries = made.queries("UK")
    values = study.cross_validate(METHODS[2], made, queries, seed=0)
    assert sorted(values["rps"]) == queries.tolist()


def test_bm25_scores_the_judged_passage_and_ties_at_nothing() -> None:
    passages = {"a": "cats purr", "b": "dogs bark at cats", "c": "fish swim", "d": "birds sing", "e": "cows moo"}
    texts = Texts(["purr!"], ["UK"], [[("c", 0), ("a", 3), ("d", 0)]], passages, dict.fromkeys(passages, "UK"))
    scores = bm25_scores(texts)[:, 0].tolist()
    assert scores[0] == scores[2] == 0.0
    assert scores[1] > 0


def test_table_lines_up() -> None:
    lines = pages.table(["x", "value"], [["long name", ".1"], ["s", "-10.25"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == "| x         |  value |"
    assert lines[1] == "| --------- | -----: |"
    assert pages.difference({"mean": 0.0171, "low": -0.001, "high": 0.02}) == "+.0171 [-.0010, +.0200]"


def test_a_section_without_its_result_or_its_end_stays(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('{"n": 1}', encoding="utf-8")
    sections = {name: (tmp_path / f"{name}.json", lambda result: f"n = {result['n']}") for name in ("one", "two")}
    page = "# x\n<!-- one: begin -->\nold\n<!-- one: end -->\n<!-- two: begin -->\nold\n<!-- two: end -->\n"
    assert pages.filled(page, sections) == page.replace("old", "\nn = 1\n", 1)
    open_ended = "<!-- one: begin -->\nold\n"
    assert pages.filled(open_ended, sections) == open_ended


def test_readme_shows_the_committed_results() -> None:
    for page in report.PAGES:
        text = page.read_text(encoding="utf-8")
        assert pages.filled(text, report.SECTIONS) == text, "run: python -m benchmarks.quality.report"


def test_data_folder_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("DARL_DATA", raising=False)
    with pytest.raises(UsageError, match="DARL_DATA is not set"):
        data_folder()
    assert feedbackqa.main(["--splits", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: DARL_DATA is not set")
    assert error.count("\n") == 1


@pytest.mark.data
def test_one_split_of_the_real_data(judgments_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every eighth query: whether it runs and ranks, not how well."""
    from benchmarks.quality import data

    def some(folder, *, seed):
        texts = read_texts(folder, seed=seed)
        return Texts(texts.queries[::8], texts.domain[::8], texts.judged[::8], texts.passages, texts.passage_domain)

    monkeypatch.setattr(data, "read_texts", some)
    result = feedbackqa.run(judgments_folder, splits=1, seed=0)
    for name in ("ID", "OOD"):
        means = result["means"][name]
        assert set(means) == set(NAMES)
        assert means["cosine"]["ndcg@3"] > means["no model"]["ndcg@3"] + 0.03
        assert means[OURS.name]["ndcg@3"] > means["no model"]["ndcg@3"] + 0.03
    assert "graded + rank - cosine" in report.render_result(result)
