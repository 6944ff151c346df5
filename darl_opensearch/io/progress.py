"""Progress of the work, kept where it is done and shown by a command.

A command has one main step, which it reports. Loops that may take long report steps of their own by :func:`count_up`,
:func:`begin_step` and :func:`watch_file`; they cost nothing where no command listens, as in the scorer.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

T = TypeVar("T")
Clock = Callable[[], float]
MB = 1e6


@dataclass(eq=False)
class Activity:
    """A step of a work: the main one, or one within it.

    :param total: None if unknown.
    :param unit: of ``done`` and ``total``, such as ``MB``; empty: they are counts.
    :param since: time at which ``first`` was done.
    :param position: measures what is done, or returns None once the step is over; None: ``done`` says it.
    """

    what: str
    total: float | None
    since: float
    done: float = 0.0
    first: float = 0.0
    unit: str = ""
    position: Callable[[], float | None] | None = None

    def describe(self, now: float) -> str:
        """Describe what is done, how fast, and how long the rest takes."""
        rate, form = self.describe_rate(now), ",.1f" if self.unit else ",.0f"
        if self.total is not None and self.total != 1:
            counted = f": {self.done:{form}} of {self.total:{form}}{self._suffix}"
        elif self.done > 1:
            counted = f": {self.done:{form}}{self._suffix}"
        else:
            return f"{self.what} … {rate}".rstrip()
        return f"{self.what}{counted}, {rate}".removesuffix(", ")

    def describe_rate(self, now: float) -> str:
        """Describe how fast it is, and how long the rest takes, or how long it has taken if neither can be told."""
        gained, seconds = self.done - self.first, now - self.since
        if seconds <= 0:
            return ""
        if gained <= 0 or self.total == 1:
            return f"{format_seconds(seconds)} so far" if seconds >= 1 else ""
        rate = gained / seconds
        if rate >= 1 or self.unit:
            speed = f"{rate:,.{int(rate < 100)}f}{self._suffix} a second"
        else:
            speed = f"{1 / rate:,.1f} s each"
        if not self.total:
            return speed
        return f"{speed}, about {format_seconds(max(0.0, self.total - self.done) / rate)} left"

    @property
    def _suffix(self) -> str:
        return f" {self.unit}" if self.unit else ""


class Steps:
    """The main step of a command and the steps within it.

    :param clock: seconds of a clock that never goes back.
    """

    def __init__(self, what: str, total: float | None = None, *, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.main = Activity(what, total, clock())
        self._told = clock()  # when the main step was last reported
        self._within: list[Activity] = []

    def report(self, what: str, done: float | None = None, total: float | None = None) -> None:
        """Report the main step.

        :param done: None: unchanged, and 0 for another step than before.
        :param total: None or 0: unchanged, and unknown for another step.
        """
        now, main = self.clock(), self.main
        if what != main.what or (done is not None and done < main.done):  # another step, or the same from its start
            start = done or 0.0
            self.main = Activity(what, total or (main.total if what == main.what else None), now, start, start)
        else:
            main.done, main.total = main.done if done is None else done, total or main.total
        self._told = now

    def begin(
        self, what: str, total: float | None, unit: str = "", position: Callable[[], float | None] | None = None
    ) -> Activity:
        """Begin a step within the main one."""
        step = Activity(what, total, self.clock(), unit=unit, position=position)
        self._within.append(step)
        return step

    def end(self, step: Activity) -> None:
        """End a step within the main one."""
        with contextlib.suppress(ValueError):
            self._within.remove(step)

    def current(self) -> list[Activity]:
        """Return the main step, and the last of those that began after its last report.

        An earlier one goes on beside the main step, such as a file that is read item by item.
        """
        for step in list(self._within):
            if step.position is not None:
                if (done := step.position()) is None:
                    self.end(step)
                else:
                    step.done = done
        within = [step for step in list(self._within) if step.since >= self._told]
        return [self.main, *within[-1:]]

    def describe(self) -> str:
        """Describe the current steps in one line."""
        now = self.clock()
        main, *within = self.current()
        if within and not main.done:  # the step within says more than the time so far
            return f"{main.what}: {within[0].describe(now)}"
        return "; ".join(step.describe(now) for step in (main, *within))


_steps: ContextVar[Steps | None] = ContextVar("steps", default=None)


@contextlib.contextmanager
def listening(steps: Steps) -> Iterator[None]:
    """Let the loops within report to these steps."""
    token = _steps.set(steps)
    try:
        yield
    finally:
        _steps.reset(token)


@contextlib.contextmanager
def begin_step(what: str, total: float | None = None) -> Iterator[Callable[[int], object]]:
    """Begin a step that may take long.

    :yield: a function that adds to what is done.
    """
    if (steps := _steps.get()) is None:
        yield lambda more: None
        return
    step = steps.begin(what, total)

    def add(more: int) -> None:
        step.done += more

    try:
        yield add
    finally:
        steps.end(step)


def count_up(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Yield items and count them, each when the next one is asked for."""
    with begin_step(what, total) as add:
        for item in items:
            yield item
            add(1)


def watch_file(file: IO[Any], path: Path) -> None:
    """Show how much of an open file has been read until it is closed, by the position of its descriptor."""
    if (steps := _steps.get()) is None or not path.is_file():
        return
    opened, descriptor = weakref.ref(file), file.fileno()

    def position() -> float | None:
        file = opened()
        if file is None or file.closed:
            return None
        try:
            return os.lseek(descriptor, 0, os.SEEK_CUR) / MB
        except OSError:  # closed just now
            return None

    steps.begin(f"reading {path.name}", max(path.stat().st_size, 1) / MB, "MB", position)


def format_seconds(seconds: float) -> str:
    """Format a time as seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
