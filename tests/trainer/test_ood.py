"""Detectors against oracles, and the conformal calibration: closed forms, laws, a simulation."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F
from torch.testing import assert_close

from darl_opensearch.errors import InputError
from darl_opensearch.scores import is_ood
from tests.helpers.training_project import laws
from trainer.models.base import PairFeatures
from trainer.models.heads import HEADS
from trainer.ood import DETECTORS, ConformalCalibration, select_features
from trainer.ood.base import drop_repeats, fingerprints, split_chunks
from trainer.ood.calibration import MAX_TABLE
from trainer.ood.catalogue import fit_logistic
from trainer.ood.fitted import FittedOod
from trainer.ood.knn import NearestNeighbours
from trainer.ood.mahalanobis import Mahalanobis
from trainer.ood.moments import Moments
from trainer.ood.reference import assign_centres, coreset, kmeans, sample
from trainer.ood.relative import RelativeMahalanobis
from trainer.ood.vim import VirtualLogit


def unit_rows(n: int, h: int, seed: int) -> torch.Tensor:
    rows = torch.randn(n, h, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def readings(name: str, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a detector reads, all of it made of the features, so that the same rows give the same."""
    given = {"features": features, "energy": features[:, :3].sum(1), "grade_probs": features[:, :3].softmax(1)}
    return tuple(given[part] for part in DETECTORS[name].make.reads)


def fitted(name: str, train: torch.Tensor, *, size: int = 4096, others: torch.Tensor | None = None, **params):
    """A detector of one half, fitted on chunks; what its entry says it reads is what it gets."""
    make, params = DETECTORS.resolve(name, params)
    detector = make(train.shape[1], **params)
    more = () if others is None or not DETECTORS[name].make.fits_catalogue else (split_chunks(others, size=size),)
    detector.fit(split_chunks(*readings(name, train), size=size), *more)
    return detector


# ---- every detector

OF_FEATURES = [name for name in DETECTORS if "features" in DETECTORS[name].make.reads]


@pytest.mark.parametrize("name", list(DETECTORS))
def test_what_a_detector_reads_is_what_its_forward_takes(name):
    taken = list(inspect.signature(DETECTORS[name].make.forward).parameters)[1:]
    assert tuple(taken) == DETECTORS[name].make.reads != ()
    assert DETECTORS[name].make.fits_catalogue == (
        "catalogue" in inspect.signature(DETECTORS[name].make.fit).parameters
    )


@pytest.mark.parametrize("name", list(DETECTORS))
@settings(laws, max_examples=10)
@given(seed=st.integers(0, 999), m=st.integers(6, 60))
def test_detector_laws(name, seed, m):
    train, test, others = (unit_rows(n, 8, seed + at) for n, at in ((m, 0), (10, 1000), (30, 2000)))
    detector = fitted(name, train, others=others)
    distance = detector(*readings(name, test))
    assert distance.shape == (10,) and torch.isfinite(distance).all()
    alone = torch.cat([detector(*readings(name, row[None])) for row in test])
    assert_close(alone, distance, atol=1e-4, rtol=1e-4)  # no batch mates
    shuffled = train[torch.randperm(m, generator=torch.Generator().manual_seed(seed))].repeat(2, 1)
    again = fitted(name, shuffled, size=7, others=others)
    found = again(*readings(name, test))
    assert_close(found, distance, atol=1e-3, rtol=1e-3)  # neither order, chunks nor repetition of rows count
    assert detector(*readings(name, test[:0])).shape == (0,)
    blank = DETECTORS[name].make(8, **DETECTORS.resolve(name, {})[1])
    blank.restore(detector.state_dict())
    assert torch.equal(blank(*readings(name, test)), distance)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_detector_sees_what_is_far(name):
    near = torch.nn.functional.normalize(unit_rows(80, 16, 1) * 0.3 + torch.eye(16)[0], dim=1)
    far = torch.nn.functional.normalize(unit_rows(40, 16, 2) * 0.3 + torch.eye(16)[1], dim=1)
    detector = fitted(name, near[:40])
    inside, outside = (detector(*readings(name, rows)) for rows in (near[40:], far))
    if name == "relative_mahalanobis":  # what is far from group and background alike cancels out in part
        assert auroc(inside, outside) > 0.8
    else:
        assert inside.max() < outside.min()


