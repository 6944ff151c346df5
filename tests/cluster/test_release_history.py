"""The history's logic without a cluster: the way back, what need not stay deployed, options read from a pipeline."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.cli.release import read_gate_report
from darl_opensearch.cluster import RegisterOptions
from darl_opensearch.cluster.history import Event, History, Served
from darl_opensearch.cluster.pipelines import PipelineOptions, list_models_in, read_options, render_pipelines
from darl_opensearch.cluster.release import ReleaseOptions, RollbackOptions, find_gate_refusal
from darl_opensearch.cluster.rollback import list_earlier
from darl_opensearch.cluster.switching import Now, take_over
from darl_opensearch.cluster.versions import find_superfluous
from darl_opensearch.config_files import placeholders
from darl_opensearch.errors import ClusterError, InputError, UsageError
from darl_opensearch.resources import plugin_config

SERVED = {version: Served("shoes", version, "local", f"m{version}") for version in "123456"}


def event(number, kind, came_from, to, state="done"):
    before = {"darl": {"description": came_from}} if came_from else {}
    return Event(
        "darl", number, kind, state, "2026-01-01T00:00:00.000+00:00", SERVED[to], SERVED.get(came_from or ""), before
    )


def events(*steps):
    return [event(number, *step) for number, step in enumerate(steps, 1)]


def line(*steps):
    return [one.served.version for one in list_earlier(events(*steps))]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], []),
        ([("release", None, "1")], []),
        ([("release", None, "1"), ("release", "1", "2"), ("release", "2", "3")], ["1", "2"]),
        ([("release", "1", "2"), ("release", "2", "3"), ("rollback", "3", "2")], ["1"]),
        ([("release", "1", "2"), ("release", "2", "3"), ("rollback", "3", "1")], []),
        # Forth again, by --to: what that replaced is the way back.
        ([("release", "1", "2"), ("rollback", "2", "1"), ("rollback", "1", "2")], ["1"]),
        ([("release", "1", "2"), ("rollback", "2", "1"), ("release", "1", "3")], ["1"]),
        ([("release", "1", "2"), ("refused", "2", "3")], ["1"]),
        # Another pipeline by the same version is no release to go back from.
        ([("release", "1", "2"), ("release", "2", "2")], ["1"]),
        # A command that died half way: what was there is put back.
        ([("release", "1", "2"), ("release", "2", "3", "abandoned")], ["1", "2"]),
        ([("release", "1", "2"), ("release", "2", "3", "abandoned"), ("release", "2", "4")], ["1", "2"]),
    ],
)
def test_the_way_back(steps, expected):
    assert line(*steps) == expected


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
def test_rolling_back_undoes_releases_one_by_one(moves):
    """Releases push and rollbacks pop: the history's pile is a stack that a reader can follow by hand."""
    serving, pile, done = "1", [], []
    for number, move in enumerate(moves, 1):
        if move == "a" and pile:
            to = pile.pop()
            done.append(event(number, "rollback", serving, to))
            serving = to
        else:
            to = next(v for v in "23456" if v != serving and v not in pile) if len(pile) < 4 else serving
            if to == serving:
                continue
            done.append(event(number, "release", serving, to))
            pile.append(serving)
            serving = to
    assert [one.served.version for one in list_earlier(done)] == pile


@pytest.mark.parametrize(
    ("keep", "expected"), [(0, ["2", "1", "6"]), (1, ["1", "6"]), (2, ["6"]), (9, ["6"])],
)  # fmt: skip
def test_what_need_not_stay_deployed(keep, expected):
    steps = [
        ("release", None, "1"), ("refused", "1", "6"), ("release", "1", "2"), ("release", "2", "3"),
        ("rollback", "3", "2"), ("release", "2", "3"), ("refused", "3", "2"),
    ]  # fmt: skip
    assert [one.version for one in find_superfluous(events(*steps), SERVED["3"], keep)] == expected


def test_a_version_that_was_refused_and_serves_is_not_unloaded():
    assert find_superfluous(events(("release", None, "1"), ("refused", "1", "1")), SERVED["1"], 0) == ()


