"""What the OOD log says about the traffic."""

from __future__ import annotations

from darl_opensearch.monitor.report import MonitorReport, report
from darl_opensearch.monitor.statistics import Share, share_of, weighted_share

__all__ = ["MonitorReport", "Share", "report", "share_of", "weighted_share"]
