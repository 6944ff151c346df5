"""The split backbone: two separate encodings in one sequence, whatever way they are computed."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch
from darl_opensearch.text import cut_to_tokens
from tests.helpers.training_project import TEXTS, laws, write_base
from trainer.models import SplitReranker
from trainer.models.sources import load_encoder
from trainer.models.split import KERNEL_CENTRES, KERNEL_WIDTH

QUERIES = [
    "stolen bicycle",
    "does my dog need surgery cover in winter when we travel abroad?",
    "Versicherung für Küche & Gebäude",
    "cyber",
    "旅行保险 行李丢失",
]
ITEMS = [
    "Bike theft | kind: bicycle | cover: Stolen bicycles and e-bikes, locks replaced",
    "Hund & Katze: Operationen, Tierarzt",
    "行李 丢失 保险",
    "café, naïve façade — ñandú 🚲",
    "x",
    " ".join(f"cover {n} against fire, storm and burst pipes" for n in range(14)),
    "ALL CAPS, hyphen-ated, numbers 12,345.67 and (brackets) [SEP] [CLS]",
]
PAIRS = [(q, i) for q in QUERIES for i in ITEMS]


def columns(pairs):
    return [q for q, _ in pairs], [i for _, i in pairs]


@torch.no_grad()
def by_sequence(model, pairs):
    """What the exported graph computes of what the scorer feeds it: padded pairs, each half cut to its cap."""
    capped = CappedTokenizer(model.tokenizer(), model.query_cap, model.item_cap)
    sequences = [capped.pairs(query, [item])[0] for query, item in pairs]
    return model.forward_features(*(torch.tensor(v) for v in pad_batch(sequences).values()))


@torch.no_grad()
def plain_embeddings(name, texts):
    """One text at a time through plain transformers, mean pooling, no padding."""
    from transformers import AutoModel, AutoTokenizer

    from trainer.models.sources import find_packaged_minilm

    where = find_packaged_minilm() if name.startswith("packaged:") else name
    tokenizer, encoder = AutoTokenizer.from_pretrained(where), AutoModel.from_pretrained(where).eval()
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        rows.append(encoder(**inputs).last_hidden_state[0].mean(0))
    return torch.nn.functional.normalize(torch.stack(rows), dim=1)


def check_cosines(model, name):
    texts = [cut_to_tokens(item, model.tokenizer(), model.item_cap) for item in ITEMS]
    found = by_sequence(model, [(q, i) for q in QUERIES for i in texts])
    queries, items = plain_embeddings(name, QUERIES), plain_embeddings(name, texts)
    cosine = (queries @ items.T).flatten()
    assert (found.head_input[:, 0] - cosine).abs().max() <= 1e-5
    score = model.head.score(model.head(found.head_input)).reshape(len(QUERIES), -1)
    for row, wanted in zip(score, cosine.reshape(len(QUERIES), -1), strict=True):
        assert row.argsort(descending=True).tolist() == wanted.argsort(descending=True).tolist()


def test_untrained_it_ranks_as_the_bi_encoder(minilm):
    check_cosines(minilm, "packaged:all-MiniLM-L6-v2")


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta"])
def test_untrained_it_ranks_as_the_bi_encoder_of_any_architecture(bases, kind):
    check_cosines(reranker(bases[kind]), str(bases[kind]))


def reranker(base, *, query_cap=64, item_cap=192):
    source = load_encoder(str(base))
    return SplitReranker.from_source(source, (0.0, 1.0, 3.0), query_cap=query_cap, item_cap=item_cap).eval()


def same(a, b, tolerance=1e-5):
    for name in ("head_input", "query", "item"):
        assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=0)


def table_of(model, pairs):
    queries, items = (list(dict.fromkeys(side)) for side in columns(pairs))
    index = torch.tensor([[queries.index(q), items.index(i)] for q, i in pairs]).reshape(-1, 2)
    return model.feature_table(queries, items, index).expand()


def test_three_ways_to_the_same_features(source):
    """With rare words weighted, which the untrained default is not; padding, mixed lengths, other scripts."""
    model = SplitReranker.from_source(source, (0.0, 1.0), query_cap=64, item_cap=192)
    model.eval().fit_texts([*ITEMS, *TEXTS])
    sequence = by_sequence(model, PAIRS)
    with torch.no_grad():
        same(model.pair_features(*columns(PAIRS)), sequence)
    same(table_of(model, PAIRS), sequence)


words = st.lists(
    st.sampled_from(["cover", "fire", "é", "ß", "保险", "🚲", "12", "-", "a" * 9, "kind:", "Θ", "|"]),
    min_size=1, max_size=12,
).map(" ".join)  # fmt: skip


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@settings(laws, max_examples=15)
@given(texts=st.lists(st.tuples(words, words), min_size=1, max_size=6))
@example(texts=[(" ".join(["保险"] * 12), "cover")])  # beyond the query's cap, while the pair is within its own
def test_three_ways_agree_whatever_the_text(bases, kind, texts):
    model = _cached(bases, kind)
    sequence = by_sequence(model, texts)
    with torch.no_grad():
        same(model.pair_features(*columns(texts)), sequence)
    same(table_of(model, texts), sequence)
    alone = by_sequence(model, texts[:1])
    assert_close(alone.head_input, sequence.head_input[:1], atol=1e-5, rtol=0)  # padding changes nothing
    assert torch.isfinite(sequence.head_input).all()
    assert_close(sequence.query.norm(dim=1), torch.ones(len(texts)))
    assert_close(sequence.item.norm(dim=1), torch.ones(len(texts)))


_models: dict[str, SplitReranker] = {}


def _cached(bases, kind):
    if kind not in _models:
        _models[kind] = reranker(bases[kind])
    return _models[kind]


def test_features_of_the_kernels_by_hand(bases):
    """Every feature from the two encodings' token states, token by token."""
    model = _cached(bases, "bert")
    query, item = "bike cover theft", "bike cover against fire"
    found = by_sequence(model, [(query, item)]).head_input[0]
    states = []
    for text in (query, item):
        ids = torch.tensor([model.tokenizer().encode(text).ids])
        with torch.no_grad():
            out = model.encoder(input_ids=ids).last_hidden_state[0]
        states.append((torch.nn.functional.normalize(out, dim=1), ids[0].tolist()))
    (a, a_ids), (b, _) = states
    sims = (a @ b.T)[1:-1]  # special tokens of the query weigh nothing
    assert model.tokenizer().decode(a_ids) == query
    best = sims[:, 1:-1].max(1).values.mean()  # and those of the item are no match
    kernels = [
        torch.log1p(torch.exp(-((sims - mu) ** 2) / (2 * KERNEL_WIDTH**2)).sum(1)).mean() for mu in KERNEL_CENTRES
    ]
    assert_close(found[1:], torch.stack([best, *kernels]), atol=1e-5, rtol=1e-4)


