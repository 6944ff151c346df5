"""Items and judged queries, read and split, in memory or on disk."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from darl_opensearch.io.digest import digest_data
from darl_opensearch.records.items import Item, read_items
from darl_opensearch.records.judgments import JudgedQuery, read_judgments
from darl_opensearch.records.traffic import TrafficQuery
from darl_opensearch.text import ItemRenderer, cut_to_tokens, same_text
from trainer import distributed
from trainer.config import Config, Data
from trainer.data import disk
from trainer.data.splits import hold_out
from trainer.training_data.run_data import can_learn_from

STORE_ABOVE = 512 << 20  # bytes of items and judgments above which they are read on demand from disk
GZIP_RATIO = 6  # assumed compression ratio of JSON


@dataclass(frozen=True)
class JudgedData:
    """Items and judged queries, in memory or on disk.

    :param train: training queries, truncated to the cap.
    :param dev: queries held out for dev; empty if there is a dev file.
    :param spare: queries held out for traffic; empty if there is a traffic file.
    :param texts: texts of the training queries, both original and truncated.
    :param used: ids of the items judged in training queries.
    :param learnable: whether some training query has items of two grades.
    :param blank: judgments passed over, by id of an item without text.
    :param stored: counts and digests of the data on disk; None: everything is in memory.
    """

    items: Mapping[str, Item]
    train: Sequence[JudgedQuery]
    dev: list[JudgedQuery]
    spare: list[TrafficQuery]
    texts: Container[str]
    used: Container[str]
    learnable: bool
    blank: Counter[str]
    stored: Mapping[str, Any] | None = None


def read_judged(config: Config, folder: Path, tokenizer: Tokenizer, store: Path | None) -> JudgedData:
    """Read items and judgments, and hold out dev and traffic queries that have no file of their own.

    :param folder: folder that the configuration's paths are relative to.
    :param store: file for data that exceed memory; None: a temporary file.
    :raises InputError: naming file, line and field.
    """
    if keeps_on_disk(config.data, folder):
        return _read_to_disk(config, folder, tokenizer, store)
    return _read_to_memory(config, folder, tokenizer)


def keeps_on_disk(data: Data, folder: Path) -> bool:
    """Tell whether items and judgments are kept on disk, by ``[data] store`` or by their size.

    :param folder: folder that its paths are relative to.
    """
    if data.store != "auto":
        return data.store == "disk"
    size = 0
    for name in (data.items, data.judgments):
        path = folder / name
        if path.is_file():  # else reading it fails
            size += path.stat().st_size * (GZIP_RATIO if path.suffix == ".gz" else 1)
    return size > STORE_ABOVE


def _splits(config: Config) -> list[tuple[str, float, int, str]]:
    """Parts to hold out, in order: name, share, seed and key."""
    data = config.data
    parts = [] if data.traffic else [(disk.SPARE, data.traffic_share, config.seed + 1, "traffic_share")]
    return parts if data.dev else [*parts, (disk.DEV, data.dev_share, config.seed, "dev_share")]


def _read_to_memory(config: Config, folder: Path, tokenizer: Tokenizer) -> JudgedData:
    renderer = ItemRenderer(config.template.item_template, tokenizer, config.model.item_cap)
    blank: Counter[str] = Counter()
    items = read_items(folder / config.data.items, renderer, blank)
    train = read_judgments(folder / config.data.judgments, items, config.grades.scale.k, blank)
    held: dict[str, list[JudgedQuery]] = {disk.SPARE: [], disk.DEV: []}
    for part, share, seed, key in _splits(config):
        train, held[part] = hold_out(train, share, seed, key=key, most=config.data.held_out_queries)
    texts = {same_text(q.query) for q in train}
    cap = config.model.query_cap
    train = [dataclasses.replace(query, query=cut_to_tokens(query.query, tokenizer, cap)) for query in train]
    texts |= {same_text(q.query) for q in train}
    used = {item_id for query in train for item_id in query.item_ids}
    spare = _as_traffic(held[disk.SPARE])
    return JudgedData(items, train, held[disk.DEV], spare, texts, used, can_learn_from(train), blank)


def _read_to_disk(config: Config, folder: Path, tokenizer: Tokenizer, store: Path | None) -> JudgedData:
    data, model = config.data, config.model
    files = [folder / data.items, folder / data.judgments]

    def build(builder: disk.Builder) -> None:
        builder.add_items(files[0], ItemRenderer(config.template.item_template, tokenizer, model.item_cap))
        builder.add_judgments(
            files[1], config.grades.scale.k, lambda text: cut_to_tokens(text, tokenizer, model.query_cap)
        )
        for part, share, seed, key in _splits(config):
            builder.hold_out(part, share, seed, key=key, most=data.held_out_queries)

    settings = {
        "template": dataclasses.asdict(config.template), "caps": [model.query_cap, model.item_cap],
        "k": config.grades.scale.k, "splits": _splits(config), "most": data.held_out_queries,
        "tokenizer": digest_data(tokenizer.to_str()),
    }  # fmt: skip
    key = disk.digest_inputs(files, settings)
    if store is None:  # each process has its own
        stored = disk.open_store(None, key, build)
    else:
        stored = distributed.main_first(lambda: disk.open_store(store, key, build))
    return JudgedData(
        stored.items, stored.train, stored.part(disk.DEV), _as_traffic(stored.part(disk.SPARE)), stored.texts(),
        stored.used(), stored.facts["learnable"], Counter(stored.facts["blank"]), stored.facts,
    )  # fmt: skip


def _as_traffic(queries: Sequence[JudgedQuery]) -> list[TrafficQuery]:
    return [TrafficQuery(q.query_id, q.query, slice=q.slice) for q in queries]
