"""The most typical query of each cluster that nothing known is in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cycle.selectors.registry import COMPARED
from darl_opensearch.errors import load
from darl_opensearch.settings import setting
from trainer.dasa.neighbours import find_nearest
from trainer.dasa.purse import Purse
from trainer.dasa.registry import Candidates, Floats
from trainer.dasa.selectors.herding import Over, list_rows

FEW_ROWS = 10_000


@COMPARED.register("typiclust", cite="Hacohen et al. 2022, arXiv:2202.02794")
@dataclass(frozen=True, kw_only=True)
class TypiClust:
    """Known and candidates clustered by k-means; then, cluster by cluster, the query nearest to its neighbours.

    Clusters with the fewest known come first, of those the largest. There are as many clusters as there would be
    queries known after the choice, at most ``max_clusters``; so another budget gives other clusters, and a smaller
    one no prefix.
    """

    over: Over = "flagged"
    max_clusters: int = setting(500, "most clusters", least=1, most=10_000)
    k: int = setting(20, "neighbours in its cluster that make a query typical", least=1, most=1000)
    min_cluster: int = setting(5, "smaller clusters are asked last", least=1)

    def __call__(self, candidates: Candidates, known: Floats, budget: int, rng: np.random.Generator) -> list[int]:
        """Choose.

        :param candidates: what there is to choose from.
        :param known: ``[m, h]`` float32 of unit length; may be empty.
        :return: rows, in the order of choice.
        """
        rows = list_rows(candidates, self.over)
        affordable = int(budget // candidates.cost[rows].mean()) if len(rows) else 0
        if not affordable:
            return []
        # In an order of their own, so that the clusters do not depend on the order of the candidates.
        rows = rows[np.lexsort(candidates.features[rows][:, : min(4, candidates.features.shape[1])].T)]
        features = np.ascontiguousarray(candidates.features[rows])
        clusters = min(len(known) + affordable, self.max_clusters, len(rows))
        cluster, holds_known = _cluster(features, known, clusters, int(rng.integers(2**31 - 1)))
        members = [np.flatnonzero(cluster == number) for number in range(clusters)]
        size = np.array([len(own) for own in members])
        order = np.lexsort((-size, holds_known, size < self.min_cluster))
        purse = Purse(candidates, budget)
        queues = [members[number] for number in order if size[number]]
        while queues:
            left = []
            for own in queues:
                picked = int(own[np.argmax(self._typicality(features[own]))])
                row = int(rows[picked])
                if purse.has_room(row) and not purse.take(row):
                    return purse.chosen
                if len(rest := own[own != picked]):
                    left.append(rest)
            queues = left
        return purse.chosen

    def _typicality(self, features: Floats) -> NDArray[np.float64]:
        k = min(self.k, len(features) - 1)
        if not k:
            return np.zeros(len(features))
        cosines = find_nearest(features, features, k + 1)[0][:, 1:].astype(np.float64)
        distances = np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0))
        typicality: NDArray[np.float64] = 1.0 / (distances.mean(axis=1) + 1e-5)
        return typicality


def _cluster(features: Floats, known: Floats, clusters: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each candidate its cluster, and count what is known in each."""
    faiss: Any = load("faiss", "train")
    together = np.concatenate([features, known]) if len(known) else features
    # One point makes a cluster, as far as faiss's warnings go: a small pool has small clusters.
    redo = 5 if len(together) <= FEW_ROWS else 1  # of few rows, one start may end in a poor optimum
    means = faiss.Kmeans(features.shape[1], clusters, niter=20, nredo=redo, seed=seed, min_points_per_centroid=1)
    means.train(together)
    _, nearest_mean = means.index.search(together, 1)
    cluster = nearest_mean[:, 0]
    return cluster[: len(features)], np.bincount(cluster[len(features) :], minlength=clusters)
