"""Reaching a cluster, and asking what it is."""

from __future__ import annotations

import base64
import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from darl_opensearch.cluster_errors import not_opensearch, translate
from darl_opensearch.errors import ClusterError, UsageError
from darl_opensearch.io.aws import AwsService, make_signer
from darl_opensearch.io.tls import make_context
from darl_opensearch.io.urls import split_http, without_secrets
from darl_opensearch.settings import InputFile, Settings, setting

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

DEFAULT_URL = "http://127.0.0.1:9200"
OVERRIDE = "compatibility.override_main_response_version"
# For every search that reads documents: an index may have a pipeline by default, which reorders hits and cuts pages.
NO_PIPELINE: Mapping[str, str] = {"search_pipeline": "_none"}


class ClusterOptions(Settings):
    """Where a cluster is and how to get in."""

    url: str = setting(
        DEFAULT_URL, "URL of the cluster; without a port, 9200 for http and 443 for https.", env="OPENSEARCH_URL"
    )
    user: str | None = setting(None, "User for basic authentication.", env="OPENSEARCH_USER")
    password: str | None = setting(None, "Password for basic authentication.", env="OPENSEARCH_PASSWORD", secret=True)
    ca_certs: InputFile | None = setting(None, "PEM file with the CA certificates to trust.", env="OPENSEARCH_CA_CERTS")
    insecure: bool = setting(False, "Do not verify the cluster's certificate.", env="OPENSEARCH_INSECURE")
    client_cert: InputFile | None = setting(
        None, "PEM file with the client certificate to show; it may hold the key as well.", env="OPENSEARCH_CLIENT_CERT"
    )
    client_key: InputFile | None = setting(None, "PEM file with its key, not encrypted.", env="OPENSEARCH_CLIENT_KEY")
    aws_region: str | None = setting(
        None, "Sign requests (SigV4) for this region of Amazon OpenSearch Service; requires the extra aws.",
        env="OPENSEARCH_AWS_REGION",
    )  # fmt: skip
    aws_service: AwsService = setting(
        "es", "Service to sign for: es for a domain, aoss for a Serverless collection.", env="OPENSEARCH_AWS_SERVICE"
    )
    timeout: float = 60.0  # seconds to wait for one answer

    def check(self) -> None:
        """Refuse what no client could use."""
        # Looked for before the URL is parsed: a password with a slash or a question mark moves the host elsewhere.
        if "@" in self.url:
            raise UsageError(
                "the URL holds a user or a password",
                where=without_secrets(self.url),
                todo="pass them with --user and OPENSEARCH_PASSWORD",
            )
        if split_http(self.url) is None:
            raise UsageError(f"{self.url!r} is not a cluster URL", todo=f"write it like {DEFAULT_URL}")
        if bool(self.user) != bool(self.password):
            missing = "a password but no user" if self.password else f"user {self.user!r} but no password"
            raise UsageError(f"there is {missing}", todo="set both --user and OPENSEARCH_PASSWORD, or neither")
        for option, file in (
            ("ca-certs", self.ca_certs),
            ("client-cert", self.client_cert),
            ("client-key", self.client_key),
        ):
            if file is not None and not file.is_file():
                raise UsageError("the file does not exist", where=str(file), todo=f"check --{option}")
        if self.client_key is not None and self.client_cert is None:
            raise UsageError("there is a client key but no client certificate", todo="pass --client-cert")
        if self.client_cert is not None and not self.url.startswith("https"):
            raise UsageError("a client certificate needs TLS", where=self.where, todo="use an https:// URL")
        if self.aws_region and self.user:
            raise UsageError(
                "requests are signed (--aws-region) or sent with a user, not both", todo="omit --user or --aws-region"
            )

    @property
    def where(self) -> str:
        """The URL for messages, with the port that is used: opensearch-py's for ``http`` is 9200, not 80."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 9200)
        name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{parts.scheme}://{name}:{port}{parts.path.rstrip('/')}"


def connect(options: ClusterOptions, **settings: Any) -> OpenSearch:
    """Make a client. Nothing is sent yet: :func:`identify` asks who is there.

    :param **settings: further arguments of ``OpenSearch``, such as a ``connection_class`` that records.
    :raises DarlError: if a certificate or the AWS credentials cannot be used.
    :return: the client; use it inside :func:`calling`.
    """
    import urllib3
    from opensearchpy import Connection, OpenSearch

    # Without a handler of its own, Python would print the client's warnings above our one line.
    logging.getLogger("opensearch").addHandler(logging.NullHandler())
    if options.url.startswith("https"):
        if options.insecure:
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # asked for
        # Not by opensearch-py's own settings: without verification it would not show the client's certificate either.
        context = make_context(
            options.ca_certs or Connection.default_ca_certs(), options.client_cert, options.client_key,
            insecure=options.insecure,
        )  # fmt: skip
        settings = {"ssl_context": context} | settings
    if options.aws_region:
        settings["http_auth"] = make_signer(options.aws_region, options.aws_service)
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
    where = without_secrets(url)
    with calling(url):
        info = client.transport.perform_request("GET", "/")
    version = info.get("version") if isinstance(info, dict) else None
    number = version.get("number") if isinstance(version, dict) else None
    if not isinstance(version, dict) or not isinstance(number, str):
        raise not_opensearch(where)
    distribution = version.get("distribution")
    if distribution is None and "OpenSearch" in str(info.get("tagline")):
        number = _true_number(client, url, number)
    elif distribution != "opensearch":
        raise ClusterError(
            f"this is {distribution or 'Elasticsearch'} {number}, not OpenSearch",
            where=where,
            todo="point --url at an OpenSearch cluster",
        )
    return Identity(number, str(info.get("cluster_name", "")))


def _true_number(client: OpenSearch, url: str, claimed: str) -> str:
    """Ask the nodes for their version where ``compatibility.override_main_response_version`` hides it.

    :param claimed: what the cluster says instead: 7.10.2, for clients of Elasticsearch.
    :return: the oldest node's.
    """
    hidden = f"the cluster says that it is {claimed}, because {OVERRIDE} is set"
    todo = f"allow this user to read /_nodes, or set {OVERRIDE} to false"
    try:
        with calling(url):
            nodes = client.transport.perform_request("GET", "/_nodes/_all/_none?filter_path=nodes.*.version")
        numbers = [str(node["version"]) for node in nodes["nodes"].values()]
        return min(numbers, key=lambda number: Identity(number, "").version)
    except ClusterError as err:
        raise ClusterError(f"{hidden}, and its nodes do not tell ({err.what})", where=err.where, todo=todo) from err
    except (KeyError, TypeError, ValueError) as err:
        raise ClusterError(f"{hidden}, and its nodes do not tell", where=without_secrets(url), todo=todo) from err


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
