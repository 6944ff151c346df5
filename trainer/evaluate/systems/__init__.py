"""Systems that can be evaluated, and the baselines to compare them with."""

from __future__ import annotations

from trainer.evaluate.systems.base import RatingRequest, Ratings, System
from trainer.evaluate.systems.baselines import BM25, COSINE, INT8, Bm25System, CosineSystem, TrecSystem, open_trec
from trainer.evaluate.systems.models import BundleSystem, RunSystem, check_scales, open_bundle, open_run

__all__ = [
    "BM25", "COSINE", "INT8", "Bm25System", "BundleSystem", "CosineSystem", "RatingRequest", "Ratings", "RunSystem",
    "System", "TrecSystem", "check_scales", "open_bundle", "open_run", "open_trec",
]  # fmt: skip
