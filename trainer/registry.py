"""Registries of losses, backbones and detectors: name, declared parameters, source.

Validation, messages, documentation tables and test matrices all come from these lists.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from darl_opensearch.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Param:
    """One declared parameter.

    :param kind: its type: int, float, str or bool.
    :param default: its value when not given.
    :param help: one line on what it does, with its unit.
    :param choices: the only values allowed.
    """

    kind: type
    default: Any
    help: str
    min: float | None = None
    max: float | None = None
    choices: tuple[Any, ...] | None = None

    def check(self, value: Any, name: str) -> Any:
        """Validate a value.

        :param name: what to call the parameter in an error.
        :return: the value, as :attr:`kind`.
        :raises UsageError: when it is of another type or out of range.
        """
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self.kind) or isinstance(value, bool) is not (self.kind is bool):
            raise UsageError(f"{name} is {value!r}, not a {self.kind.__name__}", todo=self.help)
        if self.choices is not None and value not in self.choices:
            raise UsageError(f"{name} is {value!r}", todo=f"choose one of {', '.join(map(str, self.choices))}")
        low, high = (-math.inf if self.min is None else self.min), (math.inf if self.max is None else self.max)
        if isinstance(value, int | float) and not low <= value <= high:  # the negation refuses NaN as well
            within = f"keep it within {self.min} and {self.max}" if self.max is not None else f"give {self.min} or more"
            raise UsageError(
                f"{name} is {value!r}", todo=within if self.min is not None else f"give {self.max} or less"
            )
        return value


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered thing.

    :param cite: where it comes from: a paper with its arXiv id, or ``"ours"``.
    :param needs: name in another registry of what it works on, such as a grade loss's head; ``""``: nothing.
    """

    name: str
    make: T
    cite: str
    params: Mapping[str, Param]
    needs: str = ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return (self.make.__doc__ or "").strip().partition("\n")[0]


class Registry(Generic[T]):
    """Named things of one kind.

    :param kind: what they are, for messages: ``detector``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(
        self, name: str, *, cite: str, params: Mapping[str, Param] | None = None, needs: str = ""
    ) -> Callable[[T], T]:
        """Register what is decorated.

        :param needs: what it works on, by its name in another registry.
        :return: a decorator that returns its argument.
        :raises ValueError: when the name is taken.
        """

        def add(make: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(name, make, cite, dict(params or {}), needs)
            return make

        return add

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in order of registration."""
        return iter(self._entries)

    def __getitem__(self, name: str) -> Entry[T]:
        """Look one up, or say which name was probably meant."""
        if name not in self._entries:
            raise UsageError(f"unknown {self.kind} {name!r}", todo=nearest(name, self._entries))
        return self._entries[name]

    def resolve(self, name: str, params: Mapping[str, Any]) -> tuple[T, dict[str, Any]]:
        """Find an entry and complete its parameters.

        :return: what was registered, and every parameter with its value.
        :raises UsageError: for an unknown name or parameter, or a value out of range.
        """
        entry = self[name]
        for key in params:
            if key not in entry.params:
                takes = ", ".join(entry.params) or "none"
                raise UsageError(f"{self.kind} {name!r} has no parameter {key!r}", todo=f"it takes {takes}")
        values = {key: p.check(params.get(key, p.default), f"{name}.{key}") for key, p in entry.params.items()}
        return entry.make, values


def nearest(name: str, known: Any) -> str:
    """Suggest the known name closest to a misspelt one.

    :return: a clause for an error's ``todo``.
    """
    if not known:
        return "there is none"
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known))}"
