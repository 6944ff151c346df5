"""Encoding items before the first search needs their states: of files, of an index, or those that are logged most."""

from __future__ import annotations

from darl_opensearch.warm.options import WarmOptions
from darl_opensearch.warm.report import WarmReport
from darl_opensearch.warm.run import warm_files, warm_index

__all__ = ["WarmOptions", "WarmReport", "warm_files", "warm_index"]
