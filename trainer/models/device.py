"""Devices and precision: a model is on the CPU, and is moved to a GPU only while it is used there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from darl_opensearch.errors import UsageError


def choose_device(name: str) -> torch.device:
    """Choose the device that a configuration names.

    :param name: ``auto`` (the first GPU, else the CPU), or torch's name: ``cpu``, ``cuda``, ``cuda:1``.
    :raises UsageError: if it does not exist.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise UsageError(f"[stages] device is {name!r}", todo="choose auto, cpu or cuda") from err
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"[stages] device is {name!r} and torch sees no GPU", todo="choose auto or cpu")
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Compute in a precision while the context is open.

    :param precision: ``fp32`` or ``bf16``.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def on(model: Any, device: torch.device) -> Iterator[None]:
    """Move a model to a device while the context is open, and back to the CPU in any case."""
    if device.type == "cpu":
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")
