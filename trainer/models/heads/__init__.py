"""Heads, which turn a backbone's features into grades, one per file. A grade loss names the head that it needs."""

from trainer.models.heads.base import HEADS, Head  # isort: skip
from trainer.models.heads.corn import CornHead
from trainer.models.heads.cumulative import CumulativeHead
from trainer.models.heads.nominal import NominalHead

__all__ = ["HEADS", "CornHead", "CumulativeHead", "Head", "NominalHead"]
