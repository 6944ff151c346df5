"""Options of a command, made from what its function declares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.settings.fields import Declared, Field, read_fields
from darl_opensearch.settings.paths import PathKind
from darl_opensearch.settings.secrets import FILE, read_secret_file
from darl_opensearch.settings.tables import read_value


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each declared parameter, and for each field of a table that is one.

    A field of a table is an option when it has a variable or a flag; the table is handed over as one argument. A secret
    is taken from its variable, or from the file that ``--NAME-file`` or ``VARIABLE_FILE`` names.
    """
    declared = read_fields(command)
    options = [field for one in declared.values() for field in (_options_of(one).values() if one.is_table else [one])]
    names = {field.name for field in options}
    files = {field.name: by_file for field in options if (by_file := secret_file(field)) and by_file.name not in names}

    @functools.wraps(command)
    def wrapped(*args: Any, **values: Any) -> Any:
        for name, by_file in files.items():
            if (path := values.pop(by_file.name)) is not None:
                if values[name]:
                    given = " and ".join(" or ".join(field.variables) for field in (_by_name(options, name), by_file))
                    raise UsageError(f"{given} are both set", todo="keep one of the two")
                values[name] = read_secret_file(path)
        for name, table in declared.items():
            if table.is_table:
                values[name] = table.kind(**{key: values.pop(key) for key in _options_of(table)})
        return command(*args, **values)

    for field in reversed(options):  # click reads decorators from the last one up
        if field.name in files:
            _add_option(wrapped, files[field.name])
        _add_option(wrapped, field)
    return wrapped


def secret_file(declared: Declared) -> Declared | None:
    """Return the option that names the file of a secret; None for other settings."""
    if not declared.field.secret:
        return None
    text = f"{declared.field.help.rstrip('.')}, in a file; or set {declared.variables[0]} to it."
    if declared.field.argument:
        text = f"File with that {declared.field.metavar}, if it holds a secret."
    return dataclasses.replace(
        declared,
        name=f"{declared.name}_file",
        kind=Path,
        optional=True,
        default=None,
        field=Field(text, metavar="FILE"),
        variables=tuple(variable + FILE for variable in declared.variables),
        path=PathKind(exists=True, folder=False),
    )


def _by_name(options: list[Declared], name: str) -> Declared:
    return next(field for field in options if field.name == name)


def _options_of(table: Declared) -> dict[str, Declared]:
    return {
        name: declared for name, declared in read_fields(table.kind).items()
        if (declared.variables or declared.field.flag) and not declared.holds_tables and name not in table.field.without
    }  # fmt: skip


def _add_option(command: Callable[..., Any], declared: Declared) -> None:
    field, default, variables = declared.field, declared.default, declared.variables
    flag = field.flag or "--" + declared.name.strip("_").replace("_", "-")
    text = field.help[:1].upper() + field.help[1:]
    text = text if text.endswith((".", "]")) else f"{text}."
    values: dict[str, Any] = {"type": _type(declared), "metavar": field.metavar}
    if declared.kind is bool:
        values = {"is_flag": True}
    if declared.many or declared.is_mapping:
        values["multiple"] = True
        text, default_text, stated = text.partition("  [default: ")
        text += f" May be repeated.{default_text}{stated}"
    if declared.is_mapping:
        values["callback"] = lambda _ctx, _param, pairs: dict(pairs)
        default = ()
    if field.secret and not field.argument:
        values |= {"hidden": True, "callback": _refuse_argument}
    if default is not dataclasses.MISSING:  # a required option is given none, not even None
        shown = default not in (None, "", ()) and (declared.kind is not bool or "/" in flag) and not field.secret
        values |= {"default": default, "show_default": shown}
    click.option(
        flag, declared.name, help=text, envvar=variables or None, show_envvar=bool(variables),
        required=default is dataclasses.MISSING, **values,
    )(command)  # fmt: skip


def _refuse_argument(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if param.name and ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE:
        raise UsageError(
            f"{param.opts[0]} is not accepted as an argument, which other users of this machine can see",
            todo=f"set {' or '.join(param.envvar or ())}, or pass {param.opts[0]}-file",
        )
    return value


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """Text that a function makes a value."""

    name = "text"

    def __init__(self, parse: Callable[[str], Any]) -> None:
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Make the value; what has been made is left as it is."""
        try:
            return self.parse(value) if isinstance(value, str) else value
        except (ValueError, DarlError) as err:
            self.fail(str(err), param, ctx)


def _type(declared: Declared) -> Any:
    field, kind = declared.field, declared.kind
    if field.parse is not None or declared.is_mapping:
        return _Parsed(field.parse or _pair)
    if declared.choices:
        return click.Choice(declared.choices)
    if kind is Path:
        path = declared.path
        return click.Path(exists=path.exists, file_okay=path.file, dir_okay=path.folder, path_type=Path)
    if kind in (int, float) and field.bounds:
        ranged: Any = click.IntRange if kind is int else click.FloatRange
        low = field.least if field.above is None else field.above
        high = field.most if field.below is None else field.below
        return ranged(low, high, min_open=field.above is not None, max_open=field.below is not None)
    return kind


def _pair(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(f"{text!r} is not key=value", todo="write for example traffic=1.0")
    return key.strip(), read_value(value)
