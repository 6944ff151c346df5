"""Scoring and embedding pools of unlabelled pairs of any size, on one machine or on a Ray cluster."""

from __future__ import annotations

from darl_opensearch.pool.run import Engine, PoolReport, score_pool

__all__ = ["Engine", "PoolReport", "score_pool"]
