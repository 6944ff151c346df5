"""The scorer as a service: ``/v1/rerank`` and kin, for the connector and for anyone else."""

from __future__ import annotations

from darl_opensearch.server.app import create_scorer_app
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.service import Service

__all__ = ["Service", "ServerConfig", "create_scorer_app"]
