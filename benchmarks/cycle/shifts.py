"""The shifts: which judgments a model learnt from, which it never saw, and both with noise as one table of features."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.cycle import noise
from benchmarks.quality import sets
from benchmarks.quality.compare import BASE
from benchmarks.quality.data import ID_DOMAINS, OOD_DOMAIN, Judged, Texts, lay_out
from darl_opensearch.io.digest import digest_data
from darl_opensearch.io.writing import new_file
from darl_opensearch.text import ItemRenderer, ItemTemplate
from trainer.models.base import LAST
from trainer.training_data.pairs import Pairs

GIBBERISH, PROBE, AGAIN = "gibberish", "probe", "near-duplicate"
NOISE_QUERIES, NOISE_ITEMS = 80, 5
SEED = 0

Strings = NDArray[np.str_]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True)
class Shift:
    """From where to where.

    :param name: for tables.
    :param folders: of judgments.
    :param inside: domains that train; empty: every domain of ``folders[0]``.
    :param outside: domains whose labels are hidden; empty: every other domain.
    :param cutoff: ranks counted by nDCG, inside and outside.
    """

    name: str
    folders: tuple[str, ...]
    inside: tuple[str, ...]
    outside: tuple[str, ...]
    cutoff: tuple[int, int]


CLOTHES_AND_HOME = ("Clothing, Shoes & Jewelry", "Home & Kitchen")
SHIFTS = {
    s.name: s
    for s in (
        Shift("ESCI → FeedbackQA", ("esci", "feedbackqa"), (), (), (10, 3)),
        Shift("ESCI → Chorus", ("esci", "chorus"), (), (), (10, 10)),
        Shift("ESCI by category", ("esci",), CLOTHES_AND_HOME, (), (10, 10)),
        Shift("FeedbackQA by domain", ("feedbackqa",), ID_DOMAINS, (OOD_DOMAIN,), (3, 3)),
        Shift("FeedbackQA → ESCI", ("feedbackqa", "esci"), (), (), (3, 10)),
        Shift("FeedbackQA → Chorus", ("feedbackqa", "chorus"), (), (), (3, 10)),
        Shift("Chorus → FeedbackQA", ("chorus", "feedbackqa"), (), (), (10, 3)),
        Shift("Chorus → ESCI", ("chorus", "esci"), (), (), (10, 10)),
        Shift("ESCI → UK and CDC", ("esci", "feedbackqa"), (), ID_DOMAINS, (10, 3)),
        Shift("Chorus → UK and CDC", ("chorus", "feedbackqa"), (), ID_DOMAINS, (10, 3)),
    )
}


@dataclass(frozen=True)
class World:
    """A shift as features.

    :param judged: every pair, noise included, with its similarity features.
    :param query: ``[q, h]`` unit-length embeddings of the queries.
    :param item: ``[i, h]`` unit-length embeddings of the items, as ``judged.pairs`` counts them.
    :param inside: ``[q]`` bool, queries of the training domains; near-duplicates of them are not.
    :param outside: ``[q]`` bool, queries of the domains whose labels are hidden.
    :param noise: ``[q]`` kind of noise; ``""``: a real query.
    :param origin: ``[q]`` the query that a near-duplicate repeats; -1 for others.
    """

    judged: Judged
    query: Floats32
    item: Floats32
    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    noise: Strings
    origin: NDArray[np.int64]


def texts_of(folder: Path, shift: Shift) -> tuple[Texts, NDArray[np.bool_], Strings, NDArray[np.int64]]:
    """Read a shift's queries and put noise beside them.

    What means nothing has random items, as a first stage would return some, and grade 0 on each; a near-duplicate
    has the items and grades of what it repeats.

    :param folder: what ``DARL_DATA`` names.
    :param shift: the shift.
    :return: texts, and for each query ``inside``, ``noise`` and ``origin`` as in :class:`World`.
    """
    parts = [sets.read_texts(folder, name, seed=SEED) for name in shift.folders]
    texts = sets.join(parts)
    n = len(texts.queries)
    trains = set(shift.inside or parts[0].domain)
    rng = np.random.default_rng([SEED, 4])
    ids = sorted({item for row in texts.judged for item, _ in row})
    nonsense = noise.gibberish(NOISE_QUERIES, seed=SEED) + noise.probes(NOISE_QUERIES, seed=SEED)
    drawn = [[(ids[j], 0) for j in rng.choice(len(ids), NOISE_ITEMS, replace=False)] for _ in nonsense]
    repeated = rng.choice(n, min(n, max(NOISE_QUERIES, n // 5)), replace=False).tolist()
    again = noise.near_duplicates([texts.queries[i] for i in repeated], seed=SEED)
    queries = texts.queries + nonsense + again
    domain = texts.domain + [GIBBERISH] * NOISE_QUERIES + [PROBE] * NOISE_QUERIES
    domain += [AGAIN] * len(again)
    judged = texts.judged + drawn + [texts.judged[i] for i in repeated]
    kinds = np.array([""] * n + domain[n:])
    origin = np.full(len(queries), -1)
    origin[n + len(nonsense) :] = repeated
    used = {item for row in judged for item, _ in row}
    items = {k: v for k, v in texts.passages.items() if k in used}
    item_domain = {k: texts.passage_domain[k] for k in items}
    inside = np.array([kind == "" and name in trains for kind, name in zip(kinds, domain, strict=True)])
    return Texts(queries, domain, judged, items, item_domain), inside, kinds, origin


class Remembering(sets.Bf16Split):
    """The base model, which encodes a text once however many shifts have it: they differ in token rarity alone."""

    def _encode_texts(
        self, texts: Sequence[str], advance: Callable[[int], object], layers: str, half: str
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor | None]:
        if layers != LAST:
            return super()._encode_texts(texts, advance, layers, half)
        known: dict[tuple[str, str], tuple[tuple[Tensor, Tensor], Tensor]] = self.__dict__.setdefault("known", {})
        new = [text for text in dict.fromkeys(texts) if (half, text) not in known]
        if new:
            states, pooled, _ = super()._encode_texts(new, advance, layers, half)
            known.update(zip(((half, text) for text in new), zip(states, pooled, strict=True), strict=True))
        halves = [known[half, text] for text in texts]
        return [states for states, _ in halves], torch.stack([pooled for _, pooled in halves]), None


@cache
def base_model() -> Remembering:
    """Build the base model, once.

    :return: evaluating.
    """
    model = sets.untrained(BASE)
    model.__class__ = Remembering
    return cast("Remembering", model)


def encode(folder: Path, shift: Shift) -> World:
    """Encode every text of a shift once; token rarity comes from the items of the training domains alone.

    :param folder: what ``DARL_DATA`` names.
    :param shift: the shift.
    :return: its features.
    """
    texts, inside, kinds, origin = texts_of(folder, shift)
    model = base_model()
    renderer = ItemRenderer(ItemTemplate(("=text",)), model.tokenizer(), model.item_cap)
    cut = {item_id: renderer({"text": text}) for item_id, text in texts.passages.items()}
    trains = {name for name, there in zip(texts.domain, inside, strict=True) if there}
    model.fit_texts(cut[i] for i, name in texts.passage_domain.items() if name in trains)
    pairs = lay_out(texts.queries, texts.judged, cut)
    table = model.feature_table(pairs.queries, pairs.items, pairs.index)
    judged = Judged(pairs, table.head_input, torch.zeros(len(pairs.grades), 1), np.array(texts.domain))
    outside = hidden(shift, judged.domain, inside, kinds)
    return World(judged, table.tables[0].numpy(), table.tables[1].numpy(), inside, outside, kinds, origin)


def hidden(shift: Shift, domain: Strings, inside: NDArray[np.bool_], kinds: Strings) -> NDArray[np.bool_]:
    """Find the queries whose labels are hidden.

    :param shift: the shift.
    :param domain: ``[q]``.
    :param inside: ``[q]``, as in :class:`World`.
    :param kinds: ``[q]`` kind of noise.
    :return: ``[q]`` bool.
    """
    named = np.isin(domain, shift.outside) if shift.outside else np.ones(len(domain), dtype=np.bool_)
    return np.asarray(named & ~inside & (kinds == ""), dtype=np.bool_)


def load(folder: Path, shift: Shift, work: Path) -> World:
    """Encode a shift, or take what was encoded before.

    :param folder: what ``DARL_DATA`` names.
    :param shift: the shift.
    :param work: where features are kept.
    :return: its features.
    """
    # Which labels are hidden changes no feature.
    facts = {"shift": [shift.folders, shift.inside], "base": asdict(BASE), "items": sets.ITEMS,
             "noise": [NOISE_QUERIES, NOISE_ITEMS], "data": sets.digests(folder, shift.folders)}  # fmt: skip
    path = work / f"{digest_data(json.dumps(facts, sort_keys=True, default=str))[:16]}.npz"
    if not path.is_file():
        world = encode(folder, shift)
        pairs = world.judged.pairs
        with new_file(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file, queries=np.array(pairs.queries), items=np.array(pairs.items), index=pairs.index.numpy(),
                grades=pairs.grades.numpy(), similarity=world.judged.head_input.numpy(), domain=world.judged.domain,
                query=world.query, item=world.item, inside=world.inside, noise=world.noise, origin=world.origin,
            )  # fmt: skip
    with np.load(path) as f:
        pairs = Pairs(tuple(f["queries"].tolist()), tuple(f["items"].tolist()), torch.from_numpy(f["index"]),
                      torch.from_numpy(f["grades"]))  # fmt: skip
        judged = Judged(pairs, torch.from_numpy(f["similarity"]), torch.zeros(len(pairs.grades), 1), f["domain"])
        outside = hidden(shift, f["domain"], f["inside"], f["noise"])
        return World(judged, f["query"], f["item"], f["inside"], outside, f["noise"], f["origin"])
