"""What a person gets wrong ends in one line that says what to do, and leaves nothing half-written.

End to end through ``darl``; the folders of each part test the same in depth.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.bundles import ITEMS, copy_bundle
from tests.helpers.commands import run_darl
from tests.helpers.files import read_rows
from tests.helpers.http import guarded_proxy, serving, stub_cluster
from tests.helpers.trained import write_project

LONGEST_LINE = 600
ROOT = Path(__file__).parent.parent
OPENSEARCH = {"name": "n", "cluster_name": "c", "version": {"number": "3.6.0", "distribution": "opensearch"}}
BARE_NODE = {
    "name": "n1", "roles": ["data"], "plugins": [{"name": "opensearch-knn"}],
    "modules": [{"name": "search-pipeline-common"}, {"name": "lang-painless"}],
}  # fmt: skip


@pytest.fixture
def project(tmp_path, checkpoint):
    return write_project(tmp_path / "project", str(checkpoint), queries=10)


def snapshot(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(said, *wanted, code=1):
    """One line on stderr, nothing on stdout, the exit code of the table."""
    assert (said.code, said.out) == (code, ""), said
    assert said.err.startswith("darl: ") and said.err.endswith((".\n", "?\n")) and said.err.count("\n") == 1, said.err
    assert len(said.err) < LONGEST_LINE, len(said.err)
    assert "Traceback" not in said.err
    for text in wanted:
        assert text in said.err
    return said.err


def changed(file, line, **fields):
    """Change one line of a JSONL file."""

    def change(folder):
        rows = (folder / file).read_text(encoding="utf-8").splitlines()
        rows[line - 1] = json.dumps(json.loads(rows[line - 1]) | fields, ensure_ascii=False)
        (folder / file).write_text("\n".join(rows) + "\n", encoding="utf-8")

    return change


def appended(file, text):
    def change(folder):
        with (folder / file).open("ab") as out:
            out.write(text if isinstance(text, bytes) else text.encode())

    return change


def repeated(folder):
    rows = (folder / "judgments.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "judgments.jsonl").write_text("\n".join([*rows, rows[2]]) + "\n", encoding="utf-8")


LONG = "long " * 2_000_000  # 10 MB
TRAINING = {
    "unknown grade": (
        changed("judgments.jsonl", 3, grade=7),
        "judgments.jsonl, line 3: field 'grade' is 7, not a whole number in 0..2",
    ),
    "grade below the scale": (
        changed("judgments.jsonl", 3, grade=-1),
        "line 3: field 'grade' is -1, not a whole number in 0..2",
    ),
    "grade as text": (changed("dev_judgments.jsonl", 2, grade="two"), "line 2: field 'grade' is 'two', not a whole"),
    "grade in between": (changed("judgments.jsonl", 2, grade=1.5), "line 2: field 'grade' is 1.5, not a whole number"),
    "duplicate pair": (repeated, "appears twice (first: "),
    "empty query": (changed("judgments.jsonl", 4, query="  "), "line 4: field 'query' is empty"),
    "query of another kind": (changed("traffic.jsonl", 4, query=["a"]), "traffic.jsonl, line 4: field 'query'"),
    "missing item": (changed("judgments.jsonl", 5, item_id="gone-1"), "line 5: item 'gone-1' is not in the items"),
    "broken line": (appended("judgments.jsonl", '{"query_id": "q", "que\n'), "judgments.jsonl, line "),
    "a line that is not an object": (appended("dev_judgments.jsonl", "[1, 2]\n"), "dev_judgments.jsonl, line "),
    "bytes that are no UTF-8": (appended("items.jsonl", b'{"id": "\xff"}\n'), "items.jsonl"),
    "no judgment": (lambda f: (f / "judgments.jsonl").write_text(""), "the file has no judgments"),
    "no file": (lambda f: (f / "items.jsonl").unlink(), "items.jsonl"),
    "item twice": (appended("items.jsonl", '{"id": "home-01", "name": "x"}\n'), "item 'home-01' appears twice"),
    "item of 10 MB": (changed("items.jsonl", 1, cover=LONG), "field 'cover' has 9,999,999 characters"),
    "query of 10 MB": (changed("judgments.jsonl", 1, query=LONG), "line 1: "),
    "a query in two parts": (
        lambda f: (f / "dev_judgments.jsonl").write_bytes((f / "judgments.jsonl").read_bytes()),
        "is also in the training part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_training_data(darl, project, tmp_path, name):
    change, wanted = TRAINING[name]
    change(project.parent)
    before = snapshot(tmp_path)
    refused(darl("train", project, "--run", tmp_path / "run"), wanted, str(project.parent))
    assert snapshot(tmp_path) == before  # no run folder, no temporary file


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("grades.gains=[0, 3, 1]", "gains"),
        ("loss.l3=1", "unknown key [loss] l3"),
        ("ood.alpha=0.001", "0.001"),
        ("ood.detector=kn", "unknown detector 'kn'. Did you mean 'knn'?"),
        ("model.base=/no/such/folder", "/no/such/folder"),
        ("nonsense", "not table.key=value"),
    ],
)
def test_configuration(darl, project, tmp_path, override, wanted):
    before = snapshot(tmp_path)
    said = darl("train", project, "--run", tmp_path / "run", "--set", override)
    refused(said, wanted, code=said.code)
    assert said.code in (1, 2) and snapshot(tmp_path) == before


def test_a_configuration_that_is_none(darl, tmp_path):
    (tmp_path / "darl.toml").write_text("[model\n")
    refused(darl("train", tmp_path / "darl.toml"), "darl.toml: not TOML")
    refused(darl("train", tmp_path / "nowhere.toml"), "nowhere.toml: cannot be read")
    assert [p.name for p in tmp_path.iterdir()] == ["darl.toml"]


def test_a_bundle_that_was_changed(darl, tiny, tmp_path):
    folder = copy_bundle(tiny, tmp_path / "changed")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    before = snapshot(tmp_path)
    seen = []
    with serving(stub_cluster({("GET", "/"): OPENSEARCH}, seen)) as url:
        items = tmp_path / "items.jsonl"
        items.write_text(json.dumps(ITEMS[0]) + "\n")
        for arguments in (
            ("check", folder),
            ("register", folder, "--url", url),
            ("index", folder, items, "--index", "i", "--url", url),
            ("serve", folder, "--no-ood-log", "--port", "0"),
        ):
            refused(darl(*arguments), f"{folder}: model.onnx has SHA-256", "The file was changed or damaged: copy the")
    items.unlink()
    assert snapshot(tmp_path) == before
    assert all(method == "GET" for method, _ in seen)
    refused(darl("check", tmp_path), "there is no bundle here. Create one with darl export")


CLUSTER_COMMANDS = {
    "register": lambda bundle, items: ("register", bundle.path),
    "index": lambda bundle, items: ("index", bundle.path, items, "--index", "i"),
    "search": lambda bundle, items: ("search", "bike", "--bundle", bundle.path, "--index", "i", "--no-ood-log"),
    "monitor": lambda bundle, items: ("monitor",),
}  # fmt: skip


@pytest.fixture
def items_file(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def closed_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("command", CLUSTER_COMMANDS)
def test_a_closed_port(darl, tiny, items_file, closed_port, command):
    said = darl(*CLUSTER_COMMANDS[command](tiny, items_file), "--url", closed_port)
    refused(said, f"{closed_port}: nothing is listening there. Start OpenSearch, or check --url")


@pytest.mark.parametrize("command", CLUSTER_COMMANDS)
def test_a_wrong_password(darl, monkeypatch, tiny, items_file, command):
    with serving(stub_cluster({("GET", "/"): OPENSEARCH})) as node, serving(guarded_proxy(node, "ann", "right")) as url:
        arguments = (*CLUSTER_COMMANDS[command](tiny, items_file), "--url", url, "--user", "ann")
        monkeypatch.setenv("OPENSEARCH_PASSWORD", "wr0ng")
        line = refused(darl(*arguments), "does not accept this user and password (401)", "OPENSEARCH_PASSWORD")
        assert "wr0ng" not in line
        monkeypatch.delenv("OPENSEARCH_PASSWORD")
        refused(darl(*arguments), "user 'ann' but no password", code=2)


def test_a_cluster_without_ml_commons(darl, tiny):
    seen = []
    answers = {("GET", "/"): OPENSEARCH, ("GET", "/_nodes/plugins"): {"nodes": {"a": BARE_NODE}}}
    with serving(stub_cluster(answers, seen)) as url:
        for mode in ("local", "connector"):
            said = darl("register", tiny.path, "--url", url, "--mode", mode)
            refused(said, "node n1 does not have ML Commons (plugin opensearch-ml). Install the plugin on every node")
    assert {method for method, _ in seen} == {"GET"}  # nothing was made


ITEM_FILES = {
    "broken line": ('{"id": "a", "name"\n', "items.jsonl, line 7"),
    "no id": ('{"name": "x"}\n', "line 7: the item has no 'id'"),
    "the same id": ('{"id": "b-1", "name": "x"}\n', "'b-1'"),
    "10 MB of text": (json.dumps({"id": "x", "cover": LONG}) + "\n", "line 7: field 'cover' has 9,999,999 characters"),
}


@pytest.mark.parametrize("name", ITEM_FILES)
def test_items_to_index(darl, tiny, items_file, name):
    text, wanted = ITEM_FILES[name]
    with items_file.open("a", encoding="utf-8") as file:
        file.write(text)
    seen = []
    with serving(stub_cluster({("GET", "/"): OPENSEARCH}, seen)) as url:
        refused(darl("index", tiny.path, items_file, "--index", "i", "--url", url), wanted)
    assert all(method in ("GET", "HEAD") for method, _ in seen)  # the file is read to its end first


@contextmanager
def served(bundle, *arguments):
    """``darl serve`` as a process; gives its URL."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "darl_opensearch", "serve", str(bundle.path), "--port", "0", "--no-ood-log", *arguments],
        stderr=subprocess.PIPE, text=True, env=kept | {"PYTHONPATH": str(ROOT), "DARL_API_KEY": "right"},
    )  # fmt: skip
    try:
        url = next((m[1] for line in process.stderr if (m := re.search(r"listening on (http://\S+)", line))), None)
        assert url, "the scorer did not start"
        yield url
    finally:
        process.terminate()
        said = process.stderr.read()
        process.wait(20)
        process.stderr.close()
    assert "Traceback" not in said


