"""Token similarities: those that the model reads, in the place where the text has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from darl_opensearch.scoring import Scorer
from darl_opensearch.scoring.encode import CappedTokenizer, pad_batch
from darl_opensearch.scoring.runtime import open_session
from darl_opensearch.states import StateStore
from darl_opensearch.tryout.tokens import TokenComparer, cut, similarities, why_without_tokens
from tests.helpers.bundles import tiny_tokenizer
from tests.helpers.chunks import in_chunks
from trainer.models.framing import make_half_template, tokenise_prompt

QUERY, TEXT = "stolen bicycle 🚲 café", "Bicycle cover | cover: pays for a stolen bicycle, 🚲 and “locks”; café"


@pytest.fixture(scope="module")
def scorer(small):
    with StateStore(None) as store, Scorer.open(small[1], states=store) as opened:
        yield opened


@pytest.fixture
def comparer(scorer):
    return TokenComparer(scorer, scorer.halves)


@settings(deadline=None)
@given(st.text("ab 🚲\n", max_size=30), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8))
def test_the_pieces_are_the_text_with_each_token_in_one(text, drawn):
    spans = sorted((min(one, other, len(text)), min(max(one, other), len(text))) for one, other in drawn)
    pieces = list(cut(text, spans))
    assert "".join(part for part, _ in pieces) == text and all(part for part, _ in pieces)
    assert [row for _, rows in pieces for row in rows] == [n for n, (i, j) in enumerate(spans) if text[i:j].strip()]


def test_the_similarities_are_cosines_of_the_encoders_states(small, scorer):
    """Against encode.onnx itself; within what rounding to seven and eight bits costs."""
    bundle = small[1]
    session = open_session(bundle.file("encode.onnx"), "cpu").session
    tokenizer = CappedTokenizer(bundle.tokenizer, bundle.card.query_cap, bundle.card.item_cap)

    def states(sequence):
        padded = pad_batch([sequence])
        return session.run(None, {name: padded[name] for name in ("input_ids", "attention_mask")})[0][0]

    query, item = states(tokenizer.query(QUERY)), states(tokenizer.items([TEXT])[0])
    key = scorer.halves.keys.of(TEXT)
    found = similarities(scorer.halves.encode_query(QUERY), scorer.halves.fill({key: TEXT})[key])
    assert found.shape == (len(item), len(query))
    np.testing.assert_allclose(found, item @ query.T, atol=0.03)


def test_a_text_is_like_itself_token_by_token(comparer):
    told = comparer.compare(TEXT, TEXT)
    tokens = [piece for piece in told["pieces"] if "similar" in piece]
    assert [piece["text"] for piece in tokens] == told["tokens"] and (told["chunk"], told["chunks"]) == (1, 1)
    assert "".join(piece["text"] for piece in told["pieces"]) == TEXT
    for n, piece in enumerate(tokens):
        assert piece["similar"][n] == pytest.approx(1, abs=0.03) and max(piece["similar"]) < 1.03


def test_levels_are_those_of_all_tokens_of_the_candidates(comparer):
    texts = [TEXT, "Ski week | cover: Rescue on the piste, stolen skis, lost luggage"]
    best = [
        max(piece["similar"]) for text in texts for piece in comparer.compare(QUERY, text)["pieces"]
        if "similar" in piece
    ]  # fmt: skip
    assert comparer.levels(QUERY, texts) == pytest.approx(np.quantile(best, (0.9, 0.95, 0.98, 0.995)), abs=0.002)
    assert comparer.levels(QUERY, []) == []


def test_texts_without_tokens_or_beyond_the_caps(comparer, small):
    told = comparer.compare("\u200d", TEXT)  # nothing that the tokenizer keeps
    assert told["tokens"] == [] and {len(p.get("similar", ())) for p in told["pieces"]} == {0}
    assert comparer.levels("\u200d", [TEXT]) == []
    long = comparer.compare("stolen " * 200, "roof " * 300)
    assert len(long["tokens"]) <= small[1].card.query_cap
    assert sum("similar" in piece for piece in long["pieces"]) <= small[1].card.item_cap
    assert long["pieces"][-1] == {"text": long["pieces"][-1]["text"]}  # what the model does not read
    assert "".join(piece["text"] for piece in long["pieces"]) == "roof " * 300


def test_of_an_item_in_chunks_the_best_one_is_compared(small, tmp_path):
    bundle = in_chunks(small[1], tmp_path / "chunks")
    text = bundle.renderer({"name": "Roof", "cover": "storm and fire " * 60 + "stolen bicycle"})
    with StateStore(None) as store, Scorer.open(bundle, states=store) as scorer:
        chunks = scorer.chunk([text])[0]
        rows, _ = scorer.halves.score(QUERY, chunks)
        told = TokenComparer(scorer, scorer.halves).compare(QUERY, text)
    assert told["chunks"] == len(chunks) > 1 and told["chunk"] == 1 + int(rows[:, 0].argmax())
    assert "".join(piece["text"] for piece in told["pieces"]) == chunks[told["chunk"] - 1]


def test_spans_leave_out_a_prompt():
    plain = tiny_tokenizer([QUERY, TEXT, "search for"], 64)
    prompts = [tokenise_prompt(plain, prompt, key="query_prompt", alone=False) for prompt in ("search for ", "")]
    framed = make_half_template(plain, "[CLS]", "[SEP]", prompts, caps=60)
    capped = CappedTokenizer(framed, 20, 40)
    assert capped.prompts[0] > 0
    for spans, sequence, prompt, text in (
        (capped.query_spans(QUERY), capped.query(QUERY), capped.prompts[0], QUERY),
        (capped.item_spans(TEXT), capped.items([TEXT])[0], capped.prompts[1], TEXT),
    ):
        ids = sequence.ids[:1] + sequence.ids[1 + prompt :]
        assert len(spans) == len(ids) and spans[0] is spans[-1] is None
        assert [plain.token_to_id("[CLS]"), plain.token_to_id("[SEP]")] == [ids[0], ids[-1]]
        assert all(text[first:last].strip() for first, last in spans[1:-1])


def test_bytes_of_one_character_are_one_piece():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["a"], trainer)
    text = "a 🚲 é"
    pieces = list(cut(text, tokenizer.encode(text).offsets))
    assert [part for part, rows in pieces if rows] == ["a", "🚲", "é"]
    assert [len(rows) for _, rows in pieces if rows] == [1, 4, 2]


def test_bundles_without_token_states_say_why(small, small_cross, tiny):
    assert why_without_tokens(small[1]) == ""
    assert why_without_tokens(small_cross[1]).startswith("The backbone 'cross' reads query and item together")
    assert why_without_tokens(tiny) == "This bundle has no graphs for item states (exported by an earlier version)."
