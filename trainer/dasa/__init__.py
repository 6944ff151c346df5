"""DASA: select what to label next from the traffic that the training set does not cover."""

from __future__ import annotations

from trainer.dasa.registry import Candidates, Selector
from trainer.dasa.selectors import SELECTORS

__all__ = ["SELECTORS", "Candidates", "Selector"]
