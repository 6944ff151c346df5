"""A run over part of the insurance sample from a random BERT: trained and exported within seconds.

Everything the exporter does is done for real; only the weights are small and know nothing.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darl_opensearch.bundle import Bundle
from tests.helpers.bundles import tiny_tokenizer
from tests.helpers.files import read_rows, write_rows

SAMPLE = Path(__file__).parents[2] / "examples" / "insurance"
FIELDS = ["=name", "cover", "exclusions", "who"]
GAINS = {2: [0, 1], 3: [0, 1, 3], 4: [0, 1, 2, 5]}


def write_checkpoint(folder: Path) -> Path:
    """A random BERT, 2 layers of 32, whose vocabulary is learnt from the sample's texts."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    texts = [" ".join(str(v) for v in item.values()) for item in read_rows(SAMPLE / "items.jsonl")]
    texts += [row["query"] for row in read_rows(SAMPLE / "judgments.jsonl")]
    tokenizer = tiny_tokenizer(texts, 512)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), initializer_range=0.2, **shape)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return folder


def write_project(
    folder: Path,
    base: str,
    *,
    name: str = "small",
    k: int = 3,
    queries: int = 24,
    traffic: int = 120,
    ood: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Path:
    """Part of the sample with a ``darl.toml``; gives that file."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLE / "items.jsonl", folder / "items.jsonl")
    write_rows(folder / "traffic.jsonl", read_rows(SAMPLE / "traffic.jsonl")[:traffic])
    for file, count in (("judgments.jsonl", queries), ("dev_judgments.jsonl", max(8, queries // 3))):
        rows = read_rows(SAMPLE / file)
        ids = sorted({row["query_id"] for row in rows})
        kept = set(random.Random(1).sample(ids, min(count, len(ids))))
        rng = random.Random(2)
        graded = [row | {"grade": _regrade(row["grade"], k, rng)} for row in rows if row["query_id"] in kept]
        write_rows(folder / file, graded)
    tables: dict[str, Mapping[str, Any]] = {
        "model": {"name": name, "base": base, "query_cap": 48, "item_cap": 72} | dict(model or {}),
        "data": {
            "items": "items.jsonl", "judgments": "judgments.jsonl", "dev": "dev_judgments.jsonl",
            "traffic": "traffic.jsonl",
        },
        "grades": {"names": ["none", "some", "most", "all"][:k], "gains": GAINS[k]},
        "template": {"fields": FIELDS, "slice_field": "kind"},
        "stages": {"run": ["head"], "head_steps": 15},
        "ood": {"depth": 12} | dict(ood or {}),
    }  # fmt: skip
    lines = ["seed = 5"]
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    path = folder / "darl.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _regrade(grade: int, k: int, rng: random.Random) -> int:
    if k == 2:
        return int(grade > 0)
    return grade + (k == 4 and grade == 2 and rng.random() < 0.5)


def train_and_export(folder: Path, config: Path, **options: Any) -> tuple[Any, Bundle]:
    """A finished run in ``folder/run``, and its bundle in ``folder/bundle``."""
    from trainer.config import read_config
    from trainer.export import export_run
    from trainer.stages.plan import train

    trained = train(read_config(config), config.parent, folder / "run")
    return trained, export_run(trained, config.parent, folder / "bundle", **options)


def load_trained(folder: Path) -> tuple[Any, Bundle]:
    """What :func:`train_and_export` left in a folder."""
    from trainer.run_folder import load_run

    return load_run(folder / "run"), Bundle.open(folder / "bundle")
