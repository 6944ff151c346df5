"""``darl node`` as people and scripts call it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from darl_opensearch.cli.node import cli
from darl_opensearch.errors import DarlError
from darl_opensearch.node.ports import free_port


def run(*words: str):
    return CliRunner().invoke(cli, words)


def test_json_of_all_three(world) -> None:
    port = str(free_port())
    stopped = run("status", "--port", port, "--json")
    assert (stopped.exit_code, json.loads(stopped.stdout)["state"]) == (1, "stopped")
    started = run("up", "--port", port, "--json")
    assert started.exit_code == 0, started.output
    told = json.loads(started.stdout)
    assert (told["state"], told["changed"], told["url"]) == ("running", True, f"http://127.0.0.1:{port}")
    assert told["plugins"] == {"plugin-a": "1.0"}
    assert f"starting OpenSearch 9.9.9 on port {port}\n" in started.stderr
    assert run("status", "--port", port).exit_code == 0
    ended = run("down", "--port", port, "--purge", "--json")
    assert (ended.exit_code, json.loads(ended.stdout)["changed"]) == (0, True)
    assert run("down", "--port", port).exit_code == 0


def test_text(world, monkeypatch) -> None:
    port = free_port()
    monkeypatch.setenv("DARL_NODE_PORT", str(port))
    answer = run("up")
    assert answer.stdout.startswith(f"OpenSearch 9.9.9 answers at http://127.0.0.1:{port} (process ")
    assert answer.stdout.endswith("Plugins: plugin-a 1.0\n")
    assert run("down").stdout == f"The node on port {port} is stopped.\n"


@pytest.mark.parametrize("words", [["--port", "0"], ["--port", "x"], ["--with", "podman"], ["--timeout", "0"]])
def test_wrong_usage(words: list[str]) -> None:
    assert run("up", *words).exit_code == 2


def test_an_error_reaches_the_top(world, monkeypatch) -> None:
    monkeypatch.setenv("DARL_JAVA_HOME", "/nowhere")
    answer = run("up", "--with", "java", "--port", str(free_port()))
    assert isinstance(answer.exception, DarlError)
    assert answer.exception.exit_code == 1