@pytest.mark.parametrize("name", OF_FEATURES)
def test_detector_refuses_too_few_rows(name):
    with pytest.raises(ValueError, match="distinct rows"):
        fitted(name, unit_rows(1, 4, 0).repeat(50, 1))


@pytest.mark.parametrize("name", ["mahalanobis", "relative_mahalanobis", "vim"])
def test_a_fit_in_chunks_is_the_whole_fit(name):
    """Of a Gaussian's moments, to the sixth place; the rows come in another order, too."""
    train = unit_rows(3000, 12, 4) * torch.linspace(0.2, 2, 12)
    train = torch.nn.functional.normalize(train, dim=1)
    one = fitted(name, train, size=3000)
    many = fitted(name, train.flip(0), size=37)
    for key, value in one.state_dict().items():
        if key not in ("whiten", "background", "within", "residual", "centres"):  # known but for their axes' signs
            assert_close(many.state_dict()[key], value, atol=1e-6, rtol=1e-6)
    test = readings(name, unit_rows(50, 12, 5))
    assert_close(many(*test), one(*test), atol=1e-5, rtol=1e-5)


def test_moments_of_chunks_are_those_of_the_whole():
    rows = torch.randn(2000, 9, generator=torch.Generator().manual_seed(1)).double()
    one, many = (Moments.of(split_chunks(rows, size=size)) for size in (2000, 13))
    assert one.count == many.count == 2000
    for ours, theirs in ((many.mean, rows.mean(0)), (many.covariance, torch.cov(rows.T, correction=0))):
        assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
    assert_close(one.shrunk(), many.shrunk(), atol=1e-12, rtol=1e-9)
    assert one.fourth == pytest.approx(((rows - rows.mean(0)).square().sum(1) ** 2).mean().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "how"), [(name, "sample") for name in OF_FEATURES] + [("knn", "coreset"), ("knn", "kmeans")]
)
def test_what_is_kept_is_bounded_however_many_rows_come(name, how):
    """No tensor grows with the rows, and no pass asks for more than one chunk at a time."""
    params = {"max_reference": 32} if "max_reference" in DETECTORS[name].params else {}
    params |= {"reference": how} if name == "knn" else {}
    largest = []

    def rows():
        for part in range(60):
            chunk = unit_rows(100, 8, part)
            largest.append(len(chunk))
            yield readings(name, chunk)

    make, params = DETECTORS.resolve(name, params)
    detector = make(8, **params)
    detector.fit(rows)
    assert max(largest) == 100 and len(largest) >= 60
    assert all(value.numel() <= 32 * 8 for value in detector.state_dict().values())
    assert torch.isfinite(detector(*readings(name, unit_rows(5, 8, 999)))).all()


# ---- each


@pytest.mark.parametrize("k", [1, 5, 17])
def test_knn_against_scikit_learn(k):
    train, test = unit_rows(200, 12, 3), unit_rows(50, 12, 4)
    detector = NearestNeighbours(12, k=k)
    detector.fit(split_chunks(train))
    distances, _ = NearestNeighbors(n_neighbors=k).fit(train.numpy()).kneighbors(test.numpy())
    np.testing.assert_allclose(detector(test).numpy(), distances[:, -1], atol=1e-5)


def test_knn_of_a_pair_averages_the_squares_of_its_halves():
    train, test = (torch.cat([unit_rows(n, 6, s), unit_rows(n, 6, s + 1)], dim=1) for n, s in ((90, 1), (20, 7)))
    both = NearestNeighbours(12, halves=2, k=3)
    both.fit(split_chunks(train))
    squares = []
    for half in (slice(0, 6), slice(6, 12)):
        one = NearestNeighbours(6, k=3)
        one.fit(split_chunks(train[:, half]))
        squares.append(one(test[:, half]).square())
    assert_close(both(test), ((squares[0] + squares[1]) / 2).sqrt())


def test_knn_leaves_the_text_itself_out():
    """A training row is as far from its neighbours as a fresh row in its place would be."""
    train = unit_rows(60, 5, 9)
    detector = NearestNeighbours(5, k=4)
    detector.fit(split_chunks(train))
    distances, _ = NearestNeighbors(n_neighbors=5).fit(train.numpy()).kneighbors(train.numpy())
    np.testing.assert_allclose(detector(train).numpy(), distances[:, 4], atol=1e-5)


