"""Hard negatives: unjudged items that a first stage retrieves for a judged query, as judgments of grade 0.

A first stage also retrieves relevant items that are unjudged. To avoid them, the first ``skip_top`` hits are skipped
and, with a model's scores, so are hits that score too close to the judged positives (positive-aware mining:
TopK-PercPos of NV-Retriever, Moreira et al. 2024, arXiv:2407.15831).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darl_opensearch.errors import InputError, UsageError, short
from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery
from darl_opensearch.records.values import like_known
from darl_opensearch.settings import Settings, setting
from darl_opensearch.text import ItemRenderer, ItemTemplate, same_text

Retrieve = Callable[[str, int], Sequence[str]]  # (query, number of hits) -> item ids, best first
Score = Callable[[str, Sequence[str]], Sequence[float]]  # (query, item texts) -> scores


class MiningRule(Settings):
    """How negatives are chosen."""

    depth: int = setting(100, "hits retrieved per query", least=1, most=10_000, env="DARL_MINE_DEPTH")
    skip_top: int = setting(
        0, "top hits to skip: the likeliest to be relevant though unjudged", least=0, env="DARL_MINE_SKIP_TOP"
    )
    per_query: int = setting(
        4, "maximum negatives per query, sampled from the remaining hits", least=1, env="DARL_MINE_PER_QUERY"
    )
    max_share: float = setting(
        0.95,
        "with --bundle: maximum score of a negative, as a share of the lowest score of the query's best-graded items",
        above=0, most=1, env="DARL_MINE_MAX_SHARE",
    )  # fmt: skip
    seed: int = setting(0, "random seed", env="DARL_SEED")

    def check(self) -> None:
        """Refuse to skip all hits."""
        if self.skip_top >= self.depth:
            raise UsageError(f"skip_top is {self.skip_top}", todo=f"set it below the depth of {self.depth}")


@dataclass(frozen=True)
class Mined:
    """An unjudged item, assumed to be irrelevant.

    :param rank: in the first stage, from 1.
    """

    query: JudgedQuery
    item_id: str
    rank: int
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Render as a line of judgments."""
        row: dict[str, Any] = {
            "query_id": self.query.query_id, "query": self.query.query, "item_id": self.item_id, "grade": 0,
        }  # fmt: skip
        row |= {"slice": self.query.slice} if self.query.slice else {}
        row |= {"mined": True, "rank": self.rank}
        return row if self.score is None else row | {"score": round(self.score, 6)}


@dataclass
class MiningCounts:
    """Counts of queries and hits.

    :param hits: distinct hits of the first stage.
    :param judged: hits that were judged already.
    :param unknown: hits missing from the items.
    :param too_close: hits that scored too close to the positives.
    :param without_positive: queries skipped for lack of a relevant item to compare with.
    """

    queries: int = 0
    mined: int = 0
    hits: int = 0
    judged: int = 0
    unknown: int = 0
    too_close: int = 0
    without_positive: int = 0
    without_negative: int = 0


@dataclass
class Miner:
    """Mines negatives for judged queries.

    :param score: a model's scores; None: candidates are not compared with the positives.
    """

    items: Mapping[str, Item]
    retrieve: Retrieve
    rule: MiningRule
    score: Score | None = None
    counts: MiningCounts = field(default_factory=MiningCounts)
    _unknown: str = field(default="", init=False)

    def mine(self, queries: Sequence[JudgedQuery]) -> Iterator[Mined]:
        """Mine negatives, query by query.

        :param queries: judged queries; queries with the same text share their judgments.
        :yields: negatives, each query's in first-stage order.
        :raises InputError: if no hit is one of the items.
        """
        judged: dict[str, set[str]] = {}
        for query in queries:
            judged.setdefault(same_text(query.query), set()).update(query.item_ids)
        for query in queries:
            negatives = self._of(query, judged[same_text(query.query)])
            self.counts.mined += len(negatives)
            self.counts.without_negative += not negatives
            yield from negatives
        if self.counts.hits and self.counts.unknown == self.counts.hits:
            raise InputError(
                f"none of the {self.counts.hits:,} hits is one of the items, such as {short(self._unknown)}",
                todo=like_known(self._unknown, self.items) or "search an index that was filled with these items",
            )

    def _of(self, query: JudgedQuery, judged: set[str]) -> list[Mined]:
        positives = _positives(query)
        if self.score is not None and not positives:
            self.counts.without_positive += 1
            return []
        self.counts.queries += 1
        candidates = []
        seen_ids: set[str] = set()  # an index may contain an item twice, but a pair has one grade
        for rank, item_id in enumerate(self.retrieve(query.query, self.rule.depth)[: self.rule.depth], 1):
            if item_id in seen_ids:
                continue
            seen_ids.add(item_id)
            self.counts.hits += 1
            if item_id in judged:
                self.counts.judged += 1
            elif item_id not in self.items:
                self.counts.unknown += 1
                self._unknown = item_id
            elif rank > self.rule.skip_top:
                candidates.append(Mined(query, item_id, rank))
        if self.score is not None and candidates:
            candidates = self._far_enough(query, positives, candidates, self.score)
        if len(candidates) > self.rule.per_query:
            # Seeded by the query as well, so that a query's sample does not depend on the other queries.
            rng = random.Random(f"{self.rule.seed} {query.query_id}")
            candidates = rng.sample(candidates, self.rule.per_query)
        return sorted(candidates, key=lambda mined: mined.rank)

    def _far_enough(
        self, query: JudgedQuery, positives: Sequence[str], candidates: Sequence[Mined], score: Score
    ) -> list[Mined]:
        ids = [*positives, *(candidate.item_id for candidate in candidates)]
        scores = [float(value) for value in score(query.query, [self.items[item_id].text for item_id in ids])]
        limit = self.rule.max_share * min(scores[: len(positives)])
        far_enough = [
            Mined(query, candidate.item_id, candidate.rank, value)
            for candidate, value in zip(candidates, scores[len(positives) :], strict=True)
            if value <= limit
        ]
        self.counts.too_close += len(candidates) - len(far_enough)
        return far_enough


class WholeItems(ItemRenderer):
    """Renders items uncut, as a first stage searches them: without a model there is no cap."""

    def __init__(self, template: ItemTemplate) -> None:
        self.template = template

    def __call__(self, item: Mapping[str, Any], *, where: str | None = None) -> str:
        """Render an item."""
        return self.template.render(item, where=where)


def local_first_stage(items: Mapping[str, Item]) -> Retrieve:
    """Make a first stage of BM25 over the items in memory, for use without a cluster."""
    from darl_opensearch.bm25 import Bm25Index

    index = Bm25Index((item.item_id, item.text) for item in items.values())
    return lambda query, size: [hit.item_id for hit in index.search(query, size)]


def check_outputs(out: Path, *inputs: Path) -> None:
    """Refuse an output file that is also an input, here or of the training."""
    if any(out.resolve() == path.resolve() for path in inputs):
        raise UsageError("the output file is also an input", where=str(out), todo="choose another with --out")


def _positives(query: JudgedQuery) -> list[str]:
    """Return the items of the query's highest grade, if that is above 0."""
    best = max(query.grades)
    return [item_id for item_id, grade in zip(query.item_ids, query.grades, strict=True) if grade == best and best > 0]
