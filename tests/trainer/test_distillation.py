"""Teachers, their scores on disk, and the student."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.scoring import Scorer
from tests.helpers.bundles import ITEMS, QUERIES, tiny_bundle
from tests.helpers.files import write_rows
from tests.helpers.plan_project import kill_in_stage, read_items, source_of, weights, write_plan, write_scores
from tests.helpers.training_project import laws
from trainer import run_folder
from trainer.config import Loss, read_config
from trainer.losses import DISTILLATION_LOSSES
from trainer.models.heads import HEADS
from trainer.stages import plan
from trainer.stages.distillation import DistilledLoss, key_by_text
from trainer.stages.full_stage import GradedLoss
from trainer.stages.objective import Objective
from trainer.stages.registry import check_plan
from trainer.teachers import TEACHERS, TeacherFiles, TeacherRequest, fetch_scores, find_teacher, normalise_scores
from trainer.training_data.features import Features
from trainer.training_data.mixing import Taught, Together
from trainer.training_data.pairs import Pairs

GAINS = (0.0, 1.0, 3.0)
ASK = TeacherRequest("q1", "stolen bike", ("a", "b", "c"), ("text a", "text b", "text c"))
DISTILL = {"teacher": "file:scores.jsonl", "pool": "pool.jsonl", "learning_rate": 1e-3, "epochs": 4}
RUN = {"run": ["distill"]}


def shared(query: str, title: str) -> float:
    """A teacher that counts shared words, finer than the grades: titles differ by their lengths."""
    return len(set(query.split()) & set(title.split())) + 0.01 * len(title)


def contrary(query: str, title: str) -> float:
    """The teacher of labels that go against the cosine."""
    return -shared(query, title)


def train(path: Path, folder: Path, *overrides: str, **options):
    return plan.train(read_config(path, overrides), path.parent, folder, **options)


def make(spec: str, base: Path, **params):
    maker, target, values = find_teacher(spec, params)
    return maker(target, TeacherFiles(base, base / "items.jsonl"), **values)


# ---- which teacher


@pytest.mark.parametrize("name", list(TEACHERS))
def test_every_teacher_says_what_it_is(name):
    assert TEACHERS[name].summary and TEACHERS[name].cite


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("distill.teacher=scores.jsonl", "[distill] teacher is 'scores.jsonl'. Write file:scores.jsonl, bundle:folder"),
        ("distill.teacher='bundel:x'", "unknown kind 'bundel'. Did you mean 'bundle'?"),
        ("distill.teacher='file:'", "[distill] teacher is 'file:'"),
        ("distill.teacher_params={int8=true}", "teacher 'file' has no parameter 'int8'. It takes none"),
        ("distill.loss=margin", "unknown distillation loss 'margin'. Did you mean 'margin_mse'?"),
        ("distill.normalise=z", "[distill] normalise is 'z'. Choose none, zscore or logit"),
        ("distill.max_missing=1", "[distill] max_missing is 1.0. Give 0 or more, less than 1"),
        ("distill.weight=0", "[distill] weight is 0.0. Give more than 0"),
        ("distill.graded=-1", "[distill] graded is -1"),
    ],
)
def test_settings_that_cannot_work(tmp_path, bases, setting, message):
    path = write_plan(tmp_path / "p", bases["bert"], distill=DISTILL, stages=RUN)
    with pytest.raises(UsageError) as caught:
        check_plan(read_config(path, [setting]))
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ---- a file


def test_a_files_scores_are_found_by_id_and_by_text(tmp_path):
    rows = [
        {"query_id": "q1", "item_id": "a", "score": 2},
        {"query": " Stolen  BIKE ", "item_id": "b", "score": -1.5},
        {"query_id": "q2", "query": "stolen bike", "item_id": "c", "score": 0},
    ]
    write_rows(tmp_path / "s.jsonl", rows)
    teacher = make("file:s.jsonl", tmp_path)
    assert teacher.score(ASK) == [2.0, -1.5, 0.0]
    assert teacher.score(dataclasses.replace(ASK, query_id="q9", query="other")) == [None, None, None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "x", "score": 1}, "line 2: field 'item_id' is missing or empty. Fill it"),
        ({"item_id": "a", "score": 1}, "line 2: the line has neither 'query_id' nor 'query'"),
        ({"query": "x", "item_id": "a"}, "line 2: field 'score' is not a number"),
        ({"query": "x", "item_id": "a", "score": True}, "field 'score' is not a number"),
        ({"query": "x", "item_id": "a", "score": "1"}, "field 'score' is not a number"),
        ({"query": "stolen bike", "item_id": "a", "score": 3}, "already have another score. Keep one score per pair"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path, row, message):
    write_rows(tmp_path / "s.jsonl", [{"query": "stolen bike", "item_id": "a", "score": 2}, row])
    with pytest.raises(InputError) as caught:
        make("file:s.jsonl", tmp_path)
    assert message in str(caught.value)
    (tmp_path / "s.jsonl").write_text("")
    with pytest.raises(InputError, match="the file has no scores"):
        make("file:s.jsonl", tmp_path)


def test_a_teacher_that_is_not_there_stops_the_run_before_it_begins(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"], distill=DISTILL, stages={"run": ["full", "distill"]})
    with pytest.raises(InputError, match=r"scores\.jsonl: cannot be read"):
        train(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    write_scores(path.parent, shared)
    write_rows(path.parent / "pool.jsonl", [{"query": "no items"}])
    with pytest.raises(InputError, match=r"pool\.jsonl: query 'no items' has no items"):
        train(path, tmp_path / "run")
    (path.parent / "pool.jsonl").write_text("")
    with pytest.raises(InputError, match="the file has no queries"):
        train(path, tmp_path / "run")


def test_pairs_without_a_score_are_counted_and_refused(tmp_path, bases):
    path = write_plan(tmp_path / "p", bases["bert"], distill=DISTILL | {"epochs": 1}, stages=RUN)
    file = write_scores(path.parent, shared)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-6]))
    with pytest.raises(InputError) as caught:
        train(path, tmp_path / "run")
    text = str(caught.value)
    assert "6 of " in text and "pairs have no score, the first is query 'pool" in text
    assert text.startswith("file:scores.jsonl: ") and "raise [distill] max_missing" in text
    result = train(path, tmp_path / "more", "distill.max_missing=0.06").result["stages"][0]
    assert result["missing"] == 6 and result["taught_pairs"] > 100


# ---- a bundle


def test_a_bundle_scores_by_its_own_template(tmp_path):
    bundle = tiny_bundle(tmp_path / "teacher")
    write_rows(tmp_path / "items.jsonl", ITEMS)
    ids = tuple(item["id"] for item in ITEMS)
    teacher = make("bundle:teacher", tmp_path)
    try:
        told = teacher.score(TeacherRequest("q", QUERIES[0], ids, ("other",) * len(ids)))
        identity = teacher.identity()
    finally:
        teacher.close()
    with Scorer.open(bundle) as scorer:
        wanted = scorer.score(QUERIES[0], [bundle.card.template.render(item) for item in ITEMS]).score
    np.testing.assert_allclose(told, wanted, atol=1e-6)
    assert len(identity.split()[0]) == 64 and identity.endswith("fp32")
    with pytest.raises(DarlError):
        make("bundle:nowhere", tmp_path)


def test_a_student_of_a_bundle(tmp_path, bases):
    path = write_plan(
        tmp_path / "p", bases["bert"], stages=RUN,
        distill={"teacher": "bundle:teacher", "normalise": "logit", "loss": "kl", "epochs": 1, "learning_rate": 1e-3},
    )  # fmt: skip
    bundle = tiny_bundle(path.parent / "teacher")
    items = path.parent / "items.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    write_rows(
        items, [{"id": r["id"], "title": r["title"], "name": r["title"], "kind": r["kind"], "cover": "x"} for r in rows]
    )
    stage = train(path, tmp_path / "run").result["stages"][0]
    assert stage["taught_pairs"] > 90 and stage["missing"] == 0 and bundle.card.name == "tiny"


# ---- an endpoint


class Endpoint(ThreadingHTTPServer):
    """A rerank endpoint: ``script`` says how to answer each request in turn, then it answers rightly."""

    daemon_threads = True

    def __init__(self, script=()):
        super().__init__(("127.0.0.1", 0), partial(Handler))
        self.script, self.seen = list(script), []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/rerank"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, dict(self.headers)))
        step = self.server.script.pop(0) if self.server.script else 200
        if step == "cut":
            self.connection.close()
            return
        results = [{"index": i, "relevance_score": shared(body["query"], d)} for i, d in enumerate(body["documents"])]
        results.reverse()
        text = json.dumps({"results": results}) if step == 200 else step if isinstance(step, str) else '{"error": "no"}'
        self.send_response(step if isinstance(step, int) else 200)
        if step == 429:
            self.send_header("Retry-After", "0.01")
        if step == 307:
            self.send_header("Location", "http://127.0.0.1:9/other")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@contextmanager
def endpoint(*script):
    server = Endpoint(script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


QUICK = {"backoff_s": 0.001, "timeout_s": 5.0}


def test_an_endpoint_is_asked_in_its_own_shape(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANK_KEY", "s3cret")
    with endpoint() as server:
        teacher = make(server.url, tmp_path, documents=2, model="m", key_env="RERANK_KEY", **QUICK)
        assert teacher.score(ASK) == [shared(ASK.query, text) for text in ASK.texts]
        bodies = [body for body, _ in server.seen]
        assert [body["documents"] for body in bodies] == [["text a", "text b"], ["text c"]]
        assert all(body["query"] == "stolen bike" and body["model"] == "m" for body in bodies)
        assert server.seen[0][1]["Authorization"] == "Bearer s3cret" and "s3cret" not in teacher.identity()


@pytest.mark.parametrize("failures", [[503], [429, 500], ["cut"], [502, "cut", 504]])
def test_failures_that_may_pass_are_tried_again(tmp_path, failures):
    with endpoint(*failures) as server:
        teacher = make(server.url, tmp_path, retries=3, **QUICK)
        assert teacher.score(ASK) == [shared(ASK.query, text) for text in ASK.texts]
        assert len(server.seen) == len(failures) + 1


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ([401], 'the endpoint answers 401 ({"error": "no"}). Check URL, model and token'),
        ([307], "the endpoint answers 307"),
        ([503] * 4, "the endpoint answers 503"),
        (["cut"] * 4, "the endpoint cannot be reached"),
        (["not json"], "the answer does not score each of the 3 documents (not json)"),
        (['{"results": []}'], "does not score each of the 3 documents"),
        (['{"results": [{"index": 9, "relevance_score": 1}]}'], "does not score each"),
        (['{"results": [{"index": -1, "relevance_score": 1}]}'], "does not score each"),
        (['{"results": [{"index": 0, "relevance_score": null}]}'], "does not score each"),
        (["[" * 100000], "does not score each"),
    ],
)
def test_failures_that_stay(tmp_path, script, message):
    with endpoint(*script) as server:
        teacher = make(server.url, tmp_path, retries=3, **QUICK)
        with pytest.raises(DarlError) as caught:
            teacher.score(ASK)
        text = str(caught.value)
        assert text.startswith(server.url) and message in text and caught.value.todo and "\n" not in text
        if len(script) == 4:
            assert "4 times in a row" in text and "the scores fetched so far are kept" in text
            assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("spec", "params", "message"),
    [
        ("http://user:word@host/rerank", {}, "[distill] teacher holds a password"),
        ("http:///rerank", {}, "[distill] teacher is 'http:///rerank', not a URL"),
        ("http://[::1/rerank", {}, "not a URL"),
        ("http://user:word@host:99999/rerank", {}, "[distill] teacher holds a password"),
        ("https://host/rerank", {"key_env": "DARL_NO_SUCH_KEY"}, "the variable DARL_NO_SUCH_KEY is not set"),
    ],
)
def test_urls_that_cannot_be_asked(tmp_path, spec, params, message):
    with pytest.raises(UsageError) as caught:
        make(spec, tmp_path, **params)
    assert message in str(caught.value) and "word@" not in str(caught.value)


def test_an_endpoint_that_fails_half_way_is_asked_for_the_rest_only(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.teachers.cache.AT_ONCE", 2)
    asks = [dataclasses.replace(ASK, query_id=f"q{n}", query=f"query {n} text") for n in range(5)]
    with endpoint() as server:
        wanted = fetch_scores(make(server.url, tmp_path, **QUICK), asks, tmp_path / "whole")
    with endpoint(200, 200, 400) as server:
        teacher = make(server.url, tmp_path, workers=1, **QUICK)
        with pytest.raises(DarlError, match="the endpoint answers 400"):
            fetch_scores(teacher, asks, tmp_path / "cache")
        assert [p.name for p in sorted((tmp_path / "cache").glob("part*"))] == ["part-00000.jsonl"]
        server.seen.clear()
        seen = []
        assert fetch_scores(teacher, asks, tmp_path / "cache", advance=lambda *now: seen.append(now)) == wanted
        assert {body["query"] for body, _ in server.seen} == {"query 2 text", "query 3 text", "query 4 text"}
        assert seen == [(2, 5), (4, 5), (5, 5)]
        server.seen.clear()
        assert fetch_scores(teacher, asks, tmp_path / "cache") == wanted and not server.seen
    with pytest.raises(InputError, match="scores are from another teacher or for other pairs.*--fresh"):
        fetch_scores(make("http://127.0.0.1:9/other", tmp_path), asks, tmp_path / "cache")
    about = tmp_path / "cache" / "teacher.json"
    about.write_text(about.read_text().replace('"queries": 5', '"queries": 4'))
    with pytest.raises(InputError, match=r"teacher\.json: these scores are from another teacher"):
        fetch_scores(teacher, asks, tmp_path / "cache")


# ---- normalisation


@laws
@given(scores=st.lists(st.one_of(st.none(), st.integers(-99, 99)), max_size=9))
def test_zscores_have_mean_0_and_spread_1_and_keep_the_order(scores):
    told = normalise_scores(scores, "zscore", where="x")
    assert [z is None for z in told] == [value is None for value in scores]
    values, z = (np.array([v for v in side if v is not None], dtype=float) for side in (scores, told))
    assert (np.sign(np.subtract.outer(values, values)) == np.sign(np.subtract.outer(z, z))).all()
    if len(set(values.tolist())) > 1:
        assert z.mean() == pytest.approx(0, abs=1e-9) and z.std() == pytest.approx(1)


def test_logits_and_nothing():
    assert normalise_scores([0.5, None, 0.75], "logit", where="x") == pytest.approx([0.0, None, math.log(3)])
    assert normalise_scores([0.0, 1.0], "logit", where="x")[1] == pytest.approx(math.log((1 - 1e-6) / 1e-6))
    assert (
        normalise_scores([2.0, None], "none", where="x") == [2.0, None]
        and normalise_scores([], "zscore", where="x") == []
    )
    with pytest.raises(InputError) as caught:
        normalise_scores([1.5], "logit", where="bundle:b")
    assert "bundle:b: the score 1.5 is not a probability" in str(caught.value) and '"zscore"' in str(caught.value)


def test_scores_are_kept_by_what_the_student_reads():
    ask = TeacherRequest("1", "q", ("a", "b", "c"), ("same", "same", "other"))
    assert key_by_text([ask], [[1.0, 3.0, None]], "none", where="x") == {"q": {"same": 2.0}}


# ---- the loss


class Lookup:
    """A backbone whose features are looked up by item text."""

    def __init__(self, head, features):
        self.head, self.features = head, features

    def pair_features(self, queries, items):
        return dataclasses.make_dataclass("F", ["head_input"])(torch.stack([self.features[item] for item in items]))


def problem(seed: int = 0, graded: float = 0.5):
    """Three judged queries, three of a pool, and a teacher of all but one pair."""
    torch.manual_seed(seed)

    def pairs(tag: str, grade: int | None) -> Pairs:
        index = torch.tensor([(q, 3 * q + i) for q in range(3) for i in range(3)])
        grades = torch.tensor([-1 if grade is None else (i + grade) % 3 for _ in range(3) for i in range(3)])
        names = tuple(f"{tag}{q}" for q in range(3))
        return Pairs(names, tuple(f"{tag} item {n}" for n in range(9)), index, grades)

    parts = [pairs("judged ", 0), pairs("pool ", None)]
    scores = {p.queries[q]: {} for p in parts for q in range(3)}
    for part in parts:
        for q, i in part.index.tolist():
            scores[part.queries[q]][part.items[i]] = float(torch.randn(()))
    del scores["judged 0"]["judged  item 1"]
    source = Taught(Together(*map(source_of, parts)), scores)
    features = {item: torch.randn(2) for part in parts for item in part.items}
    objective = Objective.make(Loss(l2=0.1), GAINS)
    loss = DistilledLoss(objective, DISTILLATION_LOSSES["kl"].make, weight=2.0, graded=graded)
    return Lookup(HEADS["cumulative"].make(2, GAINS), features), objective, loss, source


@laws
@given(seed=st.integers(0, 99), cut=st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_parts_of_a_step_sum_to_the_whole(seed, cut):
    model, _, loss, source = problem(seed)
    batch = source.batch(range(6), 0)
    parts = [part for p in range(3) if (part := source.batch([q for q in range(6) if cut[q] == p], 0)).queries]
    whole = torch.stack([loss.counts(part) for part in parts]).sum(0)
    assert whole.tolist() == loss.counts(batch).tolist() == [9.0, 3.0, 6.0, 18.0]
    total = sum(loss(model, part, whole, share=len(part.query_index.unique()) / 6) for part in parts)
    torch.testing.assert_close(total, loss(model, batch, whole))
    total.backward()
    assert torch.isfinite(total) and model.head.weight.grad.abs().sum() > 0


def test_the_graded_term_reads_judged_pairs_only():
    model, objective, loss, source = problem(graded=1.0)
    judged, pool = source.batch([0, 1, 2], 0), source.batch([3, 4, 5], 0)
    plain = GradedLoss(objective)
    silent = dataclasses.replace(judged, teacher=torch.full((9,), math.nan))
    torch.testing.assert_close(loss(model, silent, loss.counts(silent)), plain(model, judged, plain.counts(judged)))
    alone = DistilledLoss(objective, DISTILLATION_LOSSES["kl"].make, weight=2.0, graded=0.0)
    torch.testing.assert_close(loss(model, pool, loss.counts(pool)), alone(model, pool, alone.counts(pool)))


# ---- the student


@pytest.fixture(scope="module")
def taught(tmp_path_factory, bases):
    """A student of labels and teacher that go against the cosine, the teacher finer than the grades; its project."""
    folder = tmp_path_factory.mktemp("taught")
    path = write_plan(
        folder / "p", bases["bert"], contrary=True, stages=RUN,
        distill=DISTILL | {"epochs": 30, "graded": 0.0, "learning_rate": 2e-4},
    )  # fmt: skip
    path.write_text("seed = 3\n" + path.read_text())
    write_scores(path.parent, contrary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan.Verdict, "kept", True)  # five dev queries may decide either way
        train(path, folder / "run")
    return path, folder / "run"


def agreement(path: Path, model) -> float:
    """Mean Kendall tau of model and teacher over the queries of the pool."""
    items, values = read_items(path.parent), []
    for line in (path.parent / "pool.jsonl").read_text().splitlines():
        row = json.loads(line)
        texts = [f"{items[i]} | kind: {kind_of(path, i)}" for i in row["items"]]
        index = torch.tensor([(0, n) for n in range(len(texts))])
        pairs = Pairs((row["query"],), tuple(texts), index, torch.zeros(len(texts), dtype=torch.long))
        ours = model.head.latent(Features(model).of(pairs).head_input).detach().numpy()
        theirs = np.array([contrary(row["query"], items[i]) for i in row["items"]])
        signs = np.sign(np.subtract.outer(ours, ours)) * np.sign(np.subtract.outer(theirs, theirs))
        values.append(signs[np.triu_indices(len(texts), 1)].mean())
    return float(np.mean(values))


def kind_of(path: Path, item_id: str) -> str:
    rows = (json.loads(line) for line in (path.parent / "items.jsonl").read_text().splitlines())
    return next(row["kind"] for row in rows if row["id"] == item_id)


def test_a_student_orders_as_its_teacher_does(taught, tmp_path):
    path, run = taught
    trained = run_folder.load_run(run)
    stage = trained.result["stages"][0]
    assert stage["stage"] == "distill" and stage["kept"] and stage["missing"] == 0
    assert stage["teacher"] == "file:scores.jsonl"
    assert trained.data["pool"]["queries"] == 6
    assert {p.name for p in (run / "teacher").iterdir()} == {"teacher.json", "part-00000.jsonl"}
    untrained = plan.train(read_config(path, ["stages.run=[]"]), path.parent, tmp_path / "untrained").model
    assert agreement(path, trained.model) > agreement(path, untrained) + 0.2


def test_a_teacher_that_is_wrong_is_rolled_back(tmp_path, bases):
    """The labels decide: a student of an upside-down teacher does not stay."""
    path = write_plan(tmp_path / "p", bases["bert"], distill=DISTILL | {"epochs": 2, "graded": 0.0}, stages=RUN)
    write_scores(path.parent, contrary)
    trained = train(path, tmp_path / "run")
    without = train(path, tmp_path / "without", "stages.run=[]")
    assert not trained.result["stages"][0]["kept"] and trained.result["dev"] == without.result["dev"]


@pytest.fixture
def every_stage_is_kept(monkeypatch):
    """As for the student of :func:`taught`."""
    monkeypatch.setattr(plan.Verdict, "kept", True)


@pytest.mark.usefixtures("every_stage_is_kept")
def test_kill_9_while_it_learns(taught, tmp_path):
    path, run = taught
    kill_in_stage(path, tmp_path / "killed", "0-distill", step=8)
    train(path, tmp_path / "killed")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(tmp_path / "killed").items())
    assert (tmp_path / "killed" / "result.json").read_bytes() == (run / "result.json").read_bytes()


@pytest.mark.usefixtures("every_stage_is_kept")
def test_read_from_disk_it_is_the_same_student(taught, tmp_path):
    path, run = taught
    train(path, tmp_path / "disk", "data.store=disk")
    assert all(torch.equal(value, weights(run)[name]) for name, value in weights(tmp_path / "disk").items())


def test_another_teacher_under_the_same_name(taught, tmp_path):
    path, _ = taught
    file = path.parent / "scores.jsonl"
    before = file.read_text()

    def report(what: str, done: int, total: int) -> None:
        if what == "stage distill" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(path, tmp_path / "run", report=report)
    write_scores(path.parent, lambda query, title: contrary(query, title) + 1)
    try:
        with pytest.raises(InputError, match=r"teacher\.json: these scores are from another teacher"):
            train(path, tmp_path / "run")
    finally:
        file.write_text(before)
    train(path, tmp_path / "run")


def test_a_student_of_an_endpoint(taught, tmp_path):
    """The same scores by HTTP teach the same student; a run that is done asks for nothing."""
    path, run = taught
    with endpoint() as server:
        settings = [f"distill.teacher='{server.url}'", "distill.epochs=1", "distill.teacher_params={backoff_s=0.001}"]
        train(path, tmp_path / "http", *settings)
        asked = len(server.seen)
        assert asked == run_folder.load_run(tmp_path / "http").data["train"]["queries"] + 6
        train(path, tmp_path / "http", *settings)
        assert len(server.seen) == asked
