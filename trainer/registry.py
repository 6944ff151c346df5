"""Registries of losses, backbones, detectors and the like, with name, parameters and source.

Parameters are declared in the signature or in the fields of a dataclass (see :mod:`darl_opensearch.settings`).
Validation, messages, documentation tables and test matrices derive from the registries.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from darl_opensearch.errors import UsageError
from darl_opensearch.settings import Declared, Settings, convert, nearest, read_fields

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A registered entry.

    :param cite: source: a paper with its arXiv id, or ``"ours"``.
    :param table: the settings that declare its parameters, if ``make`` does not.
    :param head: the head of :mod:`trainer.models.heads` whose output a grade loss reads.
    """

    name: str
    make: T
    cite: str
    table: type[Settings] | None = None
    head: str = ""

    @property
    def params(self) -> dict[str, Declared]:
        """Its parameters, by name."""
        return read_fields(self.table or self.make)

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.make.__doc__ or "").strip().partition("\n")[0]


class Registry(Generic[T]):
    """Named entries of one kind.

    :param kind: noun for messages, such as ``detector``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, cite: str, table: type[Settings] | None = None, head: str = ""
    ) -> Callable[[T], T]:
        """Register the decorated function or class.

        :raises ValueError: if the name is taken.
        """

        def add(make: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, make, cite, table, head)
            return make

        return add

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in order of registration."""
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry[T]:
        """Look up an entry; the error for an unknown name suggests the nearest one."""
        if name not in self._entries:
            raise UsageError(f"unknown {self.kind} {name!r}", todo=nearest(name, self._entries))
        return self._entries[name]

    def resolve(self, name: str, params: Mapping[str, Any]) -> tuple[T, dict[str, Any]]:
        """Return what is registered under a name, and its parameters completed by defaults.

        :raises UsageError: for an unknown name or parameter, or a value out of range.
        """
        entry = self[name]
        for key in params:
            if key not in entry.params:
                takes = ", ".join(entry.params) or "none"
                raise UsageError(f"{self.kind} {name!r} has no parameter {key!r}", todo=f"it takes {takes}")
        values = {
            key: convert(declared, params.get(key, declared.default), f"{name}.{key}")
            for key, declared in entry.params.items()
        }
        return entry.make, values

    def read_texts(self, name: str, texts: Mapping[str, str]) -> dict[str, Any]:
        """Convert parameters from the command line to numbers as declared; :meth:`resolve` refuses other values.

        :raises UsageError: for an unknown parameter.
        """
        params = self[name].params
        values: dict[str, Any] = dict(texts)
        for key, text in texts.items():
            if key not in params:
                raise UsageError(f"{self.kind} {name!r} has no parameter {key!r}", todo=nearest(key, params))
            if params[key].kind in (int, float):
                with contextlib.suppress(ValueError):
                    values[key] = params[key].kind(text)
        return values
