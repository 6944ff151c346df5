"""Releases on a real node: switched, refused, killed at every request, rolled back, and all that under searches."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import importlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pytest

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster import Cluster, RegisterOptions, ScorerAddress, load_items, models, register
from darl_opensearch.cluster import release as releases
from darl_opensearch.cluster.calls import join_path
from darl_opensearch.cluster.history import History, Served, utc_now
from darl_opensearch.cluster.pipelines import (
    PipelineOptions,
    add_hybrid,
    fetch_pipeline,
    list_names,
    put_pipelines,
    remove_pipelines,
    render_pipelines,
)
from darl_opensearch.cluster.release import ReleaseOptions, ReleaseRefused, RollbackOptions, release, rollback
from darl_opensearch.cluster.versions import delete_version, list_versions
from darl_opensearch.connect import ClusterOptions
from darl_opensearch.errors import ClusterError, DarlError, UsageError
from darl_opensearch.search import PipelineSearch
from tests.helpers.bundles import ITEMS, bundle_of, with_slope
from tests.helpers.cluster import RunningScorer, at_once, clean_up
from tests.helpers.commands import run_main
from tests.helpers.http import Quiet, serving
from tests.helpers.searching import searching

pytestmark = [pytest.mark.opensearch, pytest.mark.local_mode]


@dataclasses.dataclass
class Line:
    """Three versions of a bundle, registered in the cluster, and a pipeline and a history of one's own."""

    cluster: Cluster
    name: str
    bundles: dict[str, Bundle]
    index: str
    pipeline: str = ""
    history: str = ""

    def release(self, version: str, **options: object) -> releases.Release:
        chosen = {"pipeline": self.pipeline, "history": self.history, "grace": 2.0} | options
        return release(self.bundles[version], self.cluster, ReleaseOptions(**chosen))

    def rollback(self, **options: object) -> releases.Release:
        return rollback(self.cluster, RollbackOptions(pipeline=self.pipeline, history=self.history, **options))

    def versions(self) -> dict[str, str]:
        return {
            one.served.version: one.state for one in list_versions(self.cluster, self.pipeline, history=self.history)
        }

    def events(self) -> list[tuple[str, str, str]]:
        found = History(self.cluster, self.pipeline, self.history).events()
        return [(event.kind, event.to.version, event.state) for event in found]

    def serving(self) -> list[str]:
        """The version that the pipeline and each of its variants name."""
        bodies = [fetch_pipeline(self.cluster, name) for name in list_names(self.pipeline)]
        return ["none" if body is None else Served.of_pipeline(body).version for body in bodies]

    def search(self) -> PipelineSearch:
        return PipelineSearch(self.cluster.client, self.bundles["1"], self.index, self.pipeline)