@pytest.mark.parametrize(("name", "params"), [
    ("knn", {"k": 3}), ("knn", {"k": 2, "whiten": 0.5}), ("knn", {"k": 2, "max_reference": 40, "reference": "kmeans"}),
    ("catalogue", {"k": 2}),
])  # fmt: skip
@pytest.mark.parametrize("space", ["pair", "query", "item"])
def test_halves_fitted_again_on_the_same_rows_are_what_they_were(name, params, space):
    parts = 2 if space == "pair" else 1
    train, others, new = unit_rows(60, 8 * parts, 1), unit_rows(30, 8, 2), unit_rows(20, 8, 3)
    half = [F.normalize(part, dim=1) for part in train.chunk(parts, dim=1)]
    detector = DETECTORS[name].make(8 * parts, halves=parts, **params)
    chunks = split_chunks(torch.cat(half, dim=1))
    detector.fit(chunks, *([split_chunks(others)] if DETECTORS[name].make.fits_catalogue else []))
    ood = FittedOod(detector.eval(), ConformalCalibration.fit(torch.rand(100), 0.05), space, {})
    rows = {"pair": half, "query": [half[0], new], "item": [new, half[0]]}[space]
    again = ood.refit_sides(*rows)
    assert_close(again.of_sides(new), ood.of_sides(new))
    moved = ood.refit_sides(*(unit_rows(60, 8, 9) for _ in range(2)))
    assert (moved.of_sides(new) - ood.of_sides(new)).abs().max() > 1e-3
    assert_close(ood.of_sides(new), again.of_sides(new))  # the first is left as it was


def test_knn_keeps_a_fixed_sample_of_many_rows():
    train = unit_rows(100, 4, 5)
    detectors = [NearestNeighbours(4, k=2, max_reference=16) for _ in range(2)]
    for detector in detectors:
        detector.fit(split_chunks(train))
    kept, again = (next(iter(d.state_dict().values())) for d in detectors)
    assert kept.shape == (16, 4)
    assert_close(kept, again)
    rows = {tuple(row) for row in train.tolist()}
    assert all(tuple(row) in rows for row in kept.tolist())


def test_knn_cannot_keep_fewer_rows_than_it_reads():
    with pytest.raises(ValueError, match="max_reference"):
        NearestNeighbours(4, k=20, max_reference=16).fit(split_chunks(unit_rows(100, 4, 5)))


@pytest.mark.parametrize(("m", "h"), [(500, 6), (30, 10), (8, 20)])
def test_mahalanobis_against_scikit_learn(m, h):
    rng = np.random.default_rng(m)
    train = rng.standard_normal((m, h)) @ rng.standard_normal((h, h))
    test = torch.tensor(rng.standard_normal((20, h)), dtype=torch.float32)
    oracle = LedoitWolf().fit(train)
    covariance = Moments.of(split_chunks(torch.tensor(train))).shrunk()
    np.testing.assert_allclose(covariance.numpy(), oracle.covariance_, rtol=1e-8, atol=1e-10)
    detector = Mahalanobis(h)
    detector.fit(split_chunks(torch.tensor(train, dtype=torch.float32)))
    np.testing.assert_allclose(detector(test).numpy() ** 2, oracle.mahalanobis(test.numpy()), rtol=1e-3)


def test_mahalanobis_without_whitening_is_euclidean():
    train, test = unit_rows(50, 5, 1), unit_rows(9, 5, 2)
    detector = Mahalanobis(5, power=0.0)
    detector.fit(split_chunks(train))
    assert_close(detector(test), (test - train.mean(0)).norm(dim=1), atol=1e-5, rtol=1e-5)


def gaussians(seed: int, m: int = 300, h: int = 5) -> torch.Tensor:
    """Three clouds on the sphere."""
    centres = unit_rows(3, h, seed)
    rows = unit_rows(m, h, seed + 1) * 0.25 + centres[torch.arange(m) % 3]
    return torch.nn.functional.normalize(rows, dim=1)


