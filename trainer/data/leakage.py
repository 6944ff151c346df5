"""Leaks from training data into test data: identical and nearly identical queries and items.

MinHash (Broder 1997) with locality-sensitive hashing finds candidates. Each is confirmed by its exact Jaccard
similarity over word shingles, so there are no false positives. A near-duplicate close to the threshold may be missed;
texts with the same words are always found.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError, load, short
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.io.progress import count_up
from darl_opensearch.records.items import Item, item_twice
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.records.lines import LineKind
from darl_opensearch.settings import nearest
from darl_opensearch.text import ItemTemplate, same_text

KINDS = {
    "query": "the same query text",
    "near-query": "a query with nearly the same words",
    "item": "the same item",
    "near-item": "another item with nearly the same text",
}
THRESHOLD = 0.8
QUERY_SHINGLE, ITEM_SHINGLE = 1, 3  # words: queries are short bags of words, in items the order matters
PERMUTATIONS = 64


@dataclass(frozen=True)
class Located:
    """A text and its source.

    :param key: a query's normalised text, or an item's id.
    :param where: file and line, for messages.
    """

    key: str
    text: str
    where: str


@dataclass(frozen=True)
class Part:
    """One part of a split: its distinct queries and items.

    :param items: judged items; empty: items are not compared.
    """

    name: str
    queries: tuple[Located, ...]
    items: tuple[Located, ...] = ()

    @classmethod
    def of_file(cls, path: Path, items: Mapping[str, Located] | None = None) -> Part:
        """Read a file of judgments.

        :param items: texts of all items; None: items are not compared.
        :raises InputError: for an invalid line, or an empty file, which would pass as clean.
        """
        return read_parts(path, None, items)[str(path)]

    @classmethod
    def of_judged(cls, name: str, judged: Iterable[JudgedQuery], items: Mapping[str, Item] | None = None) -> Part:
        """Make a part of judgments in memory.

        :param items: all items; None: items are not compared.
        """
        queries: dict[str, Located] = {}
        texts: dict[str, Located] = {}
        for query in judged:
            key = same_text(query.query)
            queries.setdefault(key, Located(key, query.query, f"{name}, query {query.query_id!r}"))
            for item_id in query.item_ids if items is not None else ():
                texts.setdefault(item_id, Located(item_id, items[item_id].text, f"{name}, item {item_id!r}"))  # type: ignore[index]
        return cls(name, tuple(queries.values()), tuple(texts.values()))


@dataclass(frozen=True)
class Leak:
    """Two texts of different parts that are the same or nearly so.

    :param kind: one of :data:`KINDS`.
    :param similarity: their Jaccard similarity; 1 for the same text.
    """

    kind: str
    train: Located
    other: Located
    similarity: float

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        train, other = ({"where": side.where, "text": side.text} for side in (self.train, self.other))
        return {"kind": self.kind, "similarity": round(self.similarity, 4), "train": train, "other": other}


@dataclass(frozen=True)
class LeakReport:
    """Leaks between two parts.

    :param counts: by kind, of the kinds that were checked.
    :param examples: the first leak of each kind.
    """

    train: str
    other: str
    counts: Mapping[str, int]
    examples: Mapping[str, Leak] = field(default_factory=dict)

    def find_refused(self, allow: Collection[str]) -> list[Leak]:
        """Return the first leak of each kind that is not allowed, in the order of :data:`KINDS`."""
        return [self.examples[kind] for kind in KINDS if kind in self.examples and kind not in allow]

    def to_json(self) -> dict[str, Any]:
        """Render for ``--json``."""
        examples = [leak.to_json() for leak in self.examples.values()]
        return {"train": self.train, "other": self.other, "counts": dict(self.counts), "examples": examples}


def read_parts(
    path: Path, part_of: Mapping[str, str] | None, items: Mapping[str, Located] | None = None
) -> dict[str, Part]:
    """Read the parts of a file of judgments.

    :param part_of: part's name by normalised query text; None: one part, named after the file.
    :param items: texts of all items; None: items are not compared.
    :raises InputError: for a line without a query, an unknown item, or an empty file.
    """
    queries: dict[str, dict[str, Located]] = {}
    judged: dict[str, dict[str, Located]] = {}
    kind = LineKind(item="ignored" if items is None else "required", items=items, todo="add it to the --items file")
    for line in kind.read(path):
        key = same_text(line.query)
        name = str(path) if part_of is None else part_of[key]
        queries.setdefault(name, {}).setdefault(key, Located(key, line.query, line.where))
        if items is not None:
            judged.setdefault(name, {})[line.item_id] = items[line.item_id]
    return {
        name: Part(name, tuple(texts.values()), tuple(judged.get(name, {}).values())) for name, texts in queries.items()
    }


def find_leaks(train: Part, other: Part, *, threshold: float = THRESHOLD) -> LeakReport:
    """Find the leaks between two parts.

    Holds both parts' texts and an index over those of ``train`` in memory; does not compare all pairs.

    :param threshold: Jaccard similarity over word shingles from which texts are near-duplicates, in (0, 1].
    :raises UsageError: for a threshold out of range.
    """
    counts = dict.fromkeys(KINDS if train.items and other.items else ("query", "near-query"), 0)
    examples: dict[str, Leak] = {}
    for same, near, size, train_texts, other_texts in (
        ("query", "near-query", QUERY_SHINGLE, train.queries, other.queries),
        ("item", "near-item", ITEM_SHINGLE, train.items, other.items),
    ):
        if same not in counts:
            continue
        train_by_key = {text.key: text for text in train_texts}
        unmatched = []
        for text in other_texts:
            if text.key in train_by_key:
                counts[same] += 1
                examples.setdefault(same, Leak(same, train_by_key[text.key], text, 1.0))
            else:
                unmatched.append(text)
        for leak in find_near_duplicates(train_texts, unmatched, kind=near, size=size, threshold=threshold):
            counts[near] += 1
            examples.setdefault(near, leak)
    return LeakReport(train.name, other.name, counts, examples)


def check_leakage(
    train: Part, other: Part, *, threshold: float = THRESHOLD, allow: Collection[str] = ("item",)
) -> LeakReport:
    """Refuse leaks between two parts.

    Shared items are allowed by default: usually one catalogue is ranked, and queries are held out. To test on new
    items, such as a new category, leave ``item`` out of ``allow``.

    :param allow: kinds of :data:`KINDS` to accept.
    :raises InputError: naming both places of the first leak that is not allowed.
    :raises UsageError: for an unknown kind, or a threshold out of range.
    """
    check_kinds(allow)
    report = find_leaks(train, other, threshold=threshold)
    for leak in report.find_refused(allow):
        raise InputError(describe_leak(leak, report.counts[leak.kind]), where=leak.other.where, todo=remedy(leak.kind))
    return report


def check_kinds(allow: Collection[str]) -> None:
    """Refuse unknown kinds of leaks with UsageError."""
    for kind in allow:
        if kind not in KINDS:
            raise UsageError(f"unknown kind of leak {kind!r}", todo=nearest(kind, KINDS))


def describe_leak(leak: Leak, count: int) -> str:
    """Describe a leak for messages."""
    total = f" ({count} such pairs)" if count > 1 else ""
    near = f", Jaccard {leak.similarity:.2f}" if leak.similarity < 1 else ""
    return (
        f"{short(leak.other.text)} is {KINDS[leak.kind]} as {short(leak.train.text)} in the training part "
        f"({leak.train.where}{near}){total}"
    )


def remedy(kind: str) -> str:
    """Return the advice against a kind of leak."""
    keep = "keep both in one part (darl split does so for queries)"
    return f"{keep}, or omit --new-items" if kind == "item" else f"{keep}, or pass --allow {kind}"


def find_near_duplicates(
    train: Sequence[Located], other: Sequence[Located], *, kind: str, size: int, threshold: float = THRESHOLD
) -> Iterator[Leak]:
    """Find near-duplicates of training texts.

    :param other: texts to look up; matches with the same key are ignored.
    :yields: each near-duplicate with its most similar training text.
    :raises UsageError: for a threshold out of range.
    """
    index = NearIndex(size, threshold)
    for number, text in enumerate(count_up(train, "indexing texts", len(train))):
        index.add(number, text.text)
    for text in count_up(other, "looking for near duplicates", len(other)):
        matches = [(s, number) for number, s in index.similar(text.text) if train[number].key != text.key]
        if matches:
            similarity, number = max(matches, key=lambda pair: (pair[0], -pair[1]))
            yield Leak(kind, train[number], text, similarity)


class NearIndex:
    """Index of texts for finding near-duplicates.

    Holds the texts and the bands of their MinHashes in memory: some kilobytes per text.

    :param size: words per shingle.
    :param threshold: Jaccard similarity from which texts are near-duplicates, in (0, 1].
    """

    def __init__(self, size: int, threshold: float) -> None:
        if not 0.0 < threshold <= 1.0:
            raise UsageError(f"threshold is {threshold}", todo="give a similarity above 0 and at most 1, such as 0.8")
        self.size, self.threshold = size, threshold
        sketch: Any = load("datasketch", "train")
        self._blank = sketch.MinHash(PERMUTATIONS, seed=1)
        # Bands are hashed to eight bytes: a collision costs one more comparison, never a wrong answer.
        self._lsh = sketch.MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold), hashfunc=_eight_bytes)
        self._texts: dict[int, str] = {}

    def add(self, number: int, text: str) -> None:
        """Add a text.

        :param number: identifies the text; each only once.
        """
        self._texts[number] = text
        self._lsh.insert(number, self._minhash(shingles(text, self.size)), check_duplication=False)

    def similar(self, text: str) -> list[tuple[int, float]]:
        """Find near-duplicates of a text.

        :return: numbers and Jaccard similarities at or above the threshold.
        """
        words = shingles(text, self.size)
        near = self._lsh.query(self._minhash(words))
        scored = ((number, jaccard(words, shingles(self._texts[number], self.size))) for number in near)
        return sorted((number, similarity) for number, similarity in scored if similarity >= self.threshold)

    def _minhash(self, words: frozenset[str]) -> Any:
        # A copy, since sampling the permutations anew for each text would cost more than hashing it.
        minhash = self._blank.copy()
        minhash.update_batch([word.encode() for word in words])
        return minhash


def bands(threshold: float, *, missed: float = 0.01) -> tuple[int, int]:
    """Divide the permutations into bands: two texts are compared if all hashes of any band agree.

    A missed duplicate would pass as clean, whereas a false candidate is rejected by its exact similarity. So bands are
    as long as the bound on misses allows.

    :param missed: maximum probability of missing a pair at the threshold.
    :return: number of bands, at least 2, and hashes per band: ``(1 - threshold^hashes)^bands <= missed`` if possible.
    """
    fits = [r for r in range(1, PERMUTATIONS // 2 + 1) if (1 - threshold**r) ** (PERMUTATIONS // r) <= missed]
    rows = max(fits, default=1)
    return PERMUTATIONS // rows, rows


def _eight_bytes(band: bytes) -> bytes:
    return hashlib.blake2b(band, digest_size=8).digest()


def shingles(text: str, size: int) -> frozenset[str]:
    """Return all runs of ``size`` words, or a shorter text as a whole."""
    words = same_text(text).split()
    if len(words) <= size:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[i : i + size]) for i in range(len(words) - size + 1))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity of two sets, not both empty."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


def read_item_texts(paths: Sequence[Path], fields: Sequence[str] = ()) -> dict[str, Located]:
    """Read item texts for comparison. Several files may repeat an item, but only with the same text.

    :param fields: fields to compare, as in a template; empty: all but the id.
    :raises InputError: for an item without an id or any of the fields, or one with two texts.
    """
    items: dict[str, Located] = {}
    for where, row in itertools.chain.from_iterable(map(read_jsonl, paths)):
        template = ItemTemplate(tuple(fields) or tuple(f"={name}" for name in row if name != "id") or ("=id",))
        item_id = template.item_id(row, where=where)
        item = Located(item_id, template.render(row, where=where), where)
        before = items.setdefault(item_id, item)
        if before.text != item.text:
            raise item_twice(item_id, first=before.where, where=where)
    return items
