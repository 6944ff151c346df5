"""The data of one run, by role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from darl_opensearch.records.items import Item
from darl_opensearch.records.judgments import JudgedQuery, digest_records
from darl_opensearch.records.traffic import TrafficQuery
from trainer.data.splits import Retrieved
from trainer.training_data.chunked import FirstChunks
from trainer.training_data.pairs import Pairs


@dataclass(frozen=True)
class RunData:
    """The data of one run, by role.

    :param items: the catalogue, in memory or on disk, with the texts that are trained on.
    :param train: training queries, in memory or on disk.
    :param dev: queries for early stopping, rollback and grade calibration.
    :param traffic: held-out queries with retrieved items that are not trained on.
    :param familiar: the same queries with retrieved items that are.
    :param new: newly selected queries, for the augmented stage.
    :param ood_dev: OOD queries for model selection in the augmented stages.
    :param pool: queries with unjudged items, for a teacher to score.
    :param sample: training queries that fit into memory, for uses that need them all at once; None: all.
    :param set_aside: judged items excluded from training, to calibrate on.
    :param stored: counts and digests of items and training queries on disk; None: they are in memory.
    :param blank: judgments passed over, by id of an item without text.
    """

    items: Mapping[str, Item]
    train: Sequence[JudgedQuery]
    dev: list[JudgedQuery]
    traffic: Retrieved
    familiar: Retrieved = field(default_factory=list)
    new: list[JudgedQuery] = field(default_factory=list)
    ood_dev: list[JudgedQuery] = field(default_factory=list)
    pool: list[TrafficQuery] = field(default_factory=list)
    sample: Sequence[JudgedQuery] | None = None
    set_aside: frozenset[str] = frozenset()
    stored: Mapping[str, Any] | None = None
    blank: Mapping[str, int] = field(default_factory=dict)

    @property
    def sampled(self) -> Sequence[JudgedQuery]:
        """Training queries that fit into memory: all, or a random sample."""
        return self.train if self.sample is None else self.sample

    @property
    def in_memory(self) -> Sequence[JudgedQuery]:
        """Training queries: all if they are in memory, else a random sample."""
        return self.train if self.stored is None else self.sampled

    @property
    def learnt_by_role(self) -> tuple[Sequence[JudgedQuery], ...]:
        """Judged queries that the detector is fitted on: all but the OOD dev queries, with the training set sampled."""
        return self.sampled, self.dev, self.new

    @property
    def learnt(self) -> list[JudgedQuery]:
        """The same in one list."""
        return [query for queries in self.learnt_by_role for query in queries]

    @property
    def whole_items(self) -> Mapping[str, Item]:
        """The catalogue with the text of all chunks, as it is served."""
        return self.items.whole if isinstance(self.items, FirstChunks) else self.items

    def chunks(self, text: str) -> list[str]:
        """Cut the text of a whole item into its chunks."""
        return self.items.renderer.chunks(text) if isinstance(self.items, FirstChunks) else [text]

    def judged(self, queries: Sequence[JudgedQuery], *, whole: bool = False) -> Pairs:
        """Arrange judged queries as pairs.

        :param whole: with the text of all chunks.
        """
        return Pairs.of_judged(queries, self.whole_items if whole else self.items)

    def unjudged(self, queries: Retrieved) -> Pairs:
        """Arrange traffic as pairs, without grades, with the text of all chunks: nothing is trained on it."""
        return Pairs.of_retrieved(queries, self.whole_items)

    def summary(self) -> dict[str, Any]:
        """Counts and digests, for the run and the card."""
        if self.stored is None:
            items_sha256, train = digest_records(self.whole_items.values()), _summarise(self.train)
        else:
            items_sha256 = self.stored["items_sha256"]
            train = {"queries": len(self.train), "pairs": self.stored["pairs"], "sha256": self.stored["train_sha256"]}
        optional: dict[str, Sequence[JudgedQuery] | Sequence[TrafficQuery]] = {
            "new": self.new,
            "ood_dev": self.ood_dev,
            "pool": self.pool,
        }
        return {
            "items": {"count": len(self.items), "sha256": items_sha256},
            "train": train,
            "dev": _summarise(self.dev),
            "traffic": {"queries": len(self.traffic), "pairs": count_pairs(self.traffic),
                        "sha256": digest_records(query for query, _ in self.traffic)},
            **{name: _summarise(queries) for name, queries in optional.items() if queries},
            **({"set_aside": sorted(self.set_aside)} if self.set_aside else {}),
            **({"without_text": dict(sorted(self.blank.items()))} if self.blank else {}),
        }  # fmt: skip


def _summarise(queries: Sequence[JudgedQuery] | Sequence[TrafficQuery]) -> dict[str, Any]:
    return {"queries": len(queries), "pairs": sum(len(q.item_ids) for q in queries), "sha256": digest_records(queries)}


def count_pairs(queries: Retrieved) -> int:
    """Count the pairs of queries and retrieved items."""
    return sum(len(item_ids) for _, item_ids in queries)


def can_learn_from(queries: Sequence[JudgedQuery]) -> bool:
    """Tell whether some query has items of two grades."""
    return any(len(set(query.grades)) > 1 for query in queries)


def sample_queries(queries: Sequence[JudgedQuery], pairs: int, seed: int) -> list[JudgedQuery]:
    """Sample queries up to a number of pairs, in their original order.

    :param pairs: maximum pairs; at least one query is drawn.
    """
    chosen: dict[int, JudgedQuery] = {}
    room = pairs
    for place in np.random.default_rng([seed, 1]).permutation(len(queries)).tolist():
        query = queries[place]
        room -= len(query.grades)
        if room < 0 and chosen:
            break
        chosen[place] = query
    return [chosen[place] for place in sorted(chosen)]
