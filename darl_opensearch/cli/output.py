"""What commands say: results on stdout, everything else on stderr."""

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
    """Print what ``--dry-run`` found: the requests, as a JSON array.

    :param calls: the requests that change something; none of them was sent.
    """
    click.echo(json.dumps([call.to_json() for call in calls], ensure_ascii=False, indent=2))


def note(text: str) -> None:
    """Say something in passing, on stderr."""
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


@dataclass(frozen=True)
class Line:
    """One line of a progress bar; work is given its methods to call."""

    bar: Progress
    task: TaskID

    def report(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Show what is being done, and how much of it is.

        :param done: so much; None: as before.
        :param total: of so much; None or 0, where nobody knows: as before.
        """
        self.bar.update(self.task, description=what, completed=done, total=total or None)

    def count(self, done: int, total: int) -> None:
        """Show how much is done of what was being done already."""
        self.bar.update(self.task, completed=done, total=total)


@contextlib.contextmanager
def progress_line(what: str, *, total: int | None = None, visible: bool = True) -> Iterator[Line]:
    """Show a :func:`progress` bar of one line.

    :param total: of how much; None: nobody knows yet.
    """
    with progress() as bar:
        yield Line(bar, bar.add_task(what, total=total, visible=visible))
