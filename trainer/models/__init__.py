"""Backbones and heads."""

from trainer.models.base import BACKBONES, Backbone, PairFeatures
from trainer.models.heads import HEADS, Head
from trainer.models.split import SplitReranker

__all__ = ["BACKBONES", "HEADS", "Backbone", "Head", "PairFeatures", "SplitReranker"]
