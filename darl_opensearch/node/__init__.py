"""A real OpenSearch node with ML Commons, k-NN and neural-search, for the demo and the tests.

It listens on 127.0.0.1 only and has no security plugin. For production use the official distribution.
"""

from __future__ import annotations

from darl_opensearch.node.lifecycle import (
    NodePossible,
    NodeStatus,
    down,
    node_possible,
    running_node,
    status,
    up,
)
from darl_opensearch.node.settings import NodeSpec

__all__ = ["NodePossible", "NodeSpec", "NodeStatus", "down", "node_possible", "running_node", "status", "up"]
