"""``darl serve``."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from darl_opensearch.server.config import ServerConfig


def _option(field: dataclasses.Field[Any], hint: Any) -> Callable[[Any], Any]:
    """Make an option from a field: its name, default, help and bounds stand there and nowhere else."""
    about = field.metadata
    flag = "--" + field.name.replace("_", "-")
    settings: dict[str, Any] = {
        "envvar": ["DARL_" + field.name.upper(), *about.get("variables", ())],
        "show_envvar": True,
        "help": about["help"],
        "default": field.default,
        "show_default": not (field.default is None or field.default is False or about.get("secret")),
    }
    if hint is bool:
        return click.option(flag, is_flag=True, **settings)
    return click.option(flag, type=_type(hint, about), **settings)


def _type(hint: Any, about: typing.Mapping[str, Any]) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # "X | None": may be left out
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if hint is Path:
        return click.Path(dir_okay=False, path_type=Path)
    if hint in (int, float):
        kind = click.IntRange if hint is int else click.FloatRange
        return kind(about.get("least"), about.get("most"))
    return hint


def _options(command: Callable[..., None]) -> Callable[..., None]:
    hints = typing.get_type_hints(ServerConfig)
    for field in reversed(dataclasses.fields(ServerConfig)):
        command = _option(field, hints[field.name])(command)
    return command


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="DARL_BUNDLE")
@_options
def cli(bundle: Path, **settings: Any) -> None:
    """Serve BUNDLE over HTTP: POST /v1/rerank, /v2/rerank, /rerank; GET /health, /ready, /info, /metrics.

    Runs until SIGTERM, then finishes what it has begun. What the model finds strange is written to the OOD
    log, which `darl monitor` reads and `darl ship`, or --ship-to, sends to a cluster.
    """
    import logging

    from darl_opensearch.server.run import serve_bundle

    config = ServerConfig(**settings)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Its warnings are tracebacks, one for each attempt while a cluster is away; the shipper says it in one line.
    logging.getLogger("opensearch").setLevel(logging.ERROR)
    serve_bundle(bundle, config)
