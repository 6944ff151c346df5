"""The labelling page: what it shows, what it keeps, and whom it refuses."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from darl_opensearch.errors import DarlError, InputError, UsageError
from darl_opensearch.web.guard import host_name
from darl_opensearch.web.serve import serve_page
from tests.helpers.files import read_rows
from tests.helpers.judging import SCALE, job, project, silent, task, truth
from tests.helpers.serving import serving
from trainer.judging import JUDGES, JudgeConfig
from trainer.judging.base import Answer
from trainer.judging.run import judge
from trainer.judging.web.guideline import render_guideline
from trainer.judging.web.images import Images
from trainer.judging.web.page import STATIC, Labelling, create_judging_app
from trainer.judging.web.store import AnswerStore, check_rater

with warnings.catch_warnings():  # Starlette would rather have a successor of httpx
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

ROOT = Path(__file__).parents[2]
TASKS = [task(f"query {n // 2}", f"i{n}-{n % 3}", f"text of i{n}-{n % 3}") for n in range(6)]
EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>'
HOST = "http://127.0.0.1:8766"
WRITES = {"Origin": HOST}


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def store(tmp_path):
    made = AnswerStore(tmp_path / "web.sqlite")
    yield made
    made.close()


def client(store, tasks=TASKS, guideline="In doubt the lower.", **options) -> TestClient:
    return TestClient(create_judging_app(Labelling(tasks, SCALE, guideline, store, **options)), base_url=HOST)


def post(page, path, **body):
    return page.post(path, json=body, headers=WRITES)


# ---- what is shown


def test_a_pair_is_shown_without_what_a_rater_must_not_know(store):
    secret = task(
        "bike", "x-1", "Covers theft", arm="gold", slice="pets", other_fields={"score": 0.9371, "traffic": 12345}
    )
    page = client(store, [secret])
    told = page.get("/api/task?rater=ann&place=0").json()
    assert told == {"place": 0, "task": secret.task, "query": "bike", "need": "", "item": "Covers theft",
                    "image": None, "answered": False, "grade": None}  # fmt: skip
    everything = page.get("/").text + page.get("/api/job").text
    assert not any(word in everything for word in ("gold", "pets", "9371", "12345", "x-1"))


def test_grades_and_their_keys(store):
    told = client(store).get("/api/job?rater=ann").json()
    assert told["grades"] == [
        {"grade": 0, "name": "irrelevant", "key": "1"}, {"grade": 1, "name": "related", "key": "2"},
        {"grade": 2, "name": "fits", "key": "3"},
    ]  # fmt: skip
    assert (told["rater"], told["total"], told["graded"], told["skipped"], told["first"]) == ("ann", 6, 0, 0, 0)


def test_grading_goes_on_to_the_next_and_round_again(store):
    page = client(store)
    assert post(page, "/api/answer", rater="ann", task=TASKS[4].task, grade=2).json()["next"] == 5
    assert post(page, "/api/answer", rater="ann", task=TASKS[5].task, grade=None).json()["next"] == 0
    for n in range(3):
        assert post(page, "/api/answer", rater="ann", task=TASKS[n].task, grade=0).json()["next"] == n + 1
    last = post(page, "/api/answer", rater="ann", task=TASKS[3].task, grade=1).json()
    assert (last["next"], last["first"], last["graded"], last["skipped"]) == (None, None, 5, 1)
    assert page.get("/api/task?rater=ann&place=4").json()["grade"] == 2
    skipped = page.get("/api/task?rater=ann&place=5").json()
    assert skipped["answered"] and skipped["grade"] is None
    assert page.get("/api/job?rater=ben").json()["graded"] == 0  # another rater sees nothing of it


def test_undo_brings_back_what_was_there(store):
    page = client(store)
    assert post(page, "/api/undo", rater="ann").json()["undone"] is False
    for grade in (0, 2, None):
        post(page, "/api/answer", rater="ann", task=TASKS[1].task, grade=grade)
    post(page, "/api/answer", rater="ben", task=TASKS[2].task, grade=1)
    for expected in (Answer(2), Answer(0), None):
        told = post(page, "/api/undo", rater="ann").json()
        assert told["undone"] and told["next"] == 1 and store.answers("ann").get(TASKS[1].task) == expected
    assert store.answers("ben") == {TASKS[2].task: Answer(1)}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.none(), st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2]))), max_size=12))
def test_undo_undoes_in_order(steps):
    """None is an undo, anything else an answer; the store says what a stack would."""
    store, states = AnswerStore(Path(":memory:")), [{}]
    for step in steps:
        if step is None:
            done = store.undo("ann")
            assert (done is not None) is (len(states) > 1)
            states = states[:-1] if len(states) > 1 else states
        else:
            store.answer("ann", str(step[0]), step[1])
            states.append({**states[-1], str(step[0]): Answer(step[1])})
        assert store.answers("ann") == states[-1]
    store.close()


def test_two_raters_and_how_far_they_agree(store):
    page = client(store)
    said = {"ann": [0, 1, 2, 0, 1, 2], "ben": [0, 1, 1, 0, 2, 2]}
    for rater, grades in said.items():
        for one, grade in zip(TASKS, grades, strict=True):
            post(page, "/api/answer", rater=rater, task=one.task, grade=grade)
    (told,) = page.get("/api/agreement").json()["agreement"]
    assert told["raters"] == ["ann", "ben"] and told["pairs"] == 6 and told["queries"] == 3
    theirs = cohen_kappa_score(said["ann"], said["ben"], weights="quadratic")
    assert told["quadratic"]["mean"] == pytest.approx(theirs, abs=1e-4)
    assert told["quadratic"]["low"] <= theirs <= told["quadratic"]["high"]


def test_only_the_raters_that_are_asked_for(store):
    page = client(store, raters=("ann", "ben"))
    assert page.get("/api/job").json()["rater"] == "ann" and page.get("/api/job?rater=ben").status_code == 200
    told = page.get("/api/job?rater=eve")
    assert told.status_code == 400 and told.json()["error"] == "'eve' is not among the raters. Open ?rater=ann."


# ---- nothing in a text can act


def test_markup_in_query_and_item_stays_text(store):
    """They reach the page as JSON, and its script sets them as text: there is no other way into the page."""
    page = client(store, [task(EVIL, "x", EVIL)])
    told = page.get("/api/task?place=0")
    assert told.headers["content-type"] == "application/json" and told.json()["query"] == EVIL
    assert EVIL not in page.get("/").text
    script = (STATIC / "page.js").read_text()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert way not in script


def test_the_guideline_is_rendered_and_can_do_nothing(store):
    text = (
        f"# Grades\n\n| grade | means |\n|---|---|\n| 2 | *fits* |\n\n{EVIL}\n\n[a](javascript:alert(1)) "
        "[b](https://example.org/x) ![c](https://example.org/t.png) <b onclick=alert(1)>bold</b>\n\n"
        "<iframe src=//example.org></iframe> [d](data:text/html,x)\n"
    )
    html = render_guideline(text)
    found = Tags(html).found
    assert {tag for tag, _ in found} <= {"h1", "table", "thead", "tbody", "tr", "th", "td", "em", "p", "a"}
    links = [attrs for tag, attrs in found if tag == "a"]
    assert {link["href"] for link in links} <= {"https://example.org/x", "https://example.org/t.png"}
    assert all(link["rel"] == "noopener noreferrer" and link["target"] == "_blank" for link in links)
    assert not any(name.startswith("on") or name in ("style", "src") for _, attrs in found for name in attrs)
    page = client(store, guideline=text).get("/").text
    assert html in page and page.count("<script") == 1  # the page's own


@given(st.text(alphabet=st.sampled_from("<>\"'&[]()!`*_#|:/=\\ \nabscriptonerrorjavascript"), max_size=80))
def test_no_guideline_makes_a_dangerous_tag(text):
    for tag, attrs in Tags(render_guideline(text)).found:
        assert tag not in ("script", "img", "iframe", "object", "svg", "style", "form", "input")
        assert not any(name.startswith("on") for name in attrs)
        assert not re.match(r"\s*(javascript|vbscript|data|file):", attrs.get("href") or "", re.IGNORECASE)


def test_nothing_is_fetched_from_elsewhere(store):
    page = client(store)
    told = page.get("/")
    assert told.status_code == 200 and "://" not in told.text
    policy = told.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "frame-ancestors 'none'" in policy
    assert "img-src data:;" in policy and "unsafe" not in policy
    assert told.headers["x-content-type-options"] == "nosniff"
    for tag, attrs in Tags(page.get("/").text).found:
        assert "style" not in attrs and not any(name.startswith("on") for name in attrs), tag


# ---- who may write


@pytest.mark.parametrize("host", ["127.0.0.1:8766", "localhost:9999", "LOCALHOST", "[::1]:8766"])
def test_this_machine_is_let_in(store, host):
    page = client(store)
    assert page.get("/", headers={"Host": host}).status_code == 200
    body = {"rater": "ann", "task": TASKS[0].task, "grade": 1}
    assert page.post("/api/answer", json=body, headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8766", "127.0.0.1.evil.example", "localhost.evil", "",
                                  "0.0.0.0:8766", "127.0.0.1@evil.example", "evil.example#127.0.0.1"])  # fmt: skip
def test_other_names_of_this_machine_are_not(store, host):
    """DNS rebinding: a page of evil.example whose name suddenly means 127.0.0.1."""
    page = client(store)
    for told in (
        page.get("/api/task?place=0", headers={"Host": host}),
        page.post("/api/undo", json={}, headers={"Host": host, "Origin": f"http://{host}"}),
    ):
        assert told.status_code == 421 and "query 0" not in told.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:8767"}, 403),
        ({"Origin": "https://127.0.0.1:8766"}, 403),
        ({"Origin": HOST, "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": HOST, "Content-Type": "text/plain"}, 415),
        ({"Origin": HOST, "Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": HOST, "Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_other_pages_may_not_write(store, headers, status):
    body = json.dumps({"rater": "ann", "task": TASKS[0].task, "grade": 1})
    told = client(store).post("/api/answer", content=body, headers={"Content-Type": "application/json", **headers})
    assert told.status_code == status and (status == 200) is bool(store.answers("ann"))
    assert told.headers["content-security-policy"]


def test_what_is_too_large_or_of_no_length_is_refused(store):
    page = client(store)
    headers = {"Origin": HOST, "Content-Type": "application/json"}
    assert page.post("/api/answer", content=b"x" * 70_000, headers=headers).status_code == 413
    assert page.post("/api/answer", content=iter([b"{}"]), headers=headers).status_code == 413


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("answer", {"task": "0", "grade": 1}, "there is no such task. Reload the page"),
        ("answer", {"task": TASKS[0].task, "grade": 3}, "grade is not in 0..2"),
        ("answer", {"task": TASKS[0].task, "grade": True}, "grade is not in 0..2"),
        ("answer", {"task": TASKS[0].task, "grade": "1"}, "grade is not in 0..2"),
        ("answer", {"task": TASKS[0].task, "grade": 1, "rater": "<b>"}, "'<b>' is not a valid rater name"),
        ("answer", {"task": [], "grade": 1}, "there is no such task"),
        ("undo", {"rater": 3}, "rater is not text"),
        ("undo", [], "the body is not a JSON object"),
    ],
)
def test_requests_that_make_no_sense(store, path, body, message):
    told = client(store).post(f"/api/{path}", json=body, headers=WRITES)
    assert told.status_code == 400 and message in told.json()["error"] and not store.raters()


def test_a_tab_that_is_closed_in_the_middle_is_no_error_of_ours(store):
    sent = []
    said = iter([{"type": "http.request", "body": b'{"ta', "more_body": True}, {"type": "http.disconnect"}])

    async def receive():
        return next(said)

    async def send(message):
        sent.append(message)

    headers = {"host": HOST[7:], "origin": HOST, "content-type": "application/json", "content-length": "20"}
    scope = {
        "type": "http", "method": "POST", "path": "/api/answer", "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    asyncio.run(create_judging_app(Labelling(TASKS, SCALE, "", store))(scope, receive, send))
    assert sent[0]["status"] == 400 and store.raters() == []


def test_places_and_bodies_that_make_no_sense(store):
    page = client(store)
    for place in ("6", "-1", "x", "1e1", "²", "9" * 30):
        assert page.get("/api/task", params={"place": place}).json()["error"].startswith("place is not in 0..5")
    told = page.post("/api/undo", content=b"{", headers=WRITES | {"Content-Type": "application/json"})
    assert told.status_code == 400 and told.json()["error"] == "the body is not JSON."
    assert page.get("/../../etc/passwd").status_code == 404 and page.get("/page.html").status_code == 404
    assert page.get("/api/answer").status_code == 405


def test_names_of_hosts_and_raters():
    assert [host_name(h) for h in ("A:1", "[::1]:80", "[::1]", "a", "a:", ":1")] == [
        "a",
        "[::1]",
        "[::1]",
        "a",
        "a:",
        "",
    ]
    assert check_rater("ann.b-1_") == "ann.b-1_"
    for name in ("", "a" * 41, "a b", "a/b", "ä"):
        with pytest.raises(InputError, match="is not a valid rater name. Use up to 40 letters"):
            check_rater(name)


# ---- for everybody


def test_the_page_is_labelled_and_announces_itself(store):
    tags = Tags(client(store).get("/").text).found
    ids = {attrs["id"] for _, attrs in tags if attrs.get("id")}
    assert ("html", {"lang": "en"}) in tags and {"main", "header", "h1", "noscript"} <= {tag for tag, _ in tags}
    labels = {attrs.get("for") for tag, attrs in tags if tag == "label"}
    for tag, attrs in tags:
        assert attrs.get("aria-labelledby", "pair") in ids
        if tag == "progress":
            assert attrs["id"] in labels
        if tag == "button":
            assert attrs["type"] == "button" and attrs["aria-keyshortcuts"]
        if attrs.get("role") == "group":
            assert attrs["aria-label"]
    assert {"status", "alert"} <= {attrs.get("role") for _, attrs in tags}
    script = (STATIC / "page.js").read_text()
    used = set(re.findall(r'\bat\("([\w-]+)"\)', script)) | set(re.findall(r'\["([\w-]+)", "\w", ', script))
    assert used and used <= ids  # every element that the script names is there
    paths = set(re.findall(r"api/\w+", script))
    assert paths == {"api/job", "api/task", "api/answer", "api/undo", "api/agreement"}


# ---- the judge


def web(**params):
    maker, values = JUDGES.resolve("web", params)
    return maker(**values)


def test_people_are_through_when_everybody_is(tmp_path):
    work = job(tmp_path)
    first = web().judge(TASKS, work, silent)
    assert first.pending and first.answers == {} and "6 answers are missing" in first.notes[0]
    store = AnswerStore(tmp_path / "web.sqlite")
    for one in TASKS:
        store.answer("ann", one.task, 1)
    store.answer("ann", "of another job", 2)
    verdict = web().judge(TASKS, work, silent)
    assert not verdict.pending and list(verdict.answers) == ["ann"] and len(verdict.answers["ann"]) == 6
    assert web(raters="ann, ben").judge(TASKS, work, silent).pending
    store.answer("ben", TASKS[0].task, None)
    assert web().judge(TASKS, work, silent).pending  # who has begun is waited for
    store.close()
    with pytest.raises(InputError, match="'a b' is not a valid rater name"):
        web(raters="a b").judge(TASKS, work, silent)


def test_two_raters_are_scored_apart_and_weighed(tmp_path):
    project(tmp_path)
    config = JudgeConfig(judges=("web",), gold_pairs=36)
    where = {"scale": SCALE, "out": tmp_path / "out", "base": tmp_path}
    paths = [tmp_path / "tasks.jsonl"], tmp_path / "gold.jsonl"
    assert judge(config, *paths, **where).pending
    store = AnswerStore(tmp_path / "out" / "web.sqlite")
    for row in [*read_rows(paths[0][0]), *read_rows(paths[1])]:
        grade = truth(row["item_id"])
        name = task(row["query"], row["item_id"]).task
        store.answer("ann", name, grade)
        store.answer("ben", name, (grade + 1) % 3)
    store.close()
    report = judge(config, *paths, **where)
    assert [(j["judge"], j["verdict"]) for j in report.details["judges"]] == [
        ("web/ann", "used"),
        ("web/ben", "refused"),
    ]
    assert {r["judge"] for r in read_rows(report.judgments)} == {"web/ann"}
    assert report.details["agreement"][0]["pairs"] == 48 and report.details["disagreements"] == 0


def test_a_database_that_is_none(tmp_path):
    (tmp_path / "web.sqlite").write_text("this is no database, but a text that is long enough")
    with pytest.raises(DarlError, match=r"web\.sqlite: cannot be opened \(file is not a database\). Move it away"):
        AnswerStore(tmp_path / "web.sqlite")


def test_a_full_disk_is_said_on_the_page_and_takes_no_answer_away(store):
    page, one = client(store), TASKS[0].task
    assert post(page, "/api/answer", rater="ann", task=one, grade=1).status_code == 200
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    said = None
    for _ in range(2000):  # a page of history, then there is no room
        said = post(page, "/api/answer", rater="ann", task=one, grade=2)
        if said.status_code != 200:
            break
    assert said.status_code == 507
    assert re.search(
        r"web\.sqlite: the answer file cannot be used \(.*full.*\)\. Free disk space", said.json()["error"]
    )
    assert store.answers("ann") == {one: Answer(2)} and page.get("/api/job?rater=ann").json()["graded"] == 1
    store._db.execute("PRAGMA max_page_count = 1000")
    assert post(page, "/api/answer", rater="ann", task=one, grade=0).status_code == 200  # no half transaction is left


def test_a_port_that_is_taken(store):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(DarlError, match=rf"127.0.0.1:{port}: cannot listen there \(Address already in use\)"):
            serve_page(create_judging_app(Labelling(TASKS, SCALE, "", store)), port, print)


# ---- a real one


def start(folder: Path, *words: str):
    """``darl judge --web`` on any port; gives the process and the page's address."""
    command = [sys.executable, "-m", "darl_opensearch", "judge", "tasks.jsonl", "--web", "--port", "0", "--out", "out",
               "--grades", "irrelevant,related,fits", *words]  # fmt: skip
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DARL_")} | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(
        command, cwd=folder, env=clean, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = running.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)/\?rater=(\S+)", line)
    if not found:
        running.kill()
        raise AssertionError(line + running.communicate()[1])
    return running, int(found[1]), found[2]


