"""``darl leakage``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import GateRefused, UsageError, load
from darl_opensearch.settings import InputFile, Settings, setting
from darl_opensearch.settings.options import with_options


class LeakOptions(Settings):
    """What counts as a leak."""

    items: tuple[InputFile, ...] = setting(
        (), "JSONL of the items, to compare their texts as well.", env="DARL_LEAKAGE_ITEMS"
    )
    compare: str = setting(
        "",
        "Fields of an item that count, with commas.  [default: all but the id]",
        metavar="FIELDS",
        env="DARL_LEAKAGE_COMPARE",
    )
    threshold: float = setting(
        0.8,
        "Jaccard similarity over word shingles from which two texts are nearly the same.",
        above=0,
        most=1,
        env="DARL_LEAKAGE_THRESHOLD",
    )
    allow: tuple[str, ...] = setting(
        (),
        "A kind of leak that is none to you: query, near-query or near-item.",
        metavar="KIND",
        env="DARL_LEAKAGE_ALLOW",
    )
    new_items: bool = setting(
        False,
        "The same item in both parts is a leak too: what is tested must be new. Needs --items.",
        env="DARL_LEAKAGE_NEW_ITEMS",
    )

    def check(self) -> None:
        """Refuse what is about items where none are given."""
        if (self.new_items or self.compare) and not self.items:
            option = "--new-items" if self.new_items else "--compare"
            raise UsageError(f"{option} is given without items", todo="name their file by --items")

    @property
    def allowed(self) -> tuple[str, ...]:
        """The kinds of leaks that are none."""
        return self.allow if self.new_items else (*self.allow, "item")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of an item that are compared; empty: all but the id."""
        return tuple(part.strip() for part in self.compare.split(",") if part.strip())


LEAKS: Any = setting(..., "what counts as a leak")


@click.command()
@click.argument("train", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("others", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    train: Path,
    others: tuple[Path, ...],
    leaks: LeakOptions = LEAKS,
    as_json: bool = JSON,
) -> None:
    """Look for queries and items of OTHERS that are in TRAIN as well, if only in other words.

    TRAIN and OTHERS are files of judgments. Ends with 3 when they share what --allow does not name.
    """
    leakage = load("trainer.data.leakage", "train")
    leakage.check_kinds(leaks.allowed)
    texts = leakage.read_item_texts(leaks.items, leaks.fields) if leaks.items else None
    trained = leakage.Part.of_file(train, texts)
    parts = [leakage.Part.of_file(other, texts) for other in others]
    reports = [leakage.find_leaks(trained, part, threshold=leaks.threshold) for part in parts]
    refused = [(report, leak) for report in reports for leak in report.refused(leaks.allowed)]
    result = {"clean": not refused, "threshold": leaks.threshold, "compared": [report.to_json() for report in reports]}
    lines = [f"{report.other}: " + ", ".join(f"{kind} {n}" for kind, n in report.counts.items()) for report in reports]
    emit(result, as_json=as_json, text="\n".join(lines))
    for report, leak in refused:
        raise GateRefused(
            leakage.describe_leak(leak, report.counts[leak.kind]),
            where=leak.other.where,
            todo=leakage.remedy(leak.kind),
        )
