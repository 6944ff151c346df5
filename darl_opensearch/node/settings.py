"""Settings of a node, and the configuration files rendered from them."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal

from darl_opensearch.errors import UsageError
from darl_opensearch.node.manifest import DEFAULT_VERSION, NodeVersion
from darl_opensearch.settings import FolderPath, Settings, setting

Engine = Literal["java", "docker"]
HEAP = re.compile(r"[1-9][0-9]*[kmg]")

# The scorer is reached at 127.0.0.1 by a node on this machine, at host.docker.internal by one in a container.
TRUSTED_ENDPOINTS = r"^http://(127\.0\.0\.1|host\.docker\.internal):.*$"

ML_SETTINGS: dict[str, str] = {
    "plugins.ml_commons.only_run_on_ml_node": "false",
    "plugins.ml_commons.allow_registering_model_via_local_file": "true",
    "plugins.ml_commons.jvm_heap_memory_threshold": "95",
    "plugins.ml_commons.disk_free_space_threshold": "100mb",
    "plugins.ml_commons.connector.private_ip_enabled": "true",
    "plugins.ml_commons.trusted_connector_endpoints_regex": TRUSTED_ENDPOINTS,
}


class NodePlace(Settings):
    """A node's port and its folder, by which it is found again."""

    port: int = setting(
        9200, "HTTP port on 127.0.0.1; also identifies the node", least=1, most=65535, env="DARL_NODE_PORT"
    )
    cache: FolderPath | None = setting(
        None, "folder for downloads, node and data.  [default: the user's cache folder]", env="DARL_CACHE"
    )


class NodeSpec(NodePlace):
    """A node to start."""

    version: NodeVersion = setting(
        DEFAULT_VERSION, "version of OpenSearch; 2.19.1 runs models behind a connector only", env="DARL_NODE_VERSION"
    )
    heap: str = setting("2g", "Java heap size, such as 2g or 1500m", env="DARL_NODE_HEAP")
    timeout_s: float = setting(
        180.0, "seconds to wait for an answer", above=0, env="DARL_NODE_TIMEOUT", flag="--timeout"
    )
    engine: Literal["auto", "java", "docker"] = setting(
        "auto", "how to run the node; auto prefers Java", env="DARL_NODE_WITH", flag="--with"
    )
    user: str | None = setting(
        None, "user to run the node as if root starts it.  [default: nobody]", env="DARL_NODE_USER"
    )

    def check(self) -> None:
        """Refuse a heap that Java would not understand."""
        if not HEAP.fullmatch(self.heap):
            raise UsageError(
                "the heap is not a valid Java heap size",
                where=f"heap {self.heap!r}",
                todo="write it as 2g or 1500m",
            )

    @property
    def name(self) -> str:
        """Name of cluster, node and container."""
        return f"darl-{self.port}"

    @property
    def java_opts(self) -> str:
        """Java's options: those of ``OPENSEARCH_JAVA_OPTS``, then the heap, so that the heap is the one asked for."""
        return f"{os.environ.get('OPENSEARCH_JAVA_OPTS', '')} -Xms{self.heap} -Xmx{self.heap}".lstrip()


def opensearch_yml(spec: NodeSpec, transport_port: int, data: Path, logs: Path) -> str:
    """Render ``opensearch.yml``.

    :param transport_port: port for other nodes, which OpenSearch opens even without any.
    """
    settings = {
        "cluster.name": spec.name,
        "node.name": spec.name,
        "discovery.type": "single-node",
        "network.host": "127.0.0.1",
        "http.port": str(spec.port),
        "transport.port": str(transport_port),
        "path.data": str(data),
        "path.logs": str(logs),
        **ML_SETTINGS,
    }
    # JSON strings are YAML strings with the same escapes; OpenSearch reads numbers and booleans from strings.
    return "".join(f"{key}: {json.dumps(value, ensure_ascii=False)}\n" for key, value in settings.items())


def jvm_options(shipped: str, data: Path, logs: Path) -> str:
    """Point the relative paths in the shipped ``jvm.options`` at the instance, which may write nowhere else."""
    text = re.sub(r"(?<=[=:])logs/", lambda _: f"{logs}/", shipped)
    return re.sub(r"(?<=HeapDumpPath=)data$", lambda _: str(data), text, flags=re.MULTILINE)
