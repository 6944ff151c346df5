"""Tiny random checkpoints for the backbones that read query and item together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.helpers.training_project import tiny_tokenizer
from trainer.config import Config, parse_config

# Its end is a line break: of a tiny vocabulary's words " n" would be two tokens, of which all grades share the first.
PROMPT = "Grades: {grades}\nQuery:\n{query}\nItem:\n{item}\nGrade:\n"
CHAT = "{% for m in messages %}<|user|>{{ m['content'] }}</s>{% endfor %}<|assistant|>{{ '\\n' }}"
PAIRS = [
    ("theft of a bike", "bike cover against theft"),
    ("fire", "a home cover against fire and water | kind: home " * 3),
    ("does my dog need cover when we travel?", "pet cover"),
    ("ünïcode 中文", "x"),
    ("storm", "boat cover against storm"),
] + [(f"peril {n}", "garden cover against water " * (1 + n % 7)) for n in range(20)]


def columns(pairs=PAIRS):
    return [q for q, _ in pairs], [i for _, i in pairs]


def save_tokenizer(folder: Path, kind: str, *, chat: str | None = None) -> int:
    """The tiny tokenizer of a kind; gives its size."""
    from transformers import PreTrainedTokenizerFast

    tokenizer, cls, sep = tiny_tokenizer(kind)
    pad, unk = ("[PAD]", "[UNK]") if cls == "[CLS]" else ("<pad>", "<unk>")
    ends: dict[str, Any] = {"bos_token": cls, "eos_token": sep} if kind == "decoder" else {}
    if kind == "decoder":
        tokenizer.post_processor = None
    names = {"cls_token": cls, "sep_token": sep} if kind != "decoder" else ends
    saved = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, unk_token=unk, **names)
    if chat:
        saved.chat_template = chat
    saved.save_pretrained(folder)
    return tokenizer.get_vocab_size()


def write_classifier(folder: Path, kind: str, *, labels: int = 1) -> Path:
    """A random sequence classifier such as a cross-encoder's checkpoint, with the pair template of its kind."""
    from tokenizers import Tokenizer, processors
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    size = save_tokenizer(folder, "bert" if kind in ("bert", "distilbert", "electra") else kind)
    shape: dict[str, Any] = {"vocab_size": size, "max_position_embeddings": 300, "num_labels": labels}
    if kind == "distilbert":
        shape |= {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 64}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    if kind == "roberta":
        shape |= {"type_vocab_size": 1, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
        pair = "<s>:0 $A:0 </s>:0 </s>:0 $B:0 </s>:0"
    torch.manual_seed(11)
    config = AutoConfig.for_model(kind, initializer_range=0.2, **shape)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [
        (token, tokenizer.token_to_id(token)) for token in {p.partition(":")[0] for p in pair.split()} - {"$A", "$B"}
    ]
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair=pair, special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_decoder(folder: Path, kind: str, *, chat: str | None = None, **shape: Any) -> Path:
    """A random decoder language model of two layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    size = save_tokenizer(folder, "decoder", chat=chat)
    sizes = {
        "vocab_size": size, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 512, "bos_token_id": 0,
        "eos_token_id": 2,
    } | ({"head_dim": 8} if kind == "qwen3" else {}) | shape  # fmt: skip
    torch.manual_seed(7)
    config = AutoConfig.for_model(kind, initializer_range=0.2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def configured(backbone: str, base: Path, **tables: Any) -> Config:
    """A configuration with short caps."""
    data: dict[str, Any] = {
        "model": {"name": "m", "backbone": backbone, "base": str(base), "query_cap": 16, "item_cap": 32},
        "data": {"items": "i", "judgments": "j"},
        "grades": {"names": ["none", "some", "fits"]},
        "template": {"fields": ["=title", "kind"]},
    }
    if backbone == "llm":
        data["llm"] = {"prompt": PROMPT}
    for table, keys in tables.items():
        data.setdefault(table, {}).update(keys)
    return parse_config(data, where="test")
