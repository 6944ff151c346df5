"""Selectors: which candidates to have judged, one idea a file, in one registry."""

from trainer.dasa.registry import SELECTORS  # isort: skip
from trainer.dasa.selectors import (
    contrast,
    herding,
    k_center,
    novelty,
    random,
    random_flagged,
    typiclust,
    uncertainty,
)

__all__ = [
    "SELECTORS",
    "contrast",
    "herding",
    "k_center",
    "novelty",
    "random",
    "random_flagged",
    "typiclust",
    "uncertainty",
]
