"""LoRA through peft: small trainable matrices beside frozen ones, merged when the model is saved."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from darl_opensearch.errors import UsageError, load
from trainer.config import Lora


def inject(encoder: Any, config: Lora) -> Any:
    """Put adapters beside an encoder's matrices; everything else is frozen.

    Hu et al. 2021, arXiv:2106.09685. A new adapter adds exactly nothing until it is trained.

    :param encoder: the transformers module, changed in place.
    :param config: table ``[lora]``.
    :raises UsageError: when a target is not there.
    :raises MissingExtra: when peft is not installed.
    """
    peft = load("peft", "train")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, bias="none",
        target_modules=targets(encoder, config.targets),
    )  # fmt: skip
    adapted = peft.inject_adapter_in_model(settings, encoder)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft follows the type that 4-bit weights are computed in
            parameter.data = parameter.data.float()
    for module in adapted.modules():
        if hasattr(module, "quant_state"):  # bitsandbytes' Linear4bit
            module.forward = types.MethodType(_linear4bit, module)
    return adapted


def _linear4bit(module: Any, x: Tensor) -> Tensor:
    """Train by bitsandbytes' kernels; evaluate by the very weights that merging and export see.

    Its kernels for evaluation round more, and on some CPUs they repack the weights for good.
    """
    if module.training:
        trained: Tensor = type(module).forward(module, x)
        return trained
    weight = plain(module.weight).to(x.dtype)
    return F.linear(x, weight, None if module.bias is None else module.bias.to(x.dtype))


def targets(encoder: Any, wanted: Sequence[str]) -> list[str]:
    """Find the matrices that get adapters.

    :param wanted: last names of modules; none: every matrix there is, which Dettmers et al. 2023 (arXiv:2305.14314)
        found to be what matches full fine-tuning.
    :raises UsageError: when one is not there.
    """
    linear = {name.rpartition(".")[2] for name, module in encoder.named_modules() if _is_matrix(module)}
    for name in wanted:
        if name not in linear:
            close = difflib.get_close_matches(name, sorted(linear), n=3) or sorted(linear)
            raise UsageError(
                f"[lora] targets names {name!r}, which this {encoder.config.model_type} model does not have",
                todo=f"the nearest are {', '.join(close)}",
            )
    return list(wanted) or sorted(linear)


def _is_matrix(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def layers(encoder: Any) -> Iterator[tuple[str, Any]]:
    """Modules that have adapters."""
    from peft.tuners.lora import LoraLayer

    for name, module in encoder.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


@contextmanager
def merged(encoder: Any) -> Iterator[None]:
    """Have the adapters added to the matrices for a while, as plain products."""
    adapted = [layer for _, layer in layers(encoder)]
    for layer in adapted:
        layer.merge()
    try:
        yield
    finally:
        for layer in adapted:
            layer.unmerge()


@torch.no_grad()
def merged_weights(encoder: Any) -> dict[str, Tensor]:
    """Weights of the encoder with its adapters merged; the encoder stays as it is.

    :return: float32 weights under the names that the encoder had before adapters.
    """
    adapted = dict(layers(encoder))
    kept = set(encoder.state_dict()) & {name for name, _ in encoder.named_buffers()}
    weights = {name: tensor for name, tensor in encoder.named_buffers() if name in kept}
    for name, parameter in encoder.named_parameters():
        if ".lora_" in name:
            continue
        weight = plain(parameter)
        owner, _, kind = name.rpartition(".")
        layer = adapted.get(owner.removesuffix(".base_layer"))
        if layer is not None and owner.endswith(".base_layer"):
            if kind == "weight":
                weight = weight + layer.get_delta_weight("default").float()
            name = f"{owner.removesuffix('.base_layer')}.{kind}"
        weights[name] = weight.cpu().contiguous()
    return weights


def plain(parameter: Any) -> Tensor:
    """A weight in float32, whatever it is kept in.

    :param parameter: a parameter, possibly one of bitsandbytes in 4 bits.
    """
    if getattr(parameter, "quant_state", None) is not None:
        functional = load("bitsandbytes.functional", "qlora")
        values: Tensor = functional.dequantize_4bit(parameter.data, parameter.quant_state)
        return values.float()
    copy: Tensor = parameter.detach().float().clone()
    return copy


def nf4() -> Any:
    """How transformers loads frozen weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

    :return: its ``BitsAndBytesConfig``.
    :raises MissingExtra: when bitsandbytes is not installed.
    """
    load("bitsandbytes", "qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip


def frozen_to(encoder: Any, dtype: torch.dtype) -> None:
    """Keep, and compute with, the frozen weights in another type; adapters stay float32.

    :param encoder: the transformers module, changed in place.
    :param dtype: float32 or bfloat16. Weights of 4 bits stay so, and are computed with in this type.
    """
    for module in encoder.modules():
        if getattr(module, "compute_dtype", None) is not None:  # bitsandbytes' Linear4bit
            module.compute_dtype = dtype
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad and parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
