"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from darl_opensearch.cluster import Call


def emit(result: dict[str, Any], *, as_json: bool, text: str) -> None:
    """Print a command's result.

    :param result: what ``--json`` prints.
    """
    click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text)


def emit_calls(calls: Iterable[Call]) -> None:
    """Print the requests recorded by ``--dry-run`` as a JSON array.

    :param calls: requests that would change something; none was sent.
    """
    click.echo(json.dumps([call.to_json() for call in calls], ensure_ascii=False, indent=2))


def note(text: str) -> None:
    """Print a message on stderr."""
    click.echo(text, err=True)


def progress() -> Progress:
    """Make a progress bar, visible on a terminal only; add tasks to it in a ``with`` statement."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


@dataclass(frozen=True)
class Line:
    """One line of a progress bar; work calls its methods."""

    bar: Progress
    task: TaskID

    def report(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Show the current step and its progress.

        :param done: None: unchanged.
        :param total: None or 0, if unknown: unchanged.
        """
        self.bar.update(self.task, description=what, completed=done, total=total or None)

    def count(self, done: int, total: int) -> None:
        """Show the progress of the current step."""
        self.bar.update(self.task, completed=done, total=total)


@contextlib.contextmanager
def progress_line(what: str, *, total: int | None = None, visible: bool = True) -> Iterator[Line]:
    """Show a one-line :func:`progress` bar.

    :param total: None: not known yet.
    """
    with progress() as bar:
        yield Line(bar, bar.add_task(what, total=total, visible=visible))
