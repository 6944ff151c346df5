"""A score belongs to its pair: not to its place, its batch, its length or its thread."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from darl_opensearch.bundle import MODEL, MODEL_INT8, Bundle, writing
from darl_opensearch.errors import BundleError, InputError, UsageError
from darl_opensearch.scoring import DeadlinePassed, Scorer
from darl_opensearch.scoring.encode import INPUTS, TokenSequence
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE

TEXTS = [TEMPLATE.render(item) for item in ITEMS]


@pytest.fixture(scope="module")
def scorer(tiny):
    with Scorer.open(tiny, threads=2) as opened:
        yield opened


def test_opens_a_folder_and_ranks_by_shared_words(tiny):
    with Scorer.open(tiny.path) as opened:
        scores = opened.score("stolen bicycle", TEXTS)
    assert scores.data.shape == (len(TEXTS), 6)
    assert scores.alpha == tiny.card.ood.alpha
    assert scores.order()[0] == 0
    assert opened.provider == "cpu" and opened.fallback is None


@pytest.mark.parametrize("budget", [1, 40, 512, 100_000])
def test_the_batch_does_not_move_a_score(tiny, budget):
    texts = [" ".join(TEXTS[: 1 + i % 5])[: 20 + 37 * i] for i in range(30)]
    with Scorer.open(tiny, threads=2, token_budget=budget) as opened:
        together = opened.score(QUERIES[0], texts).data
        alone = np.concatenate([opened.score(QUERIES[0], [text]).data for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_order_and_neighbours_do_not_move_a_score(scorer, data):
    texts = data.draw(st.lists(st.text(max_size=80), max_size=12))
    order = data.draw(st.permutations(range(len(texts))))
    query = data.draw(st.text(max_size=40))
    straight = scorer.score(query, texts).data
    permuted = scorer.score(query, [texts[i] for i in order]).data
    assert straight.shape == (len(texts), 6)
    np.testing.assert_allclose(permuted, straight[list(order)], atol=1e-6)


def test_no_documents_give_no_rows(scorer):
    assert scorer.score("anything", []).data.shape == (0, 6)
    assert scorer.score_many([]) == []


def test_many_queries_at_once_are_the_queries_one_by_one(scorer):
    requests = [(query, TEXTS[:i]) for i, query in enumerate(QUERIES)]
    for (query, texts), scores in zip(requests, scorer.score_many(requests), strict=True):
        np.testing.assert_allclose(scores.data, scorer.score(query, texts).data, atol=1e-6)


def test_threads_share_a_scorer(scorer):
    want = {query: scorer.score(query, TEXTS * 5).data for query in QUERIES}
    with ThreadPoolExecutor(8) as pool:
        for query, got in pool.map(lambda q: (q, scorer.score(q, TEXTS * 5).data), QUERIES * 8):
            np.testing.assert_allclose(got, want[query], atol=1e-6)


def test_what_is_no_text_is_refused(scorer):
    with pytest.raises(InputError, match="the query is a NoneType"):
        scorer.score(None, ["a"])
    with pytest.raises(InputError, match="document 1 is a dict"):
        scorer.score("a", ["a", {"text": "b"}])
    with pytest.raises(InputError, match="documents is one text"):
        scorer.score("a", "bike")


@pytest.mark.parametrize("bad", ["\ud800 bike", "bike \udfff", "a\x00bike", "", "\ud83d", "\U0001f6b2 bike"])
def test_odd_characters_are_scored(scorer, bad):
    assert np.isfinite(scorer.score(bad, [bad, "bike"]).data).all()


def whole_pair(bundle, query, text):
    """What the tokenizer makes of both texts, taken whole, when each is cut to the whole words within its cap."""
    whole = Tokenizer.from_str(bundle.tokenizer.to_str())
    whole.no_truncation()
    ids, types = [], []
    for place, (words, cap) in enumerate(((query, bundle.card.query_cap), (text, bundle.card.item_cap))):
        encoding = whole.encode(words, add_special_tokens=False)
        kept = [n for n, word in enumerate(encoding.word_ids) if n < cap]
        if len(encoding.ids) > cap:
            kept = [n for n in kept if encoding.word_ids[n] != encoding.word_ids[cap]] or kept
        half = whole.encode("a").ids
        ids += [half[0], *(encoding.ids[n] for n in kept), half[-1]]
        types += [place] * (len(kept) + 2)
    return TokenSequence(ids, types)


def test_a_long_document_scores_as_its_beginning_and_fast(scorer, tiny):
    long = "stolen bicycle and luggage, " * 400_000  # 11 MB
    started = time.perf_counter()
    got = scorer.score(QUERIES[0], [long]).data
    assert time.perf_counter() - started < 2
    # Against the tokenizer alone, on a text it can take whole.
    part = long[:200_000]
    assert scorer._tokenizer.pairs(QUERIES[0], [long]) == [whole_pair(tiny, QUERIES[0], part)]
    np.testing.assert_allclose(got, scorer.score(QUERIES[0], [part]).data, atol=1e-6)


@pytest.mark.parametrize("filler", [" ", "\u0000", "x"])
def test_what_makes_few_tokens_does_not_hide_the_text_behind_it(scorer, tiny, filler):
    text = filler * 50_000 + " stolen bicycle " * 200
    assert scorer._tokenizer.pairs("lost luggage", [text]) == [whole_pair(tiny, "lost luggage", text)]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.text(alphabet="abé日本 .\n\t", min_size=1, max_size=150), min_size=1, max_size=12),
    times=st.integers(200, 900),
)
def test_the_cut_never_changes_the_tokens(scorer, tiny, words, times):
    text = " ".join(words) * times
    assert scorer._tokenizer.pairs("ski rescue", [text]) == [whole_pair(tiny, "ski rescue", text)]


def test_a_passed_deadline_stops_between_batches(scorer):
    with pytest.raises(DeadlinePassed, match="before its deadline"):
        scorer.run(QUERIES[0], TEXTS, deadline=time.monotonic() - 1)
    assert len(scorer.run(QUERIES[0], TEXTS, deadline=time.monotonic() + 60).scores) == len(TEXTS)


def test_a_short_request_passes_a_long_one(tiny):
    with Scorer.open(tiny, threads=1, token_budget=1) as opened:
        real, order = opened._graph.session, []

        class Slow:
            def run(self, outputs, inputs):
                time.sleep(0.005)
                return real.run(outputs, inputs)

        opened._graph = dataclasses.replace(opened._graph, session=Slow())

        def ask(name, n):
            opened.score(name, TEXTS[:1] * n)
            order.append(name)

        long = threading.Thread(target=ask, args=("long", 200))
        long.start()
        time.sleep(0.05)
        ask("short", 3)
        long.join()
    assert order == ["short", "long"]


def test_int8_scores_one_pair_at_a_time(tiny, tmp_path):
    with pytest.raises(BundleError, match=r"no model_int8\.onnx.*Export the model again"):
        Scorer.open(tiny, int8=True)
    with writing(tmp_path / "b", tiny.card) as work:
        for name in tiny.digests:
            shutil.copy(tiny.path / name, work / name)
        shutil.copy(tiny.path / MODEL, work / MODEL_INT8)
    with Scorer.open(tmp_path / "b", int8=True, threads=2) as opened:
        sizes, real = [], opened._graph.session

        class Counting:
            def run(self, outputs, inputs):
                sizes.append(inputs["input_ids"].shape)
                return real.run(outputs, inputs)

        opened._graph = dataclasses.replace(opened._graph, session=Counting())
        opened.score(QUERIES[0], TEXTS)
    assert len(sizes) == len(TEXTS) and {rows for rows, _ in sizes} == {1}


def test_a_graph_that_breaks_the_contract_is_refused(tiny, tmp_path):
    folder = shutil.copytree(tiny.path, tmp_path / "b")
    shutil.copy(folder / "features.onnx", folder / MODEL)
    with pytest.raises(BundleError, match=r"not input_ids, attention_mask, token_type_ids to one output of 6"):
        Scorer.open(Bundle.open(folder, verify=False))
    (folder / MODEL).write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot open the graph"):
        Scorer.open(Bundle.open(folder, verify=False))


def graph(shape, *nodes):
    """A graph of the right inputs that makes ``scores`` of ``f``, which is ``input_ids`` as float32."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "seq"]) for name in INPUTS]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)
    cast = helper.make_node("Cast", ["input_ids"], ["f"], to=TensorProto.FLOAT)
    made = helper.make_graph([cast, *nodes], "g", inputs, [output])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


