"""Running the service until SIGTERM."""

from __future__ import annotations

import ipaddress
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import platformdirs
import uvicorn

from darl_opensearch.bundle import Bundle
from darl_opensearch.io.listening import listen
from darl_opensearch.ood import OodLog
from darl_opensearch.server.app import create_scorer_app
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.server.protocol import BoundedHttp
from darl_opensearch.server.service import Service

log = logging.getLogger(__name__)

SHIPPER_GOODBYE_SECONDS = 10


def serve_bundle(path: Path, config: ServerConfig) -> None:
    """Serve a bundle until SIGTERM or SIGINT.

    Bundle, keys, spool and the cluster's address are checked first; only the graph loads while the port is open, and
    ``/ready`` returns 503 until then.

    :raises DarlError: if it cannot start.
    """
    bundle = Bundle.open(path)
    if not config.keys() and not _is_loopback(config.host):
        log.warning(
            "listening on %s without an API key: anyone who can reach it may use it. Set --api-key-file.",
            config.host,
        )
    spool = spool_path(config, bundle)
    with ExitStack() as stack:
        listener = stack.enter_context(
            listen(
                config.host, config.port, todo="stop the program that listens there, or choose another --host or --port"
            )
        )
        ood_log = open_ood_log(config, bundle, spool) if spool else None
        if spool and config.ship_to:
            stack.enter_context(_shipping(config, spool))
        service = Service(config, bundle, ood_log, spool)
        server = uvicorn.Server(
            uvicorn.Config(
                create_scorer_app(service),
                http=BoundedHttp,
                ws="none",
                log_config=None,  # set up by the command
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=config.shutdown_timeout,
            )
        )

        def stop(*_: int | FrameType | None) -> None:
            server.should_exit = True

        service.on_failure = stop
        # uvicorn handles signals while it serves and raises them again afterwards; these handlers make a requested stop
        # exit with 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        host, port = listener.getsockname()[:2]
        log.info("listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        server.run(sockets=[listener])
        if service.failure is not None:
            raise service.failure
        log.info("stopped.")


def spool_path(config: ServerConfig, bundle: Bundle) -> Path | None:
    """Return the path of the OOD log's spool, or None for no log."""
    if config.no_ood_log:
        return None
    return config.ood_log or platformdirs.user_state_path("darl-opensearch") / f"{bundle.card.name}.sqlite"


def open_ood_log(config: ServerConfig, bundle: Bundle, spool: Path) -> OodLog:
    """Open the OOD log, creating its folder."""
    spool.parent.mkdir(parents=True, exist_ok=True)
    card = bundle.card
    return OodLog.open(
        spool,
        model=card.name,
        version=card.version,
        alpha=card.ood.alpha,
        sample_rate=config.ood_sample_rate,
        text=config.ood_text,
        max_bytes=config.ood_max_bytes,
    )


@contextmanager
def _shipping(config: ServerConfig, spool: Path) -> Iterator[None]:
    """Ship the spool to a cluster from a background thread while the context is open."""
    from darl_opensearch.connect import ClusterOptions, connect
    from darl_opensearch.ood import Shipper

    options = ClusterOptions(
        url=config.ship_to or "",
        user=config.ship_user or None,
        password=config.ship_password or None,
        ca_certs=config.ship_ca_certs,
        insecure=config.ship_insecure,
        client_cert=config.ship_client_cert,
        client_key=config.ship_client_key,
        aws_region=config.ship_aws_region or None,
        aws_service=config.ship_aws_service,
    )
    shipper = Shipper(spool, connect(options), where=options.where)
    stop = threading.Event()

    def run() -> None:
        try:
            shipper.run(stop)
        except Exception:  # the service keeps running, and the spool keeps the records
            log.exception("the OOD log is no longer shipped to the cluster; records stay in the spool")

    thread = threading.Thread(target=run, name="darl-shipper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SHIPPER_GOODBYE_SECONDS)  # remaining records stay in the spool for the next start
        if not thread.is_alive():
            shipper.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
