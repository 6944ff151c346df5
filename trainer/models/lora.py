"""LoRA through peft: small trainable matrices beside the frozen ones, merged when the model is saved."""

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
    """Add adapters to an encoder's matrices, in place, and freeze everything else.

    Hu et al. 2021, arXiv:2106.09685. A new adapter adds exactly 0 until it is trained.

    :param config: table ``[lora]``.
    :raises UsageError: if a target does not exist, or there are fewer layers.
    :raises MissingExtra: if peft is not installed.
    """
    peft = load("peft", "train")
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, bias="none",
        target_modules=find_targets(encoder, config.targets, layers=config.layers),
    )  # fmt: skip
    adapted = peft.inject_adapter_in_model(settings, encoder)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # peft would use the compute type of 4-bit weights
            parameter.data = parameter.data.float()
    for module in adapted.modules():
        if hasattr(module, "quant_state"):  # bitsandbytes' Linear4bit
            module.forward = types.MethodType(_linear4bit, module)
    return adapted


def _linear4bit(module: Any, x: Tensor) -> Tensor:
    """Use bitsandbytes' kernels in training, and in evaluation the weights that merging and export use.

    Its evaluation kernels round more, and on some CPUs they repack the weights permanently.
    """
    if module.training:
        trained: Tensor = type(module).forward(module, x)
        return trained
    weight = to_float32(module.weight).to(x.dtype)
    return F.linear(x, weight, None if module.bias is None else module.bias.to(x.dtype))


def find_targets(encoder: Any, names: Sequence[str], *, layers: int = 0) -> list[str]:
    """Find the matrices that get adapters.

    :param names: last parts of module names; empty: all matrices, which according to Dettmers et al. 2023
        (arXiv:2305.14314) it takes to match full fine-tuning.
    :param layers: number of top layers with adapters; 0: all, and what is outside of layers.
    :return: last parts of module names; with ``layers``, whole names.
    :raises UsageError: if one does not exist, or there are fewer layers.
    """
    matrices = [name for name, module in encoder.named_modules() if _is_matrix(module)]
    linear = {name.rpartition(".")[2] for name in matrices}
    for name in names:
        if name not in linear:
            close = difflib.get_close_matches(name, sorted(linear), n=3) or sorted(linear)
            raise UsageError(
                f"[lora] targets names {name!r}, which this {encoder.config.model_type} model does not have",
                todo=f"the nearest are {', '.join(close)}",
            )
    chosen = list(names) or sorted(linear)
    if not layers:
        return chosen
    top = _list_layers(encoder)[-layers:]
    if len(top) < layers:
        raise UsageError(
            f"[lora] layers is {layers}, and this {encoder.config.model_type} model has {len(top)}",
            todo="lower it, or set 0 for all",
        )
    return [name for name in matrices if name.startswith(tuple(top)) and name.rpartition(".")[2] in chosen]


def _list_layers(encoder: Any) -> list[str]:
    """List the prefixes of the layers' module names, the lowest first."""
    depth = encoder.config.num_hidden_layers
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return [f"{name}.{place}." for place in range(depth)]
    raise UsageError(
        f"the layers of this {encoder.config.model_type} model are not in one list", todo="set [lora] layers = 0"
    )


def _is_matrix(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def list_adapters(encoder: Any) -> Iterator[tuple[str, Any]]:
    """List the modules with adapters, by name."""
    from peft.tuners.lora import LoraLayer

    for name, module in encoder.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


@contextmanager
def merge_adapters(encoder: Any) -> Iterator[None]:
    """Merge the adapters into the matrices while the context is open."""
    adapted = [layer for _, layer in list_adapters(encoder)]
    for layer in adapted:
        layer.merge()
    try:
        yield
    finally:
        for layer in adapted:
            layer.unmerge()


@torch.no_grad()
def merge_weights(encoder: Any) -> dict[str, Tensor]:
    """Compute an encoder's weights with its adapters merged, in float32, by the names of the original encoder.

    The encoder itself is not changed.
    """
    adapted, persistent = dict(list_adapters(encoder)), set(encoder.state_dict())
    weights = {name: tensor for name, tensor in encoder.named_buffers() if name in persistent}
    for name, parameter in encoder.named_parameters():
        if ".lora_" in name:
            continue
        weight = to_float32(parameter)
        owner, _, kind = name.rpartition(".")
        layer = adapted.get(owner.removesuffix(".base_layer"))
        if layer is not None and owner.endswith(".base_layer"):
            if kind == "weight":
                weight = weight + layer.get_delta_weight("default").float()
            name = f"{owner.removesuffix('.base_layer')}.{kind}"
        weights[name] = weight.cpu().contiguous()
    return weights


def to_float32(parameter: Any) -> Tensor:
    """Copy a parameter to float32, from bitsandbytes' 4 bits too."""
    if getattr(parameter, "quant_state", None) is not None:
        functional = load("bitsandbytes.functional", "qlora")
        values: Tensor = functional.dequantize_4bit(parameter.data, parameter.quant_state)
        return values.float()
    copy: Tensor = parameter.detach().float().clone()
    return copy


def configure_nf4() -> Any:
    """Make the ``BitsAndBytesConfig`` for frozen weights in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314).

    :raises MissingExtra: if bitsandbytes is not installed.
    """
    load("bitsandbytes", "qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip


def list_frozen(encoder: Any) -> list[Any]:
    """List the weights that are not trained, except quantised ones."""
    return [p for p in encoder.parameters() if not p.requires_grad and p.is_floating_point()]


def cast_frozen(encoder: Any, dtype: torch.dtype) -> None:
    """Cast the frozen weights, in place; adapters stay float32.

    :param dtype: float32 or bfloat16; for 4-bit weights, which stay as they are, the compute type.
    """
    for module in encoder.modules():
        if getattr(module, "compute_dtype", None) is not None:  # bitsandbytes' Linear4bit
            module.compute_dtype = dtype
    for parameter in list_frozen(encoder):
        parameter.data = parameter.data.to(dtype)
