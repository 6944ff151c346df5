"""Every request to a cluster goes through here, so that a dry run can list what it would send."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from darl_opensearch.cluster_errors import error_of, explain_refusal, reason_of
from darl_opensearch.connect import NO_PIPELINE, ClusterOptions, Identity, calling, connect, identify
from darl_opensearch.errors import ClusterError

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before a request is made again
SECRETS = ("credential",)  # parts of a body that are never shown


@dataclass(frozen=True)
class Call:
    """A request that changes the cluster.

    :param body: JSON body; for raw bytes, their number and digest.
    """

    method: str
    path: str
    body: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Render for ``--dry-run``, without secrets."""
        shown: dict[str, Any] = {"method": self.method, "path": self.path}
        if self.body is not None:
            shown["body"] = {key: "***" if key in SECRETS else value for key, value in self.body.items()}
        return shown


@dataclass
class Cluster:
    """A cluster: reads are always sent, writes are only recorded in a dry run.

    :param calls: the writes so far, in order.
    :param left: ids of connectors that were to be deleted and are still there, see ``models.delete_connector``.
    """

    client: OpenSearch
    dry_run: bool = False
    calls: list[Call] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, options: ClusterOptions, *, dry_run: bool = False, **settings: Any) -> Cluster:
        """Connect without sending anything yet.

        :param **settings: further arguments of ``OpenSearch``.
        """
        return cls(connect(options, **settings), dry_run)

    @property
    def url(self) -> str:
        """Where the client points, for messages."""
        host = self.client.transport.hosts[0]
        scheme = "https" if host.get("use_ssl") or host.get("scheme") == "https" else "http"
        name = host["host"]
        prefix = str(host.get("url_prefix") or "").strip("/")
        return f"{scheme}://{f'[{name}]' if ':' in name else name}:{host.get('port', 9200)}" + (prefix and f"/{prefix}")

    def identify(self) -> Identity:
        """Ask for version and name."""
        return identify(self.client, self.url)

    def read(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        absent: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Send a request that changes nothing.

        :param absent: result for a 404 that is not an error.
        :param timeout: seconds to wait, instead of the client's own limit.
        :raises ClusterError: without an answer, or if it is not a JSON object.
        """
        from opensearchpy.exceptions import NotFoundError

        with calling(self.url):
            try:
                answer = self._perform(method, path, body=body, timeout=timeout)
            except NotFoundError:
                if absent is None:
                    raise
                return dict(absent)
        if not isinstance(answer, dict):
            raise ClusterError(f"the answer to {method} {path} is not JSON", where=self.url, todo="check --url")
        return answer

    def search(self, index: str, body: Mapping[str, Any], *, absent: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Search an index, also one that has a search pipeline by default, without a pipeline.

        :param absent: result for a 404 that is not an error.
        """
        return self.read("POST", f"{join_path(index, '_search')}?{urlencode(NO_PIPELINE)}", body, absent=absent)

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content: bytes | None = None,
        pretend: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Send a request that changes the cluster, or record it in a dry run.

        :param body: JSON body; with ``content``, its stand-in in a listing.
        :param content: raw bytes to send instead of ``body``.
        :param pretend: result in a dry run.
        """
        self.calls.append(Call(method, path, body))
        if self.dry_run:
            return dict(pretend or {})
        with calling(self.url):
            # Bytes go as application/json too, the client's default: ML Commons answers 406 to any other type.
            data = body if content is None else content
            answer = self._perform(method, path, body=data)
        return answer if isinstance(answer, dict) else {}

    def _perform(self, method: str, path: str, **given: Any) -> Any:
        """Send a request, and again after a 429 of the cluster itself: a garbage collection may make room."""
        from opensearchpy.exceptions import TransportError

        for wait in WAITS:
            try:
                return self.client.transport.perform_request(method, path, **given)
            except TransportError as err:
                # A scorer's own 429 is its answer, and a full disk takes longer to make room.
                if err.status_code != 429 or "remote service" in reason_of(err) or explain_refusal(error_of(err)):
                    raise
            time.sleep(wait)
        return self.client.transport.perform_request(method, path, **given)


def status_of(err: ClusterError) -> int | None:
    """HTTP status with which the cluster refused a request; None: it did not answer."""
    return getattr(err.__cause__, "status_code", None)


def is_ours(held: Mapping[str, Any]) -> bool:
    """Whether darl made something that is in a cluster, by its description."""
    return str(held.get("description", "")).startswith("DaRL ")


def join_path(*parts: str) -> str:
    """Join path segments, each escaped; ``<…>`` stands for an id in a dry run."""
    return "/" + "/".join(quote(part, safe="<>") for part in parts)
