"""Laws that every registered head keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.testing import assert_close

from tests.helpers.training_project import laws
from trainer.losses import GRADE_LOSSES
from trainer.losses.cumulative import cumulative
from trainer.models import HEADS
from trainer.models.heads.cumulative import fit_scaling

seeds = st.integers(0, 2**16)
names = st.sampled_from(list(HEADS))
scales = st.sampled_from([(0.0, 1.0), (0.0, 1.0, 3.0), (1.0, 2.0, 4.0, 8.0), (0.5, 0.75, 1.0, 2.0, 10.0)])
FEATURES = 4


def noise(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_head(name, gains, seed):
    """Any weights that training could reach."""
    head = HEADS[name].make(FEATURES, gains)
    with torch.no_grad():
        for number, parameter in enumerate(head.parameters()):
            parameter.copy_(noise(seed + number, *parameter.shape))
        head.shift.copy_(noise(seed + 50, FEATURES))
        head.scale.copy_(noise(seed + 51, FEATURES).abs() + 0.2)
    return head


def likelihood_loss(head, features, grades):
    given = head.grade_probs(head(features)).double().gather(1, grades[:, None])
    return -given.clamp_min(1e-12).log().mean().item()


@laws
@given(name=names, gains=scales, seed=seeds, spread=st.sampled_from([1.0, 50.0]))
def test_probabilities_score_and_what_ranks(name, gains, seed, spread):
    head = random_head(name, gains, seed)
    raw = head(noise(seed, 40, FEATURES) * spread)
    probs, score, rank = head.grade_probs(raw), head.score(raw), head.rank_score(raw)
    assert probs.shape == (40, len(gains)) and (probs >= -1e-6).all()
    assert_close(probs.sum(1), torch.ones(40), atol=1e-5, rtol=0)
    assert (score >= gains[0] / gains[-1] - 1e-5).all() and (score <= 1 + 1e-5).all()
    expected = probs.double() @ torch.tensor(gains, dtype=torch.float64) / gains[-1]
    assert_close(score.double(), expected, atol=1e-5, rtol=0)
    assert torch.isfinite(rank).all()
    assert (score[rank.argsort()].diff() >= -1e-5).all()


@laws
@given(name=names, gains=scales, seed=seeds)
def test_the_untrained_score_increases_with_the_first_feature_alone(name, gains, seed):
    head = HEADS[name].make(FEATURES, gains)
    features = noise(seed, 20, FEATURES)
    for _ in range(2):
        ordered = head.score(head(features))[features[:, 0].argsort()]
        assert (ordered.diff() > 0).all()
        other = features.clone()
        other[:, 1:] = 7.0
        assert_close(head.score(head(other)), head.score(head(features)))
        head.fit_scale(features)  # keeps the order


@laws
@given(name=names, gains=scales, seed=seeds, prior=st.sampled_from([0.0, 0.01, 1.0]))
def test_calibration_never_worsens_the_likelihood(name, gains, seed, prior):
    head = random_head(name, gains, seed)
    features = noise(seed, 50, FEATURES)
    grades = torch.randint(len(gains), (50,), generator=torch.Generator().manual_seed(seed))
    before = likelihood_loss(head, features, grades)
    head.calibrate(features, grades, prior=prior)
    assert likelihood_loss(head, features, grades) <= before + 1e-4
    assert_close(head.grade_probs(head(features)).sum(1), torch.ones(50), atol=1e-5, rtol=0)


@laws
@given(gains=scales, seed=seeds, prior=st.sampled_from([0.002, 0.01, 1.0]))
def test_the_scaling_is_where_the_loss_is_level(gains, seed, prior):
    """By autograd of the training loss itself: the slope's and the thresholds' derivatives are 0 there."""
    generator = torch.Generator().manual_seed(seed)
    latent, noise_ = torch.randn(2, 60, generator=generator, dtype=torch.float64)
    k = len(gains)
    grades = ((latent + noise_) * 0.8 + k / 2 - 0.5).round().clamp(0, k - 1).long()
    start = np.arange(k - 1) - 0.5
    slope, thresholds = fit_scaling(latent.numpy(), grades.numpy(), start, prior=prior)
    values = torch.tensor([slope, *thresholds], dtype=torch.float64, requires_grad=True)
    pull = values[0].log().square() + (values[1:] - torch.from_numpy(start)).square().sum()
    (cumulative(latent[:, None] * values[0] - values[1:], grades) + prior * pull).backward()
    assert (np.diff(thresholds) > 0.01).all() and values.grad.abs().max() <= 1e-5


@laws
@given(name=names, gains=scales, seed=seeds)
def test_one_direction_a_grade(name, gains, seed):
    """Two grades: exactly the softmax over the directions. More: the top's direction raises the score."""
    features, rows = noise(seed, 30, FEATURES), noise(seed + 1, len(gains), FEATURES)
    head = HEADS[name].make(FEATURES, gains)
    head.start_from(rows)
    found = head.grade_probs(head(features))
    if len(gains) == 2 or name == "nominal":
        assert_close(found, F.softmax(features @ rows.T, dim=1))
    apart = torch.zeros(len(gains), FEATURES)
    apart[:, 0] = torch.linspace(-1, 1, len(gains))  # evidence that grows with the grade
    head.start_from(apart)
    scores = head.score(head(features))[features[:, 0].argsort()]
    assert (scores.diff() >= -1e-6).all() and scores[-1] > scores[0]


def test_directions_replace_what_was_trained():
    for name in HEADS:
        fresh, used = HEADS[name].make(FEATURES, (0.0, 1.0, 3.0)), random_head(name, (0.0, 1.0, 3.0), 3)
        used.shift.zero_()
        used.scale.fill_(1.0)
        rows = noise(5, 3, FEATURES)
        fresh.start_from(rows)
        used.start_from(rows)
        assert_close(used(noise(1, 6, FEATURES)), fresh(noise(1, 6, FEATURES)))


@pytest.mark.parametrize("loss", list(GRADE_LOSSES))
def test_every_grade_loss_trains_the_head_that_it_needs(loss):
    make, params = GRADE_LOSSES.resolve(loss, {})
    head = random_head(GRADE_LOSSES[loss].head, (0.0, 1.0, 3.0), 1)
    make(head(noise(2, 12, FEATURES)), torch.arange(12) % 3, **params).backward()
    assert torch.isfinite(head.weight.grad).all() and head.weight.grad.abs().sum() > 0