def send(port: int, path: str, body=None):
    headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_what_the_page_calls_saved_survives_a_kill(tmp_path):
    project(tmp_path)
    running, port, rater = start(tmp_path, "--rater", "ann")
    assert rater == "ann"
    saved: dict[str, int] = {}

    def grade(n: int) -> None:
        try:
            for place in range(n, 12, 2):
                told = send(port, f"/api/task?place={place}")
                for value in (0, 1, 2):
                    send(port, "/api/answer", {"task": told["task"], "grade": value})
                    saved[told["task"]] = value
        except (OSError, http.client.HTTPException):  # the kill
            pass

    threads = [threading.Thread(target=grade, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    while len(saved) < 4 and any(thread.is_alive() for thread in threads):
        time.sleep(0.001)
    running.send_signal(signal.SIGKILL)
    before = dict(saved)
    running.communicate()
    for thread in threads:
        thread.join()
    with sqlite3.connect(tmp_path / "out" / "web.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        kept = dict(db.execute("SELECT task, grade FROM answer WHERE rater = 'ann'"))
    db.close()
    assert len(before) >= 4 and all(kept[name] >= value for name, value in before.items())

    running, port, _ = start(tmp_path, "--rater", "ann", "--json")
    assert send(port, "/api/job")["graded"] == len(kept)
    for place in range(12):
        one = send(port, f"/api/task?place={place}")
        send(port, "/api/answer", {"task": one["task"], "grade": truth(one["item"])})
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    told = json.loads(out)
    assert not told["pending"] and told["labels"] == 12 and told["judges"][0]["judge"] == "web/ann"
    rows = read_rows(tmp_path / "out" / "judgments.jsonl")
    assert all(r["grade"] == truth(r["item_id"]) and r["judge"] == "web/ann" for r in rows)


# ---- what stands beside the pair


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c6360f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


def test_an_image_comes_from_the_folder_and_nothing_else_does(store, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "bike.PNG").write_bytes(PNG)
    (folder / "page.svg").write_text("<svg/>")
    (tmp_path / "secret.png").write_bytes(PNG)
    (folder / "way.png").symlink_to(tmp_path / "secret.png")
    names = ["bike.PNG", "../secret.png", str(tmp_path / "secret.png"), "page.svg", "gone.png", "way.png", "a\0.png",
             "", "https://example.org/bike.png", "."]  # fmt: skip
    tasks = [task("bike", f"i{n}", image=name) for n, name in enumerate(names)]
    page = client(store, tasks, images=Images.of("photos", tmp_path))
    told = [page.get(f"/api/task?place={place}").json()["image"] for place in range(len(tasks))]
    assert told == [f"image/{tasks[0].task}"] + [None] * 9
    got = page.get(f"/{told[0]}")
    assert got.content == PNG and got.headers["content-type"] == "image/png"
    assert "default-src 'none'" in got.headers["content-security-policy"]
    for one in tasks[1:]:
        assert page.get(f"/image/{one.task}").status_code == 404
    assert page.get("/image/nothing").status_code == 404 and page.get("/image/..%2fsecret.png").status_code == 404
    assert "img-src data: 'self';" in page.get("/").headers["content-security-policy"]


def test_an_image_comes_from_the_site_that_was_named(store):
    images = Images.of("https://cdn.example.org/p", Path())
    tasks = [task("bike", f"i{n}", image=f"https://cdn.example.org{path}")
             for n, path in enumerate(["/p/1.jpg", "/private/1.jpg", ".evil.example/p/1.jpg"])]  # fmt: skip
    page = client(store, tasks, images=images)
    told = [page.get(f"/api/task?place={place}").json()["image"] for place in range(3)]
    assert told == ["https://cdn.example.org/p/1.jpg", None, None]
    assert "img-src data: https://cdn.example.org;" in page.get("/").headers["content-security-policy"]


@pytest.mark.parametrize(
    ("place", "message"),
    [("nowhere", "nowhere: not a folder of images. Check --set web.images"),
     ("ftp://example.org/", "'ftp://example.org/' is not a URL that images can begin with"),
     ("https://a b/", "is not a URL that images can begin with"),
     ("https://me:secret@example.org/", "'https://example.org/' is not a URL that images can begin with")],
)  # fmt: skip
def test_a_place_of_images_that_is_none(tmp_path, place, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        Images.of(place, tmp_path)


def test_what_is_shown_is_counted_and_what_gives_gold_away_is_said(tmp_path):
    (tmp_path / "a.png").write_bytes(PNG)
    images = Images.of(".", tmp_path)
    usual = [task("bike", f"i{n}", image=name) for n, name in enumerate(["a.png", "b.png", ""])]
    assert images.describe(usual[2:]) == []
    assert images.describe(usual) == [f"1 of 3 pairs are shown with an image; 1 name one that is not in {tmp_path}"]
    assert Images().describe(usual) == [
        "0 of 3 pairs are shown with an image; 2 name one that is not shown: pass --set web.images=FOLDER or its URL"
    ]
    gold = task("flood", "g", arm="gold", information_need="wants to know what to do first")
    assert images.describe([*usual, gold])[1:] == [
        "warning: only the other pairs have the field 'image': people can tell gold apart by it",
        "warning: only gold have the field 'information_need': people can tell gold apart by it",
    ]


@pytest.mark.browser
@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 400)])
def test_two_people_judge_by_keyboard(window, store, tmp_path, dark, width):
    (tmp_path / "bike.png").write_bytes(PNG)
    (tmp_path / "gone.png").write_bytes(PNG)
    guideline = (
        "# What the grades mean\n\n| grade | means |\n|---|---|\n| fits | it helps |\n\n[more](https://example.org)"
    )
    tasks = [
        task("stolen bike", "a", "Covers theft", information_need="Wants a new one paid for.", image="bike.png"),
        task("stolen bike", "b", f"Covers fire {EVIL}"),
        task(f"flood {EVIL}", "c", "Covers water", image="gone.png"),
    ]  # fmt: skip
    labelling = Labelling(tasks, SCALE, guideline, store, raters=("ann", "ben"), images=Images.of(".", tmp_path))
    with serving(create_judging_app(labelling)) as url:
        view = window(dark=dark, width=width)
        sheet = view.open(f"{url}?rater=ann")
        sheet.locator("#image").wait_for()
        assert sheet.locator("#rater").inner_text() == "ann" and sheet.locator("#place").inner_text() == "Pair 1 of 3"
        assert sheet.locator("#need").inner_text() == "Wants a new one paid for."
        assert sheet.locator("#image").evaluate("(e) => e.naturalWidth") == 1
        assert sheet.locator("#guideline td").all_inner_texts() == ["fits", "it helps"]
        assert view.faults() == [] and not view.overflows()
        sheet.keyboard.press("3")
        sheet.locator("#place", has_text="Pair 2 of 3").wait_for()
        assert sheet.locator("#item").inner_text() == f"Covers fire {EVIL}"
        assert sheet.locator("#need-part").is_hidden() and sheet.locator("#image-part").is_hidden()
        assert sheet.locator("#status").inner_text() == "Saved." and sheet.locator("#count").inner_text() == "1 of 3"
        sheet.keyboard.press("u")
        sheet.locator("#place", has_text="Pair 1 of 3").wait_for()
        assert sheet.locator("#status").inner_text() == "Taken back." and store.answers("ann") == {}
        sheet.keyboard.press("2")
        sheet.locator("#place", has_text="Pair 2 of 3").wait_for()
        sheet.keyboard.press("s")
        sheet.locator("#place", has_text="Pair 3 of 3").wait_for()
        sheet.locator("#keys").uncheck()
        sheet.locator("#pair").press("1")
        assert store.answers("ann") == {tasks[0].task: Answer(1), tasks[1].task: Answer(None)}
        sheet.locator("#grades button", has_text="fits").press("Enter")
        sheet.locator("#status", has_text="Everything is answered.").wait_for()
        assert store.answers("ann")[tasks[2].task] == Answer(2) and sheet.locator("#agreement").is_hidden()

        (tmp_path / "gone.png").write_bytes(b"no image")
        other = window(dark=dark, width=width)
        theirs = other.open(f"{url}?rater=ben")
        theirs.locator("#place", has_text="Pair 1 of 3").wait_for()
        for key, place in (("3", 2), ("1", 3)):
            theirs.keyboard.press(key)
            theirs.locator("#place", has_text=f"Pair {place} of 3").wait_for()
        theirs.locator("#no-image").wait_for()
        assert theirs.locator("#image").is_hidden()
        theirs.keyboard.press("3")
        theirs.locator("#agreements li").wait_for()
        assert theirs.locator("#agreements li").all_inner_texts() == [
            "ann and ben: quadratic kappa 0.00 [0.00, 0.00] on 2 pairs"
        ]
        assert other.faults() == [] and theirs.title() == "Judging"
        assert theirs.locator("#query img, #item img, main script").count() == 0
        theirs.keyboard.press("p")
        theirs.locator("#place", has_text="Pair 2 of 3").wait_for()
        assert theirs.locator("#grades [aria-pressed=true]").inner_text() == "1 irrelevant"
        assert {re.sub(r"\?.*|image/.*", "", one.removeprefix(url)) for one in (*view.asked, *other.asked)} == {
            "api/job", "api/task", "api/answer", "api/undo", "api/agreement", "",
        }  # fmt: skip
