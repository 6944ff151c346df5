"""Selectors of the candidates to label, one per file, in one registry."""

from trainer.dasa.registry import SELECTORS  # isort: skip
from trainer.dasa.selectors import herding, random, random_flagged

__all__ = ["SELECTORS", "herding", "random", "random_flagged"]
