"""Scoring and embedding pools of unlabelled pairs of any size, on one machine or on a Ray cluster."""

from __future__ import annotations

from darl_opensearch.pool.engine import Engine, EngineOptions
from darl_opensearch.pool.run import PoolReport, score_pool

__all__ = ["Engine", "EngineOptions", "PoolReport", "score_pool"]
