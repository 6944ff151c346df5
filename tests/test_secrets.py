"""Where secrets must not be: arguments, stdout and stderr, files that are written, what `ps` shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from docs.gen import commands
from tests.helpers.bundles import ITEMS
from tests.helpers.files import write_rows
from tests.helpers.http import serving, stub_cluster

MARK = "s3cret-M4RK"
OPENSEARCH = {"version": {"distribution": "opensearch", "number": "3.6.0"}, "cluster_name": "c"}
HIDDEN = [
    (name, option.opts[0])
    for name, command in sorted(commands().items())
    for option in command.params
    if isinstance(option, click.Option) and option.hidden
]


def test_every_command_that_reaches_a_cluster_takes_its_password_by_file():
    taking = {name for name, option in HIDDEN if option == "--password"}
    assert taking > {"register", "release", "rollback", "index", "search", "ship", "monitor", "cycle"}
    for name, option in HIDDEN:
        names = {flag for param in commands()[name].params for flag in param.opts}
        assert f"{option}-file" in names, name


@pytest.mark.parametrize(("name", "option"), HIDDEN)
def test_no_secret_is_an_argument(name, option):
    command = commands()[name]
    done = CliRunner().invoke(command, [option, MARK])
    said = done.output + str(done.exception)
    assert done.exit_code and MARK not in said
    assert f"{option} is not accepted as an argument" in said


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("answer", [(401, b"no"), (500, {"error": {"reason": "broken"}}), OPENSEARCH])
def test_commands_that_fail_say_no_secret(darl, tiny, tmp_path, monkeypatch, answer):
    secret = tmp_path / "secret"
    secret.write_text(MARK)
    items = write_rows(tmp_path / "items.jsonl", ITEMS)
    monkeypatch.setenv("OPENSEARCH_USER", "ann")
    monkeypatch.setenv("DARL_WEBHOOK", f"http://127.0.0.1:9/{MARK}")
    monkeypatch.setenv("DARL_WEBHOOK_SECRET", MARK)
    monkeypatch.chdir(tmp_path)
    with serving(stub_cluster({("GET", "/"): answer})) as url:
        scorer = ("--mode", "connector", "--scorer-url", f"{url}/v1/rerank", "--scorer-key-file", secret)
        for command in (
            ("register", tiny.path, *scorer),
            ("register", tiny.path, *scorer, "--dry-run"),
            ("release", tiny.path, *scorer, "--json"),
            ("rollback", "--to", "1"),
            ("versions", "--json"),
            ("index", tiny.path, items, "--index", "x"),
            ("search", "q", "--bundle", tiny.path, "--index", "x", "--ood-log", "x.sqlite"),
            ("monitor", "--out", "page.html"),
        ):
            done = darl(*command, "--url", url, "--password-file", secret)
            assert done.code or "versions" in command, command  # which needs no more than an answer
            assert MARK not in done.out + done.err, command
    secret.unlink()
    assert MARK.encode() not in written(tmp_path)


def test_a_scorer_shows_no_secret(tiny, tmp_path):
    """Neither to `ps`, nor in its log, nor in the spool."""
    secret = tmp_path / "secret"
    secret.write_text(MARK)
    work = tmp_path / "work"
    work.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("DARL_", "OPENSEARCH_"))}
    more = {"DARL_API_KEY_FILE": str(secret), "OPENSEARCH_USER": "ann", "OPENSEARCH_PASSWORD": MARK}
    command = [
        sys.executable, "-m", "darl_opensearch", "serve", str(tiny.path), "--port", "0", "--ood-log",
        str(work / "ood.sqlite"), "--ship-to", "http://127.0.0.1:9", "--log-level", "debug",
    ]  # fmt: skip
    log = work / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=kept | more)
    try:
        deadline = time.monotonic() + 60
        while b"listening on" not in log.read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        lines = [line for path in Path("/proc").glob("[0-9]*/cmdline") if (line := read(path)) and b"serve" in line]
        assert any(str(work).encode() in line for line in lines) and not any(MARK.encode() in line for line in lines)
    finally:
        process.terminate()
        process.wait(30)
    assert MARK.encode() not in written(work)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_a_connector_is_listed_without_its_key():
    from darl_opensearch.cluster.calls import Call

    call = Call("POST", "/x", {"credential": {"api_key": MARK}, "name": "n"})
    assert MARK not in json.dumps(call.to_json())
