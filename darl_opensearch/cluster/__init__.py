"""What is set up in a cluster: connection, checks, models, pipelines and indexes."""

from __future__ import annotations

from darl_opensearch.cluster.calls import Call, Cluster
from darl_opensearch.cluster.connector import ScorerAddress
from darl_opensearch.cluster.index import LoadReport, load_items
from darl_opensearch.cluster.pipelines import PipelineOptions
from darl_opensearch.cluster.preflight import preflight
from darl_opensearch.cluster.register import RegisterOptions, Registration, register

__all__ = [
    "Call",
    "Cluster",
    "LoadReport",
    "PipelineOptions",
    "RegisterOptions",
    "Registration",
    "ScorerAddress",
    "load_items",
    "preflight",
    "register",
]
