"""Detectors against oracles, and the conformal calibration: closed forms, laws, a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch.testing import assert_close
from training_project import laws

from darl_opensearch.errors import InputError
from darl_opensearch.scores import is_ood
from trainer.models.base import PairFeatures
from trainer.ood import DETECTORS, ConformalCalibration, view
from trainer.ood.calibration import MAX_TABLE
from trainer.ood.knn import NearestNeighbours
from trainer.ood.mahalanobis import Mahalanobis, shrunk_covariance


def unit_rows(n: int, h: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, h, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


# ---- every detector


@pytest.mark.parametrize("name", sorted(DETECTORS))
@settings(laws, max_examples=15)
@given(seed=st.integers(0, 999), m=st.integers(6, 60))
def test_detector_laws(name, seed, m):
    make, params = DETECTORS.resolve(name, {})
    train, test = unit_rows(m, 8, seed), unit_rows(10, 8, seed + 1000)
    detector = make(8, **params)
    detector.fit(train)
    distance = detector(test)
    assert distance.shape == (10,) and torch.isfinite(distance).all() and (distance >= 0).all()
    assert_close(torch.cat([detector(row[None]) for row in test]), distance, atol=1e-4, rtol=1e-4)  # no batch mates
    again = make(8, **params)
    again.fit(train[torch.randperm(m, generator=torch.Generator().manual_seed(seed))].repeat(2, 1))
    assert_close(again(test), distance, atol=1e-3, rtol=1e-3)  # neither order nor repetition of training rows counts
    assert detector(test[:0]).shape == (0,)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_detector_sees_what_is_far(name):
    make, params = DETECTORS.resolve(name, {})
    near = torch.nn.functional.normalize(unit_rows(80, 16, 1) * 0.3 + torch.eye(16)[0], dim=1)
    far = torch.nn.functional.normalize(unit_rows(40, 16, 2) * 0.3 + torch.eye(16)[1], dim=1)
    detector = make(16, **params)
    detector.fit(near[:40])
    assert detector(near[40:]).max() < detector(far).min()


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_detector_refuses_too_few_rows(name):
    make, params = DETECTORS.resolve(name, {})
    with pytest.raises(ValueError, match="distinct rows"):
        make(4, **params).fit(unit_rows(1, 4, 0).repeat(50, 1))


@pytest.mark.parametrize("k", [1, 5, 17])
def test_knn_against_scikit_learn(k):
    train, test = unit_rows(200, 12, 3), unit_rows(50, 12, 4)
    detector = NearestNeighbours(12, k=k)
    detector.fit(train)
    distances, _ = NearestNeighbors(n_neighbors=k).fit(train.numpy()).kneighbors(test.numpy())
    np.testing.assert_allclose(detector(test).numpy(), distances[:, -1], atol=1e-5)


def test_knn_of_a_pair_averages_the_squares_of_its_halves():
    train, test = (torch.cat([unit_rows(n, 6, s), unit_rows(n, 6, s + 1)], dim=1) for n, s in ((90, 1), (20, 7)))
    both = NearestNeighbours(12, halves=2, k=3)
    both.fit(train)
    squares = []
    for half in (slice(0, 6), slice(6, 12)):
        one = NearestNeighbours(6, k=3)
        one.fit(train[:, half])
        squares.append(one(test[:, half]).square())
    assert_close(both(test), ((squares[0] + squares[1]) / 2).sqrt())


def test_knn_leaves_the_text_itself_out():
    """A training row is as far from its neighbours as a fresh row in its place would be."""
    train = unit_rows(60, 5, 9)
    detector = NearestNeighbours(5, k=4)
    detector.fit(train)
    distances, _ = NearestNeighbors(n_neighbors=5).fit(train.numpy()).kneighbors(train.numpy())
    np.testing.assert_allclose(detector(train).numpy(), distances[:, 4], atol=1e-5)


def test_knn_keeps_a_fixed_sample_of_many_rows():
    train = unit_rows(100, 4, 5)
    detectors = [NearestNeighbours(4, k=2, max_reference=16) for _ in range(2)]
    for detector in detectors:
        detector.fit(train)
    kept, again = (next(iter(d.state_dict().values())) for d in detectors)
    assert kept.shape == (16, 4)
    assert_close(kept, again)
    rows = {tuple(row) for row in train.tolist()}
    assert all(tuple(row) in rows for row in kept.tolist())


def test_knn_cannot_keep_fewer_rows_than_it_reads():
    with pytest.raises(ValueError, match="max_reference"):
        NearestNeighbours(4, k=20, max_reference=16).fit(unit_rows(100, 4, 5))


@pytest.mark.parametrize(("m", "h"), [(500, 6), (30, 10), (8, 20)])
def test_mahalanobis_against_scikit_learn(m, h):
    rng = np.random.default_rng(m)
    train = rng.standard_normal((m, h)) @ rng.standard_normal((h, h))
    test = torch.tensor(rng.standard_normal((20, h)), dtype=torch.float32)
    oracle = LedoitWolf().fit(train)
    covariance = shrunk_covariance(torch.tensor(train - train.mean(0)))
    np.testing.assert_allclose(covariance.numpy(), oracle.covariance_, rtol=1e-8, atol=1e-10)
    detector = Mahalanobis(h)
    detector.fit(torch.tensor(train, dtype=torch.float32))
    np.testing.assert_allclose(detector(test).numpy() ** 2, oracle.mahalanobis(test.numpy()), rtol=1e-3)


def test_mahalanobis_without_whitening_is_euclidean():
    train, test = unit_rows(50, 5, 1), unit_rows(9, 5, 2)
    detector = Mahalanobis(5, power=0.0)
    detector.fit(train)
    assert_close(detector(test), (test - train.mean(0)).norm(dim=1), atol=1e-5, rtol=1e-5)


def test_views():
    features = PairFeatures(torch.zeros(4, 2), (unit_rows(4, 3, 1), unit_rows(4, 3, 2)))
    assert view(features, "query") is features.query and view(features, "item") is features.item
    pair = view(features, "pair")
    between = (pair[0] - pair[1]).square().sum()
    halves = [(half[0] - half[1]).square().sum() for half in (features.query, features.item)]
    assert_close(between, sum(halves))


# ---- calibration


def test_closed_forms():
    """Nineteen distances 1..19: p = (1 + those at or above) / 20."""
    calibration = ConformalCalibration.fit(torch.arange(1.0, 20.0), 0.05)
    out = calibration(torch.tensor([0.0, 1.0, 10.0, 19.0, 19.5, 100.0]))
    expected = [1 - 20 / 20, 1 - 20 / 20, 1 - 11 / 20, 1 - 2 / 20, 1 - 1 / 20, 1 - 1 / 20]
    assert_close(out[:, 0], torch.tensor(expected))
    assert is_ood(out[:, 0].numpy(), 0.05).tolist() == [False] * 4 + [True] * 2
    # median 10, 95th percentile 1 + .95 * 18 = 18.1
    assert_close(out[:, 1], (torch.tensor([0.0, 1.0, 10.0, 19.0, 19.5, 100.0]) - 10) / 8.1)


@laws
@given(values=st.lists(st.floats(0, 1e4, width=32), min_size=19, max_size=60), seed=st.integers(0, 99))
def test_calibration_laws(values, seed):
    table = torch.tensor(values)
    calibration = ConformalCalibration.fit(table, 0.05)
    probes = torch.cat([table, torch.rand(20, generator=torch.Generator().manual_seed(seed)) * 1e4]).sort().values
    score, distance = calibration(probes).T
    assert torch.isfinite(score).all() and torch.isfinite(distance).all()
    assert (score >= 0).all() and (score < 1).all()
    assert (score.diff() >= 0).all() and (distance.diff() >= 0).all()
    n = len(table)
    for probe, found in zip(probes.tolist(), score.tolist(), strict=True):
        assert found == pytest.approx(1 - (1 + sum(v >= probe for v in table.tolist())) / (n + 1), abs=1e-6)


@pytest.mark.parametrize("alpha", [0.3, 0.1, 0.05, 0.02, 0.01])
def test_calibration_is_refused_when_alpha_cannot_be_shown(alpha):
    needed = math.ceil(1 / alpha - 1 - 1e-9)
    with pytest.raises(InputError) as caught:
        ConformalCalibration.fit(torch.arange(needed - 1.0), alpha)
    assert f"at least {needed} held-out pairs" in str(caught.value) and str(alpha) in str(caught.value)
    enough = ConformalCalibration.fit(torch.arange(float(needed)), alpha)
    assert is_ood(enough(torch.tensor([1e9]))[:, 0].numpy(), alpha).all()


@pytest.mark.parametrize("alpha", [0.3, 0.25, 0.2, 0.1, 0.05, 0.02, 0.01])
@pytest.mark.parametrize("n", [99, 119, 199, 400, 999])
def test_the_flag_agrees_with_the_p_value_at_its_very_edge(n, alpha):
    """In float32, where 1 - p meets 1 - alpha."""
    calibration = ConformalCalibration.fit(torch.arange(float(n)), alpha)
    flagged = is_ood(calibration(torch.arange(n + 1.0) - 0.5)[:, 0].numpy(), alpha).sum()
    # The probe between the values has j values above it, j = 0..n: p = (1 + j) / (n + 1).
    assert flagged == math.floor(alpha * (n + 1) + 1e-9)


@pytest.mark.parametrize("n", [19, 59, 333])
def test_false_alarms_hold_alpha_on_exchangeable_pairs(n):
    """Over many calibration sets the share of fresh pairs flagged is alpha at most, and near it."""
    rng, alpha, rounds = np.random.default_rng(n), 0.05, 600
    flagged = []
    for _ in range(rounds):
        draw = torch.tensor(rng.exponential(size=n + 30), dtype=torch.float32)
        calibration = ConformalCalibration.fit(draw[:n], alpha)
        flagged.append(is_ood(calibration(draw[n:])[:, 0].numpy(), alpha).mean())
    error = float(np.std(flagged) / math.sqrt(rounds))
    expected = math.floor(alpha * (n + 1) + 1e-9) / (n + 1)
    assert expected <= alpha + 1e-12
    assert abs(np.mean(flagged) - expected) < 4 * error


def test_ties_never_raise_the_false_alarms():
    calibration = ConformalCalibration.fit(torch.full((50,), 2.0), 0.05)
    out = calibration(torch.tensor([2.0, 2.1]))
    assert is_ood(out[:, 0].numpy(), 0.05).tolist() == [False, True]
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("n", [MAX_TABLE - 1, MAX_TABLE, MAX_TABLE + 1, 5000, 8192, 13_001])
def test_a_shortened_table_rounds_towards_not_ood(n):
    values = torch.rand(n, generator=torch.Generator().manual_seed(n))
    calibration = ConformalCalibration.fit(values, 0.01)
    assert len(calibration.distances) == min(n, MAX_TABLE)
    probes = torch.cat([values[:500], torch.linspace(-0.1, 1.1, 500), values.max()[None], values.min()[None]])
    full = 1 - (1 + (values[None, :] >= probes[:, None]).sum(1)) / (n + 1)
    found = calibration(probes)[:, 0]
    assert (found <= full + 1e-6).all()
    assert (found >= full - 2 / MAX_TABLE).all()
    assert calibration.median == values.quantile(0.5)


def test_calibration_survives_a_round_trip():
    one = ConformalCalibration.fit(torch.rand(40), 0.05)
    two = ConformalCalibration(40)
    two.load_state_dict(one.state_dict())
    assert_close(one(torch.linspace(0, 2, 9)), two(torch.linspace(0, 2, 9)))
