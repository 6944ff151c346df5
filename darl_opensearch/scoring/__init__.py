"""Scoring pairs with a bundle's graph: sessions, length-sorted batches, choice of provider."""

from __future__ import annotations

from darl_opensearch.scoring.deadline import CallerGone, Deadline, DeadlinePassed
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.scoring.scorer import Pass, Scorer

__all__ = ["CallerGone", "Deadline", "DeadlinePassed", "Pass", "Provider", "Scorer"]
