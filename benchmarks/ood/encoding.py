"""Every pair that the detectors are tried on, encoded once by the untrained split model, and kept in a folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ood.perturb import SPOKEN_BY_DIGEST, digest, misspelt
from benchmarks.quality import sets
from benchmarks.quality.data import GAINS, ID_DOMAINS, Texts, lay_out
from darl_opensearch.io.digest import name_text
from darl_opensearch.io.writing import new_file
from darl_opensearch.text import ItemRenderer, ItemTemplate, cut_to_tokens
from trainer.config import Model
from trainer.models.sources import load_encoder
from trainer.models.split import SplitReranker

SETTINGS = Model(name="ood", query_cap=60, item_cap=192)
ITEMS = {"feedbackqa": 3, "esci": 6, "chorus": 6}  # of a query: all that were judged, or drawn ones
TYPOS, SPEECH = "typos", "another language"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    """Judged pairs as features.

    :param query: ``[q, 2, h]`` query halves of the last and of the averaged layers.
    :param item: ``[m, 2, h]`` item halves of the same.
    :param similarity: ``[n, f]`` what a head reads.
    :param index: ``[n, 2]`` query and item of each pair.
    :param grades: ``[n]``.
    :param query_domain: ``[q]``: a FeedbackQA domain, an ESCI category, ``Chorus``, or how a query was changed.
    :param item_domain: ``[m]``: the domain of the item; there are items that no pair has.
    :param origin: ``[q]`` the query that a query was made from, or itself.
    """

    query: Floats
    item: Floats
    similarity: Floats
    index: NDArray[np.int64]
    grades: NDArray[np.int64]
    query_domain: NDArray[np.str_]
    item_domain: NDArray[np.str_]
    origin: NDArray[np.int64]


def read(folder: Path, *, seed: int) -> Texts:
    """All sets side by side, and FeedbackQA's ID queries once more with typos and in another language.

    :param folder: what ``DARL_DATA`` names.
    :param seed: of draws and typos.
    :return: queries and items; every passage of the three FeedbackQA domains, else only judged items.
    """
    found = []
    for name, most in ITEMS.items():
        one = sets.read_texts(folder, name, seed=seed)
        judged = [row[:most] for row in one.judged]
        kept = {item_id for row in judged for item_id, _ in row}
        keep = one.passages if name == "feedbackqa" else {i: text for i, text in one.passages.items() if i in kept}
        found.append(Texts(one.queries, one.domain, judged, keep, {i: one.passage_domain[i] for i in keep}))
    faq = found[0]
    known = [q for q, domain in enumerate(faq.domain) if domain in ID_DOMAINS]
    typos = [misspelt(faq.queries[q], seed=[seed, q]) for q in known]
    found.append(Texts(typos, [TYPOS] * len(typos), [faq.judged[q] for q in known], {}, {}))
    place = {digest(faq.queries[q]): q for q in known}
    spoken = [(text, faq.judged[place[name]]) for name, text in SPOKEN_BY_DIGEST.items()]
    found.append(Texts([t for t, _ in spoken], [SPEECH] * len(spoken), [j for _, j in spoken], {}, {}))
    return sets.join(found)


def encode(folder: Path, cache: Path, *, seed: int) -> Encoded:
    """Encode, or read what was encoded before from the same texts.

    :param folder: what ``DARL_DATA`` names.
    :param cache: folder for encodings, outside the repository.
    :param seed: of draws and typos.
    :return: the pairs.
    """
    texts = read(folder, seed=seed)
    source = load_encoder(SETTINGS.base)
    model = SplitReranker.from_source(source, GAINS, query_cap=SETTINGS.query_cap, item_cap=SETTINGS.item_cap).eval()
    render = ItemRenderer(ItemTemplate(("=text",)), model.tokenizer(), model.item_cap)
    cut = {item_id: render({"text": text}) for item_id, text in texts.passages.items()}
    queries = [cut_to_tokens(query, model.tokenizer(), SETTINGS.query_cap) for query in texts.queries]
    path = cache / f"{name_text('ood', json.dumps([queries, cut, texts.judged, dataclasses.asdict(SETTINGS)]))}.npz"
    if not path.is_file():
        model.fit_texts(cut[i] for i, domain in texts.passage_domain.items() if domain in ID_DOMAINS)
        pairs = lay_out(queries, texts.judged, cut)
        table = model.feature_table(pairs.queries, pairs.items, pairs.index, layers="average")
        judged = dict.fromkeys(item_id for row in texts.judged for item_id, _ in row)
        rest = [item_id for item_id in cut if item_id not in judged]
        more = [model.pool_texts([cut[i] for i in rest], "item", layers=layers) for layers in ("last", "average")]
        items = [torch.cat(parts) for parts in zip((table.tables[1], table.averaged[1]), more, strict=True)]
        domains = [texts.passage_domain[item_id] for item_id in (*judged, *rest)]
        with new_file(path) as work, work.open("wb") as file:
            np.savez(
                file, query=torch.stack([table.tables[0], table.averaged[0]], 1), item=torch.stack(items, 1),
                similarity=table.head_input, index=pairs.index, grades=pairs.grades,
                query_domain=np.array(texts.domain), item_domain=np.array(domains),
            )  # fmt: skip
    with np.load(path) as stored:
        return Encoded(**{name: stored[name] for name in stored.files}, origin=origins(texts))


def origins(texts: Texts) -> NDArray[np.int64]:
    """Find the query that each query was made from.

    :param texts: as :func:`read` lays them out: FeedbackQA first, what was made of it last.
    :return: ``[q]`` rows of the queries.
    """
    known = [q for q, domain in enumerate(texts.domain) if domain in ID_DOMAINS]
    place = {digest(texts.queries[q]): q for q in known}
    found = np.arange(len(texts.queries))
    found[np.array(texts.domain) == TYPOS] = known
    found[np.array(texts.domain) == SPEECH] = [place[name] for name in SPOKEN_BY_DIGEST]
    return found
