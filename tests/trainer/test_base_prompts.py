"""A base's prompts: part of the pair template, pooled as the base says, without weight among the similarities."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from darl_opensearch.errors import UsageError
from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch
from tests.helpers.described import LAYOUTS, dense, describe, frame_pairs, norm
from tests.helpers.joint_bases import configured, write_decoder
from tests.helpers.training_project import write_base
from trainer.models import CrossEncoder, LlmReranker, SplitReranker
from trainer.models.sources import load_encoder
from trainer.models.split import KERNEL_CENTRES, KERNEL_WIDTH

# Without unknown tokens, which are special: they have no weight either. Words of the prompts are in the texts, too.
QUERIES = ["stolen bike", "pet cover against theft", "water fire storm"]
ITEMS = ["bike theft travel bike", "pet cover against illness", "garden", "home cover against fire home water storm"]
PAIRS = [(q, i) for q in QUERIES for i in ITEMS]
PROMPTS = {"query": "theft or fire ", "passage": "the cover against "}


def columns(pairs=PAIRS):
    return [q for q, _ in pairs], [i for _, i in pairs]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    kinds = {kind: write_base(folder / kind, kind, scale=0.2) for kind in ("bert", "xlm-roberta", "roberta")}
    frame_pairs(kinds["bert"])
    return kinds


@pytest.fixture
def base(plain, tmp_path):
    return shutil.copytree(plain["bert"], tmp_path / "base")


@torch.no_grad()
def encode(folder, text):
    """A text through plain transformers, with the checkpoint's own tokenizer: states and token ids."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, encoder = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return encoder(**inputs).last_hidden_state[0], inputs["input_ids"][0].tolist()


def load(folder, **how):
    source = load_encoder(str(folder), **how)
    return SplitReranker.from_source(source, (0.0, 1.0, 3.0), query_cap=24, item_cap=60).eval()


@torch.no_grad()
def three_ways(model, pairs=PAIRS):
    """As the exported graph, as training and as the feature stages compute it."""
    capped = CappedTokenizer(model.tokenizer(), model.query_cap, model.item_cap)
    sequences = [capped.pairs(query, [item])[0] for query, item in pairs]
    yield model.forward_features(*(torch.tensor(v) for v in pad_batch(sequences).values()))
    yield model.pair_features(*columns(pairs))
    queries, items = (list(dict.fromkeys(side)) for side in columns(pairs))
    index = torch.tensor([[queries.index(q), items.index(i)] for q, i in pairs])
    yield model.feature_table(queries, items, index).expand()


def reference(folder, query, item, prompts, *, include):
    """The head's input by hand: the cosine with the prompts, similarities of the texts' own tokens."""
    sides = []
    for prompt, text in zip(prompts, (query, item), strict=True):
        states, ids = encode(folder, prompt + text)
        start = len(ids) - len(encode(folder, text)[1]) + 1  # of the text
        first = start if prompt and not include else 0
        kept = torch.cat([states[:1], states[start:]])
        sides.append((F.normalize(states[first:].mean(0), dim=0), F.normalize(kept, dim=1)))
    (a, a_tokens), (b, b_tokens) = sides
    sims = (a_tokens @ b_tokens.T)[1:-1]  # special tokens of the query weigh nothing
    best = sims[:, 1:-1].max(1).values.mean()
    kernels = [
        torch.log1p(torch.exp(-((sims - mu) ** 2) / (2 * KERNEL_WIDTH**2)).sum(1)).mean() for mu in KERNEL_CENTRES
    ]
    return torch.stack([a @ b, best, *kernels])


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_features_by_hand(plain, tmp_path, kind, layout):
    base = describe(shutil.copytree(plain[kind], tmp_path / "base"), layout, prompts=PROMPTS)
    model = load(base)
    wanted = torch.stack([reference(base, q, i, PROMPTS.values(), include=True) for q, i in PAIRS])
    for found in three_ways(model):
        assert_close(found.head_input, wanted, atol=2e-5, rtol=1e-4)
    bare = torch.stack([reference(base, q, i, ("", ""), include=True) for q, i in PAIRS])
    assert (wanted[:, 0] - bare[:, 0]).abs().max() > 0.01  # it would be seen if they were left out


