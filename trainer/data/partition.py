"""Splitting judgments into training, dev and test parts, by query, slice or time.

Queries with the same or nearly the same words always stay together.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.io.jsonl import check_rereadable
from darl_opensearch.io.progress import count_up
from darl_opensearch.records.lines import LineKind
from darl_opensearch.settings import Settings, nearest, setting
from darl_opensearch.text import same_text
from trainer.data.leakage import QUERY_SHINGLE, THRESHOLD, NearIndex

PARTS = ("train", "dev", "test")
_JUDGMENTS = LineKind(item="ignored")
_LAST_SECOND = 253_402_300_800  # of the year 9999


class SplitRule(Settings):
    """How judgments are split."""

    by: Literal["query", "slice", "time"] = setting(
        "query", "split by random query, by held-out slice, or by time", env="DARL_SPLIT_BY"
    )
    dev: float = setting(
        0.1, "share of the queries for the dev part (with --by slice or time: of those not in the test part); 0: none",
        least=0, below=1, env="DARL_SPLIT_DEV",
    )  # fmt: skip
    test: float = setting(
        0.1, "share of the queries for the test part, with --by query; 0: none", least=0, below=1, env="DARL_SPLIT_TEST"
    )
    seed: int = setting(0, "random seed", env="DARL_SEED")
    held_out: tuple[str, ...] = setting(
        (), "slice to test on, with --by slice", env="DARL_SPLIT_HELD_OUT", metavar="SLICE"
    )
    time_field: str = setting(
        "timestamp", "field with a judgment's time, for --by time: ISO 8601, or seconds since 1970",
        env="DARL_SPLIT_TIME_FIELD",
    )  # fmt: skip
    cut: str = setting(
        "", "test on queries first judged on or after this date (UTC), with --by time", env="DARL_SPLIT_CUT",
        metavar="DATE",
    )  # fmt: skip
    threshold: float = THRESHOLD  # Jaccard similarity from which queries stay together

    def check(self) -> None:
        """Check that the shares leave something to train on, and that the rule's options are set."""
        shares = (self.dev, self.test) if self.by == "query" else (self.dev,)
        if sum(shares) >= 1.0:
            raise UsageError(
                f"shares of {shares} leave nothing to train on", todo="give shares that sum to less than 1"
            )
        if self.by == "slice" and not self.held_out:
            raise UsageError("no slice is held out", todo="name one with --held-out")
        if self.by == "time" and not self.cut:
            raise UsageError("no cut date is given", todo="give one with --cut")
        if self.cut:
            self.first_tested()

    def first_tested(self) -> float:
        """Parse ``cut`` into seconds since 1970.

        :raises InputError: if it is not a date.
        """
        return parse_time(self.cut, "--cut", "").timestamp()


@dataclass
class Group:
    """Queries that stay together."""

    texts: list[str] = field(default_factory=list)
    slices: set[str] = field(default_factory=set)
    first: float = float("inf")
    last: float = float("-inf")


@dataclass(frozen=True)
class Assigned:
    """Assignment of queries to parts.

    :param part_of: part's name by normalised query text.
    :param together: queries in groups of two or more.
    :param mixed: groups with judgments on both sides of the split; the group decides.
    """

    part_of: Mapping[str, str]
    groups: int
    together: int
    mixed: int


def assign(path: Path, rule: SplitRule) -> Assigned:
    """Assign each query to a part. Distinct queries are held in memory, judgments are not.

    A group with a judgment of a held-out slice goes to the test part, so that none of the slice is trained on. A group
    with a judgment before the cut goes to the training part, so that the test part has only new queries.

    :raises InputError: for a line without a field that the rule needs, or an empty part.
    """
    check_rereadable(path)
    groups = _groups(path, rule)
    rng = random.Random(rule.seed)
    mixed = 0
    cut = rule.first_tested() if rule.by == "time" else 0.0
    part: dict[int, str] = {}
    for number, group in enumerate(groups):
        tested = False
        if rule.by == "slice":
            tested = bool(group.slices & set(rule.held_out))
            mixed += tested and bool(group.slices - set(rule.held_out))
        elif rule.by == "time":
            tested = group.first >= cut
            mixed += not tested and group.last >= cut
        part[number] = "test" if tested else "train"
    shares = {"test": rule.test, "dev": rule.dev} if rule.by == "query" else {"dev": rule.dev}
    free = [number for number in part if part[number] == "train"]
    rng.shuffle(free)
    _draw(free, groups, shares, part)
    _check_filled(path, rule, shares, Counter(part.values()))
    part_of = {text: part[number] for number, group in enumerate(groups) for text in group.texts}
    together = sum(len(group.texts) for group in groups if len(group.texts) > 1)
    return Assigned(part_of, len(groups), together, mixed)


