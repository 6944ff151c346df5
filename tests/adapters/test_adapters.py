"""What all adapters of other libraries share, on the libraries themselves."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest

from darl_opensearch import Reranker, adapters
from darl_opensearch.errors import BundleError, InputError, MissingExtra, UsageError
from darl_opensearch.ood import OodLog
from darl_opensearch.ood.store import SpoolStore
from darl_opensearch.states import StateStore
from tests.helpers.adapted import SHAPES, Doc, plain
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE, bundle_of, copy_bundle, tiny_bundle

DOCS = [Doc(TEMPLATE.render(item), {"source": item["id"]}) for item in ITEMS]
QUERY = QUERIES[0]
LIBRARIES = [
    ("DarlDocumentCompressor", "langchain_core", "langchain"), ("DarlNodePostprocessor", "llama_index", "llama-index"),
    ("DarlRanker", "haystack", "haystack"), ("DarlReranker", "rerankers", "rerankers"),
]  # fmt: skip


@pytest.fixture(params=list(SHAPES))
def shape(request, reranker):
    return SHAPES[request.param]


def texts(rows):
    return [row.text for row in rows]


def test_ranks_as_the_reranker_does_and_says_as_much(shape, reranker):
    for query in QUERIES:
        adapter = shape(reranker)
        rows = adapter.rank(query, adapter.documents(DOCS))
        expected = reranker.rank(query, [doc.text for doc in DOCS])
        assert texts(rows) == [DOCS[e.index].text for e in expected]
        for row, document in zip(rows, expected, strict=True):
            assert row.score == document.score
            assert row.metadata == {
                "source": ITEMS[document.index]["id"],
                "darl_grade": document.grade,
                "darl_grade_name": ("irrelevant", "related", "fits")[document.grade],
                "darl_grade_probs": list(document.grade_probs),
                "darl_ood_score": document.ood_score,
                "darl_ood_distance": document.ood_distance,
                "darl_is_ood": document.ood_score >= 0.55,
            }


def test_a_thread_ranks_the_same_for_asynchronous_callers(shape, reranker):
    adapter = shape(reranker)
    documents = adapter.documents(DOCS)
    assert adapter.rank_async(QUERY, documents) == adapter.rank(QUERY, documents)


@pytest.mark.parametrize(
    "options", [{"min_grade": "related"}, {"min_grade": 1}, {"min_score": 0.3}, {"drop_ood": True}]
)
def test_thresholds_are_the_rerankers(shape, reranker, options):
    adapter = shape(reranker, **options)
    kept = 0
    for query in QUERIES:
        expected = [DOCS[e.index].text for e in reranker.rank(query, [doc.text for doc in DOCS], **options)]
        assert texts(adapter.rank(query, adapter.documents(DOCS))) == expected
        kept += len(expected)
    assert 0 < kept < len(QUERIES) * len(DOCS)


@pytest.mark.parametrize("shape", [name for name, shape in SHAPES.items() if shape.limit], indirect=True)
def test_only_so_many_come_back(shape, reranker):
    documents = shape(reranker).documents(DOCS)
    all_of_them = shape(reranker).rank(QUERY, documents)
    for most in (0, 2, 99):
        assert shape(reranker, **{shape.limit: most}).rank(QUERY, documents) == all_of_them[:most]
    with pytest.raises(UsageError, match="top_n is -1. Use 0 or more"):
        shape(reranker, **{shape.limit: -1}).rank(QUERY, documents)


def test_nothing_in_nothing_out(shape, reranker):
    assert shape(reranker).rank(QUERY, []) == []


def test_documents_without_text_follow_in_their_old_order(shape, reranker):
    docs = [Doc(None, {"n": 0}), *DOCS[:2], Doc(None, {"n": 1}), DOCS[2]]
    adapter = shape(reranker)
    rows = adapter.rank(QUERY, adapter.documents(docs))
    assert texts(rows[:3]) == texts(adapter.rank(QUERY, adapter.documents(DOCS[:3])))
    assert [(row.text, row.score, row.metadata) for row in rows[3:]] == [(None, None, {"n": 0}), (None, None, {"n": 1})]
    assert len(shape(reranker, min_score=0.0).rank(QUERY, adapter.documents(docs))) == 5  # no threshold at all
    strict = shape(reranker, min_score=0.01)
    assert None not in texts(strict.rank(QUERY, strict.documents(docs)))
    if shape.limit:
        short = shape(reranker, **{shape.limit: 4})
        assert short.rank(QUERY, short.documents(docs)) == rows[:4]


def test_documents_that_all_lack_text_are_refused(shape, reranker):
    adapter = shape(reranker)
    with pytest.raises(InputError, match="none of the 2 documents has text. Give them content, or 'darl_text' or"):
        adapter.rank(QUERY, adapter.documents([Doc(None, {"n": 0}), Doc(None, {})]))


def test_the_text_that_the_model_reads_comes_from_the_metadata_where_it_is(shape, reranker):
    """Items as OpenSearch holds them: ``darl_text``, or the template's fields where there is no text."""
    adapter = shape(reranker)
    read = [{"darl_text": doc.text} for doc in DOCS[:3]] + [dict(item) for item in ITEMS[3:]]
    docs = [Doc("a title" if "darl_text" in fields else None, fields) for fields in read]
    rows = adapter.rank(QUERY, adapter.documents(docs))
    assert [row.score for row in rows] == [e.score for e in reranker.rank(QUERY, [doc.text for doc in DOCS])]


