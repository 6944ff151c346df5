"""``darl try``: what it refuses, and that it serves."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from tests.helpers.bundles import ITEMS
from tests.helpers.files import write_rows


@pytest.fixture
def items(tmp_path):
    return write_rows(tmp_path / "items.jsonl", ITEMS)


def test_something_is_searched_and_only_one_thing(darl, tiny, items):
    assert darl("try", tiny.path).err.startswith("darl: there is nothing to search. Pass either --items or --index")
    both = darl("try", tiny.path, "--items", items, "--index", "x")
    assert (both.code, both.err.split(".")[0]) == (2, "darl: items and an index are both given")
    alone = darl("try", tiny.path, "--items", items, "--pipeline", "darl")
    assert alone.code == 2 and alone.err.startswith("darl: a pipeline is given, but no index")


def test_files_that_are_not_what_they_must_be(darl, tiny, items, tmp_path):
    assert "does not exist" in darl("try", tiny.path, "--items", tmp_path / "none.jsonl").err
    twice = darl("try", tiny.path, "--items", items, "--items", items)
    assert (twice.code, "item 'b-1' appears twice" in twice.err) == (1, True)
    other = darl("try", tiny.path, "--items", items, "--against", tmp_path)
    assert (other.code, "there is no bundle here" in other.err) == (1, True)
    wrong = darl("try", tiny.path, "--items", items, "--judgments", items)
    assert (wrong.code, "line 1: field 'query' is empty or not text" in wrong.err) == (1, True)


def test_a_port_that_is_taken(darl, tiny, items):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = darl("try", tiny.path, "--items", items, "--port", port)
    assert said.code == 1 and said.err.endswith(
        f"darl: 127.0.0.1:{port}: cannot listen there (Address already in use). Choose another port with --port.\n"
    )


def test_a_cluster_that_is_away_when_it_starts(darl, tiny):
    said = darl("try", tiny.path, "--index", "items", "--url", "http://127.0.0.1:1")
    assert said.code == 1 and said.err.startswith("darl: http://127.0.0.1:1: ") and said.err.count("\n") == 1


def test_it_serves_until_it_is_stopped(tiny, items, tmp_path):
    """In a process of its own, which never loads torch."""
    code = "import sys; sys.modules['torch'] = None; from darl_opensearch.cli import main; main()"
    command = [sys.executable, "-c", code, "try", str(tiny.path), "--items", str(items), "--port", "0"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=kept) as process:
        line = process.stderr.readline()
        assert line.startswith("try it at http://127.0.0.1:"), line
        with urllib.request.urlopen(line.split()[3], timeout=10) as answer:
            assert "Try out tiny 1" in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0 and process.stderr.read() == ""