@pytest.fixture(scope="module")
def registered(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("line")
    name = f"t{uuid.uuid4().hex[:10]}"
    bundles = {version: bundle_of(folder, name, version, slope) for version, slope in (("1", 8), ("2", 11), ("3", 14))}
    index = f"{name}-items"
    items = folder / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    try:
        for bundle in bundles.values():
            done = register(bundle, cluster, RegisterOptions(pipeline=PipelineOptions(name=name), switch=False))
            assert done.pipelines == {} and done.deviation < 1e-4
        assert fetch_pipeline(cluster, name) is None  # registered, and no pipeline was written
        load_items(cluster, bundles["1"], items, index).check()
        yield Line(cluster, name, bundles, index)
    finally:
        for bundle in bundles.values():
            clean_up(cluster, bundle, pipeline_names=set(), indexes={index})


@pytest.fixture
def line(registered):
    mark = f"{registered.name}-{uuid.uuid4().hex[:6]}"
    mine = dataclasses.replace(registered, pipeline=mark, history=f"{mark}-releases")
    yield mine
    remove_pipelines(mine.cluster, PipelineOptions(name=mark))
    if mine.cluster.read("GET", join_path(mine.history), absent={}):
        mine.cluster.send("DELETE", join_path(mine.history))
    mine.cluster.calls.clear()


def model_of(line, version):
    [model] = models.find_models(line.cluster, models.local_name(line.bundles[version].card))
    return model


def test_release_rollback_and_versions(line):
    first = line.release("1", oversample=7, max_k=33)
    assert (first.number, first.came_from, first.served.version) == (1, None, "1")
    assert first.pipelines == dict.fromkeys(list_names(line.pipeline), "created")
    line.cluster.send("PUT", f"/{line.index}/_settings", {"index.max_result_window": 700})
    second = line.release("2", index=line.index, note="better bikes", cycle="c-7")
    assert second.probe.hits == 5 and second.probe.deviation < 1e-4 and second.deviation < 1e-4
    assert line.serving() == ["2", "2", "2"]
    line.cluster.send("PUT", f"/{line.index}/_settings", {"index.max_result_window": None})
    # The options of the pipeline that was there are kept, but for what the index says.
    options = PipelineOptions(name=line.pipeline, oversample=7, max_k=33, max_result_window=700)
    bodies = render_pipelines(line.bundles["2"].card, "local", second.served.model_id, options)
    assert fetch_pipeline(line.cluster, line.pipeline) == bodies[line.pipeline]
    line.cluster.calls.clear()
    again = line.release("2")
    assert not again.changed and line.cluster.calls == []  # not one request that changes anything
    line.release("3", oversample=9)
    assert line.versions() == {"3": "serving", "2": "deployed", "1": "deployed"}
    assert [line.rollback().served.version, line.rollback().served.version] == ["2", "1"]  # further back, not forth
    with pytest.raises(ClusterError, match="has no version before .* 1 in its history"):
        line.rollback()
    there = line.rollback(to="3", note="it was not the model")
    assert (there.served.version, there.came_from.version) == ("3", "1")
    assert not line.rollback(to="3").changed  # safe to repeat
    with pytest.raises(UsageError, match=f"version '9' never served. Choose from {line.name}:1, {line.name}:2"):
        line.rollback(to="9")
    found = list_versions(line.cluster, line.pipeline, history=line.history)
    assert [(one.served.version, one.event.kind, one.event.number) for one in found] == [
        ("3", "rollback", 6), ("1", "rollback", 5), ("2", "rollback", 4)
    ]  # fmt: skip
    [event] = [one for one in History(line.cluster, line.pipeline, line.history).events() if one.number == 2]
    assert (event.note, event.cycle, event.state, event.after) == ("better bikes", "c-7", "done", bodies)


def test_a_rollback_restores_the_very_pipelines_that_were_there(line):
    line.release("1")
    model = model_of(line, "1").model_id
    by_hand = PipelineOptions(name=line.pipeline, max_k=21, oversample=4, query_path="query.match.darl_text.query")
    put_pipelines(line.cluster, render_pipelines(line.bundles["1"].card, "local", model, by_hand))
    *names, hybrid = list_names(line.pipeline)
    line.cluster.send("DELETE", join_path("_search", "pipeline", hybrid))  # as before there was one
    before = {name: fetch_pipeline(line.cluster, name) for name in names}
    line.release("2", query_path="")  # the default again
    assert line.search().shape.query_path == "ext.ml_inference.query_text"
    assert line.rollback().served.version == "1"
    assert {name: fetch_pipeline(line.cluster, name) for name in names} == before
    # What was not there then still serves, by the version that was.
    assert fetch_pipeline(line.cluster, hybrid) == add_hybrid(line.pipeline, before)[hybrid]
    assert not line.rollback(to="1").changed


def test_old_versions_are_undeployed_and_a_rollback_deploys_them_again(line):
    line.release("1")
    line.release("2")
    other = dataclasses.replace(line, pipeline=f"{line.pipeline}-b")
    other.release("1")  # another pipeline goes on asking the first version
    try:
        done = line.release("3", keep=0)
        assert [one.version for one in done.undeployed] == ["2"]
        assert line.versions() == {"3": "serving", "2": "undeployed", "1": "deployed"}
        assert other.search().search("stolen bicycle").reranked
        with pytest.raises(ClusterError, match="a search pipeline uses .* 1. Release another version first"):
            delete_version(line.cluster, "1", line.pipeline, history=line.history)
        with pytest.raises(UsageError, match="no version matches '9'"):
            delete_version(line.cluster, "9", line.pipeline, history=line.history)
        assert line.rollback(to=f"{line.name}:2").served.version == "2"
        assert line.search().search("stolen bicycle").reranked
        assert model_of(line, "2").state == "DEPLOYED"
    finally:
        remove_pipelines(line.cluster, PipelineOptions(name=other.pipeline))
        line.release("1", keep=2)  # deploys what other tests use


def test_a_deleted_version_is_retired_and_cannot_come_back(line, tmp_path):
    extra = bundle_of(tmp_path, line.name, "0", 5)
    line.bundles = {**line.bundles, "0": extra}
    try:
        line.release("0")
        line.release("1")
        assert delete_version(line.cluster, "0", line.pipeline, history=line.history).served.version == "0"
        assert line.versions() == {"1": "serving", "0": "retired"}
        with pytest.raises(ClusterError, match="the model of .* 0 was deleted. Release its bundle again"):
            line.rollback()
        assert line.serving() == ["1", "1", "1"]
    finally:
        clean_up(line.cluster, extra, pipeline_names=set(), indexes=set())


class Killed(BaseException):
    """What no handler catches, as if the process had died."""


def kill_at(monkeypatch, number):
    """Die at the n-th request that changes something, before its answer is read: as dying before the next one."""
    real, count = Cluster.send, [0]

    def send(self, *words, **named):
        count[0] += 1
        answer = real(self, *words, **named)
        if count[0] == number:
            raise Killed
        return answer

    monkeypatch.setattr(Cluster, "send", send)


def test_a_release_killed_at_any_request_is_finished_by_the_same_command(line, monkeypatch):
    line.release("1")
    for number in range(1, 30):
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                line.release("2", keep=0)
                break  # it needed fewer requests
            except Killed:
                pass
        assert line.search().search("stolen bicycle").reranked  # by one version or the other
        done = line.release("2", keep=0)
        assert done.served.version == "2" and line.serving() == ["2", "2", "2"]
        assert line.versions() == {"2": "serving", "1": "undeployed"}
        assert line.events()[-1] == ("release", "2", "done")
        assert all(state == "done" for _, _, state in line.events())
        assert len(line.events()) == 2 * number  # nothing is in the history twice
        assert line.rollback().served.version == "1"
    assert number >= 7  # event, three pipelines, event, undeploy: each was killed


def test_a_rollback_killed_at_any_request_is_finished_by_the_same_command(line, monkeypatch):
    line.release("1")
    for number in range(1, 30):
        line.release("2", keep=0)  # so that the rollback has to deploy
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                line.rollback(to="1")
                break
            except Killed:
                pass
        assert line.rollback(to="1").served.version == "1"
        assert line.serving() == ["1", "1", "1"] and line.search().search("stolen bicycle").reranked
        assert all(state == "done" for _, _, state in line.events())
        assert len(line.events()) == 1 + 2 * number
    assert number >= 6


def test_a_plain_rollback_that_was_killed_goes_one_release_back_not_two(line, monkeypatch):
    for version in ("1", "2", "3"):
        line.release(version)
    with monkeypatch.context() as patch:
        kill_at(patch, 2)  # the first pipeline is switched, the others are not
        with pytest.raises(Killed):
            line.rollback()
    assert line.serving() == ["2", "3", "3"]
    assert line.rollback().served.version == "2"
    assert line.serving() == ["2", "2", "2"]


def test_another_command_waits_for_one_that_is_at_work_and_takes_over_from_one_that_died(line, monkeypatch):
    line.release("1")
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            line.release("2")
    assert line.serving() == ["2", "1", "1"]
    with pytest.raises(ClusterError, match=r"a release of \S+ 2, started \d s ago by \S+, is not finished. Wait"):
        line.release("3")
    with pytest.raises(ClusterError, match="is not finished"):
        line.rollback()
    monkeypatch.setattr(releases, "TAKE_OVER_SECONDS", 0.0)
    monkeypatch.setattr("darl_opensearch.cluster.rollback.TAKE_OVER_SECONDS", 0.0)
    assert line.rollback().served.version == "1"  # undoes what the dead one half did
    assert line.serving() == ["1", "1", "1"]
    assert [state for _, _, state in line.events()] == ["done", "abandoned", "done"]
    with monkeypatch.context() as patch:
        kill_at(patch, 4)  # all are switched, only the event is open
        with pytest.raises(Killed):
            line.release("2")
    done = line.release("3")
    assert (done.came_from.version, line.rollback().served.version) == ("2", "2")
    assert line.events()[3] == ("release", "2", "done")


def test_two_releases_at_once_cannot_both_be_written(line):
    line.release("1")
    history, to = History(line.cluster, line.pipeline, line.history), Served(line.name, "2", "local", "x")
    event = history.begin(1, "release", to)
    with pytest.raises(ClusterError, match="another command is releasing to search pipeline .* at the same time"):
        history.begin(1, "release", to)
    closed = history.close(event, "abandoned")
    with pytest.raises(ClusterError, match="another command is releasing"):
        history.close(event, "done")  # as it was read before somebody else closed it
    assert history.events()[-1] == closed


def test_two_that_release_at_once(line, opensearch_url):
    line.release("1")
    clusters = [Cluster.open(ClusterOptions(url=opensearch_url)) for _ in range(2)]
    lines = [dataclasses.replace(line, cluster=cluster) for cluster in clusters]
    outcomes = at_once(*(partial(mine.release, version) for mine, version in zip(lines, ("2", "3"), strict=True)))
    done = [outcome.served.version for outcome in outcomes if not isinstance(outcome, DarlError)]
    told = [str(outcome) for outcome in outcomes if isinstance(outcome, DarlError)]
    assert done and all("at the same time" in text or "is not finished" in text for text in told)
    serving = line.events()[-1][1]
    assert set(line.serving()) == {serving} and serving in done
    assert len(line.events()) == 1 + len(done) and all(state == "done" for _, _, state in line.events())


def test_an_answer_that_differs_leaves_the_old_version_serving(line, tmp_path):
    line.release("1")
    changed = with_slope(line.bundles["3"], tmp_path / "changed", 2)
    # The model in the cluster is that of version 3, by digest; this bundle's own graph says otherwise.
    digests = changed.digests | {"opensearch.zip": line.bundles["3"].digests["opensearch.zip"]}
    line.bundles = {**line.bundles, "3": Bundle(changed.path, changed.card, digests)}
    with pytest.raises(ReleaseRefused, match=r"answers differently from the bundle .*; \S+ 1 keeps serving") as err:
        line.release("3", note="nightly")
    assert err.value.exit_code == 3 and err.value.event.kind == "refused"
    assert line.serving() == ["1", "1", "1"] and line.search().search("stolen bicycle").reranked
    assert line.events() == [("release", "1", "done"), ("refused", "3", "done")]
    assert line.versions() == {"1": "serving", "3": "undeployed"}  # it does not stay in memory
    with pytest.raises(ClusterError, match="has no version before"):
        line.rollback()  # a refusal is nothing to go back from


def test_a_search_that_does_not_rank_as_the_bundle_leaves_the_old_version_serving(line, tmp_path, monkeypatch):
    line.release("1")
    register_module = importlib.import_module("darl_opensearch.cluster.register")
    monkeypatch.setattr(register_module, "verify", lambda *_, **__: 0.0)  # would find it before
    changed = with_slope(line.bundles["2"], tmp_path / "changed", 2)
    digests = changed.digests | {"opensearch.zip": line.bundles["2"].digests["opensearch.zip"]}
    line.bundles = {**line.bundles, "2": Bundle(changed.path, changed.card, digests)}
    with pytest.raises(ReleaseRefused, match="the new pipeline's scores differ from the bundle's"):
        line.release("2", index=line.index)
    assert line.serving() == ["1", "1", "1"]
    with pytest.raises(ClusterError, match="no such index"):
        line.release("2", index="t-nope")


def rubbish(answer):
    class Rubbish(Quiet):
        def do_POST(self):
            self.body()
            self.answer(200, json.dumps(answer).encode())

    return Rubbish


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"index": 0, "relevance_score": 0.9}], "model": "?"},
        {"results": [{"index": i, "relevance_score": 0.5, "darl": [0.5] * 6} for i in range(3)]},
    ],
)
def test_a_scorer_that_answers_rubbish_leaves_the_old_version_serving(line, answer):
    line.release("1")
    try:
        with serving(rubbish(answer)) as url, pytest.raises(ReleaseRefused, match="1 keeps serving") as err:
            line.release("2", mode="connector", scorer=ScorerAddress(f"{url}/v1/rerank"), apply_settings=True)
        assert err.value.exit_code == 3
        assert line.serving() == ["1", "1", "1"] and line.search().search("stolen bicycle").reranked
        assert line.events()[-1] == ("refused", "2", "done")
    finally:
        for model in models.find_models(line.cluster, models.connector_name(line.bundles["2"].card)):
            models.remove_model(line.cluster, model)


