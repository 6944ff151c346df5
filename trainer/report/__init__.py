"""The report of a training run or a cycle: one page of what it has recorded."""

from __future__ import annotations

from trainer.report.page import render_recorded, write_report
from trainer.report.training import describe_decision

__all__ = ["describe_decision", "render_recorded", "write_report"]
