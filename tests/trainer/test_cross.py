"""The cross backbone: what the checkpoint said, in whatever order and company the pairs are read."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from darl_opensearch.errors import InputError, UsageError
from darl_opensearch.scoring.encode import pad_batch
from tests.helpers.joint_bases import PAIRS, columns, configured, write_classifier
from tests.helpers.training_project import laws, write_base
from trainer.models import BACKBONES, CrossEncoder

KINDS = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifiers")
    return {kind: write_classifier(folder / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def models(folders):
    return {kind: CrossEncoder.from_base(configured("cross", folders[kind]), "nominal") for kind in KINDS}


@torch.no_grad()
def plain_logits(folder, pairs, max_length=400):
    """One pair at a time through plain transformers, with the checkpoint's own tokenizer."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for query, item in pairs:
        inputs = tokenizer(query, item, return_tensors="pt", truncation=True, max_length=max_length)
        if "distilbert" in str(folder) or "roberta" in str(folder):
            inputs.pop("token_type_ids", None)
        rows.append(model(**inputs).logits[0])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_untrained_it_says_what_the_checkpoint_says(kind, folders, models):
    model = models[kind]
    assert model.scored
    with torch.no_grad():
        found = model.pair_features(*columns())
    logits = plain_logits(folders[kind], PAIRS, model.tokenizer().truncation["max_length"])[:, 0]
    assert_close(found.head_input[:, 0], logits, atol=1e-5, rtol=1e-5)
    score = model.head.score(model.head(found.head_input))
    assert (score[logits.argsort()].diff() >= -1e-6).all()  # equal texts may differ in the last bit
    assert_close(found.halves[0].norm(dim=1), torch.ones(len(PAIRS)))
    assert len(found.halves) == 1 == model.halves


def test_two_labels_are_a_log_odds(tmp_path):
    folder = write_classifier(tmp_path / "two", "bert", labels=2)
    model = CrossEncoder.from_base(configured("cross", folder), "cumulative")
    logits = plain_logits(folder, PAIRS, 51)
    with torch.no_grad():
        assert_close(
            model.pair_features(*columns()).head_input[:, 0], logits[:, 1] - logits[:, 0], atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("kind", "tokens", "types"),
    [
        ("bert", ["[CLS]", "fire", "[SEP]", "bike", "[SEP]"], [0, 0, 0, 1, 1]),
        ("roberta", ["<s>", "f", "</s>", "</s>", "bike", "</s>"], [0, 0, 0, 0, 1, 1]),
    ],
)
def test_pair_template(models, kind, tokens, types):
    query = "fire" if kind == "bert" else "f"
    encoding = models[kind].tokenizer().encode(query, "bike")
    assert (encoding.tokens, encoding.type_ids) == (tokens, types)
    long = models[kind].tokenizer().encode("fire " * 500, "bike " * 500)
    frame = len(tokens) - 2
    assert len(long.ids) == 16 + 32 + frame == models[kind].tokenizer().truncation["max_length"]
    assert long.ids[-1] == encoding.ids[-1]  # truncation never takes the template's tokens


def test_token_types_reach_the_encoders_that_have_them(models):
    ids, mask = torch.tensor([[2, 40, 3, 41, 3]]), torch.ones(1, 5, dtype=torch.int64)
    for kind, reads in (("bert", True), ("roberta", False), ("distilbert", False)):
        with torch.no_grad():
            one, other = (
                models[kind].forward_features(ids, mask, torch.tensor([types])).head_input
                for types in ([0, 0, 0, 1, 1], [0, 0, 0, 0, 0])
            )
        assert bool((one - other).abs().max() > 1e-4) is reads


@laws
@given(st.permutations(range(len(PAIRS))), st.sampled_from([1, 40, 200, 4096]))
def test_rows_come_back_in_the_order_given_whatever_shares_a_pass(models, order, budget):
    model = models["bert"]
    with torch.no_grad():
        alone = torch.cat([model.pair_features(*columns([pair])).head_input for pair in PAIRS])
        model.batch_tokens = budget
        try:
            together = model.pair_features(*columns([PAIRS[i] for i in order])).head_input
        finally:
            model.batch_tokens = None
    assert_close(together, alone[list(order)], atol=1e-5, rtol=1e-5)


def test_passes_keep_to_the_token_budget(models, monkeypatch):
    model, shapes = models["bert"], []
    read = model.forward_features
    seen = lambda ids, *rest, **how: shapes.append(ids.shape) or read(ids, *rest, **how)  # noqa: E731
    monkeypatch.setattr(model, "forward_features", seen)
    monkeypatch.setattr(model, "batch_tokens", 120)
    with torch.no_grad():
        model.pair_features(*columns())
    tokens = sum(len(e.ids) for e in model.tokenizer().encode_batch(PAIRS))
    assert sum(n for n, _ in shapes) == len(PAIRS)
    assert all(n * width <= 120 for n, width in shapes)
    assert sum(n * width for n, width in shapes) <= 1.2 * tokens  # in the order given, padding takes half as much again


def test_gradient_does_not_depend_on_the_passes(models):
    model = models["bert"]

    def gradient(budget):
        model.batch_tokens = budget
        model.zero_grad()
        features = model.pair_features(*columns()).head_input
        (features * torch.arange(features.numel()).reshape(features.shape).cos()).sum().backward()
        model.batch_tokens = None
        return [p.grad.clone() for p in model.encoder_parameters() if p.grad is not None]

    for one, other in zip(gradient(64), gradient(4096), strict=True):
        assert_close(one, other, atol=1e-3, rtol=1e-4)
    model.zero_grad()


