"""A whole training project that trains in seconds: tiny checkpoint, items, judgments, traffic, darl.toml."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.helpers.files import write_rows
from tests.helpers.wordpiece import vocabulary

# Torch is slow at its first call of a kind, and a busy machine at any: no deadline for an example.
laws = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

KINDS = ["pet", "bike", "home", "travel", "phone", "garden", "boat", "piano"]
PERILS = ["theft", "fire", "water", "storm", "accident", "illness", "scratches", "fraud"]
TEXTS = [f"{kind} cover against {peril}" for kind in KINDS for peril in PERILS]
SUBJECTS = ["Fahrrad", "Küche", "vélo", "бассейн", "ποδήλατο", "自転車", "旅行", "भवन"]
EVENTS = ["gestohlen", "überschwemmt", "cassé", "сгорел", "κλάπηκε", "盗難", "遅延", "आग"]
FOREIGN = [f"{subject} {event}" for subject in SUBJECTS for event in EVENTS]


def tiny_tokenizer(kind: str) -> tuple[Tokenizer, str, str]:
    """A WordPiece, SentencePiece (unigram) or byte-level BPE tokenizer, its first and its last token."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    cls, sep = "<s>", "</s>"
    if kind == "bert":
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokenizer.model = models.WordPiece(vocabulary(tokenizer, TEXTS, size=300, special=special), unk_token="[UNK]")
        tokenizer.add_special_tokens(special)
        cls, sep = "[CLS]", "[SEP]"
    elif kind == "xlm-roberta":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        unigrams = trainers.UnigramTrainer(
            vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator([*TEXTS, *FOREIGN], unigrams)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator(TEXTS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (cls, sep)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", special_tokens=ids)
    return tokenizer, cls, sep


def write_base(
    folder: Path, kind: str, *, pooling: str | None = None, positions: int = 300, scale: float = 0.02
) -> Path:
    """A random encoder of one or two layers with its tokenizer; with a larger scale texts differ more."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    tokenizer, cls, sep = tiny_tokenizer("bert" if kind in ("bert", "distilbert") else kind)
    shape: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": positions}
    if kind == "distilbert":
        shape |= {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    elif kind == "gpt2":
        shape |= {"n_embd": 32, "n_layer": 1, "n_head": 2}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if kind in ("bert", "roberta", "xlm-roberta"):
        shape["initializer_range"] = scale
    if "roberta" in kind:
        shape |= {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    torch.manual_seed(11)
    AutoModel.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    pad, unk = ("[PAD]", "[UNK]") if cls == "[CLS]" else ("<pad>", "<unk>")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token=cls, sep_token=sep, pad_token=pad, unk_token=unk
    ).save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{pooling}": True}))
    return folder


def write_project(folder: Path, base: Path, *, contrary: bool = False, **tables: Mapping[str, Any]) -> Path:
    """Twenty items, 24 judged queries, 8 held-out queries; the path of ``darl.toml``.

    Items that share words with the query are the relevant ones, or with ``contrary`` the others are, so that
    the untrained model ranks as badly as can be. ``tables`` overrides keys of the configuration.
    """
    rng = random.Random(5)
    folder.mkdir(parents=True, exist_ok=True)
    items = [{"id": f"i{n}", "title": rng.choice(TEXTS), "kind": KINDS[n % len(KINDS)]} for n in range(20)]
    write_rows(folder / "items.jsonl", items)
    judged, traffic = [], []
    for n in range(24):
        target = items[n % 14]["title"].split()
        query = f"{target[0]} {target[-1]} {rng.choice(['please', 'cheap', 'best', 'now'])} {n}"
        for item in rng.sample(items[:14], 6):
            shared = len({target[0], target[-1]} & set(item["title"].split()))
            judged.append(
                {
                    "query_id": f"q{n}",
                    "query": query,
                    "item_id": item["id"],
                    "grade": 2 - shared if contrary else shared,
                }
            )
    for n in range(8):
        traffic.append({"query": f"{KINDS[n]} traffic", "items": [item["id"] for item in items[12:20]]})
    write_rows(folder / "judgments.jsonl", judged)
    write_rows(folder / "traffic.jsonl", traffic)
    config: dict[str, dict[str, Any]] = {
        "model": {"name": "small", "base": str(base), "query_cap": 16, "item_cap": 32},
        "data": {"items": "items.jsonl", "judgments": "judgments.jsonl", "traffic": "traffic.jsonl"},
        "grades": {"names": ["irrelevant", "related", "fits"]},
        "template": {"fields": ["=title", "kind"], "slice_field": "kind"},
        "stages": {"head_steps": 12, "full_epochs": 3, "full_learning_rate": 1e-3, "patience": 100, "folds": 0},
        "ood": {"alpha": 0.1},
    }
    for table, keys in tables.items():
        config.setdefault(table, {}).update(keys)
    path = folder / "darl.toml"
    path.write_text(toml_of(config), encoding="utf-8")
    return path


def toml_of(config: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of numbers, texts and lists; JSON spells their values as TOML does."""
    lines = []
    for table, keys in config.items():
        lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in keys.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)
