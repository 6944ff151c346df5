"""The declaration of a setting: ``name: type = setting(default, "help", least=0)``.

It is a field of a dataclass or a parameter of a command. Functions and classes that are also called from Python
keep their plain defaults: ``name: Annotated[type, Field("help", least=0)] = default``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from darl_opensearch.settings.paths import PathKind


@dataclass(frozen=True)
class Field:
    """What is known of a setting besides its type and its default.

    :param help: what it means, in one line.
    :param least: the smallest value; ``above`` excludes the bound itself. Numbers with a bound are finite.
    :param most: the largest value; ``below`` excludes the bound itself.
    :param env: environment variables that the option reads, the first one first.
    :param flag: the option where it is not ``--name``, such as ``--json`` or ``--once/--follow``.
    :param secret: whether its value is left out of help and reports, and comes from a variable or a file alone.
    :param argument: whether a secret may be an argument as well.
    :param without: fields of a table that are no options of this command.
    :param parse: what makes the option's text a value; it raises ValueError or a DarlError.
    """

    help: str
    _: KW_ONLY
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    env: str | tuple[str, ...] = ()
    flag: str = ""
    metavar: str | None = None
    secret: bool = False
    argument: bool = False
    parse: Callable[[str], Any] | None = None
    without: tuple[str, ...] = ()

    @property
    def bounds(self) -> str:
        """The range, in words; ``""``: there is none."""
        if self.least is not None and self.most is not None:
            return f"{self.least} to {self.most}"
        low = f"{self.least} or more" if self.least is not None else ""
        low = f"more than {self.above}" if self.above is not None else low
        high = f"at most {self.most}" if self.most is not None else ""
        high = f"less than {self.below}" if self.below is not None else high
        return ", ".join(part for part in (low, high) if part)

    def holds(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, help: str, **about: Any) -> Any:
    """Declare a field of a dataclass, or a parameter of a command.

    :param default: ``...`` where it has to be given.
    :param **about: the other fields of :class:`Field`.
    """
    metadata = {"field": Field(help, **about)}
    values: dict[str, Any] = {"default": default}
    if isinstance(default, dict):
        values = {"default_factory": default.copy}
    if default is ...:
        values = {}
    return dataclasses.field(metadata=metadata, repr=not about.get("secret"), **values)


@dataclass(frozen=True)
class Declared:
    """A setting as it was declared.

    :param kind: its type without ``None`` and without the tuple: a class, a ``Literal`` or ``Mapping``.
    :param many: whether it is a tuple of that kind.
    :param optional: whether it may be None.
    """

    name: str
    kind: Any
    many: bool
    optional: bool
    default: Any
    field: Field
    variables: tuple[str, ...]
    path: PathKind

    @property
    def choices(self) -> tuple[Any, ...]:
        """The values of a ``Literal``; empty for other kinds."""
        return typing.get_args(self.kind) if typing.get_origin(self.kind) is typing.Literal else ()

    @property
    def holds_tables(self) -> bool:
        """Whether its values are tables of settings."""
        return dataclasses.is_dataclass(self.kind)

    @property
    def is_table(self) -> bool:
        """Whether it is a table of settings itself, not a list of them."""
        return self.holds_tables and not self.many

    @property
    def is_mapping(self) -> bool:
        """Whether it holds keys of any name."""
        return self.kind is Mapping


def read_fields(target: Any) -> dict[str, Declared]:
    """Read what a class, or a function, declares; other fields and parameters are left out.

    A field of a dataclass that is a dataclass itself, a table in a table, needs no :class:`Field`.

    :param target: a dataclass, another class (by its ``__init__``), or a function.
    """
    return _read_fields(target)


@functools.cache
def _read_fields(target: Any) -> dict[str, Declared]:
    defaults: dict[str, Any]
    if dataclasses.is_dataclass(target):
        defaults = {field.name: field for field in dataclasses.fields(target)}
    else:
        target = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
        parameters = inspect.signature(target).parameters.values()
        defaults = {p.name: dataclasses.MISSING if p.default is p.empty else p.default for p in parameters}
    hints = typing.get_type_hints(target, include_extras=True)
    prefix, of_table = getattr(target, "env", ""), dataclasses.is_dataclass(target)
    read = (_read(name, hints.get(name), default, prefix, of_table) for name, default in defaults.items())
    return {declared.name: declared for declared in read if declared is not None}


def _read(name: str, hint: Any, default: Any, prefix: str, of_table: bool) -> Declared | None:
    kind, marks = _bare(hint)
    field = next((mark for mark in marks if isinstance(mark, Field)), None)
    if isinstance(default, dataclasses.Field):
        field = default.metadata.get("field", field)
        factory = default.default_factory
        default = default.default if factory is dataclasses.MISSING else factory()
    if field is None and not (of_table and dataclasses.is_dataclass(kind)):
        return None
    field = field or Field("")
    if optional := isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        kind, more = _bare(next(part for part in typing.get_args(kind) if part is not types.NoneType))
        marks += more
    if many := typing.get_origin(kind) is tuple:
        kind, more = _bare(typing.get_args(kind)[0])
        marks += more
    path = next((mark for mark in marks if isinstance(mark, PathKind)), PathKind())
    if typing.get_origin(kind) is Mapping:
        kind = Mapping
    own = (field.env,) if isinstance(field.env, str) else field.env
    variables = (prefix + name.upper() if prefix else "", *own)
    return Declared(name, kind, many, optional, default, field, tuple(filter(None, variables)), path)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take ``Annotated`` off a hint."""
    return (hint.__origin__, hint.__metadata__) if typing.get_origin(hint) is typing.Annotated else (hint, ())
