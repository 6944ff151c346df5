"""Adapters: they alone train, their weights alone are kept along the way, and merging changes nothing."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch.testing import assert_close

from darl_opensearch.errors import MissingExtra, UsageError
from tests.helpers.joint_bases import columns, configured, write_decoder
from trainer.models import LlmReranker, lora


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_decoder(tmp_path_factory.mktemp("lora") / "base", "qwen3")


def fresh(base, **tables):
    return LlmReranker.from_base(configured("llm", base, **tables), "nominal")


def trained(base, **tables):
    """Adapters with weights as training leaves them."""
    torch.manual_seed(3)
    model = fresh(base, **tables)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.05)
    return model


@torch.no_grad()
def scores(model):
    return model.head.score(model.head(model.pair_features(*columns()).head_input))


def test_only_adapters_and_head_train(base):
    model = fresh(base, lora={"dropout": 0.0})
    model.train()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = [*model.encoder_parameters(), *model.head.parameters()]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(parameters, lr=0.5)
    for _ in range(2):  # the first step moves B only: A's gradient is B's, which is 0 at the start
        optimiser.zero_grad()
        (model.head(model.pair_features(*columns()).head_input).square().mean()).backward()
        optimiser.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if ".lora_" in name or name.startswith("head.")}
    assert len(moved) == 2 * 7 * 2 + 2  # two layers, seven matrices, A and B; the head's weight and bias


def test_a_new_adapter_adds_nothing(base):
    from transformers import AutoModel

    model = fresh(base)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = AutoModel.from_pretrained(base)(input_ids=ids).last_hidden_state[:, -1]
        assert torch.equal(model.forward_features(ids, torch.ones_like(ids), torch.zeros_like(ids)).head_input, plain)


def test_merged_weights_are_peft_s(base):
    """peft's own merge, by its own model class, over the same adapters."""
    import peft
    from transformers import AutoModel

    model = trained(base)
    settings = peft.LoraConfig(
        r=16, lora_alpha=32, target_modules=lora.find_targets(AutoModel.from_pretrained(base), ())
    )
    other = peft.get_peft_model(AutoModel.from_pretrained(base), settings)
    own = {name: tensor for name, tensor in model.encoder.state_dict().items() if ".lora_" in name}
    report = peft.set_peft_model_state_dict(
        other, {f"base_model.model.{n}".replace(".default", ""): t for n, t in own.items()}
    )
    assert not report.unexpected_keys
    wanted = other.merge_and_unload().state_dict()
    found = lora.merge_weights(model.encoder)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)


def test_merged_saved_and_loaded_the_scores_stay(base, tmp_path):
    model = trained(base)
    before, state = scores(model), copy.deepcopy(model.state_dict())
    model.save(tmp_path)
    assert torch.equal(scores(model), before)  # saving changes nothing
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    again = LlmReranker.load(tmp_path)
    assert (scores(again) - before).abs().max() <= 1e-6
    assert (scores(fresh(base)) - before).abs().max() > 1e-3
    (tmp_path / "twice").mkdir()
    again.save(tmp_path / "twice")
    assert torch.equal(scores(LlmReranker.load(tmp_path / "twice")), scores(again))
    assert len(again.encoder_parameters()) == len(model.encoder_parameters())  # it can be trained further


def test_the_state_of_a_run_is_small_and_goes_back(base):
    model = trained(base)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(".lora_" in name or name.startswith("head.") for name in state)
    other = fresh(base)
    assert not torch.equal(scores(other), scores(model))
    other.load_state_dict(state)
    assert torch.equal(scores(other), scores(model))
    for wrong in ({**state, "encoder.norm.weight": torch.ones(32)}, dict(list(state.items())[1:])):
        with pytest.raises(RuntimeError, match="missing or unknown in the state"):
            other.load_state_dict(wrong)
    whole = torch.nn.ModuleDict({"model": model}).state_dict()
    assert "model.encoder.norm.weight" in whole  # as part of another module it shows everything: a tracer asks


def test_merging_for_an_export_is_taken_back(base):
    model = trained(base)
    before, weight = scores(model), model.encoder.layers[0].mlp.up_proj.base_layer.weight.clone()
    with model.exporting():
        assert_close(scores(model), before, atol=1e-6, rtol=0)
        assert not torch.equal(model.encoder.layers[0].mlp.up_proj.base_layer.weight, weight)
        assert model.encoder.config._attn_implementation == "eager"
    assert_close(model.encoder.layers[0].mlp.up_proj.base_layer.weight, weight, atol=1e-6, rtol=0)
    assert_close(scores(model), before, atol=1e-6, rtol=0)


def test_targets(base):
    from transformers import AutoModel

    model = fresh(base, lora={"targets": ["q_proj", "v_proj"], "rank": 4})
    found = {name.rpartition(".")[2] for name, _ in lora.list_adapters(model.encoder)}
    assert found == {"q_proj", "v_proj"}
    assert all(p.shape[0] == 4 for name, p in model.named_parameters() if ".lora_A." in name)
    assert lora.find_targets(AutoModel.from_pretrained(base), ()) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"\[lora\] targets names 'query_proj', which this qwen3 model") as told:
        fresh(base, lora={"targets": ["q_proj", "query_proj"]})
    assert "q_proj" in told.value.todo


