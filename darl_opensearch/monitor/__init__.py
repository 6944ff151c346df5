"""What the OOD log says about the traffic."""

from __future__ import annotations

from darl_opensearch.monitor.report import MonitorReport, report

__all__ = ["MonitorReport", "report"]
