"""``darl workbench`` against a stand-in for the plugin, which checks each request as the plugin does."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from darl_opensearch.cluster.history import Event, Served
from darl_opensearch.cluster.pipelines import PipelineOptions, render_pipelines
from darl_opensearch.cluster.workbench import judged
from darl_opensearch.cluster.workbench.configurations import fill_search
from darl_opensearch.cluster.workbench.judged import explain_exclusion, make_lists
from darl_opensearch.scores import GradeScale
from darl_opensearch.stats.ranking import ndcg_per_query
from tests.helpers.files import read_rows, write_rows
from tests.helpers.http import serving
from tests.helpers.workbench import FakeWorkbench

JUDGED = [
    {"query_id": "q1", "query": "red shoe", "item_id": "p1", "grade": 2},
    {"query_id": "q1", "query": "red shoe", "item_id": "p2", "grade": 0},
    {"query_id": "q2", "query": "blue hat", "item_id": "p3", "grade": 1},
]
RUNNING = "darl"


def pipeline(bundle, mode="connector", version="2", model="m2", **options):
    body = render_pipelines(bundle.card, mode, model, PipelineOptions(name=RUNNING, **options))[RUNNING]
    return body | {"description": f"DaRL tiny {version} ({mode})"}


@pytest.fixture
def fake(tiny):
    columns = tiny.card.columns.hit_fields()

    def search(body, parameters):
        reranked = "search_pipeline" in body or (parameters and "_none" not in parameters)
        text = body["ext"]["ml_inference"]["query_text"] if reranked else None
        assert text in (None, body["query"]["match"]["darl_text"]["query"])
        fields = dict.fromkeys(columns, 0.5) if reranked else {}
        return [{"_id": one, "_source": {"darl_text": "x", **fields}} for one in ("p1", "p2")]

    return FakeWorkbench(pipelines={RUNNING: pipeline(tiny)}, models={"m2": "DEPLOYED"}, searches=search)


@pytest.fixture
def push(fake, tiny, tmp_path, darl):
    path = write_rows(tmp_path / "shoes.jsonl", JUDGED)

    def run(*words, rows=None):
        if rows is not None:
            write_rows(path, rows)
        with serving(fake.handler()) as url:
            return darl("workbench", "push", path, "--bundle", tiny.path, "--url", url, "--index", "items", *words)

    return run


@pytest.fixture
def pull(fake, tmp_path, darl):
    def run(name, *words, out="out.jsonl"):
        with serving(fake.handler()) as url:
            return darl("workbench", "pull", name, "--url", url, "--out", tmp_path / out, *words)

    return run


def names(fake, kind):
    return [one["name"] for one in fake.created[kind].values()]


def test_a_push_writes_what_it_takes_to_compare(fake, push):
    said = push("--json")
    assert (said.code, said.err) == (0, "")
    assert names(fake, "query_sets") == names(fake, "judgments") == ["shoes"]
    [queries] = fake.created["query_sets"].values()
    assert queries["querySetQueries"] == [{"queryText": "red shoe"}, {"queryText": "blue hat"}]
    [ratings] = fake.created["judgments"].values()
    assert ratings["judgmentRatings"] == [
        {"query": "red shoe", "ratings": [{"docId": "p1", "rating": "2"}, {"docId": "p2", "rating": "0"}]},
        {"query": "blue hat", "ratings": [{"docId": "p3", "rating": "1"}]},
    ]
    first, through = fake.created["search_configurations"].values()
    assert (first["name"], first["searchPipeline"]) == ("shoes first stage", "_none")
    assert json.loads(first["query"]) == {"query": {"match": {"darl_text": {"query": "{{queryText}}"}}}}
    assert (through["name"], through["searchPipeline"]) == ("shoes darl", RUNNING)
    ext = {"ml_inference": {"query_text": "{{queryText}}", "query_id": "", "slice": ""}}
    assert json.loads(through["query"]) == {**json.loads(first["query"]), "ext": ext}
    assert [(one["name"], one["type"]) for one in fake.created["experiments"].values()] == [
        ("shoes first stage", "POINTWISE_EVALUATION"),
        ("shoes darl", "POINTWISE_EVALUATION"),
        ("shoes vs darl", "PAIRWISE_COMPARISON"),
    ]
    result = json.loads(said.out)
    assert (result["queries"], result["judgments"], result["items"], result["items_found"]) == (2, 3, 3, 3)
    assert all(entity["created"] for entity in result["entities"])


def test_a_second_push_creates_only_experiments(fake, push):
    push()
    before = len(fake.writes)
    said = push("--experiments", "pairwise")
    assert [place.rpartition("/")[2] for _, place, _ in fake.writes[before:]] == ["experiments"]
    assert said.out.splitlines()[0] == "3 judgments of 2 queries; 3 of 3 judged items matched the index"
    assert (said.out.count("unchanged"), said.out.count("created")) == (4, 1)
    before = len(fake.writes)
    push("--experiments", "none", rows=[*JUDGED[:2], JUDGED[2] | {"grade": 0}])  # other judgments of the same queries
    assert [place.rpartition("/")[2] for _, place, _ in fake.writes[before:]] == ["judgments"]


def test_a_dry_run_sends_nothing(fake, push):
    said = push("--dry-run")
    assert (said.code, fake.writes) == (0, [])
    calls = json.loads(said.out)
    assert [call["path"].rpartition("/")[2] for call in calls] == [
        "query_sets", "judgments", *["search_configurations"] * 2, *["experiments"] * 3
    ]  # fmt: skip
    assert calls[-1]["body"]["querySetId"] == "<query_set_id of shoes>"


def test_earlier_versions_are_searched_by_their_recorded_pipelines(fake, push, tiny):
    old = {number: pipeline(tiny, version=number, model=f"m{number}") for number in "012"}
    served = {number: Served("tiny", number, "connector", f"m{number}") for number in "012"}
    fake.releases = [
        Event("darl", number, "release", "done", "2026-01-01T00:00:00+00:00", served[after], served[before],
              {RUNNING: old[before]}, {RUNNING: old[after]}).to_json()
        for number, (before, after) in enumerate(["01", "12"], 1)
    ]  # fmt: skip
    fake.models |= {"m1": "DEPLOYED", "m0": "UNDEPLOYED"}
    said = push()
    assert said.err == "warning: no longer deployed, and left out: tiny 0\n"
    assert names(fake, "search_configurations") == ["shoes first stage", "shoes darl", "shoes tiny 1"]
    *_, version = fake.created["search_configurations"].values()
    assert version["searchPipeline"] == ""
    assert json.loads(version["query"])["search_pipeline"] == old["1"]
    assert names(fake, "experiments")[-2:] == ["shoes vs darl", "shoes vs tiny 1"]


def test_a_configuration_that_is_not_reranked_is_refused(fake, push):
    fake.searches = lambda body, parameters: [{"_id": "p1", "_source": {"darl_text": "x"}}]
    said = push()
    assert said.code == 1
    assert "a search by configuration 'darl' is not reranked (query 'red shoe', index items)" in said.err
    assert fake.writes == []
    fake.searches = lambda body, parameters: []
    assert "warning: no query had hits with configuration 'darl', so it was not tried" in push().err


@pytest.mark.parametrize(
    ("change", "message", "todo"),
    [
        ({"version": "3.4.0"}, "this is OpenSearch 3.4.0; the Search Relevance Workbench", "Upgrade it"),
        ({"plugins": ("opensearch-ml",)}, "node n1 does not have the Search Relevance Workbench", "Install the plugin"),
        ({"enabled": False}, "workbench_enabled is false and must be true", "--apply-settings"),
        (
            {"version": "3.7.0"},
            "before OpenSearch 3.8 the Workbench wraps queries in base64, and ml_inference cannot read them",
            "--first-stage-only",
        ),
        ({"pipelines": {}}, "search pipeline 'darl' does not exist", "darl register"),
        (
            {"most_queries": 1},
            "2 queries, but a query set may have 1 (plugins.search_relevance.query_set.maximum)",
            "R",
        ),
        ({"indices": {}}, "index items does not exist", "darl index"),
        ({"indices": {}, "aliases": {"items": ["a", "b"]}}, "items is not an index but stands for a, b", "Pass the"),
        ({"indices": {"items": {"P1"}}}, "none of the 3 judged items is in index items, such as 'p1'", "item_id"),
        ({"failing_imports": "nested limit"}, "ended with status ERROR (nested limit)", "node's log"),
    ],
)
def test_what_is_missing(fake, push, change, message, todo):
    for name, value in change.items():
        setattr(fake, name, value)
    said = push()
    assert said.code == 1
    assert said.out == ""
    assert message in said.err and todo in said.err
    assert not fake.created["experiments"]


def test_before_38_the_first_stage_alone_is_written(fake, push):
    fake.version = "3.7.0"
    assert push("--first-stage-only").code == 0
    [first] = fake.created["search_configurations"].values()
    assert json.loads(first["query"]) == {"query": {"match": {"darl_text": {"query": "%SearchText%"}}}}
    assert names(fake, "experiments") == ["shoes first stage"]


def test_the_workbench_is_enabled_on_request(fake, push):
    fake.enabled = False
    calls = json.loads(push("--apply-settings", "--dry-run").out)
    assert (calls[0]["path"], fake.enabled, fake.writes) == ("/_cluster/settings", False, [])
    assert push("--apply-settings").code == 0
    assert fake.enabled


def test_an_import_is_waited_for(fake, push):
    fake.pending = 2
    assert push().code == 0
    assert fake.pending == 0


@pytest.mark.parametrize("name", ["", " ", "n" * 40, 'a "b"', "a<b", "a\\b"])
def test_names_that_the_workbench_refuses(fake, push, name):
    said = push("--name", name)
    if name:  # an empty one is the file's
        assert said.code == 2 and "the Workbench does not accept the name" in said.err
    assert bool(fake.writes) == (not name)


@pytest.mark.parametrize(
    ("query", "modes", "reason"),
    [
        ("learn c# fast", [], "#, : or a line break"),
        ("nike: air", [], "#, : or a line break"),
        ("a\nb", [], "#, : or a line break"),
        ('5" pipe', [], 'one of " \\ < >'),
        ("a\\b", [], 'one of " \\ < >'),
        ("x" * 2001, [], "more than 2,000 characters"),
        ("costs ${input_map.x}", [], ""),
        ("costs ${input_map.x}", ["local"], "${"),
        ("$5 shirt, 100% wool", ["local", "connector"], ""),
        ("[new] shoe", ["connector"], "[ or { at its beginning"),
        ("[new] shoe", ["local"], ""),
        ("a\tb", [], "a control character"),
        ("naïve 日本 it's 👩\u200d🍳\u00a0hat", ["local", "connector"], ""),
    ],
)
def test_queries_that_no_experiment_can_have(query, modes, reason):
    assert explain_exclusion(query, modes) == reason


def test_queries_left_out_are_counted(fake, push):
    rows = [
        *JUDGED,
        {"query": "c# book", "item_id": "p1", "grade": 1},
        {"query": '5" pipe', "item_id": "p1", "grade": 1},
    ]
    said = push("--experiments", "none", rows=rows)
    assert said.err.splitlines() == [
        "warning: 1 of 4 queries are left out: #, : or a line break",
        'warning: 1 of 4 queries are left out: one of " \\ < >',
    ]
    said = push(rows=rows[3:])
    assert "no query can be in a query set: the first, 'c# book', has #, : or a line break" in said.err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([JUDGED[0] | {"grade": 3}], "grade"),
        ([JUDGED[0], JUDGED[0]], "appears twice"),
        ([JUDGED[0], JUDGED[0] | {"query_id": "other", "grade": 1}], "one rating for a query's text and an item"),
        ([JUDGED[0], JUDGED[1] | {"query": "red boot"}], "give each query text its own query_id"),
        ([], "no judgment"),
    ],
)
def test_judgments_that_cannot_be_pushed(fake, push, rows, message):
    said = push(rows=rows)
    assert said.code == 1 and message.lower() in said.err.lower()
    assert fake.writes == []


def test_a_text_under_two_query_ids_is_one_query(fake, push):
    push("--experiments", "none", rows=[JUDGED[0], JUDGED[0] | {"query_id": "de"}, JUDGED[1] | {"query_id": "de"}])
    [ratings] = fake.created["judgments"].values()
    assert [len(entry["ratings"]) for entry in ratings["judgmentRatings"]] == [2]


def their_ndcg(ratings, k=10):
    """nDCG as the plugin computes it, before it rounds to two decimals (Evaluation.java)."""

    def dcg(values):
        return sum((2**value - 1) / math.log2(place + 2) for place, value in enumerate(values[:k]))

    return dcg(ratings) / dcg(sorted(ratings, reverse=True))


def test_ratings_by_gain_give_our_ndcg():
    scale = GradeScale(("a", "b", "c", "d"), (0.0, 0.4, 1.0, 3.0))
    grades = [1, 3, 0, 2, 2, 0, 1]
    judged_items = {"q": {f"p{n}": grade for n, grade in enumerate(grades)}}
    [[entry]] = make_lists(judged_items, scale, "gain")
    ratings = [float(row["rating"]) for row in entry["ratings"]]
    gains, order = np.array(scale.gains)[grades], -np.arange(len(grades), dtype=float)
    expected = ndcg_per_query(order, gains, np.zeros(len(grades), dtype=np.int64))
    assert their_ndcg(ratings) == pytest.approx(expected[0], abs=1e-5)
    [[entry]] = make_lists(judged_items, scale, "grade")
    assert [row["rating"] for row in entry["ratings"]] == [str(grade) for grade in grades]


def test_judgments_beyond_the_limit_on_nested_objects_are_split(fake, push, monkeypatch):
    monkeypatch.setattr(judged, "MOST_NESTED", 4)
    push()
    assert names(fake, "judgments") == ["shoes 1 of 2", "shoes 2 of 2"]
    one = next(iter(fake.created["experiments"].values()))
    assert one["judgmentList"] == list(fake.created["judgments"])


def test_your_own_search_body(fake, push, tmp_path):
    path = tmp_path / "body.json"
    body = {"size": 5, "query": {"match": {"darl_text": {"query": "%SearchText%"}}}, "ext": {"other": {"a": 1}}}
    path.write_text(json.dumps(body))
    assert push("--body", path).code == 0
    _, through = fake.created["search_configurations"].values()
    held = json.loads(through["query"])
    assert "size" not in held
    assert held["ext"]["other"] == {"a": 1}
    assert held["ext"]["ml_inference"]["query_text"] == "%SearchText%"  # the Workbench replaces one kind only
    for text, message in [
        ("{}", "the search body has no placeholder where the query's text goes. Write {{queryText}} there"),
        ('{"query": "{{queryText}} %SearchText%"}', "has {{queryText}} and %SearchText%"),
        ('{"query": "%SearchText%", "x": "{{other}}"}', "and no other placeholder"),
        ('{"query": "{{queryText}}", "_source": false}', "the search body has _source"),
        (
            '{"query": "{{queryText}}", "from": 10}',
            "the search body has from. Omit it: an experiment looks at the first",
        ),
        ("[]", "an array, not an object"),
    ]:
        path.write_text(text)
        said = push("--body", path)
        assert said.code == 1 and message in said.err


@pytest.mark.parametrize("query", ["red shoe", 'a "quoted" \\ text', "naïve\ttab"])
def test_a_body_is_filled_as_the_workbench_fills_it(query):
    assert fill_search('{"query": {"match": {"t": "{{queryText}}"}}}', query) == {"query": {"match": {"t": query}}}
    if query.isprintable() and '"' not in query:
        assert fill_search('{"q": "%SearchText%"}', query) == {"q": query}
    else:
        with pytest.raises(ValueError, match="Invalid|Expecting"):
            fill_search('{"q": "%SearchText%"}', query)


def test_what_was_pushed_can_be_pulled(fake, push, pull, tmp_path):
    push("--experiments", "none")
    said = pull("shoes", "--json")
    assert (said.code, said.err) == (0, "")
    rows = read_rows(tmp_path / "out.jsonl")
    pairs = [(row["query"], row["item_id"], row["grade"]) for row in rows]
    assert pairs == [(row["query"], row["item_id"], row["grade"]) for row in JUDGED]
    result = json.loads(said.out)
    assert (result["judgments"], result["queries"], result["grades"], result["type"]) == (
        3,
        2,
        [1, 1, 1],
        "IMPORT_JUDGMENT",
    )
    [own] = fake.created["judgments"]
    assert pull(own, out="by_id.jsonl").code == 0
    assert read_rows(tmp_path / "by_id.jsonl") == rows
    said = pull(own)
    assert said.code == 2 and "it already exists" in said.err


def hold(fake, name, ratings, status="COMPLETED"):
    own = f"held-{len(fake.created['judgments'])}"
    rows = [{"docId": item, "rating": rating} for item, rating in ratings]
    fake.created["judgments"][own] = {
        "id": own, "name": name, "status": status, "type": "LLM_JUDGMENT",
        "judgmentRatings": [{"query": "red shoe#\nreferenceAnswer: x", "ratings": rows}],
    }  # fmt: skip


def test_ratings_are_read_as_import_reads_them(fake, pull, tmp_path):
    hold(fake, "llm", [("p1", "0.9"), ("p2", "0.1"), ("p3", None)])
    said = pull("llm")
    assert said.code == 1 and "field 'rating' is '0.9'" in said.err
    assert not (tmp_path / "out.jsonl").exists()
    said = pull("llm", "--set", "cuts=0.3,0.6")
    assert said.code == 0
    assert [(row["query"], row["grade"], row["rating"]) for row in read_rows(tmp_path / "out.jsonl")] == [
        ("red shoe", 2, "0.9"), ("red shoe", 0, "0.1")
    ]  # fmt: skip
    assert "unjudged ratings: 1" in said.out
    said = pull("llm", "--set", "cuts=0.3,0.6", "--dry-run", out="none.jsonl")
    assert said.out.endswith("Nothing was written.\n")
    assert not (tmp_path / "none.jsonl").exists()


def test_lists_that_cannot_be_pulled(fake, pull):
    said = pull("shoes")
    assert (said.code, "there are no judgments 'shoes'. There are none." in said.err) == (2, True)
    hold(fake, "shoes", [("p1", "1")])
    assert "Did you mean 'shoes'?" in pull("shoe").err
    assert "--set list is given twice" in pull("shoes", "--set", "list=a").err
    assert pull("shoes", "--set", "cut=1").code == 2
    hold(fake, "shoes", [("p1", "2")], status="PROCESSING")
    said = pull("shoes")
    assert said.code == 2
    assert "2 lists of judgments are called 'shoes'. Pass an id: held-0 (COMPLETED), held-1 (PROCESSING)" in said.err
    assert "judgments 'held-1' have status PROCESSING" in pull("held-1").err
    hold(fake, "empty", [])
    assert "the list has no judgments" in pull("empty").err
    fake.enabled = False
    assert "workbench_enabled is false" in pull("held-0").err
