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

MEDIAN_OF = 1000  # rows that the median distance is taken from
BATCH = 256  # permutations computed at a time
ENOUGH = 20  # permutations as extreme as the data after which drawing stops
ROUNDING = 1e-6  # of sums in float32 over a kernel of at most 1
RIDGE = 1.0  # penalty, in units of the rows' mean squared length


@dataclass(frozen=True)
class Clusters:
    """Features of a sample, pairs of a query next to each other.

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

    :param value: the statistic: unbiased squared MMD, or AUC.
    :param p: its permutation p-value, one-sided, at least ``1 / (permutations + 1)``.
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
    # Equal scores are ranked by place, which must not depend on the sample.
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

    The bandwidth is the median distance of pooled rows (Gretton et al. 2012, section 8): it does not depend on
    which sample a row is of, so permutations share it.

    :param features: ``[n, h]`` rows of both samples.
    :param sizes: ``[q]`` rows of each query.
    :return: ``[q, q]`` float32, the diagonal 0: a query is not compared with itself.
    """
    rows = features.astype(np.float32, copy=False)
    some = rows[:: max(1, -(-len(rows) // MEDIAN_OF))]
    distances = _squared_distances(some)
    median = float(np.median(distances[np.triu_indices(len(some), 1)])) if len(some) > 1 else 0.0
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
    :param labels: ``[b, q]`` of 0 and 1, each row with at least two of both: which sample a query is of.
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
    """Fit a ridge classifier on all folds but one, for that one, as a matrix.

    A ridge regression on labels ranks as linear discriminant analysis with a shrunken covariance does. Its scores
    are linear in the labels, so one matrix serves every permutation: all are refitted at the price of a product.

    :param rows: ``[q, h]`` features of queries.
    :param folded: ``[q]`` fold of each.
    :return: ``[q, q]`` float32: times the labels it gives held-out scores, comparable within a fold.
    """
    smoother = np.zeros((len(rows), len(rows)), dtype=np.float32)
    for fold in np.unique(folded):
        train, test = np.flatnonzero(folded != fold), np.flatnonzero(folded == fold)
        middle = rows[train].mean(axis=0, dtype=np.float64)
        fitted, held_out = rows[train] - middle, rows[test] - middle
        gram = fitted @ fitted.T
        penalty = RIDGE * float(np.trace(gram)) / len(train)
        gram[np.diag_indices_from(gram)] += max(penalty, 1e-12)
        # No intercept: centred rows make it the same for the whole fold, where only the order counts.
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
        inside = folded == fold
        part = labels[:, inside].astype(np.float64)
        ranks = scores[:, inside].argsort(axis=1, kind="stable").argsort(axis=1, kind="stable") + 1
        ones = part.sum(axis=1)
        wins += (ranks * part).sum(axis=1) - ones * (ones + 1) / 2
        chances += ones * (part.shape[1] - ones)
    auc: Floats = np.where(chances > 0, wins / np.maximum(chances, 1), 0.5)
    return auc


def permute(
    statistics: dict[str, Statistic], labels: NDArray[np.float32], permutations: int, rng: np.random.Generator
) -> dict[str, TwoSample]:
    """Compare statistics with their values under random reassignment of queries.

    Sequential Monte Carlo p-values (Besag and Clifford 1991, *Biometrika* 78:301): drawing ends early when
    :data:`ENOUGH` permutations are at least as extreme as the data; the p-value is exact either way.

    :param statistics: by name, each from ``[b, q]`` labels to ``[b]`` values, higher for unlike samples.
    :param labels: ``[q]`` of 0 and 1, as observed.
    :return: results by name.
    """
    observed = {name: float(statistic(labels[None])[0]) for name, statistic in statistics.items()}
    beyond = dict.fromkeys(statistics, 0)
    done: dict[str, TwoSample] = {}
    made = 0
    while made < permutations and len(done) < len(statistics):
        count = min(BATCH, permutations - made)
        relabelled = rng.permuted(np.broadcast_to(labels, (count, len(labels))), axis=1)
        for name in statistics.keys() - done.keys():
            # Sums in another order round differently: equal values must count as extreme.
            extreme = statistics[name](relabelled) >= observed[name] - ROUNDING
            so_far = beyond[name] + np.cumsum(extreme)
            if so_far[-1] >= ENOUGH:
                last = made + int(np.argmax(so_far >= ENOUGH)) + 1
                done[name] = TwoSample(observed[name], ENOUGH / last, last)
            beyond[name] = int(so_far[-1])
        made += count
    rest = {
        name: TwoSample(observed[name], (1 + beyond[name]) / (made + 1), made)
        for name in statistics
        if name not in done
    }
    return {name: (done | rest)[name] for name in statistics}


def _means(features: NDArray[np.float32], sizes: NDArray[np.int64]) -> NDArray[np.float32]:
    starts = np.cumsum(sizes) - sizes
    return (np.add.reduceat(features, starts, axis=0) / sizes[:, None]).astype(np.float32)


def _squared_distances(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    squares = np.einsum("nh,nh->n", rows, rows)
    distances: NDArray[np.float32] = squares[:, None] + squares - 2 * (rows @ rows.T)
    return np.maximum(distances, 0)
