"""``darl split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from darl_opensearch.cli.leakage import LEAKS, LeakOptions
from darl_opensearch.cli.output import emit
from darl_opensearch.cli.shared import JSON
from darl_opensearch.errors import UsageError, load
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options


@click.command()
@click.argument("judgments", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@with_options
def cli(
    judgments: Path,
    out: FolderPath | None = setting(
        None,
        "The folder to make for train.jsonl, dev.jsonl and test.jsonl. Needed but for --dry-run.",
        env="DARL_SPLIT_OUT",
    ),
    by: Literal["query", "slice", "time"] = setting(
        "query", "Draw queries, hold slices out, or test on what came later.", env="DARL_SPLIT_BY"
    ),
    dev: float = setting(
        0.1,
        "Share of the queries to stop and calibrate by, with --by slice or time of those not tested; 0: no dev part.",
        least=0,
        below=1,
        env="DARL_SPLIT_DEV",
    ),
    test: float = setting(
        0.1,
        "Share of the queries to test on, with --by query; 0: no test part.",
        least=0,
        below=1,
        env="DARL_SPLIT_TEST",
    ),
    seed: int = setting(0, "Seed of the draw.", env="DARL_SEED"),
    held_out: tuple[str, ...] = setting(
        (), "A slice to test on, with --by slice.", env="DARL_SPLIT_HELD_OUT", metavar="SLICE"
    ),
    time_field: str = setting(
        "timestamp",
        "Field with a judgment's time, with --by time: ISO 8601, or seconds since 1970.",
        env="DARL_SPLIT_TIME_FIELD",
    ),
    cut: str | None = setting(
        None,
        "Test on queries first judged at this date (UTC) or later, with --by time.",
        env="DARL_SPLIT_CUT",
        metavar="DATE",
    ),
    leaks: LeakOptions = LEAKS,
    dry_run: bool = setting(False, "Split and count, write nothing."),
    as_json: bool = JSON,
) -> None:
    """Split JUDGMENTS into training, dev and test part without leaks.

    Queries of one text or of nearly the same words stay in one part, whatever they are split by. With --items,
    items are compared as well: of nearly the same text in two parts, they are an error.
    """
    partition = load("trainer.data.partition", "train")
    leakage = load("trainer.data.leakage", "train")
    from darl_opensearch.io.writing import check_empty, new_folder

    leakage.check_kinds(leaks.allowed)
    rule = partition.SplitRule(
        by=by, dev=dev, test=test, seed=seed, held_out=held_out, time_field=time_field, threshold=leaks.threshold,
        cut=partition.parse_time(cut, "--cut", "") if cut else None,
    )  # fmt: skip
    if dry_run:
        out = None
    elif out is None:
        raise UsageError("there is no folder to write to", todo="name one by --out, or pass --dry-run")
    else:
        check_empty(out)
    texts = leakage.read_item_texts(leaks.items, leaks.fields) if leaks.items else None
    assigned = partition.assign(judgments, rule)
    parts = leakage.parts_of(judgments, assigned.part_of, texts)
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
        "folder": str(out) if out else None, "by": by, "seed": seed, "parts": counts, "groups": assigned.groups,
        "kept_together": assigned.together, "mixed_groups": assigned.mixed,
        "shared": {report.other: dict(report.counts) for report in reports},
    }  # fmt: skip
    emit(result, as_json=as_json, text=_summary(result))


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{name:6} {n['queries']:>8} queries {n['judgments']:>9} judgments" for name, n in result["parts"].items()]
    if result["kept_together"]:
        lines.append(f"{result['kept_together']} queries of nearly the same words stay together")
    if result["mixed_groups"]:
        part = "tested" if result["by"] == "slice" else "trained on"
        lines.append(f"{result['mixed_groups']} queries were judged on both sides of the cut; they are {part}")
    for name, counts in result["shared"].items():
        lines += [f"train and {name} share {n} of kind {kind}" for kind, n in counts.items() if n]
    keys = {"train": "judgments", "dev": "dev"}
    if result["folder"] is None:
        return "\n".join([*lines, "Nothing was written."])
    folder = Path(result["folder"]).absolute()  # right wherever the configuration lies
    lines.append("Next: in darl.toml, [data]")
    lines += [f'  {keys[name]} = "{folder / name}.jsonl"' for name in result["parts"] if name in keys]
    return "\n".join(lines)
