"""The options of commands that reach a cluster."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.output import Decorator

if TYPE_CHECKING:
    from darl_opensearch.connect import ClusterOptions


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--url`` and the options of :func:`login_options`.

    :param command: the function of a click command; it takes ``cluster``, a
        :class:`~darl_opensearch.connect.ClusterOptions`.
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
    @login_options
    @functools.wraps(command)
    def wrapped(*args: Any, url: str, cluster: ClusterOptions, **kwargs: Any) -> Any:
        return command(*args, cluster=dataclasses.replace(cluster, url=url), **kwargs)

    return wrapped


def login_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--user``, ``--password``, ``--ca-certs`` and ``--insecure``, where the URL is given otherwise.

    :param command: the function of a click command; it takes ``cluster``, a
        :class:`~darl_opensearch.connect.ClusterOptions` with the default URL.
    :return: the function to decorate further.
    """

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
        *args: Any, user: str | None, password: str | None, ca_certs: Path | None, insecure: bool, **kwargs: Any
    ) -> Any:
        from darl_opensearch.connect import ClusterOptions

        options = ClusterOptions(user=user or None, password=password or None, ca_certs=ca_certs, insecure=insecure)
        return command(*args, cluster=options, **kwargs)

    return wrapped


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--mode``, ``--scorer-url``, ``--scorer-key`` and ``--scorer-timeout``: where the model runs.

    :param command: the function of a click command; it takes ``mode``, and ``scorer``, a
        :class:`~darl_opensearch.cluster.connector.ScorerAddress` for ``connector`` and None for ``local``.
    :return: the function to decorate further.
    """

    @click.option(
        "--mode",
        type=click.Choice(["local", "connector"]),
        default="local",
        show_default=True,
        envvar="DARL_MODE",
        show_envvar=True,
        help="Run the model in the cluster, or ask a scorer (darl serve) from it.",
    )
    @click.option(
        "--scorer-url",
        envvar="DARL_SCORER_URL",
        show_envvar=True,
        default="http://127.0.0.1:8091/v1/rerank",
        show_default=True,
        help="The scorer's rerank route, as the cluster's nodes see it (--mode connector).",
    )
    @click.option(
        "--scorer-key",
        envvar="DARL_API_KEY",
        show_envvar=True,
        help="The scorer's API key; kept encrypted by ML Commons. Prefer the variable.",
    )
    @click.option(
        "--scorer-timeout",
        type=click.IntRange(1, 60),
        default=5,
        show_default=True,
        envvar="DARL_SCORER_TIMEOUT",
        show_envvar=True,
        help="Seconds a search waits for the scorer before it keeps its first-stage order.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, mode: str, scorer_url: str, scorer_key: str | None, scorer_timeout: int, **kwargs: Any
    ) -> Any:
        from darl_opensearch.cluster.connector import ScorerAddress

        scorer = ScorerAddress(scorer_url, scorer_key or None, answer_seconds=scorer_timeout)
        return command(*args, mode=mode, scorer=scorer if mode == "connector" else None, **kwargs)

    return wrapped


stream_option = click.option(
    "--stream",
    envvar="DARL_OOD_STREAM",
    show_envvar=True,
    default="darl-ood",
    show_default=True,
    help="Name of the data stream.",
)

history_option = click.option(
    "--history",
    envvar="DARL_RELEASES",
    show_envvar=True,
    default="darl-releases",
    show_default=True,
    help="Index of the releases.",
)

note_option = click.option(
    "--note", "words", default="", envvar="DARL_NOTE", show_envvar=True, help="Why, for the history."
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print the requests as JSON and send none that changes anything."
)


def pipeline_option(text: str = "Name of the search pipeline; NAME-plain goes with it.") -> Decorator:
    """Make ``--pipeline``.

    :return: what adds it to a command, which takes ``pipeline``.
    """
    return click.option(
        "--pipeline",
        default="darl",
        show_default=True,
        envvar="DARL_PIPELINE",
        show_envvar=True,
        help=text,
    )


def deploy_timeout_option(text: str = "Seconds to wait until the model is loaded.") -> Decorator:
    """Make ``--deploy-timeout``.

    :return: what adds it to a command, which takes ``deploy_timeout``.
    """
    return click.option(
        "--deploy-timeout",
        type=click.FloatRange(min=1),
        default=300,
        show_default=True,
        envvar="DARL_DEPLOY_TIMEOUT",
        show_envvar=True,
        help=text,
    )
