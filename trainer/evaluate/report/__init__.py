"""An evaluation for people and for files: text, pictures, one page, run files. All made from the JSON alone."""

from __future__ import annotations

from trainer.evaluate.report.folder import write_folder
from trainer.evaluate.report.text import render_text

__all__ = ["render_text", "write_folder"]