def write_parts(path: Path, assigned: Assigned, folder: Path | None) -> dict[str, dict[str, int]]:
    """Write each judgment unchanged to the file of its part.

    :param folder: existing folder for ``train.jsonl``, ``dev.jsonl`` and ``test.jsonl``; None: only count.
    """
    used = [part for part in PARTS if part in set(assigned.part_of.values())]
    counts = {part: {"queries": 0, "judgments": 0} for part in used}
    for text_part in assigned.part_of.values():
        counts[text_part]["queries"] += 1
    files = {part: (folder / f"{part}.jsonl").open("w", encoding="utf-8") for part in used} if folder else {}
    try:
        for line in _JUDGMENTS.read(path):
            part = assigned.part_of[same_text(line.query)]
            counts[part]["judgments"] += 1
            if files:
                files[part].write(json.dumps(line.row, ensure_ascii=False) + "\n")
    finally:
        for file in files.values():
            file.close()
    return counts


def _groups(path: Path, rule: SplitRule) -> list[Group]:
    """Group the queries that stay together, in order of first appearance."""
    groups: dict[str, Group] = {}
    slices: set[str] = set()
    for line in _JUDGMENTS.read(path):
        group = groups.setdefault(text := same_text(line.query), Group([text]))
        group.slices.add(line.slice)
        slices |= group.slices
        if rule.by == "time":
            when = _time(line.row, rule.time_field, line.where)
            group.first, group.last = min(group.first, when), max(group.last, when)
    for name in rule.held_out if rule.by == "slice" else ():
        if name not in slices:
            named = slices - {""}
            todo = nearest(name, named) if named else "no judgment has a slice; split by query or by time"
            raise InputError(f"no judgment has slice {name!r}", where=str(path), todo=todo)
    texts = list(groups)
    merged: dict[int, Group] = {}
    for number, root in enumerate(_roots(texts, rule.threshold)):
        single, group = groups[texts[number]], merged.setdefault(root, Group())
        group.texts += single.texts
        group.slices |= single.slices
        group.first, group.last = min(group.first, single.first), max(group.last, single.last)
    return list(merged.values())


def _roots(texts: list[str], threshold: float) -> Iterator[int]:
    """Yield for each text the number of its group's representative; near-duplicates are grouped transitively."""
    parent = list(range(len(texts)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    index = NearIndex(QUERY_SHINGLE, threshold)
    for number, text in enumerate(count_up(texts, "grouping near duplicates", len(texts))):
        for other, _ in index.similar(text):
            a, b = sorted((root(number), root(other)))
            parent[b] = a
        index.add(number, text)
    return (root(number) for number in range(len(texts)))


def _draw(free: list[int], groups: list[Group], shares: Mapping[str, float], part: dict[int, str]) -> None:
    """Assign groups in order to each part until it has its share of the queries."""
    total = sum(len(groups[number].texts) for number in free)
    waiting = iter(free)
    for name, share in shares.items():
        wanted, filled = max(round(total * share), 1 if share else 0), 0
        while filled < wanted and (number := next(waiting, None)) is not None:
            part[number] = name
            filled += len(groups[number].texts)


def _check_filled(path: Path, rule: SplitRule, shares: Mapping[str, float], sizes: Mapping[str, int]) -> None:
    wanted = {"train", *(name for name, share in shares.items() if share)} | ({"test"} if rule.by != "query" else set())
    for name in PARTS:
        if name in wanted and not sizes.get(name):
            todo = {"time": "choose another --cut"}.get(rule.by, "label more queries, or choose other shares")
            raise InputError(f"the {name} part would be empty", where=str(path), todo=todo)


def _time(row: Mapping[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < _LAST_SECOND:
            what = f"field {name!r} is {short(value)}, beyond the year 9999"
            raise InputError(what, where=where, todo="give seconds since 1970, not milliseconds")
        return float(value)
    if not isinstance(value, str):
        what = f"there is no field {name!r}" if value is None else f"field {name!r} is {short(value)}, not a time"
        raise InputError(what, where=where, todo=f"name the field with --time-field; {nearest(name, row)}")
    return parse_time(value, name, where).timestamp()


def parse_time(text: str, name: str, where: str) -> datetime:
    """Parse a date or a time; without a time zone it is UTC.

    :param where: file and line, or ``""``.
    :raises InputError: if it is neither.
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError as err:
        raise InputError(
            f"{name!r} is {short(text)}, not a date",
            where=where or None,
            todo="write it like 2026-01-31, or with a time",
        ) from err
    return when if when.tzinfo else when.replace(tzinfo=UTC)