def test_relative_mahalanobis_by_hand():
    """Nearest group's squared distance less the background's, each scatter over the number of rows."""
    train, test = gaussians(3), unit_rows(20, 5, 8)
    detector = RelativeMahalanobis(5, groups=3)
    detector.fit(split_chunks(train, size=64))
    group = assign_centres(train, kmeans(sample(split_chunks(train), 300), 3)).numpy()
    rows, test64 = train.double().numpy(), test.double().numpy()
    means = np.stack([rows[group == g].mean(0) for g in range(3)])
    centred = rows - means[group]
    weight = LedoitWolf(assume_centered=True).fit(centred).shrinkage_
    within, background = centred.T @ centred / 300, np.cov(rows.T, bias=True)
    aim = weight * np.trace(background) / 5 * np.eye(5)
    within, background = ((1 - weight) * part + aim for part in (within, background))

    def square(away, covariance):
        return np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away)

    nearest = np.min([square(test64 - mean, within) for mean in means], axis=0)
    oracle = nearest - square(test64 - rows.mean(0), background)
    np.testing.assert_allclose(detector(test).numpy(), oracle, rtol=1e-3, atol=1e-2)


def test_relative_mahalanobis_grows_with_the_distance_where_rows_are_few():
    """More features than rows: both scatters are mostly shrinkage, and what is far must still be far."""
    train = torch.nn.functional.normalize(unit_rows(60, 96, 1) * 0.5 + torch.eye(96)[torch.arange(60) % 4], dim=1)
    fresh = torch.nn.functional.normalize(unit_rows(60, 96, 2) * 0.5 + torch.eye(96)[torch.arange(60) % 4], dim=1)
    detector = fitted("relative_mahalanobis", train, groups=4)
    assert auroc(detector(fresh), detector(unit_rows(60, 96, 3))) > 0.9


def test_relative_mahalanobis_divides_both_scatters_by_the_rows():
    """Twice the rows of the same distribution is the same distance, not half of it."""
    few, many, test = gaussians(3, 3000), gaussians(3, 6000), gaussians(5, 50)
    one, two = (RelativeMahalanobis(5, groups=3) for _ in range(2))
    one.fit(split_chunks(few))
    two.fit(split_chunks(many))
    assert_close(two(test), one(test), rtol=0.3, atol=1.0)  # undivided it would be half


def test_vim_by_hand():
    """The origin is the mean; the residual is what the largest directions leave, scaled to the energy."""
    train, test = unit_rows(200, 6, 1) * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.3, 0.1]), unit_rows(9, 6, 2)
    energy = torch.rand(200) + 1
    detector = VirtualLogit(6, dim=2)
    detector.fit(split_chunks(train, energy, size=30))
    left = np.linalg.svd((train - train.mean(0)).numpy())[2][2:].T
    residual = lambda rows: np.linalg.norm((rows - train.mean(0)).numpy() @ left, axis=1)  # noqa: E731
    scale = energy.mean().item() / residual(train).mean()
    np.testing.assert_allclose(
        detector(test, torch.full((9,), 0.7)).numpy(), scale * residual(test) - 0.7, rtol=1e-4, atol=1e-4
    )


def test_vim_needs_a_direction_to_be_left():
    with pytest.raises(ValueError, match="dim is 4 and the features have 4"):
        VirtualLogit(4, dim=4).fit(split_chunks(unit_rows(20, 4, 1), torch.ones(20)))


def test_energy_and_max_softmax_in_closed_form():
    energy, _ = DETECTORS.resolve("energy", {})
    assert energy(1)(torch.tensor([2.0, -1.0])).tolist() == [-2.0, 1.0]
    softmax, _ = DETECTORS.resolve("max_softmax", {})
    assert_close(softmax(1)(torch.tensor([[0.25, 0.75], [0.5, 0.5]])), torch.tensor([1 / 4, 1 / 2]))


def test_energy_of_the_heads():
    """Log-sum-exp of a class's logits each; of ordinal steps the sum of log(1 + exp)."""
    raw = torch.tensor([[0.0, math.log(2.0)], [math.log(3.0), -50.0]])
    assert_close(HEADS["nominal"].make(3, (0.0, 1.0)).energy(raw), torch.tensor([math.log(3), math.log(3)]))
    for name in ("cumulative", "corn"):
        found = HEADS[name].make(3, (0.0, 1.0, 2.0)).energy(raw)
        assert_close(found, torch.tensor([math.log(2 * 3), math.log(4)]))


