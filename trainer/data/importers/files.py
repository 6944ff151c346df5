"""Files of an import: their fields, names and encodings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.reading import UTF8
from darl_opensearch.settings import nearest
from darl_opensearch.text import look_up
from trainer.data.importers.unsupported import refuse_unsupported
from trainer.data.tables import Row, data_suffix, list_columns, read_table


@dataclass(frozen=True)
class FileSpec:
    """A file that an importer reads.

    :param name: in messages, such as ``products``.
    :param needs: required fields.
    :param takes: optional fields.
    :param may_lack: required fields that a row may lack: then it has no judgment, but some row must have them.
    :param usual: usual names of the file, without suffix.
    """

    name: str
    help: str
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    required: bool = True
    may_lack: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """All fields that are read by name."""
        return (*self.needs, *self.takes)


@dataclass(frozen=True)
class ImportFiles:
    """The files of one import.

    :param names: field names in the files, where they differ, by our field (``query``, or ``SOURCE.query`` for a
        single file).
    :param encodings: encodings of the files by source; ``*``: of all others.
    :param dropped: fields to leave out of every row.
    :param met: those of them that a row has had so far.
    :param partial: files of search answers that lack hits: how many they hold, and how many the search found.
    """

    paths: Mapping[str, Path]
    names: Mapping[str, str] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    met: set[str] = field(default_factory=set)
    partial: dict[Path, tuple[int, int]] = field(default_factory=dict)

    def rows(
        self, source: FileSpec, *, project: bool = False, delimiter: str = "", plain: Sequence[str] = ()
    ) -> Iterator[tuple[str, Row]]:
        """Read a file, with fields renamed to ours.

        :param project: read only the source's columns of a Parquet file.
        :param delimiter: of a CSV or TSV file; empty: the file's own.
        :param plain: column names, if the file is TSV: it then has neither a header nor quoting.
        :yields: file and line, and the fields.
        :raises InputError: for a row without a required field, naming the nearest one, or a file without rows.
        """
        path = self.paths[source.name]
        columns = {name: self.column_of(source, name) for name in source.fields}
        renamed = {name: column for name, column in columns.items() if column != name}
        unmatched, first = {*renamed, *source.may_lack}, None
        for where, row in read_table(
            path, columns=_projected(columns.values()) if project else (), delimiter=delimiter,
            plain=plain if data_suffix(path) in (".tsv", ".txt") else (), encoding=self.encoding_of(source),
            short_after=columns.get("query", "") if "grade" in source.may_lack else "",
            on_partial=lambda hits, total: self.partial.update({path: (hits, total)}),
        ):  # fmt: skip
            row = unwrap(row, with_id="_id" in columns.values())
            first = first or (where, row)
            for name in source.needs:
                if name not in source.may_lack and not _has(row, columns[name]):
                    refuse_unsupported(row, where)
                    present = list_columns(path) or row  # a projected row lacks the file's other columns
                    raise missing_field(columns[name], present, where)
            unmatched = {name for name in unmatched if not _has(row, columns[name])}
            if fields := {name: look_up(row, column) for name, column in renamed.items() if _has(row, column)}:
                row = row | fields
            yield where, self._drop(row, columns)
        if first is None:
            raise InputError(
                f"the file of {source.name} has no rows", where=str(path), todo="check whether the file is complete"
            )
        if unmatched:  # no row has a field that is needed or named with --field: a typo
            refuse_unsupported(first[1], first[0])
            raise missing_field(columns[min(unmatched)], list_columns(path) or first[1], first[0])

    def column_of(self, source: FileSpec, name: str) -> str:
        """Return a field's name in a file."""
        return self.names.get(f"{source.name}.{name}", self.names.get(name, name))

    def _drop(self, row: Row, columns: Mapping[str, str]) -> Row:
        if not self.dropped or self.dropped.isdisjoint(row):
            return row
        for name, column in columns.items():
            if self.dropped & {name, column}:
                raise UsageError(f"column {column!r} cannot be left out: it is the field {name!r}",
                                 todo="name another with --drop-columns")  # fmt: skip
        self.met.update(self.dropped & row.keys())
        return {name: value for name, value in row.items() if name not in self.dropped}

    def notes(self) -> tuple[str, ...]:
        """Describe the files that are not complete."""
        return tuple(
            f"{path} holds {hits:,} of the {total:,} hits that its search found. Export the others too: with a larger "
            "size, by scroll or by search_after."
            for path, (hits, total) in self.partial.items()
        )

    def encoding_of(self, source: FileSpec) -> str:
        """Return a file's encoding."""
        return self.encodings.get(source.name, self.encodings.get("*", UTF8))


def _has(row: Row, column: str) -> bool:
    """Whether a row has a field, by its name or dotted path."""
    return column in row or ("." in column and look_up(row, column) is not None)


def _projected(columns: Collection[str]) -> list[str]:
    """List the columns of a file that hold fields, some by dotted path."""
    return list(dict.fromkeys(name for column in columns for name in (column, column.partition(".")[0])))


def unwrap(row: Row, *, with_id: bool = False) -> Row:
    """Return the ``_source`` of an index export's row, or the row itself.

    :param with_id: add the row's ``_id``.
    """
    source = row.get("_source")
    if not isinstance(source, dict):
        return row
    return {"_id": row["_id"], **source} if with_id and "_id" in row else source


def missing_field(name: str, row: Collection[str], where: str, *, mapped: bool = True) -> InputError:
    """Make the error for a missing field, suggesting a similar one.

    :param mapped: whether the field can be mapped with ``--field``.
    """
    todo = f"map it with --field; {nearest(name, row)}" if mapped else nearest(name, row)
    return InputError(f"there is no field {name!r}", where=where, todo=todo)
