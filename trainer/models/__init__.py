"""Backbones and heads."""

from trainer.models.base import BACKBONES, Backbone, PairFeatures
from trainer.models.split import SplitReranker

__all__ = ["BACKBONES", "Backbone", "PairFeatures", "SplitReranker"]
