"""The settings: which judgments train, which are in distribution and which are not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality import data
from benchmarks.quality.data import GAINS, Judged, Rows, Texts
from darl_opensearch.errors import InputError
from darl_opensearch.io.digest import digest_file
from darl_opensearch.io.jsonl import read_jsonl
from darl_opensearch.text import ItemTemplate
from trainer.config import Model
from trainer.models.sources import load_encoder
from trainer.models.split import SplitReranker

ESCI_ITEM = ItemTemplate(("=title", "=brand", "=color", "=bullet_points"), id_field="doc_id")
CHORUS_ITEM = ItemTemplate(("=title", "=text"), id_field="doc_id")
CHORUS = "Chorus"
ITEMS = 12  # of a query, drawn at random: ESCI judged about 45, which cost hours and say little more
FILES = {
    "feedbackqa": ("judgments.jsonl.gz", "passages.jsonl.gz"),
    "esci": ("judgments.jsonl.gz", "products.jsonl.gz"),
    "chorus": ("judgments.jsonl.gz",),
}


@dataclass(frozen=True)
class Setting:
    """Where a model learns and where it is tried.

    :param name: for tables.
    :param folders: of judgments.
    :param inside: domains that train; half of their queries are the ID test part.
    :param outside: domains of each further test part, by its name; empty: every other domain of ``folders[0]``.
    :param cutoff: ranks counted by nDCG.
    """

    name: str
    folders: tuple[str, ...]
    inside: tuple[str, ...]
    outside: dict[str, tuple[str, ...]]
    cutoff: int


SETTINGS = {
    s.name: s
    for s in (
        Setting("FeedbackQA", ("feedbackqa",), data.ID_DOMAINS, {"Australia": (data.OOD_DOMAIN,)}, 3),
        Setting(
            "ESCI", ("esci", "chorus"), ("Clothing, Shoes & Jewelry", "Home & Kitchen"),
            {"other categories": (), CHORUS: (CHORUS,)}, 10,
        ),
    )
}  # fmt: skip


def digests(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Digests of the files that a benchmark reads.

    :param folder: what ``DARL_DATA`` names.
    :param names: folders below it.
    :return: SHA-256 by file name.
    """
    files = [f"{name}/{file}" for name in names for file in FILES[name]]
    return {file: digest_file(folder / file) for file in files}


def read_texts(folder: Path, name: str, *, seed: int) -> Texts:
    """Read one set; a query's items are shuffled, and the first few of them taken.

    :param folder: what ``DARL_DATA`` names.
    :param name: ``feedbackqa``, ``esci`` or ``chorus``.
    :param seed: of the shuffle.
    :return: the texts; a domain is a FeedbackQA domain, an ESCI category, or ``Chorus``.
    :raises InputError: when a file is missing or not what it should be.
    """
    if name == "feedbackqa":
        return data.read_texts(folder, seed=seed)
    products = {}
    if name == "esci":
        for where, row in read_jsonl(folder / "esci" / "products.jsonl.gz"):
            products[ESCI_ITEM.item_id(row, where=where)] = ESCI_ITEM.render(row, where=where)
    queries: dict[str, tuple[str, str]] = {}
    judged: dict[str, list[tuple[str, int]]] = {}
    items: dict[str, str] = {}
    item_domain: dict[str, str] = {}
    for where, row in read_jsonl(folder / name / "judgments.jsonl.gz"):
        domain = str(row["category"]) if name == "esci" else CHORUS
        item_id = f"{name}-{row['doc_id']}"
        if name == "esci" and row["doc_id"] not in products:
            raise InputError(f"there is no product {row['doc_id']!r}", where=where, todo="fetch both files again")
        items[item_id] = products[row["doc_id"]] if name == "esci" else CHORUS_ITEM.render(row, where=where)
        item_domain.setdefault(item_id, domain)
        queries.setdefault(row["query_id"], (row["query"], domain))
        judged.setdefault(row["query_id"], []).append((item_id, int(row["grade"])))
    rng = np.random.default_rng(seed)
    shuffled = [[pairs[i] for i in rng.permutation(len(pairs))[:ITEMS]] for pairs in judged.values()]
    return Texts([q for q, _ in queries.values()], [d for _, d in queries.values()], shuffled, items, item_domain)


def join(parts: Sequence[Texts]) -> Texts:
    """Put sets side by side.

    :param parts: sets whose item ids differ.
    :return: one set.
    """
    return Texts(
        [q for part in parts for q in part.queries], [d for part in parts for d in part.domain],
        [row for part in parts for row in part.judged], {k: v for part in parts for k, v in part.passages.items()},
        {k: v for part in parts for k, v in part.passage_domain.items()},
    )  # fmt: skip


class Bf16Split(SplitReranker):
    """The split backbone with its encoder in bf16, on the way up and down; all that follows is fp32.

    Two and a half times as fast on a processor that has bf16; every method of a comparison gets the same.
    """

    def encode(
        self, input_ids: Tensor, mask: Tensor, position_ids: Tensor, attention: Tensor, layers: str
    ) -> tuple[Tensor, Tensor | None]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states, mean = super().encode(input_ids, mask, position_ids, attention, layers)
        return states.float(), None if mean is None else mean.float()


def untrained(settings: Model) -> SplitReranker:
    """Build the base model.

    :param settings: base and caps.
    :return: evaluating.
    """
    source = load_encoder(settings.base)
    model = Bf16Split.from_source(source, GAINS, query_cap=settings.query_cap, item_cap=settings.item_cap)
    return model.eval()


def parts(setting: Setting, judged: Judged) -> dict[str, Rows]:
    """Name the queries of every test part but the ID one.

    :param setting: the setting.
    :param judged: its pairs.
    :return: queries by part.
    """
    named = {d for domains in setting.outside.values() for d in domains}
    rest = tuple(sorted(set(judged.domain.tolist()) - set(setting.inside) - named))
    return {name: judged.queries(*(domains or rest)) for name, domains in setting.outside.items()}


def describe(setting: Setting) -> dict[str, object]:
    """Render a setting.

    :param setting: the setting.
    :return: JSON-ready values.
    """
    return dataclasses.asdict(setting)