def test_a_mean_without_the_prompt(base):
    describe(base, "new", prompts=PROMPTS, include_prompt=False)
    model = load(base)
    wanted = torch.stack([reference(base, q, i, PROMPTS.values(), include=False) for q, i in PAIRS])
    for found in three_ways(model):
        assert_close(found.head_input, wanted, atol=2e-5, rtol=1e-4)
    with_prompt = torch.stack([reference(base, q, i, PROMPTS.values(), include=True) for q, i in PAIRS])
    assert (wanted[:, 0] - with_prompt[:, 0]).abs().max() > 0.01


def test_they_are_in_the_pair_template(base, tmp_path):
    model = load(describe(base, "new", prompts={"query": "fire storm ", "document": "bike theft "}))
    encoding = model.tokenizer().encode("pet cover", "garden")
    assert encoding.tokens == [
        "[CLS]", "fire", "storm", "pet", "cover", "[SEP]", "[CLS]", "bike", "theft", "garden", "[SEP]",
    ]  # fmt: skip
    assert encoding.type_ids == [0] * 6 + [1] * 5 and model.prompt_tokens == (2, 2)
    capped = CappedTokenizer(model.tokenizer(), 24, 60)
    assert capped.query("pet cover").ids + capped.items(["garden"])[0].ids == encoding.ids
    # Caps are for texts: the longest pair has the prompts besides.
    assert model.tokenizer().truncation["max_length"] == 24 + 60 + 4 + 4
    assert len(model.tokenizer().encode("fire " * 99, "bike " * 99).ids) == 92
    assert len(capped.pairs("fire " * 99, ["bike " * 99])[0].ids) == 92
    (tmp_path / "saved").mkdir()
    model.save(tmp_path / "saved")
    again = SplitReranker.load(tmp_path / "saved")
    assert again.prompts == model.prompts and again.prompt_tokens == (2, 2)
    for one, other in zip(three_ways(model), three_ways(again), strict=True):
        assert_close(one.head_input, other.head_input, atol=1e-5, rtol=0)


UNNAMED = r"named as the query's \(config_sentence_transformers.json\). Set \[model\] query_prompt to the right one, or"


@pytest.mark.parametrize(
    ("prompts", "keys", "wanted"),
    [
        ({}, {}, ("", "")),
        ({"query": "", "document": ""}, {}, ("", "")),  # as version 5 writes them for any model
        ({"query": "q: "}, {}, ("q: ", "")),
        ({"passage": "p: "}, {}, ("", "p: ")),
        ({"query": "q: ", "document": "", "passage": "p: "}, {}, ("q: ", "p: ")),
        ({"query": "q: ", "corpus": "p: ", "STS": "s: "}, {}, ("q: ", "p: ")),
        ({"query": "q: ", "passage": "p: "}, {"query_prompt": "", "item_prompt": "i: "}, ("", "i: ")),
        ({"s2p": "a: ", "s2s": "b: "}, {"query_prompt": "a: ", "item_prompt": ""}, ("a: ", "")),
        ({"s2p": "a: ", "s2s": "b: "}, {}, UNNAMED),
        ({"query": "q: ", "search_document": "d: "}, {}, "named as the item's .* item_prompt"),
        ({"document": "d: ", "passage": "p: "}, {}, "'document', 'passage' differ .* item_prompt"),
    ],
)
def test_which_prompt_is_whose(base, prompts, keys, wanted):
    describe(base, "new", prompts=prompts)
    if isinstance(wanted, str):
        with pytest.raises(UsageError, match=wanted):
            load(base, **keys)
        return
    found = SplitReranker.from_base(configured("split", base, model=keys), "cumulative").prompts
    assert (found.query, found.item) == wanted