def test_equal_documents_all_come_back(shape, reranker):
    adapter = shape(reranker)
    rows = adapter.rank(QUERY, adapter.documents([DOCS[0], DOCS[3], DOCS[0]]))
    assert texts(rows) == [DOCS[0].text, DOCS[0].text, DOCS[3].text] and rows[0].score == rows[1].score


def test_what_was_passed_is_not_changed(shape, reranker):
    adapter = shape(reranker)
    documents = adapter.documents(DOCS)
    before = copy.deepcopy([vars(document) for document in documents])
    adapter.rank(QUERY, documents)
    assert repr([vars(document) for document in documents]) == repr(before)


def test_pairs_are_logged_with_the_documents_ids(shape, bundle, tmp_path):
    docs = [DOCS[0], Doc(DOCS[1].text, {"id": "b-2"}), Doc(DOCS[2].text, {"darl_id": "t-1"})]
    with Reranker(bundle, ood_log=tmp_path / "ood.sqlite") as opened:
        adapter = shape(opened)
        adapter.rank(QUERIES[-1], adapter.documents(docs))  # out of distribution, so that every pair is logged
    with SpoolStore(tmp_path / "ood.sqlite") as store:
        logged = {pair.item_id: pair.item_text for pair in store.pairs()}
    assert logged == {"d0": docs[0].text, "b-2": docs[1].text, "t-1": docs[2].text}


def test_a_folder_or_options_do_in_place_of_a_reranker(shape, reranker, bundle):
    expected = shape(reranker).rank(QUERY, shape(reranker).documents(DOCS))
    for source in (str(bundle.path), bundle.path, reranker.options()):
        adapter = shape(source)
        assert adapter.rank(QUERY, adapter.documents(DOCS)) == expected
    adapter.adapter.close() if hasattr(adapter.adapter, "close") else adapter.adapter.reranker.close()
    with pytest.raises(UsageError, match="a reranker cannot be made of a int. Pass the folder of a bundle"):
        shape(3).rank(QUERY, adapter.documents(DOCS))


def test_pickled_adapters_rank_the_same_in_another_process(reranker):
    sent, expected = {}, {}
    for name, cls in SHAPES.items():
        adapter = cls(reranker, min_score=0.02)
        expected[name] = plain(adapter.rank(QUERY, adapter.documents(DOCS)))
        sent[name] = (pickle.dumps(adapter.adapter), QUERY, DOCS)
    command = [sys.executable, "-m", "tests.helpers.adapted"]
    done = subprocess.run(command, input=pickle.dumps(sent), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert pickle.loads(done.stdout) == expected and all(expected.values())


@pytest.mark.parametrize(("name", "library", "extra"), LIBRARIES)
def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, name, library, extra):
    class Missing:
        def find_spec(self, module, *_):
            if module.partition(".")[0] == library:
                raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(MissingExtra, match=rf"^{library} is not installed. Run: .* -m pip install 'darl.*\[{extra}\]'"):
        getattr(adapters, name)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'DarlRerank'"):
        adapters.DarlRerank  # noqa: B018


def test_a_pickled_reranker_is_opened_as_it_was(tiny, tmp_path):
    states = tmp_path / "states"
    with Reranker(tiny, threads=1, ood_log=tmp_path / "ood.sqlite", states=states) as opened:
        with pickle.loads(pickle.dumps(opened)) as again:
            assert again.options() == opened.options() == {
                "bundle": str(tiny.path), "ood_log": str(tmp_path / "ood.sqlite"), "provider": "cpu", "threads": 1,
                "int8": False, "states": str(states),
            }  # fmt: skip
            assert again.scorer.threads == 1
            assert again.rank(QUERY, ITEMS) == opened.rank(QUERY, ITEMS)


def test_a_pickled_reranker_that_finds_another_bundle_is_refused(tmp_path):
    tiny_bundle(tmp_path / "b", version="1")
    with Reranker(tmp_path / "b") as opened:
        pickled = pickle.dumps(opened)
    (tmp_path / "b").rename(tmp_path / "old")
    with pytest.raises(BundleError, match="b: "):
        pickle.loads(pickled)
    copy_bundle(bundle_of(tmp_path / "other", "tiny", "1", 5.0), tmp_path / "b")
    with pytest.raises(BundleError, match="this is another bundle than the one that was pickled. Put the same bundle"):
        pickle.loads(pickled)


def test_opened_logs_and_stores_do_not_travel(tiny, tmp_path):
    with OodLog.open(tmp_path / "o.sqlite", model="tiny", version="1", alpha=0.05) as log, StateStore(None) as store:
        for options in ({"ood_log": log}, {"states": store}):
            with (
                Reranker(tiny, **options) as opened,
                pytest.raises(UsageError, match="given an opened .* Pass its path"),
            ):
                pickle.dumps(opened)