def test_each_version_by_connector_has_its_own_scorer(line):
    line.release("1")
    try:
        with RunningScorer(line.bundles["2"]) as two, RunningScorer(line.bundles["3"]) as three:
            for version, scorer in (("2", two), ("3", three)):
                done = line.release(
                    version, mode="connector", scorer=ScorerAddress(scorer.url), apply_settings=True, index=line.index
                )
                assert done.probe.hits == 5
            assert line.search().search("stolen bicycle").reranked
            seen = len(three.requests)
            assert line.rollback().served.mode == "connector"
            assert line.search().search("stolen bicycle").reranked
            assert len(three.requests) == seen  # the older scorer is asked again
        # Now its scorer is gone: a rollback to what does not answer is refused, whatever serves.
        line.rollback(to=f"{line.name}:1")
        with pytest.raises(ReleaseRefused, match="1 keeps serving"):
            line.rollback(to="3")
        assert line.serving() == ["1", "1", "1"]
        assert line.events()[-1] == ("refused", "3", "done")
    finally:
        for version in ("2", "3"):
            for model in models.find_models(line.cluster, models.connector_name(line.bundles[version].card)):
                models.remove_model(line.cluster, model)


def gate_report(line, new, old, *, passed=True):
    def about(version):
        bundle = line.bundles[version]
        return {"name": bundle.card.name, "version": bundle.card.version, "identity": bundle.identity}

    change = {"mean": 0.031, "low": 0.012, "high": 0.05, "n": 60, "p": 0.001}
    conditions = {name: {"changes": [{"measure": "ndcg@10", "change": change}]} for name in ("id", "control")}
    reasons = [] if passed else ["control arm: too few queries"]
    return {
        "passed": passed, "reasons": reasons, "measure": "ndcg@10", "old": about(old), "new": about(new),
        "conditions": conditions,
    }  # fmt: skip


