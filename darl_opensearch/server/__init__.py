"""The scorer as an HTTP service: ``/v1/rerank`` and others, for ML Commons connectors and any other client."""

from __future__ import annotations

from darl_opensearch.server.app import create_scorer_app
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.service import Service

__all__ = ["Service", "ServerConfig", "create_scorer_app"]