MEAN = {"axes": [1], "keepdims": 0}
BROKEN = {
    "one number": (graph([], helper.make_node("ReduceMean", ["f"], ["scores"], keepdims=0)), "the graph maps"),
    "another width": (graph(["b", "w"], helper.make_node("Identity", ["f"], ["scores"])), "the graph answers 1 pairs"),
    "out of bounds": (
        graph(
            ["b", "w"],
            helper.make_node("Gather", ["f", "input_ids"], ["far"], axis=0),
            helper.make_node("ReduceMean", ["far"], ["scores"], **MEAN),
        ),
        "the graph does not run",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_graph_that_fails_says_so_in_one_line(tiny, tmp_path, name):
    content, message = BROKEN[name]
    folder = shutil.copytree(tiny.path, tmp_path / "broken")
    (folder / MODEL).write_bytes(content)
    with pytest.raises(BundleError, match=message) as err:
        with Scorer.open(Bundle.open(folder, verify=False)) as scorer:
            scorer.warm_up()
    assert "\n" not in str(err.value)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"token_budget": 0}, {"provider": "tpu"}])
def test_settings_out_of_range_are_refused(tiny, wrong):
    with pytest.raises(UsageError):
        Scorer.open(tiny, **wrong)


def test_a_closed_scorer_says_so(tiny):
    opened = Scorer.open(tiny)
    opened.close()
    with pytest.raises(UsageError, match="closed"):
        opened.score("a", ["b"])


def test_a_long_query_scores_as_its_beginning(scorer, tiny):
    query = "stolen bicycle on the piste " * 500
    assert scorer._tokenizer.pairs(query, TEXTS) == [whole_pair(tiny, query, text) for text in TEXTS]
