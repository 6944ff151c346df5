"""``darl doctor``: what is wrong with a cluster and its scorer, and the request or command that mends it."""

from __future__ import annotations

from darl_opensearch.cluster.doctor.results import CheckResult, Diagnosis, Verdict
from darl_opensearch.cluster.doctor.run import CHECKS, diagnose
from darl_opensearch.cluster.doctor.subject import DoctorOptions

__all__ = ["CHECKS", "CheckResult", "Diagnosis", "DoctorOptions", "Verdict", "diagnose"]
