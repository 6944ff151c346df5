"""Batches, cores, and the choice of a provider."""

from __future__ import annotations

import importlib.metadata
import itertools
import logging
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import DarlError, MissingExtra
from darl_opensearch.scoring import Scorer, runtime
from darl_opensearch.scoring.batching import plan_batches
from darl_opensearch.scoring.cores import available_cores


@given(
    lengths=st.lists(st.integers(0, 600), max_size=60),
    budget=st.integers(1, 2000),
    pairs=st.none() | st.integers(1, 8),
    pass_tokens=st.none() | st.integers(0, 100),
    threads=st.integers(1, 4),
)
def test_batches_hold_every_pair_once_within_the_budget(lengths, budget, pairs, pass_tokens, threads):
    batches = plan_batches(lengths, token_budget=budget, pairs=pairs, pass_tokens=pass_tokens, threads=threads)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
        assert pairs is None or len(batch) <= pairs
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_sorted_batches_hardly_pad():
    lengths = [20, 200, 30, 190, 25, 195, 22, 28] * 10
    padded = sum(len(b) * max(lengths[i] for i in b) for b in plan_batches(lengths, token_budget=512))
    assert padded <= 1.1 * sum(lengths)


def cost(lengths, batches, pass_tokens):
    return sum(pass_tokens + len(batch) * max(1, *(lengths[i] for i in batch)) for batch in batches)


@given(lengths=st.lists(st.integers(0, 60), max_size=8), budget=st.integers(1, 300), pass_tokens=st.integers(0, 40))
def test_no_other_cut_of_the_sorted_pairs_costs_less(lengths, budget, pass_tokens):
    """All of them are tried."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    costs = []
    for cuts in itertools.product((False, True), repeat=max(0, len(order) - 1)):
        batches: list[list[int]] = []
        for place, cut in zip(order, (True, *cuts), strict=False):
            batches = [*batches, [place]] if cut else [*batches[:-1], [*batches[-1], place]]
        if all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches):
            costs.append(cost(lengths, batches, pass_tokens))
    best = plan_batches(lengths, token_budget=budget, pass_tokens=pass_tokens)
    assert cost(lengths, [b.tolist() for b in best], pass_tokens) == min(costs, default=0)


def test_a_cheap_pass_is_made_where_padding_costs_more():
    lengths = [90, 75, 65, 60, 40]
    assert [b.tolist() for b in plan_batches(lengths, token_budget=512)] == [[0, 1, 2, 3, 4]]  # 450 tokens with padding
    assert [b.tolist() for b in plan_batches(lengths, token_budget=512, pass_tokens=8)] == [[0], [1], [2, 3], [4]]
    assert [b.tolist() for b in plan_batches([70] * 8, token_budget=512, pass_tokens=8)] == [[*range(7)], [7]]


@pytest.mark.parametrize("pass_tokens", [None, 8])
def test_no_core_is_idle_where_a_request_has_few_documents(pass_tokens):
    for threads, sizes in ((1, [5]), (2, [3, 2]), (4, [2, 2, 1])):
        batches = plan_batches([65] * 5, token_budget=512, pass_tokens=pass_tokens, threads=threads)
        assert [len(batch) for batch in batches] == sizes


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("garbage", None)]
)
def test_cores_follow_the_quota_of_the_container(tmp_path, monkeypatch, quota, most):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path / "cpu.max") == (most or 8)
    assert available_cores(tmp_path / "absent") == 8


def test_without_onnx_runtime_both_extras_are_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(runtime, "installed_runtimes", list)
    with pytest.raises(MissingExtra) as caught:
        Scorer.open(tiny)
    text = str(caught.value)
    assert "darl-opensearch[cpu]" in text and "darl-opensearch[gpu]" in text and "choose one" in text.lower()
    assert "\n" not in text


def test_two_onnx_runtimes_are_pointed_out(tiny, monkeypatch, caplog):
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: object())
    with Scorer.open(tiny):
        pass
    assert "onnxruntime and onnxruntime-gpu are both installed" in caplog.text
    assert "Uninstall both" in caplog.text


def test_cuda_falls_back_aloud(tiny, caplog):
    with caplog.at_level(logging.WARNING), Scorer.open(tiny, provider="cuda") as opened:
        if opened.provider == "cuda":
            pytest.skip("this machine has a GPU")
        assert opened.fallback and "CUDA is unavailable, running on the CPU" in opened.fallback
        assert "CUDA is unavailable, running on the CPU" in caplog.text
        assert opened.token_budget == 512


def test_cuda_can_be_required(tiny):
    with pytest.raises(DarlError, match=r"CUDA is required but unavailable: .*\. See "):
        Scorer.open(tiny, provider="cuda", require_provider=True)


class GpuBuild(types.SimpleNamespace):
    """An ONNX Runtime for GPUs, on a machine whose GPU behaves as told."""

    def __init__(self, behaviour):
        import onnxruntime

        self.behaviour, self.real = behaviour, onnxruntime
        self.SessionOptions = onnxruntime.SessionOptions
        self.__version__ = onnxruntime.__version__

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, *, providers, **kwargs):
        session = self.real.InferenceSession(path, providers=["CPUExecutionProvider"], **kwargs)
        if providers == ["CPUExecutionProvider"]:
            return session
        if self.behaviour == "raises":
            raise RuntimeError("CUDA failure 35: driver too old\nstack…")
        if self.behaviour == "works":
            session.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        return session


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("raises", "CUDA failure 35: driver too old"),
        ("drops", "the CUDA libraries or the GPU cannot be reached"),
    ],
)
def test_a_gpu_build_without_a_gpu_falls_back_with_the_reason(tiny, monkeypatch, behaviour, said):
    monkeypatch.setattr(runtime, "load_runtime", lambda: GpuBuild(behaviour))
    with Scorer.open(tiny, provider="cuda") as opened:
        assert opened.provider == "cpu" and opened.fallback.endswith(said if behaviour == "raises" else "reason)")
        assert len(opened.score("bike", ["bike"])) == 1


def test_on_a_gpu_there_is_one_thread_and_a_large_budget(tiny, monkeypatch):
    monkeypatch.setattr(runtime, "load_runtime", lambda: GpuBuild("works"))
    with Scorer.open(tiny, provider="cuda", threads=4) as opened:
        assert (opened.provider, opened.fallback, opened.threads) == ("cuda", None, 1)
        assert opened.token_budget > 512
