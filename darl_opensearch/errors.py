"""Errors a user can act on: what happened, on which input, and what to do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType

OURS = ("darl_opensearch", "trainer")  # installed together, whatever the extras
EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 3


class DarlError(Exception):
    """Base of every error this project raises on purpose.

    :param what: what happened, as a clause without a full stop.
    :param where: the input it happened on: a file with its line and field, a URL, a bundle.
    :param todo: what the reader should do next, as a clause without a full stop.
    """

    exit_code = EXIT_FAILED

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None) -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(what, where, todo)

    def __str__(self) -> str:
        """One line: ``where: what. Todo.``"""
        text = f"{self.where}: {self.what}" if self.where else self.what
        text = text.rstrip(".")
        if self.todo:
            text = f"{text}. {self.todo[:1].upper()}{self.todo[1:]}".rstrip(".")
        return one_line(text if text.endswith("?") else f"{text}.")


class UsageError(DarlError):
    """The command or the configuration asks for something that does not exist."""

    exit_code = EXIT_USAGE


class InputError(DarlError):
    """A data file, a request or a configuration value is not what it must be."""


class BundleError(DarlError):
    """A bundle is missing, damaged, or of another format."""


class ClusterError(DarlError):
    """OpenSearch cannot be reached, or does not accept what it was sent."""


class MissingExtra(DarlError):
    """A library is not installed because its extra was not asked for."""


class GateRefused(DarlError):
    """A check ran to its end and said no."""

    exit_code = EXIT_REFUSED


def one_line(text: str) -> str:
    """Make text from anywhere fit to print: one line, and nothing in it that a terminal would obey.

    :return: its words with single blanks, U+FFFD in place of what cannot be printed.
    """
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def load(module: str, extra: str) -> ModuleType:
    """Import a heavy library late, or say which extra brings it.

    :param extra: the extra of this package that installs it.
    :raises MissingExtra: when the library itself is absent; an error inside it is shown as it is. For one of
        our own packages, the library is whatever it imports.
    """
    top = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as err:
        missing = (err.name or "").partition(".")[0]
        if (missing in OURS) if top in OURS else (err.name != top):
            raise  # installed but broken inside: show that error, not ours
        raise MissingExtra(
            f"{err.name} is not installed",
            todo=f"run: {sys.executable} -m pip install 'darl-opensearch[{extra}]'",
        ) from err


def short(value: object) -> str:
    """Quote a value from a file; a message stays one line of a usual length whatever it is.

    :return: its representation, or the first 80 characters of it.
    """
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def name_some(names: Sequence[str], *, most: int = 3) -> str:
    """Name the first few, and count the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
