"""Judged parts: their names, and their pairs in a random order, so that ties favour no system."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.records.items import Item, read_items
from darl_opensearch.records.judgments import JudgedQuery, read_judgments
from darl_opensearch.text import ItemRenderer

ID = "id"  # the in-distribution part, which every other part is compared with
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,31})=(.+)", re.DOTALL)


@dataclass(frozen=True)
class JudgedPart:
    """A judged part as ``n`` pairs.

    :param name: ``id``, or the name of an OOD part.
    :param queries: each with its items in a seeded random order.
    :param query_index: ``[n]`` place of the pair's query in ``queries``.
    :param slices: ``[n]`` the query's slice, else the item's, else ``""``.
    """

    name: str
    path: Path
    sha256: str
    queries: tuple[JudgedQuery, ...]
    query_index: NDArray[np.int64]
    item_ids: tuple[str, ...]
    grades: NDArray[np.int64]
    slices: tuple[str, ...]

    @property
    def n_queries(self) -> int:
        """Judged queries."""
        return len(self.queries)

    def __len__(self) -> int:
        """Judged pairs."""
        return len(self.item_ids)


def parse_parts(words: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Read ``NAME=FILE``; a file alone is the part ``id``.

    :return: name and file of each part, ``id`` first.
    :raises UsageError: for a repeated name, or without a part ``id``.
    """
    parts: dict[str, Path] = {}
    for word in words:
        match = _NAMED.fullmatch(word)
        name, path = (match[1], match[2]) if match else (ID, word)
        if name in parts:
            raise UsageError(
                f"two files are given for the part {name!r}", where="--judgments",
                todo="write --judgments NAME=FILE with a different name for each",
            )  # fmt: skip
        parts[name] = Path(path)
    if ID not in parts:
        raise UsageError(
            f"no part is named {ID!r}", where="--judgments",
            todo=f"write {ID}=FILE for in-distribution judgments; every other name is an OOD part",
        )  # fmt: skip
    return tuple(sorted(parts.items(), key=lambda part: part[0] != ID))


def read_catalogue(paths: Sequence[Path], renderer: ItemRenderer, blank: Counter[str] | None = None) -> dict[str, Item]:
    """Read items from one or more files.

    :param blank: gets the ids of items without text, which are left out; None: they are errors.
    :raises InputError: as :func:`read_items`, or for an id in two files.
    """
    items: dict[str, Item] = {}
    for path in paths:
        items_of_file = read_items(path, renderer, blank)
        if repeated := sorted(items.keys() & items_of_file.keys()):
            raise InputError(
                f"item {repeated[0]!r} is also in another items file", where=str(path), todo="keep one of the two"
            )
        items |= items_of_file
    return items


def read_part(
    name: str, path: Path, items: Mapping[str, Item], k: int, *, seed: int, blank: Counter[str] | None = None
) -> JudgedPart:
    """Read a judged part and shuffle the items of each query.

    Files often list the better items first, and a stable sort keeps that order for equal scores; shuffled, a model that
    cannot tell items apart scores at chance level.

    :param path: JSONL: query_id (or query alone), query, item_id, grade, optional slice.
    :param blank: ids of items without text, whose judgments are counted here and passed over.
    :raises InputError: naming the invalid line.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    queries = []
    for query in read_judgments(path, items, k, blank):
        order = rng.permutation(len(query.item_ids))
        queries.append(
            dataclasses.replace(
                query,
                item_ids=tuple(query.item_ids[i] for i in order),
                grades=tuple(query.grades[i] for i in order),
            )
        )
    return JudgedPart(
        name=name,
        path=path,
        sha256=digest_file(path),
        queries=tuple(queries),
        query_index=np.repeat(np.arange(len(queries)), [len(q.item_ids) for q in queries]).astype(np.int64),
        item_ids=tuple(item_id for q in queries for item_id in q.item_ids),
        grades=np.array([grade for q in queries for grade in q.grades], dtype=np.int64),
        slices=tuple(q.slice or items[item_id].slice for q in queries for item_id in q.item_ids),
    )
