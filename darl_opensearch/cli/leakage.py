"""``darl leakage``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import GateRefused, UsageError, load
from darl_opensearch.settings import InputFile, Settings, setting
from darl_opensearch.settings.options import with_options


class LeakOptions(Settings):
    """What counts as a leak."""

    items: tuple[InputFile, ...] = setting((), "Items, JSONL, to compare item texts as well.", env="DARL_LEAKAGE_ITEMS")
    compare: str = setting(
        "", "Item fields to compare, separated by commas.  [default: all but the id]", metavar="FIELDS",
        env="DARL_LEAKAGE_COMPARE",
    )  # fmt: skip
    threshold: float = setting(
        0.8, "Jaccard similarity of word shingles from which two texts are near duplicates.", above=0, most=1,
        env="DARL_LEAKAGE_THRESHOLD",
    )  # fmt: skip
    allow: tuple[str, ...] = setting(
        (), "Kind of overlap to accept: query, near-query or near-item.", metavar="KIND", env="DARL_LEAKAGE_ALLOW"
    )
    new_items: bool = setting(
        False, "Also count an item in both parts as a leak, to test on new items only. Requires --items.",
        env="DARL_LEAKAGE_NEW_ITEMS",
    )  # fmt: skip

    def check(self) -> None:
        """Refuse item options without items."""
        if (self.new_items or self.compare) and not self.items:
            option = "--new-items" if self.new_items else "--compare"
            raise UsageError(f"{option} requires items", todo="pass their file with --items")

    @property
    def allowed(self) -> tuple[str, ...]:
        """Kinds of overlap that are accepted."""
        return self.allow if self.new_items else (*self.allow, "item")

    @property
    def fields(self) -> tuple[str, ...]:
        """Item fields to compare; empty: all but the id."""
        return tuple(part.strip() for part in self.compare.split(",") if part.strip())


LEAKS: Any = setting(..., "the leakage check")


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
    """Find queries and items of OTHERS that are in TRAIN too, near duplicates included.

    TRAIN and OTHERS are files of judgments. Exit code 3 if they overlap in a way that --allow does not accept.
    """
    leakage = load("trainer.data.leakage", "train")
    leakage.check_kinds(leaks.allowed)
    with progress_line("comparing"):
        texts = leakage.read_item_texts(leaks.items, leaks.fields) if leaks.items else None
        trained = leakage.Part.of_file(train, texts)
        parts = [leakage.Part.of_file(other, texts) for other in others]
        reports = [leakage.find_leaks(trained, part, threshold=leaks.threshold) for part in parts]
    refused = [(report, leak) for report in reports for leak in report.find_refused(leaks.allowed)]
    result = {"clean": not refused, "threshold": leaks.threshold, "compared": [report.to_json() for report in reports]}
    lines = [f"{report.other}: " + ", ".join(f"{kind} {n}" for kind, n in report.counts.items()) for report in reports]
    emit(result, as_json=as_json, text="\n".join(lines))
    for report, leak in refused:
        raise GateRefused(
            leakage.describe_leak(leak, report.counts[leak.kind]),
            where=leak.other.where,
            todo=leakage.remedy(leak.kind),
        )
