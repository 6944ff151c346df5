"""Where a model runs: it lives on the CPU and is moved to a GPU for as long as it is needed there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from darl_opensearch.errors import UsageError


def choose(name: str) -> torch.device:
    """Find the device that a configuration names.

    :param name: ``auto`` (the first GPU, else the CPU), or torch's own name: ``cpu``, ``cuda``, ``cuda:1``.
    :raises UsageError: when there is none of that name.
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


@contextmanager
def on(model: Any, device: torch.device) -> Iterator[None]:
    """Have a model on a device for a while.

    :param model: a module; back on the CPU afterwards, whatever happens.
    """
    if device.type == "cpu":
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")