def test_whitened_neighbours_are_those_of_whitened_rows():
    train, test = unit_rows(300, 6, 1) * torch.linspace(1, 3, 6), unit_rows(20, 6, 2)
    train = torch.nn.functional.normalize(train, dim=1)
    detector = NearestNeighbours(6, k=2, whiten=1.0)
    detector.fit(split_chunks(train, size=50))
    covariance = LedoitWolf().fit(train.double().numpy())
    values, vectors = np.linalg.eigh(covariance.covariance_)
    turn = vectors / np.sqrt(values)
    white, probe = ((rows.double().numpy() - covariance.location_) @ turn for rows in (train, test))
    white, probe = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (white, probe))
    distances, _ = NearestNeighbors(n_neighbors=2).fit(white).kneighbors(probe)
    np.testing.assert_allclose(detector(test).numpy(), distances[:, -1], atol=1e-4)


# ---- a bounded reference


def test_fingerprints_tell_rows_apart_and_know_the_same_again():
    rows = unit_rows(5000, 3, 1)
    prints = fingerprints(rows)
    assert len(set(prints.tolist())) == 5000
    assert (fingerprints(rows[[3, 3, 7]]) == prints[[3, 3, 7]]).all()
    assert abs(float((prints / 2.0**64).mean()) - 0.5) < 0.02  # evenly spread
    assert fingerprints(torch.tensor([[0.0, 1.0]])) == fingerprints(torch.tensor([[-0.0, 1.0]]))


def test_distinct_passes_each_row_once():
    rows = unit_rows(40, 3, 1)
    chunks = [(rows[:20], torch.arange(20)), (rows[10:40], torch.arange(10, 40)), (rows[:5], torch.arange(5))]
    found = list(drop_repeats(chunks))
    assert torch.cat([number for _, number in found]).tolist() == list(range(40))
    assert all(len(part) for part, _ in found)


def test_a_drawn_sample_is_even_and_has_no_order():
    rows = unit_rows(2000, 3, 1)
    kept = sample(split_chunks(rows, size=100), 500)
    again = sample(split_chunks(rows.flip(0).repeat(2, 1), size=33), 500)
    assert kept.shape == (500, 3) and torch.equal(kept, again)
    place = {tuple(row): number for number, row in enumerate(rows.tolist())}
    places = sorted(place[tuple(row)] for row in kept.tolist())
    assert len(set(places)) == 500 and abs(np.mean(places) - 999.5) < 5 * 2000 / math.sqrt(12 * 500)


def test_a_coreset_leaves_nothing_far():
    """No further than twice what the best choice of as many rows could (Gonzalez 1985): here three clouds."""
    rows = gaussians(1)
    chosen = coreset(rows, 12)
    gaps = torch.cdist(rows, chosen).amin(1)
    drawn = torch.cdist(rows, rows[:12]).amin(1)
    assert gaps.max() < drawn.max() and len(torch.unique(chosen, dim=0)) == 12
    assert torch.equal(coreset(rows, 1000), rows)


def test_kmeans_finds_clouds():
    rows = gaussians(1)
    centres = kmeans(rows, 3)
    truth = torch.nn.functional.normalize(torch.stack([rows[g::3].sum(0) for g in range(3)]), dim=1)
    assert (truth @ centres.T).amax(1).min() > 0.99
    assert_close(centres.norm(dim=1), torch.ones(3))


# ---- the catalogue


