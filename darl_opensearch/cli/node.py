"""``darl node``: a real OpenSearch node on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from darl_opensearch.cli.output import emit, json_option, note
from darl_opensearch.node import NodeSpec, NodeStatus, down, status, up
from darl_opensearch.node.cache import Report

port_option = click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9200,
    show_default=True,
    envvar="DARL_NODE_PORT",
    show_envvar=True,
    help="HTTP port on 127.0.0.1; it also names the node.",
)
cache_option = click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DARL_CACHE",
    show_envvar=True,
    help="Folder for downloads, node and data.  [default: the user's cache folder]",
)


@click.group()
def cli() -> None:
    """Run an OpenSearch node with ML Commons to try things on.

    It is made of artifacts that Maven fetches, and runs on a JDK 21 or later; without one, Docker runs the
    official image. It listens on 127.0.0.1 only and has no security plugin.
    """


@cli.command("up")
@port_option
@click.option(
    "--heap",
    default="2g",
    show_default=True,
    envvar="DARL_NODE_HEAP",
    show_envvar=True,
    help="Java heap: 2g, 1500m.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=180,
    show_default=True,
    envvar="DARL_NODE_TIMEOUT",
    show_envvar=True,
    help="Seconds it may take to answer once it is started.",
)
@click.option(
    "--with",
    "engine",
    type=click.Choice(["auto", "java", "docker"]),
    default="auto",
    show_default=True,
    envvar="DARL_NODE_WITH",
    show_envvar=True,
    help="How to run it; auto prefers Java.",
)
@click.option(
    "--user",
    envvar="DARL_NODE_USER",
    show_envvar=True,
    help="User to run it as when started by root.  [default: nobody]",
)
@cache_option
@json_option
def up_command(
    port: int,
    heap: str,
    timeout_s: float,
    engine: Literal["auto", "java", "docker"],
    user: str | None,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Start a node and wait until it answers; assemble it first if need be.

    Where it runs already, nothing is changed.
    """
    spec = NodeSpec(port=port, heap=heap, timeout_s=timeout_s, engine=engine, user=user, cache=cache)
    with _steps() as report:
        found = up(spec, report)
    _print(found, as_json=as_json)


@cli.command("down")
@port_option
@click.option("--purge", is_flag=True, help="Delete its data, logs and configuration too.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=30,
    show_default=True,
    help="Seconds it may take before it is killed.",
)
@cache_option
@json_option
def down_command(port: int, purge: bool, timeout_s: float, cache: Path | None, as_json: bool) -> None:
    """Stop a node, and every process of it.

    Exit code 0 also when it did not run.
    """
    with _steps() as report:
        found = down(port, cache=cache, purge=purge, timeout_s=timeout_s, report=report)
    _print(found, as_json=as_json)


@cli.command("status")
@port_option
@cache_option
@json_option
def status_command(port: int, cache: Path | None, as_json: bool) -> None:
    """Say whether a node runs, where, and with which plugins.

    Exit code 0 when it answers, 1 when it is stopped or still starting.
    """
    found = status(port, cache=cache)
    _print(found, as_json=as_json)
    click.get_current_context().exit(0 if found.state == "running" else 1)


@contextmanager
def _steps() -> Iterator[Report]:
    """Report steps on stderr: a spinner on a terminal, a line each elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield note
        return
    with console.status("") as spinner:
        yield lambda text: spinner.update(text)


def _print(found: NodeStatus, *, as_json: bool) -> None:
    result: dict[str, Any] = found.to_dict()
    if found.state == "stopped":
        text = f"The node on port {found.port} is stopped."
    elif found.state == "starting":
        text = f"The node on port {found.port} is starting (process {found.pid})."
    else:
        plugins = ", ".join(f"{name} {version}" for name, version in sorted(found.plugins.items()))
        text = f"OpenSearch {found.version} answers at {found.url} (process {found.pid}).\nPlugins: {plugins}"
    emit(result, as_json=as_json, text=text)
