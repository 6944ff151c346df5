"""Checkpoints in the layouts of sentence-transformers: before version 5.4, and since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, processors
from torch import nn

LAYOUTS = ("old", "new")
_NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
    "Normalize": "sentence_transformers.sentence_transformer.modules.normalize.Normalize",
}
_FLAGS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def dense(inputs: int, outputs: int, activation: nn.Module, *, bias: bool = True) -> nn.Sequential:
    """A random Dense, as the tests apply it."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=0.5)
    return nn.Sequential(linear, activation)


def norm(size: int) -> nn.LayerNorm:
    """A random LayerNorm."""
    layer = nn.LayerNorm(size)
    nn.init.normal_(layer.weight, mean=1.0, std=0.5)
    nn.init.normal_(layer.bias, std=0.5)
    return layer


def describe(
    folder: Path,
    layout: str,
    *,
    pooling: str = "mean",
    include_prompt: bool = True,
    layers: Sequence[nn.Module | str] = (),
    scores: bool = False,
    prompts: Mapping[str, str] | None = None,
    **model_config: Any,
) -> Path:
    """Describe an encoder's folder.

    :param layers: after the pooling: what :func:`dense` and :func:`norm` make, or ``"Normalize"``.
    :param scores: whether the last layer computes scores.
    """
    kinds = ["Transformer", "Pooling", *(_kind(layer) for layer in layers)]
    paths = ["", *(f"{n}_{kind}" for n, kind in enumerate(kinds) if n)]
    types = _NEW if layout == "new" else {kind: f"sentence_transformers.models.{kind}" for kind in _NEW}
    write_json(
        folder / "modules.json",
        [
            {"idx": n, "name": str(n), "path": path, "type": types[kind]}
            for n, (kind, path) in enumerate(zip(kinds, paths, strict=True))
        ],
    )
    if layout == "new":
        settings: dict[str, Any] = {"embedding_dimension": 32, "pooling_mode": pooling}
        encoder = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
    else:
        settings = {"word_embedding_dimension": 32}
        settings |= {f"pooling_mode_{flag}": flag.rstrip("s") == f"{pooling}_token" for flag in _FLAGS}
        encoder = {"max_seq_length": 128, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", encoder)
    write_json(folder / "1_Pooling" / "config.json", settings | {"include_prompt": include_prompt})
    for layer, path in zip(layers, paths[2:], strict=True):
        if not isinstance(layer, str):
            _write_layer(folder / path, layer, layout, "scores" if scores and layer is layers[-1] else None)
    config = {"prompts": dict(prompts or {}), "default_prompt_name": None} | model_config
    write_json(folder / "config_sentence_transformers.json", config)
    return folder


def write_json(path: Path, value: Any) -> None:
    """Write a file, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def frame_pairs(folder: Path) -> Path:
    """Give a BERT's tokenizer the template of pairs that a cross-encoder has."""
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.save(path)
    return folder


def _kind(layer: nn.Module | str) -> str:
    if isinstance(layer, str):
        return layer
    return "LayerNorm" if isinstance(layer, nn.LayerNorm) else "Dense"


def _write_layer(folder: Path, layer: Any, layout: str, output: str | None) -> None:
    if isinstance(layer, nn.LayerNorm):
        settings: dict[str, Any] = {"dimension": layer.normalized_shape[0]}
        weights = {f"norm.{name}": tensor for name, tensor in layer.state_dict().items()}
    else:
        linear, activation = layer
        settings = {
            "in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None,
            "activation_function": f"{type(activation).__module__}.{type(activation).__name__}",
        }  # fmt: skip
        if layout == "new":
            settings |= {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
        if output:
            settings["module_output_name"] = output
        weights = {f"linear.{name}": tensor for name, tensor in linear.state_dict().items()}
    write_json(folder / "config.json", settings)
    if layout == "new":
        save_file(weights, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
