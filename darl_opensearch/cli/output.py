"""Output of the commands: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
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
)

from darl_opensearch.io.progress import Activity, Steps, listening

if TYPE_CHECKING:
    from darl_opensearch.cluster import Call

INTERVAL = 30.0  # seconds between lines where there is no terminal
REFRESH = 0.2  # seconds between drawings on a terminal


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


@dataclass(frozen=True)
class Line:
    """The progress of a command, on a terminal as a bar; work calls its methods."""

    steps: Steps
    console: Console

    def report(self, what: str, done: int | None = None, total: int | None = None) -> None:
        """Show the current step and its progress.

        :param done: None: unchanged, and 0 for another step than before.
        :param total: None or 0, if unknown: unchanged, and unknown for another step.
        """
        self.steps.report(what, done, total)

    def count(self, done: int, total: int) -> None:
        """Show the progress of the current step."""
        self.steps.report(self.steps.main.what, done, total)


@contextlib.contextmanager
def progress_line(what: str, *, total: int | None = None, visible: bool = True) -> Iterator[Line]:
    """Show progress: bars on a terminal, and elsewhere a plain line on stderr every 30 seconds.

    :param total: None: not known yet.
    """
    line = Line(Steps(what, total), Console(stderr=True))
    with contextlib.ExitStack() as stack:
        if visible:
            stack.enter_context(listening(line.steps))
            if line.console.is_terminal:
                columns = (
                    SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}"),
                )  # fmt: skip
                bar = stack.enter_context(Progress(*columns, console=line.console, transient=True))
                stack.enter_context(_repeating(partial(_draw, bar, line.steps, {}), REFRESH))
            else:
                stack.enter_context(_repeating(lambda: note(line.steps.describe()), INTERVAL))
        yield line


@contextlib.contextmanager
def _repeating(show: Callable[[], object], seconds: float) -> Iterator[None]:
    """Call a function every so many seconds, first after that time, whatever the work does meanwhile."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            show()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _draw(bar: Progress, steps: Steps, tasks: dict[Activity, TaskID]) -> None:
    """Draw the current steps.

    :param tasks: what is drawn; changed here.
    """
    now, current = steps.clock(), steps.current()
    for step in [step for step in tasks if step not in current]:
        bar.remove_task(tasks.pop(step))
    for step in current:
        if step not in tasks:
            tasks[step] = bar.add_task(step.what, total=None, rate="")
        bar.update(
            tasks[step], completed=round(step.done), total=step.total and max(1, round(step.total)),
            rate=step.describe_rate(now),
        )  # fmt: skip
