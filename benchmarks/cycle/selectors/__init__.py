"""Selectors that ``darl select`` is compared with; none of them beat a random choice among the flagged queries."""

from benchmarks.cycle.selectors.registry import COMPARED, Described  # isort: skip
from benchmarks.cycle.selectors import contrast, k_center, novelty, typiclust, uncertainty

__all__ = ["COMPARED", "Described", "contrast", "k_center", "novelty", "typiclust", "uncertainty"]
