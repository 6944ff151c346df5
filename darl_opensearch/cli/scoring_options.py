"""The options of commands that score with a bundle's graphs, and that draw at random."""

from __future__ import annotations

import click

from darl_opensearch.cli.output import Decorator


def int8_option(text: str) -> Decorator:
    """Make ``--int8``.

    :return: what adds it to a command, which takes ``int8``.
    """
    return click.option("--int8", is_flag=True, envvar="DARL_INT8", show_envvar=True, help=text)


def provider_option(text: str) -> Decorator:
    """Make ``--provider``.

    :param text: its help: what becomes of ``cuda`` differs by command.
    :return: what adds it to a command, which takes ``provider``, ``cpu`` or ``cuda``.
    """
    return click.option(
        "--provider",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        show_default=True,
        envvar="DARL_PROVIDER",
        show_envvar=True,
        help=text,
    )


def threads_option(default: str = "the cores of this process") -> Decorator:
    """Make ``--threads``.

    :param default: how many they are where nobody says, in words.
    :return: what adds it to a command, which takes ``threads``: a number, or None.
    """
    return click.option(
        "--threads",
        type=click.IntRange(1),
        envvar="DARL_THREADS",
        show_envvar=True,
        help=f"Batches scored at the same time.  [default: {default}]",
    )


def draws_option(default: int, most: int) -> Decorator:
    """Make ``--draws``.

    :param most: that may be asked for.
    :return: what adds it to a command, which takes ``draws``.
    """
    return click.option(
        "--draws",
        type=click.IntRange(100, most),
        default=default,
        show_default=True,
        envvar="DARL_DRAWS",
        show_envvar=True,
        help="Resamples of every interval, sign patterns of every p-value.",
    )


def seed_option(text: str = "Seed of everything random.", *, negative: bool = False) -> Decorator:
    """Make ``--seed``.

    :param negative: whether a seed may be below 0, as Python's generator takes it and numpy's does not.
    :return: what adds it to a command, which takes ``seed``; 0 by default.
    """
    return click.option(
        "--seed",
        type=click.INT if negative else click.IntRange(0),
        default=0,
        show_default=True,
        envvar="DARL_SEED",
        show_envvar=True,
        help=text,
    )
