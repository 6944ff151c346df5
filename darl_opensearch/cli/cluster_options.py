"""The options by which every command reaches a cluster."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--url``, ``--user``, ``--password``, ``--ca-certs`` and ``--insecure``.

    :param command: the function of a click command; it takes ``cluster``, a
        :class:`~darl_opensearch.cluster.connect.ClusterOptions`.
    :return: the function to decorate further.
    """

    @click.option(
        "--url",
        envvar="OPENSEARCH_URL",
        show_envvar=True,
        default="http://127.0.0.1:9200",
        show_default=True,
        help="The cluster.",
    )
    @click.option("--user", envvar="OPENSEARCH_USER", show_envvar=True, help="User of basic authentication.")
    @click.option(
        "--password",
        envvar="OPENSEARCH_PASSWORD",
        show_envvar=True,
        help="Their password. Prefer the variable: other users of this machine can see arguments.",
    )
    @click.option(
        "--ca-certs",
        envvar="OPENSEARCH_CA_CERTS",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="PEM file of the certificates to trust.",
    )
    @click.option(
        "--insecure",
        is_flag=True,
        envvar="OPENSEARCH_INSECURE",
        show_envvar=True,
        help="Accept any certificate.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        url: str,
        user: str | None,
        password: str | None,
        ca_certs: Path | None,
        insecure: bool,
        **kwargs: Any,
    ) -> Any:
        from darl_opensearch.cluster.connect import ClusterOptions

        options = ClusterOptions(url, user or None, password or None, ca_certs, insecure)
        return command(*args, cluster=options, **kwargs)

    return wrapped


stream_option = click.option(
    "--stream",
    envvar="DARL_OOD_STREAM",
    show_envvar=True,
    default="darl-ood",
    show_default=True,
    help="Name of the data stream.",
)
