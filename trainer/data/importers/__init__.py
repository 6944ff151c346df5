"""Importers: from any format of judgments to items.jsonl, judgments.jsonl and a starting darl.toml."""

from __future__ import annotations

from trainer.data.importers.base import IMPORTERS, FileSpec, Importer, ImportFiles, Target
from trainer.data.importers.esci import Esci
from trainer.data.importers.jsonl import Jsonl
from trainer.data.importers.run import Imported, run_import
from trainer.data.importers.search_relevance import SearchRelevance
from trainer.data.importers.trec import Trec
from trainer.data.importers.triples import Triples
from trainer.data.importers.ubi import Ubi
from trainer.data.importers.wands import Wands

__all__ = [
    "IMPORTERS",
    "Esci",
    "ImportFiles",
    "Imported",
    "Importer",
    "Jsonl",
    "SearchRelevance",
    "FileSpec",
    "Target",
    "Trec",
    "Triples",
    "Ubi",
    "Wands",
    "run_import",
]