def shifted(n: int, axis: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(unit_rows(n, 16, seed) * 0.7 + torch.eye(16)[axis] * 0.4, dim=1)


def auroc(inside: torch.Tensor, outside: torch.Tensor) -> float:
    return float((outside[:, None] > inside[None, :]).float().mean())


def test_the_catalogue_tells_what_was_never_judged_from_the_unusual():
    """Two kinds that overlap: with unjudged items of both, a new item's kind shows; neighbours alone see less."""
    judged, fresh, new = shifted(150, 0, 1), shifted(200, 0, 2), shifted(200, 1, 3)
    others = torch.cat([shifted(100, 0, 4), shifted(150, 1, 5)])
    alone = fitted("catalogue", judged)
    both = fitted("catalogue", judged, others=others)
    assert auroc(both(fresh), both(new)) > auroc(alone(fresh), alone(new)) + 0.03
    assert alone.state_dict()["weight"].abs().max() == 0


def test_a_catalogue_like_the_judged_items_changes_little():
    judged, fresh, new = shifted(150, 0, 1), shifted(200, 0, 2), shifted(200, 1, 3)
    alone = fitted("catalogue", judged)
    same = fitted("catalogue", judged, others=shifted(250, 0, 6))
    assert abs(auroc(same(fresh), same(new)) - auroc(alone(fresh), alone(new))) < 0.05


def test_logistic_against_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([shifted(80, 0, 1), shifted(200, 1, 2)]).double()
    positive = torch.arange(280) >= 80
    weight, bias = fit_logistic(rows, positive, 2.0)
    oracle = LogisticRegression(C=0.5, class_weight="balanced", tol=1e-10, max_iter=1000).fit(rows, positive)
    np.testing.assert_allclose(weight.numpy(), oracle.coef_[0], atol=1e-5)
    assert float(bias) == pytest.approx(oracle.intercept_[0], abs=1e-5)


def test_views():
    features = PairFeatures(torch.zeros(4, 2), (unit_rows(4, 3, 1), unit_rows(4, 3, 2)))
    assert select_features(features, "query") is features.query and select_features(features, "item") is features.item
    pair = select_features(features, "pair")
    between = (pair[0] - pair[1]).square().sum()
    halves = [(half[0] - half[1]).square().sum() for half in (features.query, features.item)]
    assert_close(between, sum(halves))
    both = PairFeatures(features.head_input, features.halves, (features.item, features.query))
    assert (
        select_features(both, "query", "average") is features.item
        and select_features(both, "item", "average") is features.query
    )


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


WORLD = {"queries": 120, "pairs": 6, "rounds": 40}


@pytest.mark.parametrize("name", list(DETECTORS))
def test_false_alarms_hold_alpha_on_exchangeable_queries(name):
    """Pairs of a query share its features, so they are no independent draws: the promise is for queries.

    A pair of a fresh query is flagged with a chance of alpha at most, but for what clusters cost: the p-value counts
    pairs, and a query whose pairs all stand together can raise it by ``(1 - alpha) / (queries + 1)``.
    """
    alpha, queries, pairs = 0.1, WORLD["queries"], WORLD["pairs"]
    make, params = DETECTORS.resolve(name, {"k": 3} if "k" in DETECTORS[name].params else {})
    parts = 2 if "features" in DETECTORS[name].make.reads else 1
    rates = []
    for seed in range(WORLD["rounds"]):
        query = unit_rows(60 + 2 * queries, 6, seed)
        item = unit_rows(len(query) * pairs, 6, seed + 500)
        rows = torch.cat([query.repeat_interleave(pairs, 0), item], dim=1)
        train, held, fresh = rows.split([60 * pairs, queries * pairs, queries * pairs])
        detector = make(12, halves=parts, **params)
        # The catalogue has the items of calibration and of what comes alike.
        others = (split_chunks(torch.cat([held, fresh])[:, 6:]),) if DETECTORS[name].make.fits_catalogue else ()
        detector.fit(split_chunks(*readings(name, train)), *others)
        calibration = ConformalCalibration.fit(detector(*readings(name, held)), alpha)
        flagged = is_ood(calibration(detector(*readings(name, fresh)))[:, 0].numpy(), alpha)
        rates.append(flagged.mean())
    error = float(np.std(rates) / math.sqrt(len(rates)))
    assert np.mean(rates) <= alpha + (1 - alpha) / (queries + 1) + 3 * error
    assert np.mean(rates) >= alpha - 4 * error - 1 / queries  # and it is used up


@pytest.mark.parametrize("queries", [9, 19, 39, 119])
def test_what_clusters_cost_at_worst(queries):
    """All pairs of a query equally far: by hand, the chance that a fresh query is flagged."""
    alpha, pairs, rng = 0.1, 50, np.random.default_rng(queries)
    allowed = math.floor((alpha * (queries * pairs + 1) - 1) / pairs + 1e-9)  # queries that may stand at or above
    expected = (allowed + 1) / (queries + 1)
    assert expected <= alpha + (1 - alpha) / (queries + 1)
    flagged = []
    for _ in range(1500):
        draw = torch.tensor(rng.exponential(size=queries + 1), dtype=torch.float32)
        calibration = ConformalCalibration.fit(draw[1:].repeat_interleave(pairs), alpha)
        flagged.append(bool(is_ood(calibration(draw[:1])[:, 0].numpy(), alpha)[0]))
    assert abs(np.mean(flagged) - expected) < 4 * math.sqrt(expected * (1 - expected) / 1500)


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
