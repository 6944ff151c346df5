"""Importers, which turn any format of judgments into items.jsonl, judgments.jsonl and a starting darl.toml."""

from __future__ import annotations

from trainer.data.importers import esci, jsonl, search_relevance, trec, triples, ubi, wands
from trainer.data.importers.base import IMPORTERS
from trainer.data.importers.files import ImportFiles
from trainer.data.importers.run import run_import

__all__ = [
    "IMPORTERS", "ImportFiles", "esci", "jsonl", "run_import", "search_relevance", "trec", "triples", "ubi", "wands",
]  # fmt: skip
