"""What commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]  # what an option is to a command


def json_option(command: F) -> F:
    """Add ``--json``: one JSON object on stdout and no prose.

    :param command: the function of a click command; it takes ``as_json``.
    :return: the same function.
    """
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object for machines.")(command)


def emit(result: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print a command's result.

    :param result: what ``--json`` prints.
    :param as_json: whether it was asked for.
    :param text: what a person reads.
    """
    click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text)


def note(text: str) -> None:
    """Say something in passing, on stderr.

    :param text: one line.
    """
    click.echo(text, err=True)


def progress() -> Progress:
    """Make a progress bar that shows on a terminal and is silent elsewhere.

    :return: a context manager; add tasks to it.
    """
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
