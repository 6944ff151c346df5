"""A list of the Search Relevance Workbench as a file of judgments, without items."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.sqlite import sqlite_errors
from darl_opensearch.io.writing import write_rows
from trainer.data.importers.base import IMPORTERS
from trainer.data.importers.files import ImportFiles
from trainer.data.importers.gathering import REPEATS, Gathering
from trainer.data.importers.search_relevance import LISTS

FORMAT = "search-relevance"


@dataclass(frozen=True)
class ImportedRatings:
    """Outcome.

    :param file: the judgments; None for a dry run.
    :param grades: judgments per grade, lowest first.
    :param passed_over: ratings and queries that are no judgments, by reason.
    :param notes: remarks for the user.
    """

    file: Path | None
    judgments: int
    queries: int
    grades: list[int]
    passed_over: Mapping[str, int]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        return {**vars(self), "file": self.file and str(self.file), "notes": list(self.notes)}


def import_ratings(
    path: Path, out: Path | None, *, params: Mapping[str, str] | None = None, repeats: str = "refuse"
) -> ImportedRatings:
    """Write the judgments of a list, read as ``darl import search-relevance`` reads it.

    :param path: the list, JSON.
    :param out: file to write, JSONL; None: check and count only.
    :param params: of the format.
    :param repeats: what to do with a pair that has two grades: one of
        :data:`~trainer.data.importers.gathering.REPEATS`.
    :raises UsageError: for an unknown parameter, or a file that exists.
    :raises InputError: for a rating that is no grade, or a list without judgments.
    """
    if repeats not in REPEATS:
        raise UsageError(f"repeats is {repeats!r}", todo=f"choose one of {', '.join(REPEATS)}")
    make, values = IMPORTERS.resolve(FORMAT, IMPORTERS.read_texts(FORMAT, params or {}))
    if out is not None and out.exists():
        raise UsageError("it already exists", where=str(out), todo="choose another with --out, or remove it first")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="darl-ratings-"))
        stack.enter_context(
            sqlite_errors("the temporary database failed", where=scratch, todo="free space on the disk of TMPDIR")
        )
        store = stack.enter_context(Gathering(Path(scratch) / "ratings.sqlite", repeats=repeats))
        importer = make(**values)
        counts, notes = importer.rate(ImportFiles({LISTS.name: path}), store)
        if not store.sql("SELECT count(*) FROM judgment").fetchone()[0]:
            raise InputError("the list has no judgments", where=str(path), todo="rate something first")
        if out is None:
            for _ in store.rows():
                pass
        else:
            write_rows(out, store.rows())
        done = store.counts
    return ImportedRatings(out, done.judgments, done.queries, done.grades, counts, notes)
