"""What opensearch-py raises and what a cluster refuses, each said in one line with what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from darl_opensearch.errors import ClusterError
from darl_opensearch.io.http import proxy_of

_CLOSED = "the connection was closed without an answer"
_MAYBE_CLIENT = "if the cluster asks for a client certificate, pass one that it accepts with --client-cert"
_MISMATCH = re.compile(r"(Hostname|IP address) mismatch, certificate is not valid for '[^']*'")
_TLS = (  # OpenSSL's words, what they mean, and what to do
    (
        ("WRONG_VERSION_NUMBER", "record layer"),
        "the port does not speak TLS",
        "use an http:// URL",
    ),
    (
        ("certificate has expired",),
        "the cluster's certificate, or its CA's, has expired",
        "renew it on the cluster, and check this machine's clock",
    ),
    (
        ("certificate is not yet valid",),
        "the cluster's certificate is not valid yet",
        "check the clocks of this machine and of the cluster",
    ),
    (
        ("self-signed certificate", "self signed certificate", "unable to get local issuer", "unable to get issuer"),
        "the cluster's certificate is not signed by a trusted CA",
        "pass the CA certificate with --ca-certs, or --insecure to skip verification",
    ),
    (
        ("CERTIFICATE_REQUIRED",),
        "the cluster asks for a client certificate",
        "pass --client-cert and --client-key",
    ),
    (
        ("ALERT_UNKNOWN_CA", "ALERT_BAD_CERTIFICATE", "ALERT_CERTIFICATE_", "ALERT_UNSUPPORTED_CERTIFICATE"),
        "the cluster does not accept the client certificate",
        "use one that has not expired and whose CA the cluster trusts",
    ),
    (
        ("EOF occurred",),  # the alert that says why is lost if the cluster closes before it is read
        _CLOSED,
        _MAYBE_CLIENT,
    ),
)
_INDEX = re.compile(r"index \[([^\]]+)\] blocked by")


def translate(err: Exception, where: str) -> ClusterError:
    """Say in one line what went wrong between us and the cluster."""
    from opensearchpy import exceptions as api

    if isinstance(err, api.SerializationError | UnicodeDecodeError):
        return not_opensearch(where)
    if isinstance(err, api.ConnectionTimeout):
        return ClusterError(
            "the request timed out", where=where, todo="check whether the cluster is overloaded, then try again"
        )
    if isinstance(err, api.ConnectionError):
        return _unreachable(err, where)
    if not isinstance(err, api.TransportError):
        return ClusterError(_short(str(err)), where=where)
    if (refused := explain_refusal(error_of(err))) is not None:
        return ClusterError(refused[0], where=where, todo=refused[1])
    # A scorer behind a connector may refuse the cluster, which then hands on its status.
    by_scorer = "remote service" in reason_of(err)
    if err.status_code == 401 and not by_scorer:
        return ClusterError(
            "the cluster does not accept this user and password (401)",
            where=where,
            todo="check --user and OPENSEARCH_PASSWORD, or OPENSEARCH_PASSWORD_FILE",
        )
    if err.status_code == 403 and not by_scorer and "amazonaws.com" in where:
        return ClusterError(
            f"not allowed (403{': ' + reason_of(err) if reason_of(err) else ''})",
            where=where,
            todo="check --aws-region, --aws-service, the AWS credentials, and what their identity is allowed there",
        )
    if err.status_code == 403 and not by_scorer:
        return ClusterError(
            f"not allowed (403{': ' + reason_of(err) if reason_of(err) else ''})",
            where=where,
            todo="get permission for this request, or use another user",
        )
    if err.status_code == 404 and ".aoss." in where:
        return ClusterError(
            "Amazon OpenSearch Serverless does not serve this request (404)",
            where=where,
            todo="use a domain of Amazon OpenSearch Service, or rank in your own process with Reranker",
        )
    if not isinstance(err.info, dict):  # OpenSearch explains itself in JSON; a proxy or a web server does not
        return ClusterError(
            f"answered {err.status_code} without JSON",
            where=where,
            todo="check that OpenSearch listens there, and not a proxy or another program",
        )
    return ClusterError(f"the cluster answered {err.status_code}: {reason_of(err)}", where=where)


def reason_of(err: Exception) -> str:
    """Find the cluster's own words in an exception of opensearch-py.

    :return: the innermost reason given, on one line.
    """
    error = error_of(err)
    if isinstance(error, dict):
        causes = error.get("root_cause") or [error]
        reason = causes[0].get("reason") or error.get("reason") or error.get("type") or ""
        inner = error.get("caused_by")
        while isinstance(inner, dict):
            reason, inner = inner.get("reason") or reason, inner.get("caused_by")
        return _short(str(reason))
    info = getattr(err, "info", None)
    if error is None and isinstance(info, dict):  # Amazon's gateway, which stands before the cluster
        error = info.get("message") or info.get("Message")
    return _short(str(error or getattr(err, "error", None) or err))


def explain_refusal(error: Any) -> tuple[str, str] | None:
    """Explain the refusals that an index's state causes, whatever the request.

    :param error: ``error`` of an answer, or of an item of a bulk answer.
    :return: what is wrong and what to do; None for any other error.
    """
    if not isinstance(error, Mapping):
        return None
    error = next(iter(error.get("root_cause") or ()), error)
    kind, reason = str(error.get("type")), str(error.get("reason"))
    if kind == "index_closed_exception":
        index = error.get("index", "?")
        return f"index {index} is closed", f"open it (POST /{index}/_open), or use another"
    if kind != "cluster_block_exception":
        return None
    found = _INDEX.search(reason)
    return explain_block(f"index {found[1]}" if found else "the cluster", reason)


def explain_block(name: str, reason: str) -> tuple[str, str]:
    """Explain a block on writes.

    :param name: what is blocked.
    :param reason: the block, in the cluster's words or as its setting.
    :return: what is wrong and what to do.
    """
    block = reason.replace("-", "_")
    if "read_only_allow_delete" in block:
        return (
            f"{name} is read-only: a node's disk has reached the flood-stage watermark",
            "free or add disk space; the cluster then lifts the block (index.blocks.read_only_allow_delete) by itself",
        )
    if "create_index" in block:
        return (
            "no index can be created: the nodes' disks are nearly full, or cluster.blocks.create_index is set",
            "free or add disk space, or remove the setting",
        )
    setting = "index.blocks.*" if name.startswith("index ") else "cluster.blocks.*"
    return f"{name} is blocked ({_short(reason)})", f"remove the block (settings {setting})"


def error_of(err: Exception) -> Any:
    """Return ``error`` of the answer behind an exception of opensearch-py; None without one."""
    info = getattr(err, "info", None)
    return info.get("error") if isinstance(info, dict) else None


def _unreachable(err: Any, where: str) -> ClusterError:
    found = _why_unreachable(err, where)
    if proxy_of(where):
        found.todo = f"{found.todo}; the proxy that the environment names for it is not used for clusters"
    return found


def _why_unreachable(err: Any, where: str) -> ClusterError:
    text = str(err.error)
    if "certificate" in text.lower() or "ssl" in text.lower():
        what, todo = _explain_tls(text)
        return ClusterError(what, where=where, todo=todo)
    if "RemoteDisconnected" in text or "Connection aborted" in text or "BadStatusLine" in text:
        secure = where.startswith("https")
        return ClusterError(
            _CLOSED,
            where=where,
            todo=_MAYBE_CLIENT if secure else "use https:// if the cluster uses TLS",
        )
    if "NameResolutionError" in text or "getaddrinfo" in text or "Name or service" in text:
        return ClusterError("the host name does not resolve", where=where, todo="check the host in --url")
    if "refused" in text.lower():
        return ClusterError("nothing is listening there", where=where, todo="start OpenSearch, or check --url")
    return ClusterError(f"cannot be reached ({_short(text)})", where=where, todo="check --url and the network")


def _explain_tls(text: str) -> tuple[str, str]:
    """Explain a failed handshake by OpenSSL's words.

    :return: what is wrong and what to do.
    """
    for words, what, todo in _TLS:
        if any(word in text for word in words):
            return what, todo
    if found := _MISMATCH.search(text):
        return (
            f"the cluster's certificate is not for this host ({found[0]})",
            "use a name in --url that the certificate holds, or add this one to it",
        )
    return f"TLS failed ({_short(text)})", "check --ca-certs and --client-cert against the cluster's TLS settings"


def not_opensearch(where: str) -> ClusterError:
    """Say that something else answered."""
    return ClusterError(
        "the server there is not OpenSearch",
        where=where,
        todo="point --url at the cluster's HTTP port, usually 9200",
    )


def _short(text: object, limit: int = 240) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
