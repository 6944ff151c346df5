"""Fields of configurations: each with its help, of which options, messages and pages of the docs are made."""

from __future__ import annotations

import math
from dataclasses import field
from typing import Any

from darl_opensearch.errors import UsageError


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Make a dataclass's field that may be left out.

    :param help: what it means, in one line.
    :param **metadata: what else is to be known of it.
    """
    return field(default=default, metadata={"help": help} | metadata)


def required(help: str) -> Any:
    """Make a dataclass's field that has to be given.

    :param help: what it means, in one line.
    """
    return field(metadata={"help": help})


def parameters(help: str) -> Any:
    """Make a dataclass's field that holds a mapping, empty where it is left out.

    :param help: what it means, in one line.
    """
    return field(default_factory=dict, metadata={"help": help})


def check_least(table: str, config: Any, low: float, *names: str) -> None:
    """Refuse numbers below a bound, and those that are not finite.

    :param table: name of the configuration's table.
    :raises UsageError: naming the first that is refused.
    """
    for name in names:
        if not low <= (value := getattr(config, name)) < math.inf:  # the negation refuses NaN as well
            raise UsageError(f"[{table}] {name} is {value}", todo=f"give {low} or more")
