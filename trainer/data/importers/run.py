"""One import from end to end: files in, a project to train from out."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.io.sqlite import sqlite_errors
from darl_opensearch.io.writing import check_empty, new_folder
from darl_opensearch.settings import nearest
from trainer.data.importers.base import IMPORTERS, FileSpec, ImportFiles, Target
from trainer.data.importers.gathering import ITEMS, JUDGMENTS, MISSING, REPEATS, Gathering, ImportCounts

CONFIG = "darl.toml"


@dataclass(frozen=True)
class Imported:
    """What an import did.

    :param folder: where it was written; None for a dry run.
    """

    format: str
    folder: Path | None
    counts: ImportCounts
    target: Target

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        scale, template = self.target.scale, self.target.template
        grades = [
            {"name": name, "gain": gain, "judgments": count}
            for name, gain, count in zip(scale.names, scale.gains, self.counts.grades, strict=True)
        ]
        return {
            "format": self.format,
            "folder": str(self.folder) if self.folder else None,
            **dataclasses.asdict(self.counts),
            "grades": grades,
            "template": list(template.fields),
            "passed_over": dict(self.target.counts),
            "notes": list(self.target.notes),
        }


def run_import(
    name: str,
    paths: Sequence[Path],
    out: Path | None,
    *,
    params: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
    repeats: str = "refuse",
    missing: str = "refuse",
    model: str = "",
) -> Imported:
    """Import judgments: write ``items.jsonl``, ``judgments.jsonl`` and ``darl.toml``.

    What does not fit is gathered in SQLite in a temporary file of about the size of the input, on the disk that
    is written to: memory does not grow with the files.

    :param paths: its files in order, or the one folder that holds them under their usual names.
    :param out: the folder to make; None: check and count, write nothing.
    :param fields: what a field of ours is called in the files, where it is called something else.
    :param repeats: what becomes of a pair with two grades: one of :data:`~trainer.data.importers.gathering.REPEATS`.
    :param missing: what becomes of a judgment whose item is not there, and of an item without text: one of
        :data:`~trainer.data.importers.gathering.MISSING`.
    :param model: name of the model in ``darl.toml``; empty: from the folder's.
    :raises UsageError: for an unknown format, parameter or field, or a folder that is there already.
    :raises InputError: naming file, line and field of what is wrong.
    """
    for what, value, choices in (("repeats", repeats, REPEATS), ("missing", missing, MISSING)):
        if value not in choices:
            raise UsageError(f"{what} is {value!r}", todo=f"choose one of {', '.join(choices)}")
    make, values = IMPORTERS.resolve(name, IMPORTERS.read_texts(name, params or {}))
    import_files = ImportFiles(_assign(name, make.sources, paths), _checked(name, make.sources, fields or {}))
    if out is None:
        with tempfile.TemporaryDirectory(prefix="darl-import-") as scratch, _store(scratch, repeats, missing) as store:
            target = make(**values).read(import_files, store)
            return Imported(name, None, _write(store, None, target), target)
    check_empty(out)
    with new_folder(out) as work, tempfile.TemporaryDirectory(dir=work.parent, prefix=".darl-") as scratch:
        with _store(scratch, repeats, missing) as store:
            target = make(**values).read(import_files, store)
            counts = _write(store, work, target)
        text = render_config(name, target, counts, model or model_name(out))
        (work / CONFIG).write_text(text, encoding="utf-8")
    return Imported(name, out, counts, target)


def render_config(format: str, target: Target, counts: ImportCounts, model: str) -> str:
    """Write a ``darl.toml`` to start from.

    :return: TOML; everything that it leaves out has its default.
    """
    scale, template = target.scale, target.template
    lines = [
        f"# From {format}: {counts.judgments} judgments of {counts.queries} queries, {counts.items} items.",
        "# docs/configuration.md lists every key.",
        "[model]",
        f"name = {_toml(model)}",
        "",
        "[data]",
        f"items = {_toml(ITEMS)}",
        f"judgments = {_toml(JUDGMENTS)}",
        "",
        "[grades]",
        f"names = {_toml(list(scale.names))}",
        f"gains = {_toml(list(scale.gains))}",
        "",
        "[template]",
        f"fields = {_toml(list(template.fields))}",
        f"id_field = {_toml(template.id_field)}",
        *([f"slice_field = {_toml(template.slice_field)}"] if template.slice_field else []),
    ]
    return "\n".join(lines) + "\n"


def model_name(folder: Path) -> str:
    """Make a model's name from a folder's."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", folder.absolute().name.lower()).strip("-._")
    return slug[:63] or "model"


@contextlib.contextmanager
def _store(scratch: str, repeats: str, missing: str) -> Iterator[Gathering]:
    todo = "free space on this disk; a dry run uses TMPDIR"
    with (
        sqlite_errors("the temporary database failed", where=scratch, todo=todo),
        Gathering(Path(scratch) / "import.sqlite", repeats=repeats, missing=missing) as store,
    ):
        yield store


def _write(store: Gathering, work: Path | None, target: Target) -> ImportCounts:
    return store.write(
        work, target.template, judged_only=target.judged_only, k=target.scale.k, passed_over=target.counts
    )


def _assign(name: str, sources: Sequence[FileSpec], paths: Sequence[Path]) -> dict[str, Path]:
    if len(paths) == 1 and paths[0].is_dir():
        return _in_folder(name, sources, paths[0])
    needed = sum(source.required for source in sources)
    if not needed <= len(paths) <= len(sources):
        wanted = " ".join(s.name if s.required else f"[{s.name}]" for s in sources)
        raise UsageError(
            f"{len(paths)} files for format {name!r}", todo=f"give {wanted} in this order, or their folder"
        )
    return {source.name: path for source, path in zip(sources, paths, strict=False)}


def _in_folder(name: str, sources: Sequence[FileSpec], folder: Path) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for source in sources:
        files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.partition(".")[0] in source.usual)
        if len(files) > 1:
            names = " and ".join(p.name for p in files[:2])
            raise UsageError(
                f"{names} could both be the {source.name}", where=str(folder), todo="name the files instead"
            )
        if files:
            paths[source.name] = files[0]
        elif source.required:
            usual = " or ".join(f"{usual}.*" for usual in source.usual)
            raise UsageError(
                f"there is no {usual} for format {name!r}", where=str(folder), todo="name the files instead"
            )
    return paths


def _checked(name: str, sources: Sequence[FileSpec], fields: Mapping[str, str]) -> dict[str, str]:
    allowed = {field for source in sources for field in source.fields}
    allowed |= {f"{source.name}.{field}" for source in sources for field in source.fields}
    for ours in fields:
        if ours not in allowed:
            raise UsageError(f"format {name!r} reads no field {ours!r}", todo=nearest(ours, allowed))
    return dict(fields)


def _toml(value: object) -> str:
    # JSON writes texts, numbers and lists as TOML reads them, but for U+007F, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
