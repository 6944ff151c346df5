"""The interface of importers, their registry, and the parameters and fields that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

from darl_opensearch.records.values import parse_text, require_id
from darl_opensearch.scores import GradeScale
from darl_opensearch.settings import Field
from darl_opensearch.text import ItemTemplate
from trainer.data.importers.files import FileSpec, ImportFiles
from trainer.data.importers.gathering import Gathering
from trainer.registry import Registry


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
