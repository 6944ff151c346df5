"""Features of pairs in the precision that was asked for."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tests.helpers.joint_bases import PAIRS, columns, configured, write_classifier, write_decoder
from tests.helpers.training_project import write_base
from trainer.models.base import BACKBONES
from trainer.training_data.features import Features
from trainer.training_data.pairs import Pairs


@pytest.mark.parametrize("backbone", ["split", "cross", "llm"])
def test_in_bf16_they_are_float32_tables_of_passes_under_autocast(tmp_path, backbone, monkeypatch):
    write = {"split": write_base, "cross": write_classifier, "llm": write_decoder}[backbone]
    write(tmp_path / "base", "qwen2" if backbone == "llm" else "bert")
    make = BACKBONES[backbone].make
    model = make.from_base(configured(backbone, tmp_path / "base"), "cumulative")
    queries, items = columns()
    pairs = Pairs(tuple(queries), tuple(items), torch.arange(len(PAIRS))[:, None].expand(-1, 2), torch.zeros(0))
    exact = Features(model, device="cpu").of(pairs).head_input
    lower = []
    model.encoder.register_forward_hook(lambda *args: lower.append(torch.is_autocast_enabled("cpu")))
    rounded = Features(model, device="cpu", precision="bf16").of(pairs).head_input
    assert lower and all(lower)
    assert rounded.dtype == exact.dtype == torch.float32 and not torch.equal(rounded, exact)
    assert_close(rounded, exact, atol=0.25, rtol=0.1)
    assert torch.equal(Features(model, device="cpu").of(pairs).head_input, exact)
