"""``darl leakage``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, json_option
from darl_opensearch.errors import GateRefused, UsageError, load


def leak_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--items``, ``--compare``, ``--threshold``, ``--allow`` and ``--new-items``.

    :param command: the function of a click command; it takes ``items`` (files), ``compared`` (fields),
        ``threshold`` and ``allow`` (kinds of leaks).
    :return: the function to decorate further.
    """

    @click.option(
        "--items",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="DARL_LEAKAGE_ITEMS",
        show_envvar=True,
        help="JSONL of the items, to compare their texts as well; may be repeated.",
    )
    @click.option(
        "--compare",
        "compared",
        default="",
        metavar="FIELDS",
        envvar="DARL_LEAKAGE_COMPARE",
        show_envvar=True,
        help="Fields of an item that count, with commas.  [default: all but the id]",
    )
    @click.option(
        "--threshold",
        type=click.FloatRange(0, 1, min_open=True),
        default=0.8,
        show_default=True,
        envvar="DARL_LEAKAGE_THRESHOLD",
        show_envvar=True,
        help="Jaccard similarity over word shingles from which two texts are nearly the same.",
    )
    @click.option(
        "--allow",
        multiple=True,
        metavar="KIND",
        envvar="DARL_LEAKAGE_ALLOW",
        show_envvar=True,
        help="A kind of leak that is none to you: query, near-query or near-item; may be repeated.",
    )
    @click.option(
        "--new-items",
        is_flag=True,
        envvar="DARL_LEAKAGE_NEW_ITEMS",
        show_envvar=True,
        help="The same item in both parts is a leak too: what is tested must be new. Needs --items.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any, items: tuple[Path, ...], compared: str, allow: tuple[str, ...], new_items: bool, **kwargs: Any
    ) -> Any:
        if (new_items or compared) and not items:
            option = "--new-items" if new_items else "--compare"
            raise UsageError(f"{option} is given without items", todo="name their file by --items")
        allowed = allow if new_items else (*allow, "item")
        fields = tuple(part.strip() for part in compared.split(",") if part.strip())
        return command(*args, items=items, compared=fields, allow=allowed, **kwargs)

    return wrapped


@click.command()
@click.argument("train", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("others", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@leak_options
@json_option
def cli(
    train: Path,
    others: tuple[Path, ...],
    items: tuple[Path, ...],
    compared: tuple[str, ...],
    threshold: float,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Look for queries and items of OTHERS that are in TRAIN as well, if only in other words.

    TRAIN and OTHERS are files of judgments. Ends with 3 when they share what --allow does not name.
    """
    leakage = load("trainer.data.leakage", "train")
    leakage.check_kinds(allow)
    texts = leakage.read_item_texts(items, compared) if items else None
    trained = leakage.Part.of_file(train, texts)
    reports = [leakage.find_leaks(trained, leakage.Part.of_file(o, texts), threshold=threshold) for o in others]
    refused = [(report, leak) for report in reports for leak in report.refused(allow)]
    result = {"clean": not refused, "threshold": threshold, "compared": [report.to_json() for report in reports]}
    lines = [f"{report.other}: " + ", ".join(f"{kind} {n}" for kind, n in report.counts.items()) for report in reports]
    emit(result, as_json=as_json, text="\n".join(lines))
    for report, leak in refused:
        raise GateRefused(
            leakage.describe_leak(leak, report.counts[leak.kind]),
            where=leak.other.where,
            todo=leakage.remedy(leak.kind),
        )
