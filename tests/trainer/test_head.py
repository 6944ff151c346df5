"""The ordered head: a latent, increasing cuts, and a calibration that keeps the order."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tests.helpers.training_project import laws
from trainer.losses.cumulative import cumulative
from trainer.models.heads import CumulativeHead
from trainer.stages.calibrated import calibrate_afresh, calibrate_grades
from trainer.training_data.pairs import Pairs

seeds = st.integers(0, 2**16)
scales = st.sampled_from([(0.0, 1.0), (0.0, 1.0, 3.0), (1.0, 2.0, 4.0, 8.0), (0.5, 0.75, 1.0, 2.0, 10.0)])


def random_head(gains, seed, features=3) -> CumulativeHead:
    rng = torch.Generator().manual_seed(seed)
    head = CumulativeHead(features, gains)
    with torch.no_grad():
        head.weight.copy_(torch.randn(features, generator=rng))
        head.first.copy_(torch.randn((), generator=rng))
        head.gaps.copy_(torch.randn(len(gains) - 2, generator=rng) * 2)
        head.shift.copy_(torch.randn(features, generator=rng))
        head.scale.copy_(torch.rand(features, generator=rng) + 0.2)
    return head


@laws
@given(gains=scales, seed=seeds, spread=st.sampled_from([1.0, 50.0]))
def test_probabilities_and_score(gains, seed, spread):
    head = random_head(gains, seed)
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(seed)) * spread
    raw = head(features)
    probs, score, latent = head.grade_probs(raw), head.score(raw), head.latent(features)
    assert probs.shape == (40, len(gains)) and (probs >= 0).all()
    assert_close(probs.sum(1), torch.ones(40))
    assert (head.thresholds.diff() > 0).all()
    assert (raw.diff(dim=1) <= 0).all()
    assert (score >= 0).all() and (score <= 1 + 1e-6).all()
    ordered = score[latent.argsort()]
    assert (ordered.diff() >= -1e-6).all()
    expected = probs.double() @ torch.tensor(gains, dtype=torch.float64) / gains[-1]
    assert_close(score.double(), expected, atol=1e-5, rtol=0)


def test_score_closed_forms():
    head = CumulativeHead(1, (0.0, 1.0, 3.0))
    raw = torch.tensor([[math.log(3), -math.log(3)]])  # 1/4, 1/2, 1/4
    assert_close(head.grade_probs(raw), torch.tensor([[1 / 4, 1 / 2, 1 / 4]]))
    assert head.score(raw).item() == pytest.approx(5 / 12)  # (0/4 + 1/2 + 3/4) / 3
    lifted = CumulativeHead(1, (1.0, 2.0))
    assert lifted.score(torch.tensor([[-100.0]])).item() == pytest.approx(1 / 2)
    assert lifted.score(torch.tensor([[100.0]])).item() == pytest.approx(1.0)


@laws
@given(gains=scales, seed=seeds)
def test_untrained_head_reads_the_first_feature_only(gains, seed):
    head = CumulativeHead(4, gains)
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed))
    assert head.latent(features).argsort().tolist() == features[:, 0].argsort().tolist()
    head.fit_scale(features)
    assert head.latent(features).argsort().tolist() == features[:, 0].argsort().tolist()
    standard = (features - head.shift) / head.scale
    assert_close(standard.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert_close(standard.std(0), torch.ones(4))


@pytest.mark.parametrize("rows", [1, 5])
def test_features_that_do_not_vary(rows):
    head = CumulativeHead(2, (0.0, 1.0, 2.0))
    head.fit_scale(torch.full((rows, 2), 0.7))
    assert torch.isfinite(head(torch.full((3, 2), 0.7))).all()


@laws
@given(gains=scales, seed=seeds, slope=st.floats(0.05, 20))
def test_rescale_keeps_the_order_and_sets_the_thresholds(gains, seed, slope):
    head = random_head(gains, seed)
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(seed))
    before = head.latent(features)
    cuts = torch.linspace(-2.0, 3.0, len(gains) - 1)
    head.rescale(slope, cuts)
    assert_close(head.latent(features), before * slope, atol=1e-5 * max(1.0, slope), rtol=1e-5)  # sums that cancel
    assert_close(head.thresholds, cuts, atol=1e-4, rtol=1e-4)


@laws
@given(seed=seeds)
def test_every_parameter_trains(seed):
    head = random_head((0.0, 1.0, 2.0, 3.0), seed)
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    cumulative(head(features), torch.arange(12) % 4).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


# ---- calibration of the grades


def graded(seed: int, k: int, present: list[int], n: int = 60):
    """Dev pairs whose grades only roughly follow the latent."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, generator=rng)
    noisy = features[:, 0] + torch.randn(n, generator=rng)
    grades = torch.bucketize(noisy, torch.linspace(-1, 1, k - 1))
    grades = torch.tensor([min(present, key=lambda p, g=g: abs(p - g)) for g in grades.tolist()])
    index = torch.stack([torch.arange(n) // 6, torch.arange(n)], dim=1)
    return Pairs(("q",) * (n // 6), ("i",) * n, index, grades), features


@pytest.mark.parametrize(
    ("k", "present"),
    [(2, [0, 1]), (3, [0, 1, 2]), (3, [0, 1]), (3, [1, 2]), (3, [0, 2]), (3, [1]), (5, [0, 1, 4]), (2, [1])],
)
@settings(laws, max_examples=8)
@given(seed=st.integers(0, 200))
def test_calibration_keeps_the_order_and_lowers_the_likelihood_loss(k, present, seed):
    """Also where the dev pairs lack a grade."""
    pairs, features = graded(seed, k, present)
    head = random_head(tuple(float(g) for g in range(k)), seed)
    order, before = head.latent(features).argsort().tolist(), cumulative(head(features), pairs.grades).item()
    calibrate_grades(head, pairs, features)
    assert head.latent(features).argsort().tolist() == order
    assert cumulative(head(features), pairs.grades).item() <= before + 1e-4
    assert all(torch.isfinite(p).all() for p in head.parameters())
    assert (head.thresholds.diff() > 0).all()
    assert_close(head.grade_probs(head(features)).sum(1), torch.ones(len(features)))


def test_calibration_finds_the_model_the_grades_were_drawn_from():
    """Many pairs drawn by a slope of 2 and cuts at -1 and 1 give these back."""
    rng = torch.Generator().manual_seed(1)
    n = 20_000
    features = torch.randn(n, 1, generator=rng)
    above = torch.sigmoid(2 * features - torch.tensor([-1.0, 1.0]))
    grades = (torch.rand(n, 1, generator=rng) < above).sum(1)
    pairs = Pairs(("q",), ("i",) * n, torch.zeros(n, 2, dtype=torch.int64), grades)
    head = CumulativeHead(1, (0.0, 1.0, 2.0))
    calibrate_grades(head, pairs, features, prior=0.0)
    assert head.weight.item() == pytest.approx(2.0, abs=0.1)
    assert_close(head.thresholds, torch.tensor([-1.0, 1.0]), atol=0.1, rtol=0)


def test_a_calibration_afresh_forgets_scale_and_thresholds():
    """Two heads that order alike give the same probabilities, whatever their slopes and thresholds were."""
    head_input = torch.linspace(-1, 1, 60)[:, None]
    grades = torch.tensor([0] * 20 + [0, 1] * 10 + [1, 2] * 10)
    pairs = Pairs(("q",), ("i",), torch.zeros(60, 2, dtype=torch.int64), grades)
    probs = []
    for slope, thresholds in ((1.0, (-1.0, 0.0)), (40.0, (7.0, 90.0)), (1e-3, (-5.0, 5.0))):
        head = CumulativeHead(1, (0.0, 1.0, 2.0))
        head.rescale(slope, torch.tensor(thresholds))
        head.forget_scale(head_input, grades)
        shares = [(grades > grade).float().mean() for grade in (0, 1)]
        assert_close(torch.sigmoid(head.latent(head_input).mean() - head.thresholds), torch.stack(shares))
        assert_close(head.latent(head_input).std(), torch.tensor(1.0))
        calibrate_afresh(head, pairs, head_input)
        with torch.no_grad():
            probs.append(head.grade_probs(head(head_input)))
    assert_close(probs[0], probs[1], atol=1e-4, rtol=0)
    assert_close(probs[0], probs[2], atol=1e-4, rtol=0)
    assert probs[0][0].argmax() == 0 and probs[0][-1].argmax() == 2


@pytest.mark.parametrize("grades", [[1, 1, 1], [2, 2, 0]])
def test_a_calibration_afresh_with_absent_grades(grades):
    head, head_input = CumulativeHead(1, (0.0, 1.0, 2.0)), torch.tensor([[0.1], [0.1], [0.1]])
    pairs = Pairs(("q",), ("i",), torch.zeros(3, 2, dtype=torch.int64), torch.tensor(grades))
    calibrate_afresh(head, pairs, head_input)
    assert torch.isfinite(head.grade_probs(head(head_input))).all() and (head.thresholds.diff() > 0).all()
