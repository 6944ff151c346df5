"""Each adapter in the place its library has for it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

from darl_opensearch import Reranker, adapters
from darl_opensearch.errors import InputError, UsageError
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE

TEXTS = [TEMPLATE.render(item) for item in ITEMS]
PAGE = Path(__file__).parents[2] / "docs/adapters.md"


@pytest.fixture(scope="module")
def best(reranker):
    """For each query, the texts best first."""
    return {query: [TEXTS[d.index] for d in reranker.rank(query, TEXTS)] for query in QUERIES}


def test_langchain_a_contextual_compression_retriever(reranker, best):
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(text) for text in TEXTS]

    compressor = adapters.DarlDocumentCompressor(reranker=reranker, top_n=3)
    retriever = ContextualCompressionRetriever(base_compressor=compressor, base_retriever=All())
    for query in QUERIES:
        found = retriever.invoke(query)
        assert [document.page_content for document in found] == best[query][:3]
        scores = [document.metadata["relevance_score"] for document in found]
        assert scores == sorted(scores, reverse=True)


def test_langchain_an_option_that_there_is_not(reranker):
    with pytest.raises(ValueError, match="top_k"):
        adapters.DarlDocumentCompressor(reranker=reranker, top_k=3)


def test_llama_index_a_query_engine(reranker, best):
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import get_response_synthesizer
    from llama_index.core.schema import NodeWithScore, TextNode

    class All(BaseRetriever):
        def _retrieve(self, query_bundle):
            return [NodeWithScore(node=TextNode(text=text), score=0.1) for text in TEXTS]

    engine = RetrieverQueryEngine(
        All(), get_response_synthesizer(llm=MockLLM()),
        node_postprocessors=[adapters.DarlNodePostprocessor(reranker=reranker, top_n=3)],
    )  # fmt: skip
    for query in QUERIES:
        assert [node.text for node in engine.query(query).source_nodes] == best[query][:3]


def test_llama_index_what_the_model_says_stays_out_of_prompts(reranker):
    from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

    node = TextNode(text=TEXTS[0], metadata={"page": 7, "secret": 1}, excluded_llm_metadata_keys=["secret"])
    postprocessor = adapters.DarlNodePostprocessor(reranker=reranker)
    (found,) = postprocessor.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERIES[0])
    (again,) = postprocessor.postprocess_nodes([found], query_str=QUERIES[0])
    assert again.metadata["previous_score"] == found.score
    for ranked in (found, again):
        assert "darl_grade" in ranked.metadata
        assert ranked.node.get_content(MetadataMode.LLM) == f"page: 7\n\n{TEXTS[0]}"
        assert ranked.node.get_content(MetadataMode.EMBED) == f"page: 7\nsecret: 1\n\n{TEXTS[0]}"


def test_llama_index_serialises(reranker, best):
    from llama_index.core.schema import NodeWithScore, TextNode

    data = adapters.DarlNodePostprocessor(reranker=reranker, top_n=2, min_score=0.0).to_dict()
    assert data["reranker"] == reranker.options() and data["class_name"] == "DarlNodePostprocessor"
    again = adapters.DarlNodePostprocessor.from_dict(data)
    found = again.postprocess_nodes([NodeWithScore(node=TextNode(text=t)) for t in TEXTS], query_str=QUERIES[0])
    assert [node.text for node in found] == best[QUERIES[0]][:2]
    again.reranker.close()


def test_llama_index_a_query_is_needed(reranker):
    with pytest.raises(UsageError, match="nodes cannot be ranked without a query. Pass query_str or query_bundle"):
        adapters.DarlNodePostprocessor(reranker=reranker).postprocess_nodes([])


@pytest.mark.parametrize("given", ["folder", "reranker", "options"])
def test_haystack_a_pipeline_comes_back_from_yaml(reranker, best, bundle, given):
    from haystack import Document, Pipeline

    source = {"folder": bundle.path, "reranker": reranker, "options": {"bundle": str(bundle.path), "threads": 1}}[given]
    pipeline = Pipeline()
    pipeline.add_component("ranker", adapters.DarlRanker(source, top_k=4, min_score=0.001))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["darl_opensearch.*"])
    inputs = {"query": QUERIES[2], "documents": [Document(content=text) for text in TEXTS]}
    for top_k, expected in ((None, best[QUERIES[2]][:4]), (2, best[QUERIES[2]][:2])):
        found = again.run({"ranker": inputs | {"top_k": top_k}})["ranker"]["documents"]
        assert [document.content for document in found] == expected
    again.get_component("ranker").close()
    assert again.dumps() == pipeline.dumps()


def test_haystack_warm_up_opens_the_bundle_and_close_closes_it(reranker, bundle, tmp_path):
    from haystack import Document

    ranker = adapters.DarlRanker(str(tmp_path / "later"))  # nothing is opened yet
    (tmp_path / "later").symlink_to(bundle.path)
    ranker.warm_up()
    (tmp_path / "later").unlink()
    documents = [Document(content=text) for text in TEXTS]
    assert len(ranker.run(QUERIES[0], documents)["documents"]) == len(TEXTS)
    ranker.close()
    kept = adapters.DarlRanker(reranker)
    kept.warm_up()
    kept.close()
    assert reranker.rank(QUERIES[0], TEXTS)  # it is not the component's to close


def test_haystack_of_equal_ids_the_best_scored_is_ranked(reranker):
    from haystack import Document

    documents = [Document(id=i, content=t, score=s) for i, t, s in [("a", "x", 0.1), ("a", "y", 0.9), ("b", "z", None)]]
    found = adapters.DarlRanker(reranker).run(QUERIES[0], documents)["documents"]
    assert {(document.id, document.content) for document in found} == {("a", "y"), ("b", "z")}


def test_rerankers_results_are_theirs(reranker, best):
    ranker = adapters.DarlReranker(reranker)
    results = ranker.rank(QUERIES[0], TEXTS, doc_ids=[f"d{n}" for n in range(len(TEXTS))], metadata=ITEMS)
    assert [result.text for result in results] == best[QUERIES[0]] == [r.text for r in results.top_k(99)]
    assert results[0].doc_id == f"d{TEXTS.index(results[0].text)}" and results[0].name == "Bike theft"
    for place, text in enumerate(TEXTS):
        assert results.get_score_by_docid(f"d{place}") == pytest.approx(ranker.score(QUERIES[0], text), abs=1e-6)
    assert [result.doc_id for result in ranker.rank(QUERIES[0], TEXTS[0])] == [0]
    with pytest.raises(InputError, match="6 documents, but 1 doc_ids. Pass one for each"):
        ranker.rank(QUERIES[0], TEXTS, doc_ids=[1])


def test_cross_encoder_scores_pairs_in_the_order_given(reranker):
    model = adapters.DarlCrossEncoder(reranker)
    pairs = [(query, text) for text in TEXTS for query in QUERIES]  # queries interleaved
    scores = model.predict(pairs, batch_size=3, show_progress_bar=False)
    assert scores.dtype == np.float32 and scores.shape == (len(pairs),)
    for (query, text), score in zip(pairs, scores, strict=True):
        assert score == pytest.approx(reranker.rank(query, [text])[0].score, abs=1e-6)
    assert model.predict(pairs[0]) == scores[0] and model.predict(pairs[0]).shape == ()
    assert model.predict(np.array(pairs)).tolist() == scores.tolist() and model.predict([]).shape == (0,)
    assert model.predict([pairs[0], pairs[1]]).shape == (2,)  # two pairs, not one


def test_cross_encoder_ranks(reranker, best):
    model = adapters.DarlCrossEncoder(reranker)
    rows = model.rank(QUERIES[0], TEXTS, top_k=2, return_documents=True)
    assert [row["text"] for row in rows] == best[QUERIES[0]][:2] == [TEXTS[row["corpus_id"]] for row in rows]
    (first, *_) = reranker.rank(QUERIES[0], TEXTS)
    assert rows[0] | {"text": "", "corpus_id": 0} == {
        "corpus_id": 0, "text": "", "score": first.score, "grade": first.grade, "grade_name": first.grade_name,
        "grade_probs": list(first.grade_probs), "ood_score": first.ood_score, "ood_distance": first.ood_distance,
        "is_ood": first.is_ood,
    }  # fmt: skip
    assert model.rank(QUERIES[0], []) == [] and "text" not in model.rank(QUERIES[0], TEXTS)[0]


@pytest.mark.parametrize("pairs", [["one", "two", "three"], [("only one",)], [("query", 3)], [("a", "b", "c")]])
def test_cross_encoder_refuses_what_is_no_pair(reranker, pairs):
    with pytest.raises(InputError, match="input 0 is .*, not a pair of texts. Pass .query, document."):
        adapters.DarlCrossEncoder(reranker).predict(pairs)


@pytest.mark.parametrize("options", [{"convert_to_tensor": True}, {"convert_to_numpy": False}])
def test_cross_encoder_refuses_what_would_be_other_numbers(reranker, options):
    with pytest.raises(UsageError):
        adapters.DarlCrossEncoder(reranker).predict([("a", "b")], **options)


@pytest.mark.parametrize("method", ["predict", "rank"])
def test_cross_encoder_takes_the_arguments_of_sentence_transformers(method):
    """Read from its source: importing it takes longer than all tests here."""
    folder = Path(importlib.util.find_spec("sentence_transformers").origin).parent
    theirs = ast.parse((folder / "cross_encoder/model.py").read_text(encoding="utf-8"))
    (cls,) = [node for node in theirs.body if isinstance(node, ast.ClassDef) and node.name == "CrossEncoder"]
    signature = [n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == method][-1].args
    defaults = [inspect.Parameter.empty] * (len(signature.args) - len(signature.defaults)) + signature.defaults
    expected = dict(zip((arg.arg for arg in signature.args), defaults, strict=True))
    ours = inspect.signature(getattr(adapters.DarlCrossEncoder, method)).parameters
    assert set(ours) <= set(expected)
    assert [name for name in expected if name in ours] == list(ours)
    for name, parameter in ours.items():
        theirs = expected[name]
        if name != "batch_size":  # the scorer plans its batches
            theirs = theirs if theirs is inspect.Parameter.empty else ast.literal_eval(theirs)
            assert parameter.default == theirs, name
        place = list(expected).index(name)
        assert parameter.kind is parameter.KEYWORD_ONLY or list(ours).index(name) == place, name


def test_the_pages_snippets_run(reranker, bundle, tmp_path, monkeypatch, capsys):
    (tmp_path / "bundle").symlink_to(bundle.path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    used = {name for name in adapters.__all__ if name in names}
    assert used == set(adapters.__all__)
    assert capsys.readouterr().out.count("Stolen bicycles and e-bikes") == len(used)
    for value in list(names.values()):
        if isinstance(getattr(value, "reranker", None), Reranker):
            value.reranker.close()