@pytest.mark.parametrize("mode", ["local", "connector"])
@given(
    max_k=st.one_of(st.none(), st.integers(1, 10_000)),
    oversample=st.integers(1, 1000),
    query_path=st.sampled_from([None, "query.match.darl_text.query", "query.bool.must[0].match.title.query"]),
    ids=st.booleans(),
    room=st.integers(1, 10**6),
)
def test_options_are_read_back_from_the_pipeline_that_they_made(tiny, mode, max_k, oversample, query_path, ids, room):
    options = PipelineOptions(
        name="shoes", max_k=max_k, oversample=oversample, query_path=query_path,
        with_query_id=ids and mode == "connector", max_result_window=room,
    )  # fmt: skip
    bodies = render_pipelines(tiny.card, mode, "m-1", options)
    found = read_options("shoes", bodies, mode)
    default = {"local": 50, "connector": 200}[mode]
    assert found == PipelineOptions(
        name="shoes",
        max_k=None if max_k == default else max_k,
        oversample=oversample,
        query_path=query_path,
        with_query_id=found.with_query_id,
        max_result_window=room,
    )
    assert found.with_query_id == options.with_query_id
    assert bodies.keys() == {"shoes", "shoes-plain", "shoes-hybrid"}
    for body in bodies.values():
        assert list_models_in(body) == {"m-1"} and Served.of_pipeline(body) == Served("tiny", "1", mode, "m-1")


def test_pipelines_written_before_max_result_window_are_read_with_its_default(tiny):
    body = render_pipelines(tiny.card, "local", "m-1", PipelineOptions(max_k=33, oversample=7))["darl"]
    body["request_processors"][1]["script"]["source"] = (
        "int s = ctx._source.size; int asked = (s + 7 - 1) / 7; int cap = 33; if (asked > cap) { cap = asked; } "
        "if (s > cap) { ctx._source['size'] = cap; }"
    )
    assert read_options("darl", {"darl": body}, "local") == PipelineOptions(max_k=33, oversample=7)
    del body["request_processors"][1]
    assert read_options("darl", {"darl": body}, "local") == PipelineOptions(oversample=7)


def test_pipelines_of_others_serve_nothing_of_ours():
    assert Served.of_pipeline({"description": "DaRL shoes 1 (local)"}) is None
    assert Served.of_pipeline({"description": "ours", "x": [{"model_id": "m"}]}) is None


def test_an_event_is_read_as_it_was_written_and_the_mapping_takes_it():
    made = Event(
        "darl", 3, "release", "done", "2026-01-01T00:00:00.000+00:00", SERVED["2"], SERVED["1"], {"darl": {"a": 1}},
        {"darl": {"a": 2}}, "2026-01-01T00:00:01.000+00:00", "me@here", "a note", "c-1", "", {"passed": True}, 7, 1,
    )  # fmt: skip
    source = made.to_json()
    assert Event.of_hit({"_source": source, "_seq_no": 7, "_primary_term": 1}) == made
    mapping = json.loads((plugin_config() / "releases_index.json").read_text())["mappings"]
    assert mapping["dynamic"] == "strict"
    assert source.keys() | {"reason"} == mapping["properties"].keys()
    assert source["to"].keys() == mapping["properties"]["to"]["properties"].keys()
    assert placeholders(json.loads((plugin_config() / "find_releases.json").read_text())) == {"size", "pipeline"}


@pytest.mark.parametrize("index", ["*", "a,b", ".system", "Upper", ""])
def test_the_history_is_one_index(index):
    with pytest.raises(UsageError, match=r"invalid index name .*\. Use a-z"):
        History(None, "darl", index)  # type: ignore[arg-type]


def test_what_cannot_be_asked_for():
    with pytest.raises(UsageError, match="--replace removes a model that pipelines may use"):
        RegisterOptions(replace=True, switch=False)
    with pytest.raises(UsageError, match="--mode connector requires --scorer-url"):
        ReleaseOptions(mode="connector")
    with pytest.raises(UsageError, match="keep is -1. Give 0 or more"):
        ReleaseOptions(keep=-1)
    with pytest.raises(UsageError, match="invalid pipeline name 'A'"):
        RollbackOptions(pipeline="A")


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", r"not JSON \("), ("[]", "not a JSON object"), ("{}", r"not a darl gate report \('passed'\)")],
)
def test_a_gates_report_that_is_none(tiny, tmp_path, text, why):
    path = tmp_path / "gate.json"
    path.write_text(text)
    with pytest.raises(InputError, match=why + ".*Create it with darl gate --out"):
        find_gate_refusal(read_gate_report(path), tiny, Now({}, None))


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (
            timedelta(seconds=20),
            r"started 20 s ago by ann, is not finished\. Wait for it; if it died, this can take over in (39|40) s\.",
        ),
        (
            -timedelta(hours=1),
            r"started (3600|3599) s from now, by the clock of this machine, by ann, is not finished.* in 36\d\d s\.",
        ),
    ],
)
def test_an_event_of_another_command_is_left_alone_whatever_the_clock_says(age, said):
    started = (datetime.now(UTC) - age).isoformat()
    one = Event("darl", 1, "release", "switching", started, SERVED["2"], who="ann")
    history = cast("History", SimpleNamespace(cluster=SimpleNamespace(url="http://h:9200")))
    with pytest.raises(ClusterError, match=rf"http://h:9200: a release of shoes 2, {said}"):
        take_over(history, one, Now({}, None), 60.0)
