"""``darl import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import click

from darl_opensearch.cli.output import emit, note, progress_line
from darl_opensearch.cli.shared import JSON, parse_pairs
from darl_opensearch.errors import UsageError, load, one_line
from darl_opensearch.settings import FolderPath, setting
from darl_opensearch.settings.options import with_options


@click.command()
@click.argument("format_", metavar="FORMAT")
@click.argument("paths", metavar="PATHS...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@with_options
def cli(
    format_: str,
    paths: tuple[Path, ...],
    out: FolderPath | None = setting(
        None, "New folder for the imported files. Required unless --dry-run is given.", env="DARL_IMPORT_OUT"
    ),
    params: tuple[str, ...] = setting(
        (),
        "Parameter of the format (listed in docs/data.md).",
        env="DARL_IMPORT_SET",
        flag="--set",
        metavar="KEY=VALUE",
    ),
    fields: tuple[str, ...] = setting(
        (),
        "Name of a field in your files, such as query=q, or items.id=sku for one file.",
        env="DARL_IMPORT_FIELD",
        flag="--field",
        metavar="OURS=THEIRS",
    ),
    encodings: tuple[str, ...] = setting(
        (),
        "Encoding of the files, such as cp1252 or utf-16, or judgments=cp1252 for one file.  [default: utf-8]",
        env="DARL_IMPORT_ENCODING",
        flag="--encoding",
        metavar="[FILE=]NAME",
    ),
    dropped: tuple[str, ...] = setting(
        (),
        "Columns to leave out, separated by commas, such as those of the judgment in rows that also hold the item.",
        env="DARL_IMPORT_DROP_COLUMNS",
        flag="--drop-columns",
        metavar="NAMES",
    ),
    repeats: Literal["refuse", "first", "highest", "lowest"] = setting(
        "refuse", "What to do with a pair that has two grades.", env="DARL_IMPORT_REPEATS"
    ),
    missing: Literal["refuse", "drop"] = setting(
        "refuse",
        "What to do with a judgment whose item is missing, and with an item without text.",
        env="DARL_IMPORT_MISSING",
    ),
    name: str | None = setting(None, "Name of the model.  [default: the name of the folder]", env="DARL_IMPORT_NAME"),
    dry_run: bool = setting(False, "Read and check all input, print counts, and write nothing."),
    as_json: bool = JSON,
) -> None:
    """Convert judgments from another FORMAT into a folder for darl train.

    FORMAT is one of jsonl, esci, wands, trec, search-relevance, ubi and triples. PATHS are its files, in the order
    given in docs/data.md, or the folder that holds them under their usual names.

    Writes items.jsonl, judgments.jsonl and a darl.toml with grades and template. Existing files are not replaced.
    """
    importers = load("trainer.data.importers", "train")
    if out is None and not dry_run:
        raise UsageError("no output folder is given", todo="pass --out or --dry-run")
    if name:
        from darl_opensearch.bundle import check_name

        check_name(name, "1")
    with progress_line("importing"):
        done = importers.run_import(
            format_, paths, None if dry_run else out,
            params=parse_pairs("--set", params), fields=parse_pairs("--field", fields), encodings=_encodings(encodings),
            dropped=[name.strip() for names in dropped for name in names.split(",") if name.strip()],
            repeats=repeats, missing=missing, model=name or "",
        )  # fmt: skip
    result: dict[str, Any] = done.to_json()
    if not as_json:
        for line in result["notes"]:
            note(line)
    emit(result, as_json=as_json, text=_summary(result))


def _encodings(texts: tuple[str, ...]) -> dict[str, str]:
    return parse_pairs("--encoding", tuple(text if "=" in text else f"*={text}" for text in texts))


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{result['judgments']} judgments of {result['queries']} queries, {result['items']} items"]
    width = max(len(grade["name"]) for grade in result["grades"])
    lines += [f"  {g['name']:{width}}  gain {g['gain']:<5g} {g['judgments']:>9}" for g in result["grades"]]
    lines.append(
        f"joined with the items: {result['judgments']} judgments matched, {result['dropped_judgments']} did not"
    )
    dropped = {key: result[key] for key in ("repeated_items", "repeated_judgments", "dropped_items")}
    lines += [f"{key.replace('_', ' ')}: {n}" for key, n in (dropped | result["passed_over"]).items() if n]
    lines.append(f"text of an item: {one_line(', '.join(result['template']))}")
    if result["folder"]:
        config = Path(result["folder"]) / "darl.toml"
        lines.append(f"Next: review {config}, then run darl train {config} --dry-run")
    else:
        lines.append("Nothing was written.")
    return "\n".join(lines)
