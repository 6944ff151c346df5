"""TOML tables as frozen dataclasses: one dataclass a table, unknown keys refused with the nearest known one."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError
from trainer.registry import nearest


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of tables.

    :param overrides: ``table.key=value`` texts, the value in TOML syntax or a bare word.
    :return: its tables, unchecked.
    :raises InputError: when it cannot be read or is not TOML.
    :raises UsageError: for an override that is none.
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


def build(cls: type[Any], data: Any, where: str, table: str = "") -> Any:
    """Make a dataclass of a table, and of the tables in it.

    :param cls: a frozen dataclass whose fields are keys, or dataclasses again.
    :param where: path to name in an error.
    :param table: the table's name; empty: the whole file.
    :raises UsageError: for an unknown or missing key, or a value of another type or out of range.
    """
    label = f"[{table}] " if table else ""
    if not isinstance(data, Mapping):
        raise UsageError(f"{label.strip() or 'the file'} is not a table", where=where, todo="write [table] and keys")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in hints:
            raise UsageError(f"unknown key {label}{key}", where=where, todo=nearest(key, hints))
        values[key] = _convert(hints[key], value, where, f"{label}{key}", key)
    required = {
        f.name for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }  # fmt: skip
    if missing := sorted(required - set(values)):
        what = ", ".join(f"{label}{name}" if table else f"[{name}]" for name in missing)
        raise UsageError(
            f"{what} is missing", where=where,
            todo="add it: docs/configuration.md has the keys of darl.toml, docs/cycle.md those of cycle.toml",
        )  # fmt: skip
    try:
        return cls(**values)
    except (UsageError, InputError) as err:
        raise type(err)(err.what, where=where, todo=err.todo) from err


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


def _convert(hint: Any, value: Any, where: str, label: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), value, where, key)
    origin = typing.get_origin(hint)
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise UsageError(f"{label} is {value!r}, not a list", where=where, todo="write [ … ]")
        return tuple(_convert(inner, part, where, label, key) for part in value)
    if isinstance(hint, types.UnionType):
        return _convert_one_of(typing.get_args(hint), value, where, label, key)
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise UsageError(f"{label} is {value!r}", where=where, todo=f"choose one of {choices}")
        return value
    if origin is not None and issubclass(typing.cast("type[Any]", origin), Mapping):
        if not isinstance(value, Mapping):
            raise UsageError(f"{label} is {value!r}, not a table", where=where, todo="write { key = value }")
        return dict(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return _float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UsageError(f"{label} is {value!r}, not {hint.__name__}", where=where, todo="correct the value")
    return value


def _convert_one_of(hints: Sequence[Any], value: Any, where: str, label: str, key: str) -> Any:
    """Convert to the one kind there is beside None; where there are more, the dataclass looks at the value itself."""
    kinds = [hint for hint in hints if hint is not types.NoneType]
    return value if value is None or len(kinds) > 1 else _convert(kinds[0], value, where, label, key)


def _float(value: int) -> float:
    """Make a float of a whole number, infinite where none is as large: every range refuses that."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
