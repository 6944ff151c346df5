"""TOML tables as frozen dataclasses: unknown keys are refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, dataclass_transform

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.settings.fields import read_fields
from darl_opensearch.settings.values import convert, nearest


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Settings:
    """A table whose fields are declared; however it is made, they are checked.

    A subclass is a frozen dataclass with keyword arguments, and names its table: ``class Loss(Settings,
    table="loss")``. With ``env="DARL_"`` each field can be given as an option and as the variable ``DARL_NAME``.
    """

    table: ClassVar[str] = ""
    env: ClassVar[str] = ""
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # what mypy knows a dataclass by

    def __init_subclass__(cls, table: str = "", env: str = "") -> None:
        """Make the subclass a dataclass; table and prefix of the variables are the parent's where none is given."""
        cls.table, cls.env = table or cls.table, env or cls.env
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        """Check each field by its declaration, then all of them together."""
        for name, declared in read_fields(type(self)).items():
            object.__setattr__(self, name, convert(declared, getattr(self, name), self.label(name)))
        self.check()

    def check(self) -> None:
        """Refuse fields that contradict each other; each of them has been checked on its own."""

    @classmethod
    def label(cls, name: str) -> str:
        """Name a field in a message: ``[loss] l2``."""
        return f"[{cls.table}] {name}" if cls.table else name

    @classmethod
    def read(cls, data: Any, where: str | None = None) -> Self:
        """Make settings of a parsed table, and of the tables in it.

        :raises UsageError: for an unknown or missing key, or a value of another kind or out of range.
        """
        try:
            return cls._read(data)
        except (UsageError, InputError) as err:
            raise type(err)(err.what, where=where, todo=err.todo) from err

    @classmethod
    def _read(cls, data: Any) -> Self:
        if not isinstance(data, Mapping):
            name = f"[{cls.table}]" if cls.table else "the file"
            raise UsageError(f"{name} is not a table", todo="write it as [table] with keys")
        fields = read_fields(cls)
        for key in data:
            if key not in fields:
                raise UsageError(f"unknown key {cls.label(key)}", todo=nearest(key, fields))
        missing = [
            f"[{name}]" if declared.is_table else cls.label(name) for name, declared in sorted(fields.items())
            if declared.default is dataclasses.MISSING and name not in data
        ]  # fmt: skip
        if missing:
            todo = "add it: docs/configuration.md has the keys of darl.toml, docs/cycle.md those of cycle.toml"
            raise UsageError(f"{', '.join(missing)} is missing", todo=todo)
        return cls(**data)


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of tables.

    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :return: its tables, unchecked.
    :raises InputError: when it cannot be read or is not TOML.
    :raises UsageError: for an override in another form.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte order mark first
    except (ValueError, RecursionError) as err:  # also for a number of thousands of digits, or brackets as deep
        raise InputError(f"not TOML ({err})", where=str(path), todo="correct the line") from err
    except OSError as err:
        raise InputError(f"cannot be read ({err.strerror})", where=str(path), todo="check the path") from err
    for text in overrides:
        _override(data, text)
    return data


def read_value(text: str) -> Any:
    """Read a value from the command line.

    :param text: in TOML syntax, or a bare word.
    """
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        return text


def _override(data: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    table, dot, name = key.strip().partition(".")
    if not sign or (not dot and table != "seed"):
        raise UsageError(f"--set {text!r} is not table.key=value", todo="write for example --set loss.l2=0.1")
    if dot:
        if not isinstance(values := data.setdefault(table, {}), dict):
            raise UsageError(f"--set {text!r}: {table} is not a table", todo="write for example --set loss.l2=0.1")
        values[name] = read_value(value)
    else:
        data[table] = read_value(value)