def test_keys_and_10_mb_at_the_scorer(tiny):
    import httpx

    body = {"query": "bicycle", "documents": ["stolen bicycle"]}
    with served(tiny) as url, httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}):
            answer = client.post("/v1/rerank", json=body, headers=headers)
            assert answer.status_code == 401
            assert answer.json().keys() == {"error"} and answer.json()["error"]["message"]
            assert "right" not in answer.text
        client.headers["Authorization"] = "Bearer right"
        while client.get("/ready").status_code != 200:
            pass
        assert client.post("/v1/rerank", json=body).status_code == 200
        long = client.post("/v1/rerank", json={"query": "bicycle", "documents": ["stolen bicycle " * 650_000]})
        assert long.status_code == 200 and 0 <= long.json()["results"][0]["relevance_score"] <= 1
        refused_body = client.post(
            "/v1/rerank", json={"query": "bicycle", "documents": ["stolen bicycle " * 1_300_000]}
        )
        assert refused_body.status_code == 413 and refused_body.json().keys() == {"error"}


def test_the_same_in_a_process_of_its_own(project, tiny, tmp_path, closed_port):
    """What a shell sees: exit code and stderr of a real process, without this one's warnings switched off."""
    changed("judgments.jsonl", 1, grade=9)(project.parent)
    for arguments, wanted in (
        (("train", project, "--run", tmp_path / "run"), "line 1: field 'grade' is 9, not a whole number in 0..2"),
        (("check", tmp_path), "there is no bundle here"),
        (("register", tiny.path, "--url", closed_port), "nothing is listening there"),
    ):
        done = run_darl(*map(str, arguments), HF_HUB_OFFLINE="1")
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.startswith("darl: ") and done.stderr.count("\n") == 1 and wanted in done.stderr, done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_killed_by_bad_data_starts_well_when_it_is_corrected(darl, project, tmp_path):
    rows = read_rows(project.parent / "judgments.jsonl")
    changed("judgments.jsonl", 1, grade=9)(project.parent)
    refused(darl("train", project, "--run", tmp_path / "run"), "field 'grade' is 9")
    changed("judgments.jsonl", 1, grade=rows[0]["grade"])(project.parent)
    said = darl("train", project, "--run", tmp_path / "run")
    assert said.code == 0 and (tmp_path / "run" / "result.json").is_file()
