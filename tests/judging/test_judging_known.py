"""Judges whose answers are there already."""

from __future__ import annotations

import json

import pytest

from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.scores import GradeScale
from tests.helpers.files import write_rows
from tests.helpers.judging import SCALE, job, silent, task
from trainer.judging import JUDGES
from trainer.judging.base import Answer

TASKS = [task("Red  shoes", "p1"), task("red shoes", "p2"), task("blue hat", "p3")]


def ask(name, folder, tasks=TASKS, scale=SCALE, **params):
    maker, values = JUDGES.resolve(name, params)
    return maker(**values).judge(tasks, job(folder, scale=scale), silent)


def grades(verdict):
    said = verdict.answers[""]
    return [said[t.task].grade if t.task in said else None for t in TASKS]


# ---- judgments


def test_judgments_are_found_by_text_and_item(tmp_path):
    rows = [
        {"query": "RED shoes ", "item_id": "p1", "grade": 2, "grade_probs": [0.1, 0.2, 0.7]},
        {"query": "red shoes", "item_id": "p2", "grade": 0},
        {"query": "red shoes", "item_id": "p2", "grade": "0"},
        {"query": "other", "item_id": "p3", "grade": 1},
    ]
    write_rows(tmp_path / "j.jsonl", rows)
    verdict = ask("judgments", tmp_path, path="j.jsonl")
    assert grades(verdict) == [2, 0, None] and not verdict.pending
    assert verdict.answers[""][TASKS[0].task] == Answer(2, (0.1, 0.2, 0.7))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": ""}, "line 2: field 'query' is empty"),
        ({"grade": 5}, "line 2: field 'grade' is 5, not a whole number in 0..2"),
        ({"grade": "two"}, "line 2: field 'grade' is 'two', not a whole number"),
        ({"grade": "3"}, "line 2: field 'grade' is 3, not a whole number in 0..2"),
        ({"item_id": "p1"}, "line 2: the pair of query 'red shoes' and item 'p1' has grade 1 here, but had 0"),
        ({"grade_probs": [0.5, 0.5]}, "line 2: field 'grade_probs' is [0.5, 0.5]. Give 3 that sum to 1"),
        ({"grade_probs": [0.5, 0.6, 0.5]}, "field 'grade_probs'"),
        ({"grade_probs": [10**400, 0, 0]}, "field 'grade_probs'"),
        ({"grade_probs": "x"}, "field 'grade_probs' is 'x'"),
    ],
)
def test_judgments_that_cannot_be_used(tmp_path, row, message):
    first = {"query": "red shoes", "item_id": "p1", "grade": 0}
    write_rows(tmp_path / "j.jsonl", [first, {"query": "red shoes", "item_id": "p2", "grade": 1, **row}])
    with pytest.raises(InputError) as caught:
        ask("judgments", tmp_path, path="j.jsonl")
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "key"), [("judgments", "path"), ("workbench", "path"), ("ubi", "queries")])
def test_a_file_must_be_named_and_there(tmp_path, name, key):
    with pytest.raises(UsageError) as caught:
        ask(name, tmp_path)
    assert str(caught.value) == f"judge '{name}' has no file. Set {name}.{key}."
    params = {key: "none.jsonl"} | ({"events": "none.jsonl"} if name == "ubi" else {})
    with pytest.raises(DarlError, match=r"none\.jsonl: cannot be read"):
        ask(name, tmp_path, **params)


# ---- the Search Relevance Workbench


def lists(folder, *ratings, name="one"):
    """The answer of the workbench's API: a list, its ratings texts."""
    found = [{"query": query, "ratings": [{"docId": item, "rating": rating}]} for query, item, rating in ratings]
    path = folder / f"{name}.json"
    hit = {"_id": name, "_source": {"id": name, "name": name, "judgmentRatings": found}}
    path.write_text(json.dumps({"hits": {"hits": [hit]}}))
    return path.name


def test_workbench_ratings_are_grades_names_or_cut(tmp_path):
    path = lists(tmp_path, ("red SHOES", "p1", "2.0"), ("red shoes", "p2", "irrelevant"), ("else", "p3", "1"))
    verdict = ask("workbench", tmp_path, path=path, list="one")
    assert grades(verdict) == [2, 0, None] and verdict.counts["judgment_lists"] == 1
    path = lists(tmp_path, ("red shoes", "p1", "0.9"), ("red shoes", "p2", "0.4"), ("blue hat", "p3", "0.1"))
    assert grades(ask("workbench", tmp_path, path=path, cuts="0.3,0.8")) == [2, 1, 0]


def test_workbench_ratings_that_cannot_be_used(tmp_path):
    path = lists(tmp_path, ("red shoes", "p1", "7"))
    with pytest.raises(InputError, match="field 'rating' is '7', not a whole number in 0..2"):
        ask("workbench", tmp_path, path=path)
    commas = GradeScale(("no", "a little, maybe", "yes"), (0.0, 1.0, 2.0))
    with pytest.raises(InputError, match="query 'red shoes' and item 'p1' have grade 7 of 3. Set the judge's cuts"):
        ask("workbench", tmp_path, path=path, scale=commas)
    path = lists(tmp_path, ("red shoes", "p1", "1"), ("Red shoes", "p1", "2"))
    with pytest.raises(InputError, match="have two grades"):
        ask("workbench", tmp_path, path=path)
    with pytest.raises(UsageError, match="there is no judgment list 'two'. There are one"):
        ask("workbench", tmp_path, path=path, list="two")


# ---- clicks


def clicks(folder, clicked: dict[str, int]):
    """Ten searches show p1 and p2, each five times at ranks 1 and 2; so many of them click."""
    queries = [
        {"query_id": f"s{n}", "user_query": "Red shoes",
         "query_response_hit_ids": ["p1", "p2"] if n % 2 else ["p2", "p1"]} for n in range(10)
    ]  # fmt: skip
    events = [
        {"action_name": "click", "query_id": f"s{n}", "event_attributes": {"object": {"object_id": item}}}
        for item, count in clicked.items()
        for n in range(count)
    ]
    write_rows(folder / "queries.jsonl", queries)
    write_rows(folder / "events.jsonl", events)
    return {"queries": "queries.jsonl", "events": "events.jsonl"}


def test_clicks_are_graded_against_what_was_expected_of_the_rank(tmp_path):
    """Eight and two of ten: at each rank every second impression was clicked, so COEC is 8 / 5 and 2 / 5."""
    verdict = ask("ubi", tmp_path, **clicks(tmp_path, {"p1": 8, "p2": 2}))
    assert grades(verdict) == [2, 0, None] and verdict.counts["weak"] is True
    assert verdict.notes == ("Grades from clicks are weak: see docs/data.md.",)
    rare = ask("ubi", tmp_path, **clicks(tmp_path, {"p1": 8, "p2": 2}), min_impressions=11)
    assert grades(rare) == [None, None, None] and rare.counts["pairs_shown_too_rarely"] == 2
    with pytest.raises(UsageError, match="3 labels for 2 grades"):
        ask("ubi", tmp_path, **clicks(tmp_path, {"p1": 8}), cuts="1")
