"""Building blocks of importers: files and fields to read, and the grade scale to map to."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.io.reading import UTF8
from darl_opensearch.records.values import off_scale, parse_text, require_id
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import Field, nearest
from darl_opensearch.text import ItemTemplate, look_up
from trainer.data.importers.gathering import Gathering
from trainer.data.importers.unsupported import refuse_unsupported
from trainer.data.tables import Row, data_suffix, list_columns, read_table
from trainer.registry import Registry

MAX_GRADE = 9  # a higher rating is not a grade but a measurement that needs cut points
SAMPLE_ITEMS = 1000  # items from which to guess the text fields
MOST_FIELDS = 8  # fields of a guessed template: more would exceed the item cap
_TITLES = ("title", "name", "headline", "product_title", "product_name")


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
    """

    paths: Mapping[str, Path]
    names: Mapping[str, str] = field(default_factory=dict)
    encodings: Mapping[str, str] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    met: set[str] = field(default_factory=set)

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
            path, columns=list(columns.values()) if project else (), delimiter=delimiter,
            plain=plain if data_suffix(path) in (".tsv", ".txt") else (), encoding=self.encoding_of(source),
            short_after=columns.get("query", "") if "grade" in source.may_lack else "",
        ):  # fmt: skip
            row = unwrap(row, with_id="_id" in columns.values())
            first = first or (where, row)
            for name in source.needs:
                if columns[name] not in row and name not in source.may_lack:
                    refuse_unsupported(row, where)
                    present = list_columns(path) or row  # a projected row lacks the file's other columns
                    raise missing_field(columns[name], present, where)
            unmatched = {name for name in unmatched if columns[name] not in row}
            if fields := {name: row[column] for name, column in renamed.items() if column in row}:
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

    def encoding_of(self, source: FileSpec) -> str:
        """Return a file's encoding."""
        return self.encodings.get(source.name, self.encodings.get("*", UTF8))


@dataclass(frozen=True)
class Target:
    """An import's scale and template; its items and judgments are in the store.

    :param judged_only: whether to write only judged items.
    :param counts: skipped rows, by reason.
    :param notes: remarks for the user.
    """

    scale: GradeScale
    template: ItemTemplate
    judged_only: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """A format of judgments. Its parameters are the fields of a frozen dataclass.

    :param sources: files to read, in command-line order.
    """

    sources: ClassVar[tuple[FileSpec, ...]]

    def read(self, files: ImportFiles, store: Gathering) -> Target:
        """Read all files into the store."""
        ...


IMPORTERS: Registry[type[Any]] = Registry("format")


ItemsWritten = Annotated[Literal["all", "judged"], Field("items to write: all, or only judged ones")]
Labels = Annotated[str, Field("names of the grades, lowest first: irrelevant,related,fits")]
Gains = Annotated[str, Field("gain of each grade, lowest first: 0,1,3; empty: 0,1,2,…")]
TextFields = Annotated[
    str, Field("item fields rendered as text, such as =title,brand,content.text; empty: fields that look like text")
]


