"""``darl split``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from darl_opensearch.cli.leakage import LEAKS, LeakOptions
from darl_opensearch.cli.output import emit, progress_line
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options

if TYPE_CHECKING:
    from trainer.data.partition import SplitRule
else:
    SplitRule = load("trainer.data.partition", "train").SplitRule


@click.command()
@click.argument("judgments", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    judgments: Path,
    out: FolderPath | None = setting(
        None,
        "New folder for train.jsonl, dev.jsonl and test.jsonl. Required unless --dry-run is given.",
        env="DARL_SPLIT_OUT",
    ),
    rule: SplitRule = setting(..., "the split"),
    leaks: LeakOptions = LEAKS,
    dry_run: bool = setting(False, "Print the counts of the split, and write nothing."),
    as_json: bool = JSON,
) -> None:
    """Split JUDGMENTS into training, dev and test parts without leakage.

    Identical and near-duplicate queries always stay in the same part. With --items, items are compared too: near
    duplicates in different parts are an error.
    """
    partition = load("trainer.data.partition", "train")
    leakage = load("trainer.data.leakage", "train")
    from darl_opensearch.io.writing import check_empty, new_folder

    leakage.check_kinds(leaks.allowed)
    rule = dataclasses.replace(rule, threshold=leaks.threshold)
    if dry_run:
        out = None
    elif out is None:
        raise UsageError("no output folder is given", todo="pass --out or --dry-run")
    else:
        check_empty(out)
    with progress_line("splitting"):
        texts = leakage.read_item_texts(leaks.items, leaks.fields) if leaks.items else None
        assigned = partition.assign(judgments, rule)
        parts = leakage.read_parts(judgments, assigned.part_of, texts)
        reports = [
            leakage.check_leakage(parts["train"], parts[name], threshold=leaks.threshold, allow=leaks.allowed)
            for name in ("dev", "test") if name in parts
        ]  # fmt: skip
        if out is None:
            counts = partition.write_parts(judgments, assigned, None)
        else:
            with new_folder(out) as work:
                counts = partition.write_parts(judgments, assigned, work)
    result: dict[str, Any] = {
        "folder": str(out) if out else None, "by": rule.by, "seed": rule.seed, "parts": counts,
        "groups": assigned.groups, "kept_together": assigned.together, "mixed_groups": assigned.mixed,
        "shared": {report.other: dict(report.counts) for report in reports},
    }  # fmt: skip
    emit(result, as_json=as_json, text=_summary(result))


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{name:6} {n['queries']:>8} queries {n['judgments']:>9} judgments" for name, n in result["parts"].items()]
    if result["kept_together"]:
        lines.append(f"{result['kept_together']} near-duplicate queries were kept together")
    if result["mixed_groups"]:
        part = "tested" if result["by"] == "slice" else "trained on"
        lines.append(f"{result['mixed_groups']} queries were judged on both sides of the cut; they are {part}")
    for name, counts in result["shared"].items():
        lines += [f"train and {name} share {n} pairs of kind {kind}" for kind, n in counts.items() if n]
    keys = {"train": "judgments", "dev": "dev"}
    if result["folder"] is None:
        return "\n".join([*lines, "Nothing was written."])
    folder = Path(result["folder"]).absolute()  # right wherever the configuration lies
    lines.append("Next: in darl.toml, [data]")
    lines += [f'  {keys[name]} = "{folder / name}.jsonl"' for name in result["parts"] if name in keys]
    return "\n".join(lines)
