"""Attention that the ONNX exporter can trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.models.quiet import quiet


@contextmanager
def eager_attention(encoder: Any) -> Iterator[None]:
    """Compute attention by products and a softmax while the context is open: fused kernels have no ONNX operator.

    Architectures that cannot be switched stay as they are; the exporter then decomposes the fused kernel.
    """
    original = encoder.config._attn_implementation
    with quiet():  # about architectures that cannot be switched
        encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        with quiet():
            encoder.set_attn_implementation(original)
