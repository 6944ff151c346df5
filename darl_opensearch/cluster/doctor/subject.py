"""What is checked, read once for all checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.preflight import Mode, read_nodes, read_settings
from darl_opensearch.cluster.switching import Now, PipelineHistory, read_now
from darl_opensearch.connect import Identity
from darl_opensearch.io.http import HttpAnswer, HttpClient, HttpError, bearer
from darl_opensearch.io.urls import split_http
from darl_opensearch.ood.stream import STREAM
from darl_opensearch.settings import FilePath, setting

SCORER_TIMEOUT_S = 5.0


class DoctorOptions(PipelineHistory):
    """Options of ``darl doctor``.

    :param ca_certs: CA file that the cluster's client trusts.
    :param verify_certificate: whether that client verifies the cluster's certificate.
    :param client_cert: certificate that it shows, and key; None: it shows none.
    """

    mode: Mode | None = setting(
        None, "mode to check the cluster for.  [default: the pipeline's]", env="DARL_MODE"
    )  # fmt: skip
    scorer_url: str | None = setting(
        None,
        "URL of the scorer's rerank route as this machine reaches it.  [default: the URL that the connector calls]",
        env="DARL_SCORER_URL",
    )  # fmt: skip
    scorer_key: str | None = setting(None, "API key of the scorer.", env="DARL_API_KEY", secret=True)
    index: str | None = setting(None, "item index to check for documents without darl_text", env="DARL_INDEX")
    stream: str = setting(STREAM, "name of the OOD data stream", env="DARL_OOD_STREAM")
    spool: FilePath | None = setting(
        None, "spool on this machine to check for lost records", env=("DARL_SPOOL", "DARL_OOD_LOG")
    )
    ca_certs: Path | None = None
    verify_certificate: bool = True
    client_cert: tuple[Path, Path | None] | None = None


@dataclass
class Subject:
    """A cluster, a pipeline in it, and the scorer behind that; each is read when a check first asks for it."""

    cluster: Cluster
    options: DoctorOptions
    identity: Identity

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The effective value of each cluster setting."""
        return read_settings(self.cluster)

    @cached_property
    def nodes(self) -> dict[str, dict[str, Any]]:
        """Each node with its plugins, by id."""
        return read_nodes(self.cluster)

    @cached_property
    def stats(self) -> dict[str, dict[str, Any]]:
        """Each node's memory and disks, by id."""
        return dict(self.cluster.read("GET", "/_nodes/stats/os,jvm,fs").get("nodes", {}))

    @cached_property
    def now(self) -> Now:
        """The pipelines, and what they serve."""
        return read_now(self.cluster, self.options.pipeline)

    @property
    def mode(self) -> Mode | None:
        """The mode to check for; None without a pipeline that says so."""
        served = self.now.served
        return self.options.mode or (served.mode if served else None)

    @cached_property
    def model(self) -> dict[str, Any]:
        """The model that the pipeline serves, as ML Commons describes it; empty if there is none."""
        served = self.now.served
        if served is None:
            return {}
        return self.cluster.read("GET", join_path("_plugins", "_ml", "models", served.model_id), absent={})

    @cached_property
    def connector_url(self) -> str | None:
        """The rerank route that the served model's connector calls; None without a connector."""
        connector_id = self.model.get("connector_id")
        if not connector_id:
            return None
        place = join_path("_plugins", "_ml", "connectors", str(connector_id))
        actions = self.cluster.read("GET", place, absent={}).get("actions") or [{}]
        url = actions[0].get("url")
        return str(url) if url else None

    @property
    def scorer_url(self) -> str | None:
        """The scorer's rerank route as this machine reaches it."""
        return self.options.scorer_url or self.connector_url

    def ask_scorer(self, route: str) -> HttpAnswer | HttpError:
        """Ask a route of the scorer from this machine.

        :param route: such as ``/info``.
        """
        parts = split_http(self.scorer_url or "")
        if parts is None:
            return HttpError("its address is not known")
        prefix = parts.path.rstrip("/").removesuffix("/rerank")
        prefix = prefix.removesuffix("/v1").removesuffix("/v2")
        headers: Mapping[str, str] = bearer(self.options.scorer_key or "")
        with HttpClient(SCORER_TIMEOUT_S, headers=headers) as client:
            try:
                return client.send("GET", f"{parts.scheme}://{parts.netloc}{prefix}{route}")
            except HttpError as err:
                return err

    def name_of(self, node_id: str) -> str:
        """Return a node's name, or its id if it is gone."""
        return str(self.nodes.get(node_id, {}).get("name", node_id))
