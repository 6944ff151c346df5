"""What the page is told: orders, stages, reasons; and whom it is not told."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.reranker import Reranker
from darl_opensearch.tryout.candidates import FileRetriever
from darl_opensearch.tryout.page import create_tryout_app
from tests.helpers.bundles import ITEMS, bundle_of, copy_bundle, correct_digests
from tests.helpers.files import write_rows
from tests.helpers.tryouts import trying

with warnings.catch_warnings():  # Starlette would rather have a successor of httpx
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

HOST = "http://127.0.0.1:8768"
QUERY = "stolen luggage"


@pytest.fixture
def files(tmp_path):
    return [write_rows(tmp_path / "items.jsonl", ITEMS)]


def client(tryout):
    return TestClient(create_tryout_app(tryout), base_url=HOST)


def ask(page, name, **body):
    return page.post(f"/api/{name}", json=body, headers={"Origin": HOST})


def test_the_orders_are_those_of_bm25_and_the_reranker(tiny, files):
    with trying([tiny], files, size=3) as tryout, Reranker(tiny) as reranker:
        told = tryout.search({"query": QUERY})
        found = [hit.item_id for hit in _bm25(tryout, QUERY)]
        items = {item["id"]: item for item in ITEMS}
        ranked = reranker.rank(QUERY, [items[name] for name in found])
    assert [row["item"] for row in told["first"]["rows"]] == found[:3]
    (version,) = told["versions"]
    assert [row["item"] for row in version["rows"]] == [found[hit.index] for hit in ranked[:3]]
    for row, hit in zip(version["rows"], ranked, strict=False):
        assert row["was"] == hit.index + 1 and row["grade"] == hit.grade
        assert row["score"] == pytest.approx(hit.score, abs=1e-4)
        assert row["grade_probs"] == pytest.approx(hit.grade_probs, abs=1e-4)
        assert row["ood_score"] == pytest.approx(hit.ood_score, abs=1e-4)
        assert row["is_ood"] == (hit.ood_score >= 0.95 - 1e-6)
    last = found[ranked[-1].index]
    assert version["places"].get(last, len(ranked)) == len(ranked)
    assert told["items"]["t-1"] == {
        "id": "t-1", "title": "Ski week",
        "rest": "kind: travel | cover: Rescue on the piste, stolen skis, lost luggage",
    }  # fmt: skip
    assert [stage["name"] for stage in version["stages"]] == ["tokenise", "score"] and version["problem"] == ""
    assert all(stage["ms"] >= 0 for stage in version["stages"] + told["first"]["stages"])


def _bm25(tryout, query):
    return tryout.retriever.retrieve(query, 50)


def test_two_versions_rank_the_same_candidates(tmp_path, files):
    bundles = [bundle_of(tmp_path, "tiny", version, slope) for version, slope in (("1", 10), ("2", -10))]
    with trying(bundles, files) as tryout:
        told = tryout.search({"query": QUERY})
        assert [v["label"] for v in tryout.about()["versions"]] == ["tiny 1", "tiny 2"]
    one, other = ([row["item"] for row in version["rows"]] for version in told["versions"])
    assert one == other[::-1] and len(one) > 2


def test_versions_of_one_name_are_told_apart_by_folder(tiny, tmp_path, files):
    copy = Bundle.open(copy_bundle(tiny, tmp_path / "copy"))
    with trying([tiny, copy], files) as tryout:
        assert [version.label for version in tryout.versions] == ["tiny 1 (tiny)", "tiny 1 (copy)"]


def test_items_that_a_version_cannot_render_come_last(tiny, tmp_path):
    folder = copy_bundle(tiny, tmp_path / "other")
    other = Bundle.open(correct_digests(folder, version="2", template={"fields": ["note"], "id_field": "id"}))
    rows = [item | ({"note": "stolen"} if item["id"] == "t-1" else {"note": " "}) for item in ITEMS]
    blank = Counter()
    retriever = FileRetriever([tiny, other], [write_rows(tmp_path / "items.jsonl", rows)], blank)
    assert set(blank) == {item["id"] for item in ITEMS} - {"t-1"}
    texts = {c.key: c.texts for c in retriever.retrieve("stolen luggage", 10)}
    assert texts["t-1"][1] == "note: stolen" and texts["b-1"][1] is None and texts["b-1"][0]
    with trying([tiny, tiny], [tmp_path / "items.jsonl"]) as tryout:
        tryout.retriever, tryout.versions[1].bundle = retriever, other
        told = tryout.search({"query": QUERY})
        second = told["versions"][1]
        assert second["rows"][0]["item"] == "t-1" and {row["grade"] for row in second["rows"][1:]} == {None}
        assert second["problem"].startswith(
            f"{len(second['rows']) - 1} of {len(second['rows'])} candidates have no text"
        )
        why = tryout.why({"search": told["search"], "item": "b-1", "version": 1})
        assert why == {"text": "", "problem": "This bundle cannot render the item."}


def test_states_are_filled_and_then_found(small, tmp_path):
    files = [write_rows(tmp_path / "items.jsonl", ITEMS)]
    with trying([small[1]], files) as tryout:
        details = [
            [stage["detail"] for stage in tryout.search({"query": QUERY})["versions"][0]["stages"]] for _ in range(2)
        ]
        told = tryout.search({"query": QUERY})
        count = len(told["first"]["rows"])
        assert [detail[0] for detail in details] == [f"{n} of {count} were not yet encoded" for n in (count, 0)]
        assert [stage["name"] for stage in told["versions"][0]["stages"]] == ["encode items", "encode query", "score"]
        why = tryout.why({"search": told["search"], "item": "b-1", "version": 0})
        assert why["tokens"] and len(why["levels"]) == 4 and why["levels"] == sorted(why["levels"])


def test_a_query_that_finds_nothing(tiny, files):
    with trying([tiny], files) as tryout:
        told = tryout.search({"query": "zzz"})
    assert told["first"]["rows"] == [] == told["versions"][0]["rows"] and told["items"] == {}


def test_bodies_that_make_no_sense(tiny, files):
    with trying([tiny], files) as tryout:
        page = client(tryout)
        for body in ({}, {"query": 3}, {"query": " "}, {"query": "a" * 10_001}):
            assert ask(page, "search", **body).status_code == 400, body
        headers = {"Origin": HOST, "Content-Type": "application/json"}
        half = page.post("/api/search", content=b'{"query": "\\ud800"}', headers=headers)
        assert (half.status_code, half.json()["error"]) == (400, "the query is not valid Unicode. Write it in UTF-8.")
        told = ask(page, "search", query=QUERY).json()
        item = told["first"]["rows"][0]["item"]
        for wrong in ({"search": 99}, {"search": True}, {"search": "1"}, {"item": "x"}, {"item": [1]}, {"version": 1},
                      {"version": -1}, {"version": None}):  # fmt: skip
            answer = ask(page, "why", **({"search": told["search"], "item": item, "version": 0} | wrong))
            assert answer.status_code == 400 and answer.json()["error"].endswith("."), wrong
        assert ask(page, "why", search=told["search"], item=item, version=0).json()["problem"].startswith("This bundle")
        answer = ask(page, "judge", search=told["search"], item=item, grade=1)
        assert answer.json()["error"] == ("there is no file for judgments. Start darl try with --judgments FILE.")
        answer = page.post("/api/search", content=b"[]", headers=headers)
        assert answer.json()["error"] == "the body is not a JSON object."


def test_grades_are_marked_and_taken_back(tiny, files, tmp_path):
    with trying([tiny], files, judgments=tmp_path / "mine.jsonl") as tryout:
        page = client(tryout)
        told = ask(page, "search", query=QUERY).json()
        assert told["judged"] == {"grades": {}, "here": []}
        where = {"search": told["search"], "item": told["first"]["rows"][0]["item"]}
        assert ask(page, "judge", **where, grade=2).json() == {
            "judged": {"grades": {where["item"]: 2}, "here": [where["item"]]}
        }
        assert ask(page, "search", query=QUERY.upper()).json()["judged"]["grades"] == {where["item"]: 2}
        for grade in (3, -1, "1", 1.5, True):
            assert ask(page, "judge", **where, grade=grade).status_code == 400
        assert ask(page, "judge", **where, grade=None).json() == {"judged": {"grades": {}, "here": []}}
        assert ask(page, "judge", **where, grade=None).status_code == 400


def test_only_the_last_searches_can_be_asked_about(tiny, files):
    with trying([tiny], files) as tryout:
        first = tryout.search({"query": QUERY})
        for _ in range(32):
            tryout.search({"query": QUERY})
        with pytest.raises(InputError, match="no longer in memory. Search again"):
            tryout.why({"search": first["search"], "item": first["first"]["rows"][0]["item"], "version": 0})


def test_only_its_own_page_may_ask(tiny, files):
    with trying([tiny], files) as tryout:
        page = client(tryout)
        front = page.get("/")
        assert "; connect-src 'self'; " in front.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in front.headers["content-security-policy"]
        assert page.post("/api/search", json={"query": QUERY}).status_code == 403
        assert page.post("/api/search", json={"query": QUERY}, headers={"Origin": "http://evil"}).status_code == 403
        assert page.get("/", headers={"Host": "evil.example"}).status_code == 421
        assert page.get("/api/search").status_code == 405


def test_a_cluster_that_is_away_is_an_answer_and_not_the_end(tiny, files):
    with trying([tiny], files) as tryout:
        page, there = client(tryout), tryout.retriever

        class Away:
            name = "away"

            def retrieve(self, query, size):
                raise ClusterError("nobody answers", where="http://127.0.0.1:1", todo="start it")

        tryout.retriever = Away()
        answer = ask(page, "search", query=QUERY)
        assert (answer.status_code, answer.json()["error"]) == (502, "http://127.0.0.1:1: nobody answers. Start it.")
        tryout.retriever = there
        assert ask(page, "search", query=QUERY).status_code == 200
