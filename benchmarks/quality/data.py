"""FeedbackQA as arrays: judged pairs, their features, their BM25 scores, and the half-splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from darl_opensearch.bm25 import Bm25Index
from darl_opensearch.errors import InputError
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.text import ItemRenderer, ItemTemplate
from trainer.config import Model
from trainer.models.sources import load_encoder
from trainer.models.split import SplitReranker
from trainer.training_data.pairs import Pairs

GAINS = (0.0, 1.0, 2.0, 3.0)
ID_DOMAINS, OOD_DOMAIN = ("UK", "CDC"), "Australia"
TEMPLATE = ItemTemplate(("=title", "=text"), id_field="doc_id")
FOLDER = "feedbackqa"
DEV_SHARE = 0.2

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """Every judged pair of the benchmark.

    :param pairs: all of them; rows of one query stand together, in an order drawn at random.
    :param head_input: ``[n, f]`` of the untrained split model.
    :param bm25: ``[n, 1]`` BM25 of the pair; 0 where no word is shared.
    :param domain: ``[q]`` domain of each query.
    """

    pairs: Pairs
    head_input: Tensor
    bm25: Tensor
    domain: NDArray[np.str_]

    def queries(self, *domains: str) -> Rows:
        """Queries of some domains.

        :param domains: their names.
        :return: rows of ``domain``, ascending.
        """
        return np.flatnonzero(np.isin(self.domain, domains))

    def rows(self, queries: Rows) -> Tensor:
        """Pairs of some queries.

        :param queries: rows of ``domain``.
        :return: rows of ``pairs``.
        """
        return torch.nonzero(torch.isin(self.pairs.query_index, torch.from_numpy(queries))).squeeze(1)

    def part(self, queries: Rows) -> Pairs:
        """Narrow the pairs down to some queries.

        :param queries: rows of ``domain``.
        :return: their pairs; the query index keeps its values.
        """
        return self.pairs.select(self.rows(queries))


@dataclass(frozen=True)
class HalfSplit:
    """Which queries do what in one repetition. No query is in two parts.

    :param train: fit the head.
    :param dev: stop the fit and calibrate the grades, of every method.
    :param test: the other half of the ID queries.
    """

    train: Rows
    dev: Rows
    test: Rows


def half_split(queries: Rows, *, seed: int, number: int, dev_share: float = DEV_SHARE) -> HalfSplit:
    """Draw a half-split by query.

    :param queries: the ID queries.
    :param seed: of the whole benchmark.
    :param number: of the repetition; each has its own stream, so that more repetitions do not change the first.
    :param dev_share: share of the training half that is dev.
    :return: the parts, each ascending.
    """
    order = np.random.default_rng([seed, number]).permutation(queries)
    half = len(order) // 2
    n_dev = round(half * dev_share)
    return HalfSplit(np.sort(order[n_dev:half]), np.sort(order[:n_dev]), np.sort(order[half:]))


@dataclass(frozen=True)
class Texts:
    """FeedbackQA as text.

    :param queries: query texts.
    :param domain: domain of each query.
    :param judged: for each query its passages' ids with their grades, in an order drawn at random.
    :param passages: rendered passages of the ID domains and the OOD domain, uncut, by id.
    :param passage_domain: domain of each passage.
    """

    queries: list[str]
    domain: list[str]
    judged: list[list[tuple[str, int]]]
    passages: dict[str, str]
    passage_domain: dict[str, str]


def read_texts(folder: Path, *, seed: int) -> Texts:
    """Read judgments and passages.

    A query's passages are shuffled: in the file the better ones tend to stand first, and nDCG keeps the given
    order among ties, so a method that ties (BM25 without a shared word) would profit from it.

    :param folder: what ``DARL_DATA`` names.
    :param seed: of the shuffle.
    :return: the texts.
    :raises InputError: when a file is missing or not what it should be.
    """
    passages, passage_domain = {}, {}
    for where, row in read_jsonl(folder / FOLDER / "passages.jsonl.gz"):
        if row["domain"] in (*ID_DOMAINS, OOD_DOMAIN):
            item_id = TEMPLATE.item_id(row, where=where)
            passages[item_id], passage_domain[item_id] = TEMPLATE.render(row, where=where), str(row["domain"])
    texts: dict[str, tuple[str, str]] = {}
    judged: dict[str, list[tuple[str, int]]] = {}
    for where, row in read_jsonl(folder / FOLDER / "judgments.jsonl.gz"):
        if row["doc_id"] not in passages:
            raise InputError(f"there is no passage {row['doc_id']!r}", where=where, todo="fetch both files again")
        texts[row["query_id"]] = (row["query"], row["domain"])
        judged.setdefault(row["query_id"], []).append((row["doc_id"], int(row["grade"])))
    rng = np.random.default_rng(seed)
    shuffled = [[pairs[i] for i in rng.permutation(len(pairs))] for pairs in judged.values()]
    return Texts([t for t, _ in texts.values()], [d for _, d in texts.values()], shuffled, passages, passage_domain)


def read_judged(folder: Path, settings: Model, *, seed: int) -> Judged:
    """Read the judgments and encode every text once.

    Token rarity comes from the passages of the ID domains alone; BM25 statistics from those and the OOD
    domain's, as an index that holds both would have them, and from the whole passages.

    :param folder: what ``DARL_DATA`` names.
    :param settings: base model and caps.
    :param seed: of the order within a query.
    :return: judged pairs with features.
    """
    source = load_encoder(settings.base)
    model = SplitReranker.from_source(source, GAINS, query_cap=settings.query_cap, item_cap=settings.item_cap).eval()
    return encode(read_texts(folder, seed=seed), ID_DOMAINS, model)


def encode(texts: Texts, inside: Sequence[str], model: SplitReranker) -> Judged:
    """Encode every text once; token rarity comes from the items of the training domains alone.

    :param texts: queries and items.
    :param inside: the training domains.
    :param model: untrained; its token rarity is set.
    :return: judged pairs with features.
    """
    renderer = ItemRenderer(ItemTemplate(("=text",)), model.tokenizer(), model.item_cap)
    cut = {item_id: renderer({"text": text}) for item_id, text in texts.passages.items()}
    model.fit_texts(cut[i] for i, domain in texts.passage_domain.items() if domain in inside)
    pairs = lay_out(texts.queries, texts.judged, cut)
    head_input = model.feature_table(pairs.queries, pairs.items, pairs.index).head_input
    return Judged(pairs, head_input, bm25_scores(texts), np.array(texts.domain))


def lay_out(queries: Sequence[str], judged: Sequence[Sequence[tuple[str, int]]], items: dict[str, str]) -> Pairs:
    """Judged queries as rows over distinct texts.

    :param queries: query texts.
    :param judged: items' ids with their grades, for each query.
    :param items: item texts by id.
    :return: the pairs.
    """
    ids = list(dict.fromkeys(item_id for pairs in judged for item_id, _ in pairs))
    where = {item_id: row for row, item_id in enumerate(ids)}
    index = [(row, where[item_id]) for row, pairs in enumerate(judged) for item_id, _ in pairs]
    grades = [grade for pairs in judged for _, grade in pairs]
    return Pairs(tuple(queries), tuple(items[i] for i in ids), torch.tensor(index), torch.tensor(grades))


def bm25_scores(texts: Texts) -> Tensor:
    """BM25 of every judged pair, by the index that the project's demo searches.

    :param texts: queries and passages.
    :return: ``[n, 1]``; 0 where no word is shared.
    """
    index = Bm25Index(texts.passages.items())
    scores = []
    for query, pairs in zip(texts.queries, texts.judged, strict=True):
        found = {hit.item_id: hit.score for hit in index.search(query, len(texts.passages))}
        scores += [found.get(item_id, 0.0) for item_id, _ in pairs]
    return torch.tensor(scores)[:, None]
