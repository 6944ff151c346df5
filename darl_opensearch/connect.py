"""Reaching a cluster, and saying in one line why it could not be reached."""

from __future__ import annotations

import base64
import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.io.urls import split_http, without_secrets
from darl_opensearch.settings import InputFile, Settings, setting

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

DEFAULT_URL = "http://127.0.0.1:9200"
# For every search that reads documents: an index may have a pipeline by default, which reorders hits and cuts pages.
NO_PIPELINE: Mapping[str, str] = {"search_pipeline": "_none"}


class ClusterOptions(Settings):
    """Where a cluster is and how to get in."""

    url: str = setting(DEFAULT_URL, "URL of the cluster.", env="OPENSEARCH_URL")
    user: str | None = setting(None, "User for basic authentication.", env="OPENSEARCH_USER")
    password: str | None = setting(
        None, "Password for basic authentication. Prefer the variable: other users of this machine can see arguments.",
        env="OPENSEARCH_PASSWORD", secret=True,
    )  # fmt: skip
    ca_certs: InputFile | None = setting(None, "PEM file with the CA certificates to trust.", env="OPENSEARCH_CA_CERTS")
    insecure: bool = setting(False, "Do not verify the cluster's certificate.", env="OPENSEARCH_INSECURE")
    timeout: float = 60.0  # seconds to wait for one answer

    def check(self) -> None:
        """Refuse what no client could use."""
        parts = split_http(self.url)
        if parts is None:
            raise UsageError(f"{without_secrets(self.url)!r} is not a cluster URL", todo=f"write it like {DEFAULT_URL}")
        if "@" in parts.netloc:
            raise UsageError(
                "the URL holds a user or a password",
                where=without_secrets(self.url),
                todo="pass them with --user and OPENSEARCH_PASSWORD",
            )
        if bool(self.user) != bool(self.password):
            missing = "a password but no user" if self.password else f"user {self.user!r} but no password"
            raise UsageError(f"there is {missing}", todo="set both --user and OPENSEARCH_PASSWORD, or neither")
        if self.ca_certs is not None and not self.ca_certs.is_file():
            raise UsageError("the certificate file does not exist", where=str(self.ca_certs), todo="check --ca-certs")


def connect(options: ClusterOptions, **settings: Any) -> OpenSearch:
    """Make a client. Nothing is sent yet: :func:`identify` asks who is there.

    :param **settings: further arguments of ``OpenSearch``, such as a ``connection_class`` that records.
    :return: the client; use it inside :func:`calling`.
    """
    from opensearchpy import OpenSearch

    # Without a handler of its own, Python would print the client's warnings above our one line.
    logging.getLogger("opensearch").addHandler(logging.NullHandler())
    if options.url.startswith("https"):
        settings = {"verify_certs": not options.insecure, "ssl_show_warn": False} | settings
        if options.insecure:
            settings["ssl_assert_hostname"] = False
        elif options.ca_certs:
            settings["ca_certs"] = str(options.ca_certs)
    if options.user and options.password:
        secret = base64.b64encode(f"{options.user}:{options.password}".encode())  # OpenSearch reads it as UTF-8
        settings["headers"] = {"authorization": f"Basic {secret.decode()}"} | settings.get("headers", {})
    return OpenSearch(hosts=[options.url], timeout=options.timeout, max_retries=0, **settings)


@dataclass(frozen=True)
class Identity:
    """What answered.

    :param number: version, such as ``3.6.0``.
    """

    number: str
    name: str

    @property
    def version(self) -> tuple[int, int]:
        """Major and minor number."""
        major, minor, *_ = (*self.number.split("-")[0].split("."), "0", "0")
        return int(major), int(minor)


def identify(client: OpenSearch, url: str) -> Identity:
    """Ask who is there.

    :param url: where it points, for messages.
    :raises ClusterError: when nobody answers, or something that is not OpenSearch.
    """
    with calling(url):
        info = client.transport.perform_request("GET", "/")
    version = info.get("version") if isinstance(info, dict) else None
    number = version.get("number") if isinstance(version, dict) else None
    if not isinstance(version, dict) or not isinstance(number, str):
        raise not_opensearch(without_secrets(url))
    if version.get("distribution") != "opensearch":
        raise ClusterError(
            f"this is {version.get('distribution') or 'Elasticsearch'} {number}, not OpenSearch",
            where=without_secrets(url),
            todo="point --url at an OpenSearch cluster",
        )
    return Identity(number, str(info.get("cluster_name", "")))


@contextlib.contextmanager
def calling(url: str) -> Iterator[None]:
    """Translate what opensearch-py raises into one line that says what to do.

    :param url: where the client points, for messages.
    :raises ClusterError: in place of any exception of opensearch-py.
    """
    from opensearchpy.exceptions import ImproperlyConfigured, OpenSearchException

    try:
        yield
    except OpenSearchException as err:
        raise translate(err, without_secrets(url)) from err
    except ImproperlyConfigured as err:
        raise ClusterError(str(err), where=without_secrets(url), todo="check --ca-certs") from err


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
    # A scorer behind a connector may refuse the cluster, which then hands on its status.
    by_scorer = "remote service" in reason_of(err)
    if err.status_code == 401 and not by_scorer:
        return ClusterError(
            "the cluster does not accept this user and password (401)",
            where=where,
            todo="check --user and OPENSEARCH_PASSWORD",
        )
    if err.status_code == 403 and not by_scorer:
        return ClusterError(
            f"not allowed (403{': ' + reason_of(err) if reason_of(err) else ''})",
            where=where,
            todo="get permission for this request, or use another user",
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
    info = getattr(err, "info", None)
    error = info.get("error") if isinstance(info, dict) else None
    if isinstance(error, dict):
        causes = error.get("root_cause") or [error]
        reason = causes[0].get("reason") or error.get("reason") or error.get("type") or ""
        inner = error.get("caused_by")
        while isinstance(inner, dict):
            reason, inner = inner.get("reason") or reason, inner.get("caused_by")
        return _short(str(reason))
    return _short(str(error or getattr(err, "error", None) or err))


def _unreachable(err: Any, where: str) -> ClusterError:
    text = str(err.error)
    if "certificate" in text.lower() or "ssl" in text.lower():
        plain = "WRONG_VERSION_NUMBER" in text or "record layer" in text
        return ClusterError(
            "the port does not speak TLS" if plain else f"TLS failed ({_short(text)})",
            where=where,
            todo="use an http:// URL"
            if plain
            else "pass the CA certificate with --ca-certs, or --insecure to skip verification",
        )
    if "RemoteDisconnected" in text or "Connection aborted" in text or "BadStatusLine" in text:
        return ClusterError(
            "the connection was closed without an answer",
            where=where,
            todo="use https:// if the cluster uses TLS",
        )
    if "NameResolutionError" in text or "getaddrinfo" in text or "Name or service" in text:
        return ClusterError("the host name does not resolve", where=where, todo="check the host in --url")
    if "refused" in text.lower():
        return ClusterError("nothing is listening there", where=where, todo="start OpenSearch, or check --url")
    return ClusterError(f"cannot be reached ({_short(text)})", where=where, todo="check --url and the network")


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
