"""Two-sample tests of features, MMD and classifier, by permuting whole queries.

A query is a cluster of pairs and the unit of both tests: the kernel is averaged over the pairs of two queries, the
classifier reads the mean of a query's features, and a permutation moves a query with all its pairs. If the clusters of
both samples are exchangeable, the p-values are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.float32]], Floats]

MEDIAN_OF = 1000  # maximum rows for the median distance
BATCH = 256  # permutations computed at a time
ENOUGH = 20  # drawing stops after this many permutations as extreme as the data
ROUNDING = 1e-6  # rounding error of float32 sums over a kernel of at most 1
RIDGE = 1.0  # penalty, in units of the rows' mean squared length


@dataclass(frozen=True)
class Clusters:
    """Features of a sample, pairs of a query adjacent.

    :param features: ``[n, h]`` rows.
    :param sizes: ``[q]`` pairs of each query, each at least 1, summing to ``n``.
    """

    features: NDArray[np.float32]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class TwoSample:
    """Result of a two-sample test.

    :param value: unbiased squared MMD, or AUC.
    :param p: one-sided permutation p-value, at least ``1 / (permutations + 1)``.
    """

    value: float
    p: float
    permutations: int


def two_sample_tests(
    reference: Clusters, window: Clusters, *, permutations: int, folds: int, seed: Sequence[int]
) -> dict[str, TwoSample]:
    """Run both tests on the same permutations.

    :return: ``mmd`` and ``auc``.
    """
    rng = np.random.default_rng([3, *seed])
    count = len(reference) + len(window)
    features = np.concatenate([reference.features, window.features])
    sizes = np.concatenate([reference.sizes, window.sizes])
    labels = np.repeat([0.0, 1.0], [len(reference), len(window)]).astype(np.float32)
    # Ties are ranked by position, which must not depend on the sample.
    order = rng.permutation(count)
    folded = rng.permutation(np.arange(count) % folds)
    kernel = mean_kernel(features, sizes)[np.ix_(order, order)]
    smoother = cross_fit_smoother(_means(features, sizes)[order], folded)
    statistics = {
        "mmd": lambda permuted: squared_mmd(kernel, permuted),
        "auc": lambda permuted: pooled_auc(permuted @ smoother.T, permuted, folded),
    }
    return permute(statistics, labels[order], permutations, rng)


def mean_kernel(features: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the Gaussian kernel between queries: its mean over their pairs.

    The bandwidth is the median distance of pooled rows (Gretton et al. 2012, section 8): it does not depend on the
    labels, so permutations share it.

    :param features: ``[n, h]`` rows of both samples.
    :param sizes: ``[q]`` rows of each query.
    :return: ``[q, q]`` float32, the diagonal 0: a query is not compared with itself.
    """
    rows = features.astype(np.float32, copy=False)
    subset = rows[:: max(1, -(-len(rows) // MEDIAN_OF))]
    distances = _squared_distances(subset)
    median = float(np.median(distances[np.triu_indices(len(subset), 1)])) if len(subset) > 1 else 0.0
    kernel = np.exp(_squared_distances(rows) / np.float32(-2 * median if median > 0 else -1))
    starts = np.cumsum(sizes) - sizes
    summed = np.add.reduceat(np.add.reduceat(kernel, starts, axis=0), starts, axis=1)
    means = (summed / np.outer(sizes, sizes)).astype(np.float32)
    np.fill_diagonal(means, 0)
    return means


def squared_mmd(kernel: NDArray[np.float32], labels: NDArray[np.float32]) -> Floats:
    """Estimate the squared maximum mean discrepancy without bias.

    Gretton et al. 2012, *A Kernel Two-Sample Test*, JMLR 13:723, equation 3, with queries as observations.

    :param kernel: ``[q, q]`` with a diagonal of 0.
    :param labels: ``[b, q]`` of 0 and 1, the sample of each query; each row has at least two of both.
    :return: ``[b]`` estimates; they may be below 0.
    """
    sums = kernel.sum(axis=1, dtype=np.float64)
    ones = np.einsum("bq,bq->b", labels @ kernel, labels, dtype=np.float64)
    touching = labels @ sums
    zeros = sums.sum() - 2 * touching + ones
    n1 = labels.sum(axis=1, dtype=np.float64)
    n0 = labels.shape[1] - n1
    value: Floats = ones / (n1 * (n1 - 1)) + zeros / (n0 * (n0 - 1)) - 2 * (touching - ones) / (n0 * n1)
    return value


def cross_fit_smoother(rows: NDArray[np.float32], folded: NDArray[np.int64]) -> NDArray[np.float32]:
    """Fit a cross-validated ridge classifier as a matrix that maps labels to held-out scores.

    A ridge regression on labels ranks like linear discriminant analysis with a shrunken covariance. Its scores are
    linear in the labels, so one matrix serves every permutation: refitting costs one product.

    :param rows: ``[q, h]`` features of queries.
    :param folded: ``[q]`` fold of each.
    :return: ``[q, q]`` float32; its scores are comparable within a fold only.
    """
    smoother = np.zeros((len(rows), len(rows)), dtype=np.float32)
    for fold in np.unique(folded):
        train, test = np.flatnonzero(folded != fold), np.flatnonzero(folded == fold)
        mean = rows[train].mean(axis=0, dtype=np.float64)
        fitted, held_out = rows[train] - mean, rows[test] - mean
        gram = fitted @ fitted.T
        penalty = RIDGE * float(np.trace(gram)) / len(train)
        gram[np.diag_indices_from(gram)] += max(penalty, 1e-12)
        # No intercept: with centred rows it is constant within a fold, where only the order counts.
        smoother[np.ix_(test, train)] = np.linalg.solve(gram, fitted @ held_out.T).T
    return smoother


def pooled_auc(scores: NDArray[np.float32], labels: NDArray[np.float32], folded: NDArray[np.int64]) -> Floats:
    """Compute the area under the ROC curve from comparisons within folds.

    The classifier two-sample test (Lopez-Paz and Oquab 2017, arXiv:1610.06545) with AUC in place of accuracy, which
    needs no threshold and no equal sizes.

    :param scores: ``[b, q]`` held-out scores.
    :param labels: ``[b, q]`` of 0 and 1.
    :param folded: ``[q]`` fold of each query.
    :return: ``[b]``; one half where no fold has both labels.
    """
    wins, chances = np.zeros(len(scores)), np.zeros(len(scores))
    for fold in np.unique(folded):
        in_fold = folded == fold
        fold_labels = labels[:, in_fold].astype(np.float64)
        ranks = scores[:, in_fold].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") + 1
        ones = fold_labels.sum(axis=1)
        wins += (ranks * fold_labels).sum(axis=1) - ones * (ones + 1) / 2
        chances += ones * (fold_labels.shape[1] - ones)
    auc: Floats = np.where(chances > 0, wins / np.maximum(chances, 1), 0.5)
    return auc


def permute(
    statistics: dict[str, Statistic], labels: NDArray[np.float32], permutations: int, rng: np.random.Generator
) -> dict[str, TwoSample]:
    """Compare statistics with their values under random reassignment of queries.

    Sequential Monte Carlo p-values (Besag and Clifford 1991, *Biometrika* 78:301): drawing ends early when
    :data:`ENOUGH` permutations are at least as extreme as the data; the p-value is exact either way.

    :param statistics: by name; each maps ``[b, q]`` labels to ``[b]`` values, higher for unlike samples.
    :param labels: ``[q]`` observed labels, 0 and 1.
    """
    observed = {name: float(statistic(labels[None])[0]) for name, statistic in statistics.items()}
    extreme = dict.fromkeys(statistics, 0)  # permutations at least as extreme as the data, so far
    stopped: dict[str, TwoSample] = {}
    drawn = 0
    while drawn < permutations and len(stopped) < len(statistics):
        count = min(BATCH, permutations - drawn)
        relabelled = rng.permuted(np.broadcast_to(labels, (count, len(labels))), axis=1)
        for name in statistics.keys() - stopped.keys():
            # Sums in another order round differently: equal values must count as extreme.
            is_extreme = statistics[name](relabelled) >= observed[name] - ROUNDING
            counts = extreme[name] + np.cumsum(is_extreme)
            if counts[-1] >= ENOUGH:
                last = drawn + int(np.argmax(counts >= ENOUGH)) + 1
                stopped[name] = TwoSample(observed[name], ENOUGH / last, last)
            extreme[name] = int(counts[-1])
        drawn += count
    return {
        name: stopped.get(name, TwoSample(observed[name], (1 + extreme[name]) / (drawn + 1), drawn))
        for name in statistics
    }


def _means(features: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    starts = np.cumsum(sizes) - sizes
    return (np.add.reduceat(features, starts, axis=0) / sizes[:, None]).astype(np.float32)


def _squared_distances(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = np.einsum("nh,nh->n", rows, rows)
    distances: NDArray[np.float32] = squares[:, None] + squares - 2 * (rows @ rows.T)
    return np.maximum(distances, 0)
