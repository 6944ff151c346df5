"""An import from end to end: from files of judgments to a project to train."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import UsageError
from darl_opensearch.io.reading import EncodingError
from darl_opensearch.io.sqlite import sqlite_errors
from darl_opensearch.io.writing import check_empty, new_folder
from darl_opensearch.settings import nearest
from trainer.data.importers.base import IMPORTERS, Importer, Target
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import ITEMS, JUDGMENTS, MISSING, REPEATS, Gathering, ImportCounts
from trainer.data.importers.unsupported import refuse_unsupported_file

CONFIG = "darl.toml"


@dataclass(frozen=True)
class Imported:
    """Outcome of an import.

    :param folder: output folder; None for a dry run.
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
    encodings: Mapping[str, str] | None = None,
    dropped: Collection[str] = (),
    repeats: str = "refuse",
    missing: str = "refuse",
    model: str = "",
) -> Imported:
    """Import judgments: write ``items.jsonl``, ``judgments.jsonl`` and ``darl.toml``.

    Data is collected in a temporary SQLite file of about the size of the input, on the output disk, so memory does not
    grow with the files.

    :param paths: the format's files in order, or one folder with their usual names.
    :param out: folder to create; None: check and count only.
    :param fields: field names in the files, where they differ, by our field.
    :param encodings: encodings of the files by their names in the format, and of all others by ``*``; UTF-8 otherwise.
    :param dropped: fields of the files to leave out.
    :param repeats: what to do with a pair with two grades: one of :data:`~trainer.data.importers.gathering.REPEATS`.
    :param missing: what to do with judgments of missing items, and items without text: one of
        :data:`~trainer.data.importers.gathering.MISSING`.
    :param model: model name in ``darl.toml``; empty: made from the folder's name.
    :raises UsageError: for an unknown format, parameter or field, or an existing folder.
    :raises InputError: naming file, line and field of invalid input.
    """
    for what, value, choices in (("repeats", repeats, REPEATS), ("missing", missing, MISSING)):
        if value not in choices:
            raise UsageError(f"{what} is {value!r}", todo=f"choose one of {', '.join(choices)}")
    make, values = IMPORTERS.resolve(name, IMPORTERS.read_texts(name, params or {}))
    import_files = ImportFiles(
        _assign(name, make.sources, paths), dict(fields or {}), dict(encodings or {}), frozenset(dropped)
    )
    _check_fields(name, make.sources, import_files.names)
    _check_encodings(name, make.sources, import_files.encodings)
    if out is not None:
        check_empty(out)
    with contextlib.ExitStack() as stack:
        work = None if out is None else stack.enter_context(new_folder(out))
        prefix, parent = ("darl-import-", None) if work is None else (".darl-", work.parent)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix, dir=parent))
        todo = "free space on this disk; a dry run uses TMPDIR"
        with (
            sqlite_errors("the temporary database failed", where=scratch, todo=todo),
            Gathering(Path(scratch) / "import.sqlite", repeats=repeats, missing=missing) as store,
        ):
            target = _read(make(**values), import_files, store)
            counts = store.write(
                work, target.template, judged_only=target.judged_only, k=target.scale.k, passed_over=target.counts
            )
        if out is not None and work is not None:
            text = render_config(name, target, counts, model or model_name(out))
            (work / CONFIG).write_text(text, encoding="utf-8")
    return Imported(name, out, counts, target)


def _read(importer: Importer, files: ImportFiles, store: Gathering) -> Target:
    for source in importer.sources:
        if source.name in files.paths:
            with _naming_the_encoding(source.name):
                refuse_unsupported_file(files.paths[source.name], files.encoding_of(source))
    with _naming_the_encoding():
        target = importer.read(files, store)
    if unknown := sorted(files.dropped - files.met):
        raise UsageError(f"no row has the column {unknown[0]!r}", todo="correct --drop-columns")
    return dataclasses.replace(target, notes=(*target.notes, *files.notes()))


@contextlib.contextmanager
def _naming_the_encoding(name: str = "") -> Iterator[None]:
    """Add to an error of encoding how to name another one."""
    try:
        yield
    except EncodingError as err:
        option = f"{name}={err.likely or 'NAME'}" if name else err.likely or "NAME"
        todo = f"pass --encoding {option}, or save the file as UTF-8"
        raise EncodingError(err.what, where=err.where or "", todo=todo, likely=err.likely) from err


def render_config(format: str, target: Target, counts: ImportCounts, model: str) -> str:
    """Render a starting ``darl.toml``; all other keys keep their defaults."""
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
    """Turn a folder's name into a model name."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", folder.absolute().name.lower()).strip("-._")
    return slug[:63] or "model"


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


def _check_fields(name: str, sources: Sequence[FileSpec], fields: Mapping[str, str]) -> None:
    allowed = {field for source in sources for field in source.fields}
    allowed |= {f"{source.name}.{field}" for source in sources for field in source.fields}
    for ours in fields:
        if ours not in allowed:
            raise UsageError(f"format {name!r} reads no field {ours!r}", todo=nearest(ours, allowed))


def _check_encodings(name: str, sources: Sequence[FileSpec], encodings: Mapping[str, str]) -> None:
    for source, encoding in encodings.items():
        if source != "*" and source not in (allowed := [source.name for source in sources]):
            raise UsageError(f"format {name!r} reads no file {source!r}", todo=nearest(source, allowed))
        try:
            "".encode(encoding)
        except LookupError as err:
            raise UsageError(f"there is no encoding {encoding!r}", todo="pass for example cp1252 or utf-16") from err


def _toml(value: object) -> str:
    # JSON's strings, numbers and lists are valid TOML, except for U+007F, which TOML requires escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
