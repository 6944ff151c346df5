"""Methods side by side, and stages: their own parts; whether their numbers are good is what they are for."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch

from benchmarks.quality import compare, losses, report, sets, stages
from benchmarks.quality.data import Judged, Texts, lay_out
from benchmarks.quality.methods import Method
from benchmarks.quality.training import Fitted, cut_points, train_full
from darl_opensearch.errors import InputError
from trainer.config import Loss
from trainer.losses import GRADE_LOSSES, RANK_LOSSES
from trainer.models.heads import CumulativeHead

SETTING = sets.Setting("made", ("made",), ("in",), {"out": ("out",)}, 3)
COSINE, DEFAULT = losses.COSINE, losses.method("cumulative", "pairwise")


@pytest.fixture(scope="module")
def made() -> Judged:
    """Queries whose second feature tells the grade; the first, the cosine, hardly does."""
    rng = np.random.default_rng(0)
    n, per = 150, 4
    grades = rng.integers(0, 4, size=(n, per))
    judged = [[(f"{q}-{i}", int(g)) for i, g in enumerate(row)] for q, row in enumerate(grades)]
    pairs = lay_out([f"q{q}" for q in range(n)], judged, {f"{q}-{i}": "" for q in range(n) for i in range(per)})
    truth = pairs.grades.numpy()
    columns = [0.2 * truth + rng.normal(size=len(truth)), truth + 0.4 * rng.normal(size=len(truth))]
    table = torch.tensor(np.stack(columns, 1), dtype=torch.float32)
    return Judged(pairs, table, table[:, :1], np.array(["in"] * 100 + ["out"] * 50))


@pytest.fixture
def lab(made, tmp_path) -> compare.Lab:
    """A setting without a model: only heads can be trained."""
    found = object.__new__(compare.Lab)
    found.setting, found.seed, found.judged, found.work = SETTING, 0, made, tmp_path / "work"
    found.inside, found.outside = made.queries("in"), {"out": made.queries("out")}
    return found


def plan(*methods: Method) -> compare.Plan:
    return compare.Plan("made", {"head": methods}, {"head": 2}, DEFAULT.name)


def test_a_method_that_sees_more_is_better_and_the_claim_says_so(lab):
    found = compare.compare(lab, "head", plan(COSINE, DEFAULT, losses.method("yes_no")), by_cuts=("yes_no",))
    assert set(found) == {"ID", "out"}
    for part in found.values():
        worse = part["differences"]["cosine"]["ndcg"]
        assert worse["high"] < 0 and worse["p_holm"] < 0.05  # cosine minus the default
        assert part["figures"]["cosine"]["rps"]["mean"] > part["figures"][DEFAULT.name]["rps"]["mean"]
        assert set(part["differences"]) == {"cosine", "yes_no"}
    assert next(iter(compare.mean_ranks(found))) == DEFAULT.name


def test_predictions_are_kept_and_taken_again_whatever_the_name(lab, monkeypatch):
    first = lab.tell("head", DEFAULT, 0)
    monkeypatch.setattr(compare, "train_head", None)  # a second training would fail
    again = lab.tell("head", Method("another name", DEFAULT.loss), 0)
    for part in first:
        assert np.array_equal(first[part].grade_probs, again[part].grade_probs)
    with pytest.raises(TypeError):
        lab.tell("head", DEFAULT, 1)


def test_mean_ranks_share_ties():
    def cell(value: float) -> dict[str, dict[str, float]]:
        return {key: {"mean": value} for key in compare.MEASURES}

    ranks = compare.mean_ranks({"part": {"figures": {"a": cell(0.5), "b": cell(0.5), "c": cell(0.7)}}})
    # c is best on the three measures where higher is better and last on the other two
    assert ranks == {"c": pytest.approx((3 * 1 + 2 * 3) / 5), "a": pytest.approx((3 * 2.5 + 2 * 1.5) / 5),
                     "b": pytest.approx((3 * 2.5 + 2 * 1.5) / 5)}  # fmt: skip


def test_cut_points_find_where_the_grades_change():
    n = 400
    latent = torch.linspace(-2, 2, n)[:, None]
    pairs = lay_out(["q"], [[(str(i), int(np.searchsorted([-1.0, 0.0, 1.5], float(latent[i, 0])))) for i in range(n)]],
                    {str(i): "" for i in range(n)})  # fmt: skip
    fitted = Fitted(CumulativeHead(1, (0.0, 1.0, 2.0, 3.0)), latent)
    cuts = cut_points(fitted, pairs, torch.arange(n))
    assert cuts == pytest.approx([-1.0, 0.0, 1.5], abs=0.05)


def test_every_registered_loss_is_in_the_comparison():
    names = {method.loss.grade for method in losses.SUMS}
    assert names == set(GRADE_LOSSES)
    assert {method.loss.rank for method in losses.SUMS} == set(RANK_LOSSES)
    assert losses.AGAINST == f"{Loss().grade} + {Loss().rank}"
    assert losses.AGAINST in {method.name for method in losses.SUMS}


def test_the_full_stage_refuses_a_method_that_fits_nothing(made):
    nothing = torch.arange(0)
    with pytest.raises(ValueError, match="fits nothing"):
        train_full(COSINE, None, {}, made, made.queries("in"), made.queries("out"), nothing, seed=0)


def test_sets_side_by_side_keep_their_queries_and_items():
    one = Texts(["a"], ["x"], [[("i", 1)]], {"i": "I"}, {"i": "x"})
    two = Texts(["b"], ["y"], [[("j", 2)]], {"j": "J"}, {"j": "y"})
    both = sets.join([one, two])
    assert both.queries == ["a", "b"] and both.judged == [[("i", 1)], [("j", 2)]]
    assert both.passages == {"i": "I", "j": "J"} and both.passage_domain == {"i": "x", "j": "y"}


def test_a_judged_product_that_is_not_there_is_named(tmp_path):
    (tmp_path / "esci").mkdir()
    for name, text in (("products", ""), ("judgments", '{"query_id": "1", "query": "q", "doc_id": "B0", "grade": 1, '
                       '"category": "Books"}\n')):  # fmt: skip
        (tmp_path / "esci" / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(InputError, match="no product 'B0'") as refused:
        sets.read_texts(tmp_path, "esci", seed=0)
    assert "judgments.jsonl.gz, line 1" in refused.value.where


# ---- stages


def test_the_share_of_a_gap_that_is_closed():
    whole, left = np.array([0.2, 0.4, np.nan]), np.array([0.1, 0.2, 0.5])
    assert stages.measure_share_closed(whole, left)["mean"] == pytest.approx(0.5)
    assert stages.measure_share_closed(whole, whole)["mean"] == 0.0
    none = stages.measure_share_closed(np.zeros(2), np.zeros(2))
    assert none["mean"] is None and none["resamples_without_a_gap"] == 1.0


def said(ids: list[str], ndcg: list[float], sure: float) -> stages.Said:
    probs = np.full((len(ids), 4), (1 - sure) / 3)
    probs[:, 3] = sure
    return stages.Said(dict(zip(ids, ndcg, strict=True)), probs, np.full(len(ids), 3), ids)


def test_changes_and_gaps_are_paired_by_query():
    ids = [f"q{i}" for i in range(12)]
    told = {
        name: {part: [said(ids, [level + 0.01 * (i % 3) for i in range(12)], 0.9)] for part in ("ID", "OOD")}
        for name, level in ((stages.ALONE, 0.5), (stages.POOLED, 0.6), (stages.STAGED, 0.65), (stages.REFERENCE, 0.7))
    }
    found = stages.summarise(told)
    assert found["changes"][f"OOD: {stages.STAGED} - {stages.ALONE}"]["mean"] == pytest.approx(0.15)
    assert found["gap_closed"][stages.STAGED]["mean"] == pytest.approx(0.75)
    assert found["gap_closed"][stages.POOLED]["mean"] == pytest.approx(0.5)


def test_no_query_and_no_label_is_in_two_parts(tmp_path):
    """Of made judgments as the real ones are laid out."""
    found = stages.Material({"i": "text"}, {p: [(p, f"query {p}", [("i", 1)])] for p in
                                            ("train", "dev", "ID", "new", "new_dev", "rest", "OOD")})  # fmt: skip
    for files, _ in stages.methods(found).values():
        ids = [row[0] for rows in files.values() for row in rows]
        assert len(ids) == len(set(ids)) and not {"ID", "OOD"} & set(ids)
    rows = [("a", "One  query", []), ("b", "one query", []), ("c", "another", [])]
    assert [row[0] for row in stages.leave_out_repeats(rows)] == ["a", "c"]


@pytest.mark.parametrize("name", ["losses", "graded", "stages", "speed", "memory"])
def test_committed_results_are_rendered(name):
    path, render = report.SECTIONS[name]
    assert path.is_file(), path.name
    assert "| " in render(json.loads(path.read_text(encoding="utf-8")))
