"""``darl node``: a real OpenSearch node on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console

from darl_opensearch.cli.output import emit, note
from darl_opensearch.cli.shared import JSON
from darl_opensearch.node import NodeSpec, NodeStatus, down, status, up
from darl_opensearch.node.cache import Report
from darl_opensearch.node.settings import NodePlace
from darl_opensearch.settings import setting
from darl_opensearch.settings.options import with_options

PLACE: Any = setting(..., "the node")


@click.group()
def cli() -> None:
    """Run a local OpenSearch node with ML Commons for experiments.

    The node is assembled from Maven artifacts and runs on JDK 21 or later (2.19.1: 17 to 21); without a JDK, Docker
    runs the official image. It listens on 127.0.0.1 only and has no security plugin.
    """


@cli.command("up")
@with_options
def up_command(
    spec: NodeSpec = PLACE,
    as_json: bool = JSON,
) -> None:
    """Start a node, assembling it first if necessary, and wait until it answers.

    Has no effect if the node is already running. Options for Java are taken from OPENSEARCH_JAVA_OPTS.
    """
    with _steps() as report:
        node = up(spec, report)
    _print(node, as_json=as_json)


@cli.command("down")
@with_options
def down_command(
    place: NodePlace = PLACE,
    purge: bool = setting(False, "Also delete the node's data, logs and configuration."),
    timeout_s: float = setting(30.0, "Seconds to wait before the node is killed.", least=0, flag="--timeout"),
    as_json: bool = JSON,
) -> None:
    """Stop a node and all its processes.

    Exit code 0 even if the node was not running.
    """
    with _steps() as report:
        node = down(place.port, cache=place.cache, purge=purge, timeout_s=timeout_s, report=report)
    _print(node, as_json=as_json)


@cli.command("status")
@with_options
def status_command(
    place: NodePlace = PLACE,
    as_json: bool = JSON,
) -> None:
    """Show whether a node is running, where, and with which plugins.

    Exit code 0 if it answers, 1 if it is stopped or still starting.
    """
    node = status(place.port, cache=place.cache)
    _print(node, as_json=as_json)
    click.get_current_context().exit(0 if node.state == "running" else 1)


@contextmanager
def _steps() -> Iterator[Report]:
    """Report steps on stderr: a spinner on a terminal, one line each elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield note
        return
    with console.status("") as spinner:
        yield lambda text: spinner.update(text)


def _print(node: NodeStatus, *, as_json: bool) -> None:
    result: dict[str, Any] = node.to_dict()
    if node.state == "stopped":
        text = f"The node on port {node.port} is stopped."
    elif node.state == "starting":
        text = f"The node on port {node.port} is starting (process {node.pid})."
    else:
        plugins = ", ".join(f"{name} {version}" for name, version in sorted(node.plugins.items()))
        text = f"OpenSearch {node.version} answers at {node.url} (process {node.pid}).\nPlugins: {plugins}"
    emit(result, as_json=as_json, text=text)