def test_rarity_closed_forms(bases):
    model = reranker(bases["bert"])
    model.fit_texts(["bike fire", "bike theft", "bike bike"])
    ids = {word: model.tokenizer().token_to_id(word) for word in ("bike", "fire", "[CLS]", "[SEP]", "[PAD]")}
    assert model.rarity[ids["bike"]].item() == pytest.approx(max(0.01, torch.log(torch.tensor(4 / 3.5)).item()))
    assert model.rarity[ids["fire"]].item() == pytest.approx(torch.log(torch.tensor(4 / 1.5)).item())
    assert [model.rarity[ids[t]].item() for t in ("[CLS]", "[SEP]", "[PAD]")] == [0.0, 0.0, 0.0]


def test_a_pass_holds_texts_of_similar_length(bases, monkeypatch):
    """However long one text is, the others are not padded to it: the tokens of a pass are bounded, padding included."""
    model = SplitReranker.from_source(load_encoder(str(bases["bert"])), (0.0, 1.0), query_cap=16, item_cap=60).eval()
    shapes, encode = [], model.encode
    monkeypatch.setattr(model, "encode", lambda ids, *rest: shapes.append(tuple(ids.shape)) or encode(ids, *rest))
    monkeypatch.setattr("trainer.models.split.token_budget", lambda device: 64)
    items = ["x"] * 3 + [f"x{n}" for n in range(30)] + [" ".join(["cover"] * 50)]
    with torch.no_grad():
        model.pair_features(["cyber"] * len(items), items)
    assert all(rows * width <= 64 or rows == 1 for rows, width in shapes)
    assert (1, 52) in shapes and sum(rows for rows, _ in shapes) == 1 + 32


def test_a_table_with_items_that_no_pair_has(bases):
    model = _cached(bases, "bert")
    table = model.feature_table(["bike", "pet"], ["fire", "water", "theft"], torch.tensor([[0, 2], [1, 2], [0, 0]]))
    same(table.expand(), by_sequence(model, [("bike", "theft"), ("pet", "theft"), ("bike", "fire")]))
    empty = model.feature_table([], [], torch.zeros(0, 2, dtype=torch.int64))
    assert empty.head_input.shape[0] == 0


def test_more_pairs_of_an_item_than_fit_in_memory(bases, monkeypatch):
    monkeypatch.setattr("trainer.models.split.CHUNK", 2)
    model, counted = _cached(bases, "bert"), []
    pairs = [(q, i) for q in QUERIES for i in ITEMS[:5]]
    queries, items = QUERIES, ITEMS[:5]
    index = torch.tensor([[queries.index(q), items.index(i)] for q, i in pairs])
    same(model.feature_table(queries, items, index, advance=counted.append).expand(), by_sequence(model, pairs))
    assert sum(counted) == len(queries) + len(items)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_save_and_load(bases, kind, tmp_path):
    model = reranker(bases[kind])
    model.fit_texts(TEXTS)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(0.1)
    model.save(tmp_path)
    again = SplitReranker.load(tmp_path)
    assert not again.training and again.pooling == model.pooling
    texts = [(q, i) for q in QUERIES[:3] for i in ITEMS[:5]]
    one, two = by_sequence(model, texts), by_sequence(again, texts)
    same(one, two, 1e-6)
    assert_close(model.head.score(model.head(one.head_input)), again.head.score(again.head(two.head_input)))
    assert again.tokenizer().to_str() == model.tokenizer().to_str()
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def test_gradient_reaches_encoder_and_head(bases):
    model = reranker(bases["bert"]).train()
    features = model.pair_features(["bike theft", "pet"], ["bike fire", "pet water"])
    model.head.score(model.head(features.head_input)).sum().backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert not unused
    assert {id(p) for p in model.encoder_parameters()} | {id(p) for p in model.head.parameters()} == {
        id(p) for p in model.parameters()
    }


