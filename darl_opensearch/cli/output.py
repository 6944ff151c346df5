"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import threading
import time
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

INTERVAL = 30.0  # seconds between lines where there is no terminal


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


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show progress bars on a terminal, and elsewhere a plain line on stderr every 30 seconds; add tasks to it."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        if console.is_terminal:
            yield bar
            return
        stop = threading.Event()
        lines = threading.Thread(target=_print_lines, args=(bar, stop), name="progress", daemon=True)
        lines.start()
        try:
            yield bar
        finally:
            stop.set()
            lines.join()


def _print_lines(bar: Progress, stop: threading.Event) -> None:
    """Print a line for each task every 30 seconds, until told to stop."""
    seen: dict[TaskID, tuple[str, float, float]] = {}  # step, time and what was done when a step was first printed
    while not stop.wait(INTERVAL):
        now = time.monotonic()
        for task in (task for task in bar.tasks if task.visible):
            step, _, start = seen.get(task.id, ("", now, 0.0))
            if step != task.description or task.completed < start:  # another step, or the same one from its start
                seen[task.id] = task.description, now, task.completed
            _, since, start = seen[task.id]
            note(_describe(task.description, task.completed, task.total, task.completed - start, now - since))


def _describe(step: str, done: float, total: float | None, gained: float, seconds: float) -> str:
    """Describe a step: how much is done, how fast, and how long the rest takes.

    :param gained: what of it was done in these seconds.
    """
    if not total or total == 1:
        return f"{step} …"
    text = f"{step}: {done:,.0f} of {total:,.0f}"
    if gained <= 0 or seconds <= 0:
        return text
    rate = gained / seconds
    speed = f"{rate:,.1f} a second" if rate >= 1 else f"{1 / rate:,.1f} s each"
    left = max(0.0, total - done) / rate
    return f"{text}, {speed}, about {f'{left / 60:,.0f} min' if left >= 90 else f'{left:.0f} s'} left"


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
