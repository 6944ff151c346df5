"""Tests for drift of the logged traffic from the calibration sample."""

from __future__ import annotations

from darl_opensearch.monitor.drift.config import DriftConfig, parse_window
from darl_opensearch.monitor.drift.report import DriftReport, DriftTest, SampleReport, WindowReport
from darl_opensearch.monitor.drift.run import drift

__all__ = ["DriftConfig", "DriftReport", "DriftTest", "SampleReport", "WindowReport", "drift", "parse_window"]