# ---- the tokenizer of the bundle


def test_pair_template_and_truncation(minilm):
    encoding = minilm.tokenizer().encode("stolen bike", "bike theft")
    assert encoding.tokens == ["[CLS]", "stolen", "bike", "[SEP]", "[CLS]", "bike", "theft", "[SEP]"]
    assert encoding.type_ids == [0] * 4 + [1] * 4
    assert len(minilm.tokenizer().encode("a " * 900, "b " * 900).ids) == 64 + 192 + 4
    assert minilm.tokenizer().padding is None


def test_an_item_at_its_cap_keeps_its_tokens_beside_a_query_at_its_cap(minilm):
    encoding = minilm.tokenizer().encode("bike " * 64, "theft " * 192)
    assert encoding.type_ids.count(1) == 194 and encoding.type_ids.count(0) == 66


# ---- where checkpoints come from


def test_pooling_is_read_from_the_sentence_transformers_folder(tmp_path):
    name = write_base(tmp_path / "cls", "bert", pooling="cls_token")
    source = load_encoder(str(name))
    assert source.pooling == "cls"
    model = SplitReranker.from_source(source, (0.0, 1.0), query_cap=8, item_cap=16).eval()
    with torch.no_grad():
        first = source.encoder(input_ids=torch.tensor([source.tokenizer.encode("bike fire").ids])).last_hidden_state[
            0, 0
        ]
    found = by_sequence(model, [("bike fire", "pet"), ("bike fire against theft", "pet cover")])
    assert_close(found.query[0], torch.nn.functional.normalize(first, dim=0), atol=1e-5, rtol=0)


def test_pooling_that_cannot_be_split(tmp_path):
    name = write_base(tmp_path / "max", "bert", pooling="max_tokens")
    (name / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true}'
    )
    with pytest.raises(UsageError, match=r"pooling mode 'max' is not built \(1_Pooling/config.json\)"):
        load_encoder(str(name))


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500 and text.endswith(".")
    return text


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_an_architecture_that_cannot_be_split(tmp_path, kind):
    name = write_base(tmp_path / kind, kind)
    with pytest.raises(UsageError) as caught:
        load_encoder(str(name))
    assert f"{name}: a {kind} model cannot be split. Choose a bi-encoder" in one_line(caught)


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-folder", "nobody/no-such-model", "a/b/c"])
def test_no_checkpoint_of_that_name(name):
    with pytest.raises(InputError) as caught:
        load_encoder(name)
    assert name in one_line(caught) and "heck [model] base" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", b"{"),
        ("config.json", None),
        ("config.json", b'{"model_type": "no-such-type"}'),
        ("model.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{"),
        ("model.safetensors", None),
        ("tokenizer.json", b"{"),
        ("1_Pooling/config.json", b"{"),
    ],
)
def test_a_damaged_checkpoint(bases, tmp_path, file, content):
    name = tmp_path / "base"
    shutil.copytree(bases["bert"], name)
    (name / "1_Pooling").mkdir()
    if content is None:
        (name / file).unlink()
    else:
        (name / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_encoder(str(name))
    assert str(name) in one_line(caught)


def test_a_checkpoint_with_too_few_positions(tmp_path):
    """Refused when the caps are known, not in the middle of training."""
    source = load_encoder(str(write_base(tmp_path / "short", "bert", positions=40)))
    with pytest.raises(UsageError, match="query_cap"):
        SplitReranker.from_source(source, (0.0, 1.0), query_cap=32, item_cap=64)
    model = SplitReranker.from_source(source, (0.0, 1.0), query_cap=12, item_cap=24).eval()
    assert torch.isfinite(by_sequence(model, [("fire " * 80, "theft " * 80)]).head_input).all()


@pytest.mark.parametrize("whole", [True, False])
def test_pooling_of_a_hub_model(tmp_path, monkeypatch, bases, whole):
    """A hub name pools as its folder would: here from a cache, as nothing is fetched.

    A cache that transformers filled alone does not have the file that says how.
    """
    import huggingface_hub.constants
    import transformers.utils.hub

    snapshot = tmp_path / "models--someone--small" / "snapshots" / ("0" * 40)
    shutil.copytree(bases["bert"], snapshot)
    if whole:
        (snapshot / "1_Pooling").mkdir()
        (snapshot / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (tmp_path / "models--someone--small" / "refs").mkdir()
    (tmp_path / "models--someone--small" / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    if whole:
        assert load_encoder("someone/small").pooling == "cls"
        return
    with pytest.raises(InputError, match="how it pools cannot be told offline"):
        load_encoder("someone/small")
