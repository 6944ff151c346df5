"""The interface of evaluated systems: requests, ratings and the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.stats.bootstrap import Floats


@dataclass(frozen=True)
class RatingRequest:
    """Items of one query to be scored."""

    query_id: str
    query: str
    item_ids: tuple[str, ...]


@dataclass(frozen=True)
class Ratings:
    """A system's output for some pairs.

    :param score: ``[n]``, higher is better; -inf for items that it does not rank.
    :param grade_probs: ``[n, k]``, or None for a system that only ranks.
    :param ood_distance: ``[n]``, or None.
    :param is_ood: ``[n]``, or None.
    """

    score: Floats
    grade_probs: Floats | None = None
    ood_distance: Floats | None = None
    is_ood: NDArray[np.bool_] | None = None

    def rows(self, rows: NDArray[np.int64] | slice) -> Ratings:
        """Return some of the pairs."""
        return Ratings(
            self.score[rows],
            None if self.grade_probs is None else self.grade_probs[rows],
            None if self.ood_distance is None else self.ood_distance[rows],
            None if self.is_ood is None else self.is_ood[rows],
        )

    @staticmethod
    def join(parts: Sequence[Ratings]) -> Ratings:
        """Concatenate ratings of one system; at least one."""

        def concatenated(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else np.concatenate(values)

        return Ratings(*(concatenated(name) for name in ("score", "grade_probs", "ood_distance", "is_ood")))


class System(Protocol):
    """Something that scores the items of queries."""

    @property
    def name(self) -> str:
        """Its name in tables and file names."""

    @property
    def grades(self) -> bool:
        """Whether it is a model: it predicts grades and OOD scores, and can rerank any item."""

    def about(self) -> dict[str, Any]:
        """Describe the system, JSON-ready."""

    def rate(self, requests: Sequence[RatingRequest]) -> Iterator[Ratings]:
        """Yield each query's ratings as soon as they are computed."""
