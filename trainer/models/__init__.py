"""Backbones and heads."""

from trainer.models.base import BACKBONES, Backbone, PairFeatures
from trainer.models.heads import HEADS, Head

from trainer.models.split import SplitReranker  # isort: skip  # the default comes first in tables
from trainer.models.cross import CrossEncoder
from trainer.models.llm import LlmReranker

__all__ = [
    "BACKBONES",
    "HEADS",
    "Backbone",
    "CrossEncoder",
    "Head",
    "LlmReranker",
    "PairFeatures",
    "SplitReranker",
]
