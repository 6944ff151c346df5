"""``darl import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from darl_opensearch.cli.output import emit, json_option, note
from darl_opensearch.errors import UsageError, load, one_line


@click.command()
@click.argument("format_", metavar="FORMAT")
@click.argument("paths", metavar="PATHS...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="DARL_IMPORT_OUT",
    show_envvar=True,
    help="The folder to make. Needed but for --dry-run.",
)
@click.option(
    "--set",
    "params",
    multiple=True,
    metavar="KEY=VALUE",
    envvar="DARL_IMPORT_SET",
    show_envvar=True,
    help="Set a parameter of the format (docs/data.md lists them); may be repeated.",
)
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="OURS=THEIRS",
    envvar="DARL_IMPORT_FIELD",
    show_envvar=True,
    help="What a field is called in your files, such as query=q, or items.id=sku for one file; may be repeated.",
)
@click.option(
    "--repeats",
    type=click.Choice(["refuse", "first", "highest", "lowest"]),
    default="refuse",
    show_default=True,
    envvar="DARL_IMPORT_REPEATS",
    show_envvar=True,
    help="What becomes of a pair with two grades.",
)
@click.option(
    "--missing",
    type=click.Choice(["refuse", "drop"]),
    default="refuse",
    show_default=True,
    envvar="DARL_IMPORT_MISSING",
    show_envvar=True,
    help="What becomes of a judgment whose item is not there, and of an item without text.",
)
@click.option("--name", envvar="DARL_IMPORT_NAME", show_envvar=True, help="Name of the model.  [default: the folder's]")
@click.option("--dry-run", is_flag=True, help="Read and check everything, print counts, write nothing.")
@json_option
def cli(
    format_: str,
    paths: tuple[Path, ...],
    out: Path | None,
    params: tuple[str, ...],
    fields: tuple[str, ...],
    repeats: str,
    missing: str,
    name: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Turn judgments of another FORMAT into a folder that darl train reads.

    FORMAT is one of jsonl, esci, wands, trec, search-relevance, ubi and triples. PATHS are its files, in the order
    that docs/data.md gives, or the folder that holds them under their usual names.

    Writes items.jsonl, judgments.jsonl and a darl.toml with grades and template. Nothing that is there is replaced.
    """
    importers = load("trainer.data.importers", "train")
    if out is None and not dry_run:
        raise UsageError("there is no folder to write to", todo="name one by --out, or pass --dry-run")
    if name:
        from darl_opensearch.bundle import check_name

        check_name(name, "1")
    done = importers.run_import(
        format_, paths, None if dry_run else out,
        params=_pairs("--set", params), fields=_pairs("--field", fields), repeats=repeats, missing=missing,
        model=name or "",
    )  # fmt: skip
    result: dict[str, Any] = done.to_json()
    if not as_json:
        for line in result["notes"]:
            note(line)
    emit(result, as_json=as_json, text=_summary(result))


def _pairs(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise UsageError(f"{option} {text!r} has no =", todo=f"write {option} key=value")
        if key.strip() in pairs:
            raise UsageError(f"{option} gives {key.strip()!r} twice", todo="keep one of the two")
        pairs[key.strip()] = value.strip()
    return pairs


def _summary(result: dict[str, Any]) -> str:
    lines = [f"{result['judgments']} judgments of {result['queries']} queries, {result['items']} items"]
    width = max(len(grade["name"]) for grade in result["grades"])
    lines += [f"  {g['name']:{width}}  gain {g['gain']:<5g} {g['judgments']:>9}" for g in result["grades"]]
    said = {key: result[key] for key in ("repeated_items", "repeated_judgments", "dropped_items", "dropped_judgments")}
    lines += [f"{key.replace('_', ' ')}: {n}" for key, n in (said | result["passed_over"]).items() if n]
    lines.append(f"text of an item: {one_line(', '.join(result['template']))}")
    if result["folder"]:
        config = Path(result["folder"]) / "darl.toml"
        lines.append(f"Next: look at {config}, then darl train {config} --dry-run")
    else:
        lines.append("Nothing was written.")
    return "\n".join(lines)
