"""Selectors: which candidates to have judged, one idea a file, in one registry."""

from trainer.dasa.registry import SELECTORS  # isort: skip
from trainer.dasa.selectors import herding, random, random_flagged

__all__ = ["SELECTORS", "herding", "random", "random_flagged"]
