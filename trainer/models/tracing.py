"""Operations that the exporter's tracer can follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainer.models.sources import quiet


@contextmanager
def eager_attention(encoder: Any) -> Iterator[None]:
    """Attention as plain products and a softmax for a while; fused kernels have no ONNX operator of their own.

    Some architectures cannot be switched: they stay as they are, and the exporter spells the fused kernel out.
    """
    used = encoder.config._attn_implementation
    with quiet():  # about those that cannot
        encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        with quiet():
            encoder.set_attn_implementation(used)