@pytest.mark.parametrize("kind", KINDS)
def test_table_and_sequences_say_the_same(models, kind):
    model, queries, items = models[kind], [q for q, _ in PAIRS], [i for _, i in PAIRS]
    index = torch.tensor([[0, 1], [3, 3], [1, 0], [24, 2]])
    seen = []
    table = model.feature_table(queries, items, index, advance=seen.append).expand()
    with torch.no_grad():
        pairs = [(queries[q], items[i]) for q, i in index.tolist()]
        fed = pad_batch(model.tokenizer().encode_batch(pairs))  # padded with 0, which is no padding token of RoBERTa's
        read = model.forward_features(*(torch.tensor(v) for v in fed.values()))
    assert_close(table.head_input, read.head_input, atol=1e-5, rtol=1e-5)
    assert_close(table.halves[0], read.halves[0], atol=1e-5, rtol=1e-5)
    assert sum(seen) == 4


def test_no_pairs(models):
    found = models["bert"].pair_features([], [])
    assert found.head_input.shape == (0, 33) and found.halves[0].shape == (0, 32)
    assert models["bert"].feature_table([], [], torch.zeros(0, 2, dtype=torch.int64)).head_input.shape == (0, 33)
    with pytest.raises(UsageError, match="reads query and item together"):
        models["bert"].pool_texts(["x"], "item")


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(models, kind, tmp_path):
    models[kind].save(tmp_path)
    again = CrossEncoder.load(tmp_path)
    with torch.no_grad():
        assert torch.equal(
            again.pair_features(*columns()).head_input, models[kind].pair_features(*columns()).head_input
        )
    assert again.state_dict().keys() == models[kind].state_dict().keys()
    assert json.loads((tmp_path / "backbone.json").read_text())["backbone"] == "cross"
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".json", ".safetensors"}


def test_a_bare_encoder_starts_from_the_cosine_of_its_mean_states(bases, tmp_path):
    """Recomputed token by token."""
    model = CrossEncoder.from_base(configured("cross", bases["bert"]), "cumulative")
    assert not model.scored and model.encoder.pooler is None
    query, item = "theft of a bike", "bike cover against theft"
    encoding = model.tokenizer().encode(query, item)
    with torch.no_grad():
        found = model.pair_features([query], [item]).head_input[0]
        states = model.encoder(
            input_ids=torch.tensor([encoding.ids]), token_type_ids=torch.tensor([encoding.type_ids])
        ).last_hidden_state[0]
    end = encoding.type_ids.index(1)
    assert_close(found[0], torch.cosine_similarity(states[:end].mean(0), states[end:].mean(0), dim=0))
    assert_close(found[1:], states.mean(0))
    model.save(tmp_path)
    with torch.no_grad():
        assert torch.equal(CrossEncoder.load(tmp_path).pair_features([query], [item]).head_input[0], found)


def test_what_cannot_be_a_cross_encoder(tmp_path, folders):
    three = write_classifier(tmp_path / "three", "bert", labels=3)
    with pytest.raises(UsageError, match="its classifier has 3 labels") as told:
        CrossEncoder.from_base(configured("cross", three), "cumulative")
    assert told.value.where == str(three) and "cross-encoder trained for ranking" in told.value.todo
    with pytest.raises(InputError, match=r"the tokenizer cannot be loaded .*check \[model\] base|Check \[model\] base"):
        CrossEncoder.from_base(configured("cross", tmp_path / "nothing"), "cumulative")
    short = write_base(tmp_path / "short", "roberta", positions=40)
    with pytest.raises(UsageError, match="are 51 tokens, and the base model has 38 positions"):
        CrossEncoder.from_base(configured("cross", short), "cumulative")


def test_the_registry_has_it():
    assert list(BACKBONES) == ["split", "cross", "llm"]
    assert BACKBONES["cross"].make is CrossEncoder


@pytest.mark.data
def test_a_bi_encoder_s_joint_states_rank_better_than_chance_and_worse_than_its_cosine(judgments_folder, minilm):
    """The figures of docs/decisions/0014: 200 questions of FeedbackQA, nDCG@3."""
    import gzip
    import random

    import numpy as np

    from darl_opensearch.stats.ranking import ndcg_per_query

    def rows(name):
        with gzip.open(judgments_folder / "feedbackqa" / name, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    judged = rows("judgments.jsonl.gz")
    texts = {p["doc_id"]: f"{p['title']} | {p['text']}"[:900] for p in rows("passages.jsonl.gz")}
    chosen = sorted({row["query_id"] for row in judged})
    chosen = set(random.Random(0).sample(chosen, 200))
    judged = [row for row in judged if row["query_id"] in chosen]
    queries, items = [row["query"] for row in judged], [texts[row["doc_id"]] for row in judged]
    config = configured(
        "cross", "packaged:all-MiniLM-L6-v2", model={"query_cap": 64, "item_cap": 192, "name": "m", "backbone": "cross"}
    )
    index = torch.arange(len(judged))[:, None].expand(-1, 2)
    joint = CrossEncoder.from_base(config, "cumulative").feature_table(queries, items, index).head_input[:, 0]
    cosine = minilm.feature_table(queries, items, index).head_input[:, 0]
    gain = np.array([float(row["grade"]) for row in judged])
    of = np.unique([row["query_id"] for row in judged], return_inverse=True)[1]

    def ndcg(scores):
        return float(np.mean(list(ndcg_per_query(np.asarray(scores), gain, of, cutoff=3).values())))

    chance = float(np.mean([ndcg(np.random.default_rng(seed).random(len(gain))) for seed in range(20)]))
    found = {"random": chance, "joint": ndcg(joint.numpy()), "cosine": ndcg(cosine.numpy())}
    assert found == pytest.approx({"random": 0.814, "joint": 0.883, "cosine": 0.908}, abs=0.005)
