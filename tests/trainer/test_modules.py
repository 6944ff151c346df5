"""What a base says beside its encoder is applied, or refused by name: pooling and the layers after it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from darl_opensearch.errors import DarlError, InputError, UsageError
from tests.helpers.described import LAYOUTS, dense, describe, frame_pairs, norm, write_json
from tests.helpers.joint_bases import configured
from tests.helpers.training_project import write_base
from trainer.models import CrossEncoder, SplitReranker
from trainer.models.sources import load_encoder

QUERIES = ["stolen bicycle", "does my dog need cover?", "(water) storm 12"]
ITEMS = ["Bike theft | kind: bicycle", "pet cover against illness", "garden", "home cover against fire and water " * 3]
PAIRS = [(q, i) for q in QUERIES for i in ITEMS]


def columns(pairs=PAIRS):
    return [q for q, _ in pairs], [i for _, i in pairs]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A random BERT whose states differ from text to text."""
    return frame_pairs(write_base(tmp_path_factory.mktemp("plain") / "bert", "bert", scale=0.2))


@pytest.fixture
def base(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "base")


@torch.no_grad()
def pooled(folder, texts, pooling, *, pairs=False):
    """One text, or pair of texts, at a time through plain transformers."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        states = encoder(**tokenizer(*(text if pairs else (text,)), return_tensors="pt")).last_hidden_state[0]
        rows.append(states[0] if pooling == "cls" else states.mean(0))
    return torch.stack(rows)


def load(folder, **how):
    source = load_encoder(str(folder), **how)
    return SplitReranker.from_source(source, (0.0, 1.0, 3.0), query_cap=32, item_cap=64).eval()


@torch.no_grad()
def features(model, pairs=PAIRS):
    return model.pair_features(*columns(pairs))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_mode_is_read_in_both_spellings(base, layout, pooling):
    model = load(describe(base, layout, pooling=pooling, layers=["Normalize"]))
    query, item = (F.normalize(pooled(base, side, pooling), dim=1) for side in columns())
    found = features(model)
    assert_close(found.head_input[:, 0], (query * item).sum(1), atol=1e-5, rtol=0)
    assert_close(found.query, query, atol=1e-5, rtol=0)
    other = F.normalize(pooled(base, columns()[0], "mean" if pooling == "cls" else "cls"), dim=1)
    assert (found.query - other).abs().max() > 0.1  # the other mode would be seen


def layers():
    torch.manual_seed(3)
    return [dense(32, 24, nn.GELU(), bias=False), norm(24), "Normalize", dense(24, 8, nn.Tanh()), "Normalize"]


def apply(layers, rows):
    for layer in layers:
        rows = F.normalize(rows, dim=1) if isinstance(layer, str) else layer(rows)
    return rows.detach()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layers_after_the_pooling_are_applied(base, tmp_path, layout):
    steps = layers()
    model = load(describe(base, layout, pooling="cls", layers=steps))
    query, item = (F.normalize(apply(steps, pooled(base, side, "cls")), dim=1) for side in columns())
    found = features(model)
    assert_close(found.head_input[:, 0], (query * item).sum(1), atol=1e-5, rtol=0)
    assert found.query.shape[1] == model.width == 8
    assert model.pool_texts(ITEMS, "item").shape == (len(ITEMS), 8)
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    again = SplitReranker.load(tmp_path / "saved")
    assert_close(features(again).head_input, found.head_input, atol=1e-5, rtol=0)
    model.train().pair_features(*columns()).head_input[:, 0].sum().backward()
    assert all(p.grad is not None for p in model.projection.parameters())
    assert {id(p) for p in model.projection.parameters()} <= {id(p) for p in model.encoder_parameters()}


def score_layers(labels=1):
    torch.manual_seed(4)
    return [dense(32, 32, nn.GELU(), bias=False), norm(32), dense(32, labels, nn.Identity())]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("pooling", "labels"), [("cls", 1), ("mean", 1), ("mean", 2)])
def test_a_cross_encoder_of_modules(base, tmp_path, layout, pooling, labels):
    steps = score_layers(labels)
    describe(base, layout, pooling=pooling, layers=steps, scores=True)
    model = CrossEncoder.from_base(configured("cross", base, model={"item_cap": 64}), "nominal")
    logits = apply(steps, pooled(base, PAIRS, pooling, pairs=True))
    wanted = logits[:, 0] if labels == 1 else logits[:, 1] - logits[:, 0]
    found = features(model)
    assert_close(found.head_input[:, 0], wanted, atol=1e-5, rtol=1e-5)
    assert wanted.std() > 0.1 and found.halves[0].shape[1] == 32
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    assert_close(features(CrossEncoder.load(tmp_path / "saved")).head_input, found.head_input, atol=1e-6, rtol=0)
    model.train().pair_features(*columns()).head_input[:, 0].sum().backward()
    assert all(p.grad is not None for p in model.projection.parameters())


@pytest.mark.parametrize("lower", [True, False])
def test_lower_case(tmp_path, lower):
    base = describe(write_base(tmp_path / "base", "roberta", scale=0.2), "old", pooling="cls")
    write_json(base / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": lower})
    model = load(base)
    shout, quiet = model.tokenizer().encode("FIRE").ids, model.tokenizer().encode("fire").ids
    assert (shout == quiet) is lower


def test_an_encoder_in_a_folder_of_its_own(plain, tmp_path):
    """As the first versions of sentence-transformers saved it."""
    base = tmp_path / "base"
    shutil.copytree(plain, base / "0_Transformer")
    describe(base, "old", pooling="cls")
    listed = json.loads((base / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    write_json(base / "modules.json", listed)
    (base / "sentence_bert_config.json").rename(base / "0_Transformer" / "sentence_bert_config.json")
    query = F.normalize(pooled(plain, columns()[0], "cls"), dim=1)
    assert_close(features(load(base)).query, query, atol=1e-5, rtol=0)


# ---- what is not built


def change(base, file, **keys):
    path = base / file
    write_json(path, (json.loads(path.read_text()) if path.is_file() else {}) | keys)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_another_mode_is_refused_by_name(base, layout, mode):
    describe(base, layout)
    settings = {"pooling_mode": mode} if layout == "new" else {"pooling_mode_mean_tokens": False}
    if layout == "old":
        flag = mode if mode in ("mean_sqrt_len_tokens", "lasttoken") else f"{mode}_tokens"
        settings[f"pooling_mode_{flag}"] = True
    change(base, "1_Pooling/config.json", **settings)
    with pytest.raises(UsageError) as caught:
        load(base)
    assert f"pooling mode '{mode}' is not built (1_Pooling/config.json)" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "keys", "says"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "pooling modes 'cls', 'mean' together are not"),
        ("1_Pooling/config.json", {"pooling_mode": "first"}, "pooling mode 'first' is not built"),
        ("1_Pooling/config.json", {"pooling_mode": None}, "it names no pooling mode"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling_mode is 'cls', and the flags say 'max'"),
        ("1_Pooling/config.json", {"layer": 3}, "layer is not built (1_Pooling/config.json)"),
        ("1_Pooling/config.json", {"embedding_dimension": 64}, "Pooling reads 64 features, and what is before it"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "'torch.nn.Softmax' is not built"),
        ("2_Dense/config.json", {"activation_function": "someone.else.Tanh"}, "'someone.else.Tanh' is not built"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "a Dense from 'token_embeddings' to"),
        ("2_Dense/config.json", {"use_residual": True}, "use_residual is not built (2_Dense/config.json)"),
        ("2_Dense/config.json", {"out_features": 7}, "do not have the sizes of their config.json"),
        ("2_Dense/config.json", {"in_features": "32"}, "in_features is '32' (2_Dense/config.json)"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task 'fill-mask' is not built"),
        ("sentence_bert_config.json", {"module_output_name": "pooled"}, "module_output_name 'pooled' is not built"),
        ("sentence_bert_config.json", {"model_args": {"x": 1}}, "model_args is not built (sentence_bert_config.json)"),
        (
            "sentence_bert_config.json", {"modality_config": {"text": {"method": "get_text_features"}}},
            "modality_config of text",
        ),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}, "similarity 'dot' is not built"),
        ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "default_prompt_name is 'x'"),
    ],
)  # fmt: skip
def test_a_description_that_is_not_built_is_refused(base, file, keys, says):
    describe(base, "new", pooling="cls", layers=[dense(32, 8, nn.Tanh())])
    change(base, file, **keys)
    with pytest.raises(DarlError) as caught:
        load(base)
    assert says in str(caught.value) and str(base) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (2, "sentence_transformers.models.Dropout"),
        (2, "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
        (2, "pylate.models.Dense.Dense"),
        (1, "sentence_transformers.models.WeightedLayerPooling"),
        (0, "custom_st.Transformer"),
    ],
)
@pytest.mark.parametrize("make", [load, lambda base: CrossEncoder.from_base(configured("cross", base), "nominal")])
def test_another_module_is_refused_by_name(base, place, path, make):
    describe(base, "new", layers=[dense(32, 8, nn.Tanh())])
    listed = json.loads((base / "modules.json").read_text())
    listed[place]["type"] = path
    write_json(base / "modules.json", listed)
    with pytest.raises(UsageError) as caught:
        make(base)
    assert f"module '{path}' is not built (modules.json)" in str(caught.value)


def test_modules_that_are_for_another_backbone(base):
    describe(base, "new", layers=score_layers(), scores=True)
    with pytest.raises(UsageError, match=r"modules give a relevance score \(modules.json\). Set \[model\] backbone"):
        load(base)
    describe(base, "new", pooling="cls")
    with pytest.raises(UsageError, match=r"its modules embed a text.*backbone = \"split\""):
        CrossEncoder.from_base(configured("cross", base), "nominal")
    describe(base, "new", layers=score_layers(3), scores=True)
    with pytest.raises(UsageError, match="its classifier has 3 labels"):
        CrossEncoder.from_base(configured("cross", base), "nominal")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_module_without_its_files(base, layout):
    describe(base, layout, layers=[dense(32, 8, nn.Tanh())])
    (weights,) = (path for path in (base / "2_Dense").iterdir() if path.name != "config.json")
    weights.write_bytes(b"{")
    with pytest.raises(InputError, match="cannot be"):
        load(base)
    weights.unlink()
    with pytest.raises(InputError, match="2_Dense has no weights"):
        load(base)
    (base / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputError, match=r"1_Pooling/config.json is missing"):
        load(base)


def test_a_dot_product_of_unit_vectors_is_the_cosine(base):
    describe(base, "new", pooling="cls", layers=["Normalize"], similarity_fn_name="dot")
    assert load(base).pooling == "cls"
