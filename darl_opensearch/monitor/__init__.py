"""Reports on the traffic in the OOD log."""

from __future__ import annotations

from darl_opensearch.monitor.report import MonitorReport, report

__all__ = ["MonitorReport", "report"]