@pytest.mark.parametrize(("kind", "prompt"), [("roberta", "query: "), ("bert", "query"), ("bert", " ")])
def test_a_prompt_that_changes_the_tokens_of_texts_is_refused(plain, tmp_path, kind, prompt):
    base = describe(shutil.copytree(plain[kind], tmp_path / "base"), "new", prompts={"query": prompt})
    with pytest.raises(UsageError, match=r"\[model\] query_prompt: the prompt .* cannot be part of the pair template"):
        load(base)
    assert load(base, query_prompt="").prompt_tokens == (0, 0)


def test_a_first_token_without_its_prompt_is_refused(base):
    describe(base, "new", pooling="cls", prompts=PROMPTS, include_prompt=False)
    with pytest.raises(UsageError, match="pooling mode 'cls' with include_prompt false is not built"):
        load(base)
    assert load(base, query_prompt="", item_prompt="").pooling == "cls"


def test_prompts_too_long_for_the_cluster_are_refused(base):
    describe(base, "new")
    source = load_encoder(str(base), query_prompt="bike " * 30)
    source.encoder.config.max_position_embeddings = 1000
    with pytest.raises(UsageError, match=r"the template with its prompts are 518 tokens. Lower the caps"):
        SplitReranker.from_source(source, (0.0, 1.0), query_cap=64, item_cap=420)


# ---- other backbones


def cross_layers():
    torch.manual_seed(4)
    return [dense(32, 32, nn.GELU()), norm(32), dense(32, 1, nn.Identity())]


@pytest.mark.parametrize("include", [True, False])
def test_a_cross_encoder_has_its_default_prompt_before_the_query(base, tmp_path, include):
    from transformers import AutoModel, AutoTokenizer

    layers = cross_layers()
    describe(
        base, "new", layers=layers, scores=True, prompts={"search": "query: "}, default_prompt_name="search",
        include_prompt=include,
    )  # fmt: skip
    model = CrossEncoder.from_base(configured("cross", base), "nominal")
    tokenizer, encoder = AutoTokenizer.from_pretrained(base), AutoModel.from_pretrained(base).eval()
    skipped = 0 if include else len(tokenizer("query: ")["input_ids"]) - 1
    wanted = []
    with torch.no_grad():
        for query, item in PAIRS:
            states = encoder(**tokenizer("query: " + query, item, return_tensors="pt")).last_hidden_state[0]
            row = states[skipped:].mean(0)
            for layer in layers:
                row = layer(row)
            wanted.append(row[0])
        found = model.pair_features(*columns())
        assert_close(found.head_input[:, 0], torch.stack(wanted), atol=1e-5, rtol=1e-5)
        (tmp_path / "saved").mkdir()
        model.save(tmp_path / "saved")
        again = CrossEncoder.load(tmp_path / "saved").pair_features(*columns())
    assert_close(again.head_input, found.head_input, atol=1e-6, rtol=0)


def test_a_cross_encoder_s_other_prompts_must_be_named(base):
    describe(base, "new", layers=cross_layers(), scores=True, prompts=PROMPTS)
    with pytest.raises(UsageError, match=r"'query', 'passage' is named as the query's .* query_prompt"):
        CrossEncoder.from_base(configured("cross", base), "nominal")
    config = configured("cross", base, model={"query_prompt": "fire storm "})
    assert CrossEncoder.from_base(config, "nominal").tokenizer().encode("bike", "pet").tokens[:4] == [
        "[CLS]", "fire", "storm", "bike",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="item_prompt is not for the cross backbone"):
        CrossEncoder.from_base(configured("cross", base, model={"query_prompt": "", "item_prompt": "x "}), "nominal")


def test_a_decoder_has_a_prompt_of_its_own(tmp_path):
    base = write_decoder(tmp_path / "base", "qwen2")
    with pytest.raises(UsageError, match=r"not for the llm backbone. Set \[llm\] prompt"):
        LlmReranker.from_base(configured("llm", base, model={"query_prompt": "x "}), "nominal")