def test_adapters_in_the_top_layers_alone(base):
    model = fresh(base, lora={"layers": 1})
    found = {name for name, _ in lora.list_adapters(model.encoder)}
    assert len(found) == 7 and all(name.startswith("layers.1.") for name in found)
    tracked = []
    for layer in model.encoder.layers:
        layer.register_forward_hook(lambda module, given, out: tracked.append(out.requires_grad))
    model.train()
    model.batch_tokens = 100_000  # one pass
    model.pair_features(*columns())
    assert tracked == [False, True]  # nothing is kept for a backward pass below
    some = fresh(base, lora={"layers": 1, "targets": ["q_proj", "v_proj"]})
    assert {name for name, _ in lora.list_adapters(some.encoder)} == {
        "layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj"
    }  # fmt: skip
    assert len(fresh(base, lora={"layers": 2}).encoder_parameters()) == len(fresh(base).encoder_parameters())


def test_more_top_layers_than_there_are(base):
    with pytest.raises(UsageError, match=r"\[lora\] layers is 3, and this qwen3 model has 2") as told:
        fresh(base, lora={"layers": 3})
    assert "0 for all" in told.value.todo
    with pytest.raises(UsageError, match="layers is -1"):
        fresh(base, lora={"layers": -1})


def test_under_autocast_frozen_weights_are_cast_once_and_come_back(base, tmp_path):
    """Autocast would keep a copy of each for every pass of a step."""
    model = trained(base, lora={"dropout": 0.0})
    model.batch_tokens = 64
    exact, weight = scores(model), model.encoder.layers[0].mlp.up_proj.base_layer.weight.clone()
    saved, passes = set(), []
    model.encoder.register_forward_hook(lambda *args: passes.append(1))

    def pack(tensor):
        if tensor.dtype == torch.bfloat16 and sorted(tensor.shape) == sorted(weight.shape):
            saved.add(tensor.untyped_storage().data_ptr())
        return tensor

    model.train()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        features = model.pair_features(*columns()).head_input
    assert len(passes) > 3 and len(saved) == 2 * 3  # gate, up and down projections of two layers
    features.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.encoder_parameters())
    model.eval()
    lowered = {p.dtype for p in model.encoder.parameters() if not p.requires_grad}
    model.save(tmp_path)
    assert lowered == {torch.bfloat16} and torch.equal(model.encoder.layers[0].mlp.up_proj.base_layer.weight, weight)
    assert (scores(LlmReranker.load(tmp_path)) - exact).abs().max() <= 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        rounded = scores(model)
    assert not torch.equal(rounded.float(), exact) and torch.equal(scores(model), exact)


def test_checkpointing_changes_no_gradient(base):
    def gradient(**tables):
        model = trained(base, lora={"dropout": 0.0}, **tables)
        torch.manual_seed(0)
        model.train()
        model.head(model.pair_features(*columns()).head_input).square().mean().backward()
        return [p.grad for p in model.encoder_parameters()]

    kept, recomputed = gradient(), gradient(llm={"checkpointing": True})
    for one, other in zip(kept, recomputed, strict=True):
        assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_frozen_weights_in_bfloat16_and_back(base):
    """What a GPU holds in training: rounded once, the weights stay what they are in either type."""
    model = trained(base)
    exact = scores(model)
    lora.cast_frozen(model.encoder, torch.bfloat16)
    assert {p.dtype for p in model.encoder.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {p.dtype for p in model.encoder_parameters()} == {torch.float32}
    features = model.pair_features(*columns()).head_input
    assert features.dtype == torch.float32
    features.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.encoder_parameters())
    lora.cast_frozen(model.encoder, torch.float32)
    rounded = scores(model)
    lora.cast_frozen(model.encoder, torch.bfloat16)
    lora.cast_frozen(model.encoder, torch.float32)
    assert torch.equal(scores(model), rounded)
    assert_close(rounded, exact, atol=0.05, rtol=0)


def test_four_bits_need_their_library(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match="bitsandbytes is not installed") as told:
        fresh(base, lora={"quantise": "nf4"})
    assert "darl-opensearch[qlora]" in told.value.todo


def test_four_bits(base, tmp_path):
    """Evaluated, they are the weights that are merged and saved."""
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    model = trained(base, lora={"quantise": "nf4", "dropout": 0.0})
    assert torch.uint8 in {p.dtype for p in model.encoder.parameters()}
    assert {p.dtype for p in model.encoder_parameters()} == {torch.float32}
    before = scores(model)
    model.train()
    model.head(model.pair_features(*columns()).head_input).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.encoder_parameters())
    model.eval()
    model.save(tmp_path)
    assert (scores(model) - before).abs().max() == 0
    again = LlmReranker.load(tmp_path)
    assert (scores(again) - before).abs().max() <= 1e-5
    assert 1e-4 < (scores(trained(base)) - before).abs().max()  # four bits are not the checkpoint's weights
    assert {p.dtype for p in again.encoder.parameters()} == {torch.float32}