def split_list(text: str) -> tuple[str, ...]:
    """Split a comma-separated list and strip its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def parse_numbers(text: str, name: str) -> tuple[float, ...]:
    """Parse a comma-separated list of increasing numbers.

    :raises UsageError: if one is not a number, or they do not increase.
    """
    try:
        values = tuple(float(part) for part in split_list(text))
    except ValueError:
        values = (math.nan, math.nan)
    if any(not a < b for a, b in zip(values, values[1:], strict=False)) or not all(map(math.isfinite, values)):
        raise UsageError(f"{name} is {text!r}", todo="give increasing numbers separated by commas: 0.5,1.5")
    return values


@dataclass(frozen=True)
class GradeMapping:
    """Maps source values to grades.

    :param labels: names of the grades, lowest first; empty: ``grade 0`` …
    :param gains: of each grade; empty: 0, 1, 2, …
    :param cuts: cut points; a value's grade is the number of them at or below it; empty: the value is the grade.
    """

    labels: tuple[str, ...] = ()
    gains: tuple[float, ...] = ()
    cuts: tuple[float, ...] = ()

    @classmethod
    def of(cls, labels: str = "", gains: str = "", cuts: str = "") -> GradeMapping:
        """Parse the parameters.

        :raises UsageError: if they do not match in number.
        """
        mapping = cls(split_list(labels), parse_numbers(gains, "gains"), parse_numbers(cuts, "cuts"))
        k = len(mapping.cuts) + 1 if mapping.cuts else None
        for name, values in (("labels", mapping.labels), ("gains", mapping.gains)):
            if k and values and len(values) != k:
                raise UsageError(f"{len(values)} {name} for {k} grades", todo=f"{k - 1} cut points separate {k} grades")
        if mapping.labels:
            mapping.scale(0)
        if len({label.casefold() for label in mapping.labels}) < len(mapping.labels):
            raise UsageError(f"two of the labels {', '.join(mapping.labels)} differ only in case",
                             todo="give each grade a different name: case is ignored in the data")  # fmt: skip
        return mapping

    @cached_property
    def _by_label(self) -> dict[Any, int]:
        """The grade of each label, folded; by number if all labels are numbers."""
        numbers = [_number(label) for label in self.labels]
        keys = [label.casefold() for label in self.labels] if None in numbers else numbers
        return dict(zip(keys, range(len(keys)), strict=True))

    @property
    def _are_numbers(self) -> bool:
        return bool(self.labels) and not any(isinstance(label, str) for label in self._by_label)

    def grade(self, value: object, name: str, where: str) -> int:
        """Map a value to its grade.

        Labels that are numbers, such as stars from 1 to 5, are read as labels, whether the source quotes them or not.

        :param value: a label, a whole number (``2``, ``"2"``, ``"2.000"``), or any number with cut points; text may be
            in quotes.
        :raises InputError: if it is not a grade.
        """
        if isinstance(value, str) and len(value) > 2 and value[0] == value[-1] == '"':
            value = value[1:-1]
        number = _number(value)
        if self.cuts and number is not None:
            return bisect_right(self.cuts, number)
        label = number if self._are_numbers else value.strip().casefold() if isinstance(value, str) else None
        if (grade := self._by_label.get(label)) is not None:
            return grade
        if number is None or self._are_numbers:
            todo = f"the labels are {', '.join(self.labels)}" if self.labels else "name the grades with --set labels=…"
            raise InputError(f"field {name!r} is {short(value)}, which is not a grade", where=where, todo=todo)
        top = len(self.labels) - 1 if self.labels else MAX_GRADE
        if number != int(number) or not 0 <= number <= top:
            todo = "correct it, or where the format takes cuts, map finer values with --set cuts=0.5,1.5"
            raise off_scale(name, value, top, where, todo=todo)
        return int(number)

    def notes(self, store: Gathering) -> tuple[str, ...]:
        """Say that no judgment has grade 0, which is most often a scale that begins with 1."""
        lowest, highest = store.lowest_grade(), store.highest_grade()
        if self.labels or self.cuts or not 0 < lowest < highest:
            return ()
        labels = ",".join(map(str, range(lowest, highest + 1)))
        return (f"No judgment has a grade below {lowest}. If {lowest} is the lowest grade of your scale, pass "
                f"--set labels={labels}: the gains then begin at 0.",)  # fmt: skip

    def scale(self, highest: int) -> GradeScale:
        """Return the scale: its size is that of labels, gains or cut points, else ``highest + 1``, but at least 2.

        :raises UsageError: if labels and gains differ in number.
        """
        k = len(self.labels) or len(self.gains) or (len(self.cuts) + 1 if self.cuts else max(2, highest + 1))
        names = self.labels or tuple(f"grade {n}" for n in range(k))
        try:
            if highest >= k:
                raise InputError(f"grade {highest} occurs, but there are {k} gains", todo="give a gain for each grade")
            return GradeScale(names, self.gains or tuple(float(n) for n in range(k)))
        except InputError as err:
            raise UsageError(err.what, todo=err.todo) from err


def choose_template(store: Gathering, wanted: str) -> ItemTemplate:
    """Choose the fields to render as text.

    :param wanted: the parameter ``template``; empty: the title, then fields with two or more words on average.
    :raises UsageError: if none of the sampled items has a named field.
    :raises InputError: if no field is text.
    """
    words: dict[str, list[int]] = {}
    for item in store.sample(SAMPLE_ITEMS):
        for name, value in _leaves(item):
            if name != "id":
                words.setdefault(name, []).append(_words(value))
    if named := split_list(wanted):
        for spec in named:
            name = spec.removeprefix("=")
            if inside := [path for path in words if path.startswith(f"{name}.")]:
                raise UsageError(f"template names {name!r}, which is an object in some items",
                                 todo=f"name a field inside it: {', '.join(inside[:5])}")  # fmt: skip
            if name not in words and all(look_up(item, name) is None for item in store.sample(-1)):
                raise UsageError(f"template names {name!r}, which no item has", todo=nearest(name, words))
        return ItemTemplate(named)
    words = {name: counts for name, counts in words.items() if any(counts)}
    titles = [name for name in words if name.casefold() in _TITLES][:1]
    texts = [name for name in words if name not in titles and sum(words[name]) >= 2 * sum(map(bool, words[name]))]
    if not (chosen := [*(f"={name}" for name in titles), *texts][:MOST_FIELDS] or list(words)[:MOST_FIELDS]):
        raise InputError("no item field is text", todo="give items a title or a description")
    return ItemTemplate(tuple(chosen))


def unwrap(row: Row, *, with_id: bool = False) -> Row:
    """Return the ``_source`` of an index export's row, or the row itself.

    :param with_id: add the row's ``_id``.
    """
    source = row.get("_source")
    if not isinstance(source, dict):
        return row
    return {"_id": row["_id"], **source} if with_id and "_id" in row else source


def is_unjudged(value: object) -> bool:
    """Whether a grade is empty: null, nan or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def missing_field(name: str, row: Collection[str], where: str, *, mapped: bool = True) -> InputError:
    """Make the error for a missing field, suggesting a similar one.

    :param mapped: whether the field can be mapped with ``--field``.
    """
    todo = f"map it with --field; {nearest(name, row)}" if mapped else nearest(name, row)
    return InputError(f"there is no field {name!r}", where=where, todo=todo)


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """Read and strip a required text.

    :raises InputError: if it is empty or not text.
    """
    return parse_text(row, name, where, todo="fill it, or drop the line").strip()


def id_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """Read and strip a required id.

    :raises InputError: if it is missing, or neither text nor a whole number.
    """
    return require_id(row, name, where).strip()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # a number of 400 digits
        return None
    return number if math.isfinite(number) else None


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the fields of an item by dotted path, each with its value or the list of its values."""
    for name, inner in value.items():
        objects = [part for part in (inner if isinstance(inner, list) else [inner]) if isinstance(part, dict)]
        if not objects:
            yield f"{path}{name}", inner
        for leaf in dict.fromkeys(leaf for part in objects for leaf, _ in _leaves(part, f"{path}{name}.")):
            yield leaf, look_up(value, leaf.removeprefix(path))


def _words(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_words, value))
    return len(value.split()) if isinstance(value, str) else 0