def test_a_gates_report_decides(line):
    line.release("1")
    for report, why in (
        (gate_report(line, "2", "1", passed=False), r"the gate refused the bundle \(control arm: too few queries\)"),
        (gate_report(line, "3", "1"), "the gate report is about another bundle, .* 3"),
        (gate_report(line, "2", "3"), "the gate compared it with .* 3, but .* 1 is serving"),
    ):
        with pytest.raises(ReleaseRefused, match=why):
            line.release("2", gate=report)
    assert line.serving() == ["1", "1", "1"]
    line.release("2", gate=gate_report(line, "2", "1"))
    assert not line.release("2", gate=gate_report(line, "2", "1")).changed  # the old one is not serving any more: done
    found = {one.served.version: one for one in list_versions(line.cluster, line.pipeline, history=line.history)}
    assert found["2"].gate["passed"] and found["2"].gate["control"]["low"] == 0.012
    with pytest.raises(Exception, match="not a darl gate report"):
        line.release("2", gate={"passed": True})


def test_the_commands(line, tmp_path, monkeypatch):
    told = []

    class Hook(Quiet):
        def do_POST(self):
            told.append((dict(self.headers), self.body()))
            self.answer(204, b"")

    def darl(*words):
        return run_main(*words, "--url", line.cluster.url, *target)

    monkeypatch.setenv("DARL_WEBHOOK_SECRET", "s3cret")
    no, yes = tmp_path / "no.json", tmp_path / "yes.json"
    no.write_text(json.dumps(gate_report(line, "2", "1", passed=False)))
    yes.write_text(json.dumps(gate_report(line, "2", "1")))
    target = ("--pipeline", line.pipeline, "--history", line.history)
    one, two = (line.bundles[version].path for version in ("1", "2"))
    with serving(Hook) as url:
        hook = ("--webhook", f"{url}/hook?token=abc")
        requests = json.loads(darl("release", one, "--dry-run", *hook).out)
        assert [call["method"] for call in requests] == ["PUT"] * 6 and line.serving() == ["none", "none", "none"]
        assert told == [] and not line.cluster.read("GET", join_path(line.history), absent={})
        first = darl("release", one, *hook, "--json")
        assert json.loads(first.out)["served"]["version"] == "1" and (first.code, first.err) == (0, "")
        refused = darl("release", two, *hook, "--gate", no)
        assert refused.code == 3 and "the gate refused the bundle" in refused.err and "1 keeps serving" in refused.err
        second = darl("release", two, *hook, "--gate", yes, "--index", line.index)
        assert f"{line.pipeline} now serves {line.name} 2 (local), release 3" in second.out
        assert f"{line.pipeline} now serves {line.name} 1 (local), rollback 4" in darl("rollback", *hook).out
    table = darl("versions").out
    assert "serving" in table and "4 rollback" in table and "control +0.031 [+0.012, +0.050]" in table
    assert [json.loads(body)["event"] for _, body in told] == ["release", "refused", "release", "rollback"]
    for headers, body in told:
        expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
        assert headers["X-DaRL-Signature-256"] == f"sha256={expected}"
    # A webhook that nobody answers is a line of output, and no more.
    silent = darl("rollback", "--to", "2", "--webhook", "http://127.0.0.1:9/hook?token=abc")
    assert silent.code == 0 and "the webhook was not notified" in silent.err and "abc" not in silent.err
    assert darl("versions", "--delete", "2").code == 1  # it serves
    wrong = darl("release", two, "--webhook", "nowhere")
    assert (wrong.code, wrong.err) == (
        2, "darl: --webhook: not a webhook URL. Write it like https://host/path.\n"
    )  # fmt: skip


def test_under_searches_nothing_fails(line):
    line.release("1")
    queries = ["stolen bicycle", "lost luggage on a flight", "storm damage to my roof", "ski rescue"]
    with searching(line.search, queries) as load:
        line.release("2", keep=0, index=line.index)
        line.release("3", keep=0)
        line.rollback()
        line.release("1", keep=0)
    assert load.searches > 20
    assert load.failed == []
    assert load.not_reranked == 0
    assert len(set(np.round(load.scores, 6))) > len(queries)  # more than one version ranked


def test_dates_are_dates(line):
    event = History(line.cluster, line.pipeline, line.history).begin(0, "release", Served("a", "1", "local", "x"))
    assert datetime.now(UTC) - datetime.fromisoformat(utc_now()) < timedelta(seconds=5)
    assert 0 <= event.age_seconds < 60
