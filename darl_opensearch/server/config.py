"""Settings of the service, from which ``darl serve`` derives its options."""

from __future__ import annotations

from typing import Literal

from darl_opensearch.errors import UsageError
from darl_opensearch.io.aws import AwsService
from darl_opensearch.ood.record import TextPolicy
from darl_opensearch.scoring.runtime import Provider
from darl_opensearch.server.keys import KeyRing
from darl_opensearch.settings import FilePath, FolderPath, InputFile, Settings, setting
from darl_opensearch.states import DISK_BYTES, MEMORY_BYTES


class ServerConfig(Settings, env="DARL_"):
    """How to serve a bundle; the help texts document the fields."""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 for all of IPv4, :: for all of IPv4 and IPv6.")
    port: int = setting(8091, "Port to listen on; 0: any free port.", least=0, most=65535)

    provider: Provider = setting(
        "cpu", "Where the graph runs; cuda falls back to cpu, with a warning, if there is no usable GPU."
    )
    require_provider: bool = setting(False, "Fail instead of falling back to cpu.")
    threads: int | None = setting(
        None, "Batches scored in parallel.  [default: the cores available to this process]", least=1
    )
    int8: bool = setting(False, "Score with the quantised graph.")
    token_budget: int | None = setting(
        None, "Maximum tokens per batch, including padding.  [default: 512, or 32768 on a GPU]", least=1
    )

    states: FolderPath | None = setting(
        None,
        "Folder for item states, shared by the scorers of a machine: an item is encoded once, not for every query. "
        "[default: in memory only]",
    )
    states_bytes: int = setting(DISK_BYTES, "Maximum size of that folder; the oldest states go first.", least=2**20)
    states_memory: int = setting(
        MEMORY_BYTES, "Maximum bytes of item states in memory; the least recently used go first.", least=0
    )

    max_documents: int = setting(1000, "Maximum documents per request; a long item's chunks count one by one.", least=1)
    max_body_bytes: int = setting(10_000_000, "Maximum bytes per request.", least=1)
    max_concurrent: int = setting(8, "Requests processed concurrently; their batches are interleaved.", least=1)
    max_queue: int = setting(64, "Requests queued beyond those; any further request gets a 503.", least=0)
    max_wait_ms: int = setting(
        1000, "Answer 503 at once if the requests before a request take longer than this; 0: let it wait.", least=0
    )
    deadline_ms: int | None = setting(
        None, "Answer 503 after this many milliseconds; the search then keeps its first-stage order.", least=1
    )
    body_timeout: float = setting(30.0, "Seconds to wait for a request's body.", least=0)
    shutdown_timeout: int = setting(30, "Seconds that running requests may take to finish after SIGTERM.", least=0)

    api_key: str | None = setting(None, "Key that clients send as 'Authorization: Bearer KEY'.", secret=True)
    api_key_file: InputFile | None = setting(
        None, "File with API keys, one per line: two during a rotation. It is read again when it changes."
    )
    rate_limit: int = setting(
        0, "Maximum requests per minute and key, or per address if there are no keys; 0: no limit.", least=0
    )

    ood_log: FilePath | None = setting(
        None, "SQLite spool for the OOD log.  [default: BUNDLE-NAME.sqlite in the user's state folder]"
    )
    no_ood_log: bool = setting(False, "Do not keep an OOD log.")
    ood_sample_rate: float = setting(0.05, "Share of in-distribution pairs to log as well.", least=0, most=1)
    ood_text: TextPolicy = setting("full", "How to log item texts.")
    ood_max_bytes: int = setting(
        1_000_000_000, "Maximum size of the spool; the oldest records go first.", least=1_000_000
    )

    ship_to: str | None = setting(None, "Cluster to ship the OOD log to, in the background.")
    ship_user: str | None = setting(None, "User for --ship-to.", env=("OPENSEARCH_USER",))
    ship_password: str | None = setting(None, "Password for --ship-to.", env=("OPENSEARCH_PASSWORD",), secret=True)
    ship_ca_certs: FilePath | None = setting(
        None, "PEM file with the CA certificates to trust.", env=("OPENSEARCH_CA_CERTS",)
    )
    ship_insecure: bool = setting(False, "Do not verify the cluster's certificate.", env=("OPENSEARCH_INSECURE",))

    ship_client_cert: InputFile | None = setting(
        None, "PEM file with the client certificate to show to --ship-to.", env=("OPENSEARCH_CLIENT_CERT",)
    )
    ship_client_key: InputFile | None = setting(
        None, "PEM file with its key, not encrypted.", env=("OPENSEARCH_CLIENT_KEY",)
    )
    ship_aws_region: str | None = setting(
        None, "Sign requests to --ship-to (SigV4) for this region.", env=("OPENSEARCH_AWS_REGION",)
    )
    ship_aws_service: AwsService = setting(
        "es", "Service to sign for: es for a domain, aoss for a Serverless collection.", env=("OPENSEARCH_AWS_SERVICE",)
    )

    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Log level.")

    def check(self) -> None:
        """Refuse settings that contradict each other."""
        if self.no_ood_log and (self.ood_log or self.ship_to):
            other = "--ood-log" if self.ood_log else "--ship-to"
            raise UsageError(f"--no-ood-log and {other} contradict each other", todo="use only one of them")

    def keys(self) -> KeyRing:
        """Read the accepted API keys.

        :raises InputError: if the file contains no key, or a key is not allowed in a header.
        """
        return KeyRing(self.api_key, self.api_key_file)
