"""``darl serve``."""

from __future__ import annotations

from pathlib import Path

import click

from darl_opensearch.cli.shared import bundle_argument
from darl_opensearch.server.config import ServerConfig
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options


@click.command()
@bundle_argument
@with_options
def cli(bundle: Path, config: ServerConfig = setting(..., "the service")) -> None:
    """Serve BUNDLE over HTTP: POST /v1/rerank, /v2/rerank, /rerank; GET /health, /ready, /info, /metrics, /ui.

    Runs until SIGTERM, then finishes running requests. Out-of-distribution pairs are written to the OOD log, which
    `darl monitor` reads and `darl ship`, or --ship-to, sends to a cluster. /ui shows the page of `darl monitor` in a
    browser, behind a form that asks for an API key.
    """
    import logging

    from darl_opensearch.server.run import serve_bundle

    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its warnings are tracebacks, one per attempt while a cluster is down; the shipper logs one line instead.
    logging.getLogger("opensearch").setLevel(logging.ERROR)
    serve_bundle(bundle, config)
