"""Reports of an evaluation: terminal text, an HTML page with charts, and run files."""

from __future__ import annotations

from trainer.evaluate.report.folder import write_folder
from trainer.evaluate.report.text import render_text

__all__ = ["render_text", "write_folder"]
