"""``darl serve`` as a process: loopback, records in the spool, SIGTERM; and how it refuses to start."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import pytest

from darl_opensearch.ood.spool import Spool
from tests.helpers.bundles import ITEMS, QUERIES, TEMPLATE

TEXTS = [TEMPLATE.render(item) for item in ITEMS]
ROOT = Path(__file__).resolve().parents[2]


def command(*arguments):
    return [sys.executable, "-m", "darl_opensearch", "serve", *map(str, arguments)]


def environment(**variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DARL_", "OPENSEARCH_"))}
    return kept | {"PYTHONPATH": str(ROOT)} | variables


@contextmanager
def serving(bundle, *arguments, **variables):
    """A running server; gives a client of it and the process, whose later stderr is in ``said``."""
    process = subprocess.Popen(
        command(bundle.path, "--port", 0, *arguments), stderr=subprocess.PIPE, text=True, env=environment(**variables)
    )
    said = process.said = []
    url = None
    for line in process.stderr:
        said.append(line)
        if match := re.search(r"listening on (http://\S+)", line):
            url = match[1]
            break
    if url is None:
        pytest.fail("".join(said))
    reader = threading.Thread(target=lambda: said.extend(process.stderr))
    reader.start()
    try:
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            deadline = time.monotonic() + 20
            while client.get("/ready").status_code != 200 and time.monotonic() < deadline:
                time.sleep(0.02)
            yield client, process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)
        process.stderr.close()


def records(path):
    with Spool.open(path) as spool:
        return [json.loads(row.body) for row in spool.take(limit=10_000, max_bytes=1 << 30)]


def test_a_request_is_ranked_and_its_record_spooled_by_sigterm(tiny, tmp_path):
    spool = tmp_path / "state" / "ood.sqlite"
    with serving(tiny, "--ood-log", spool, "--ood-sample-rate", "1") as (client, process):
        for i in range(30):
            body = {
                "query": f"{QUERIES[i % 5]} {i}",
                "documents": TEXTS,
                "doc_ids": [item["id"] for item in ITEMS],
                "query_id": f"q{i}",
            }
            answer = client.post("/v1/rerank", json=body, headers={"X-Request-Id": f"r{i % 3}"})  # one id for many
            assert answer.status_code == 200 and answer.headers["X-Request-Id"] == f"r{i % 3}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in "".join(process.said)
    rows = records(spool)
    requests = [r for r in rows if r["kind"] == "request"]
    pairs = [r for r in rows if r["kind"] == "pair"]
    assert [r["request_id"] for r in requests] == [f"r{i % 3}" for i in range(30)]
    assert len(pairs) == 30 * len(TEXTS)
    assert {p["item_id"] for p in pairs} == {item["id"] for item in ITEMS}
    assert {r["route"] for r in rows} == {"server"} and {r["model"] for r in rows} == {"tiny"}


def test_a_request_that_runs_at_sigterm_is_finished(tiny):
    with serving(tiny, "--no-ood-log", "--threads", "1", "--token-budget", "1") as (client, process):
        answers = []
        body = {"query": QUERIES[0], "documents": [TEXTS[0] * 3] * 1000}
        asking = threading.Thread(target=lambda: answers.append(client.post("/v1/rerank", json=body)))
        asking.start()
        # The metric says that the request is inside.
        deadline = time.monotonic() + 5
        while "darl_requests_inside 1.0" not in httpx.get(f"{client.base_url}/metrics", trust_env=False).text:
            if time.monotonic() > deadline or answers:
                break
        process.send_signal(signal.SIGTERM)
        asking.join()
        assert answers[0].status_code == 200 and len(answers[0].json()["results"]) == 1000
        assert process.wait(20) == 0


def test_a_10_mb_document_is_ranked_soon_and_11_mb_refused(tiny):
    with serving(tiny, "--no-ood-log") as (client, _):
        document = "stolen bicycle " * 650_000
        started = time.monotonic()
        answer = client.post("/v1/rerank", json={"query": "bicycle", "documents": [document]})
        assert answer.status_code == 200 and time.monotonic() - started < 3
        answer = client.post("/v1/rerank", json={"query": "bicycle", "documents": [document, document]})
        assert answer.status_code == 413 and "--max-body-bytes" in answer.json()["error"]["message"]
        assert client.get("/health").status_code == 200


def test_a_caller_that_is_refused_while_it_sends_may_send_to_the_end(tiny):
    """Cut off, it would see a broken connection in place of the refusal."""
    with serving(tiny, "--no-ood-log", "--max-body-bytes", "1000") as (client, _):
        for head, end in (
            (b"Content-Length: 8000000", b""),
            (b"Transfer-Encoding: chunked", b"\r\n0\r\n\r\n"),
        ):
            with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as caller:
                caller.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n")
                if end:
                    caller.sendall(b"%x\r\n" % 8_000_000)
                for _ in range(8):
                    caller.sendall(b" " * 1_000_000)
                    time.sleep(0.02)
                caller.sendall(end)
                answer = b"".join(iter(lambda caller=caller: caller.recv(65_536), b""))
            assert answer.startswith(b"HTTP/1.1 413 ") and b"--max-body-bytes" in answer
        with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as waiting:
            waiting.sendall(
                b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\nExpect: 100-continue\r\n\r\n"
            )
            assert waiting.recv(65_536).startswith(b"HTTP/1.1 413 ")  # before it sends anything


def test_a_client_that_stops_halfway_leaves_the_server_well(tiny):
    with serving(tiny, "--no-ood-log", "--body-timeout", "0.3") as (client, process):
        url = client.base_url
        head = b"POST /v1/rerank HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{"
        with socket.create_connection((url.host, url.port)) as left:
            left.sendall(head)
        with socket.create_connection((url.host, url.port), timeout=10) as slow:
            slow.sendall(head)
            assert b" 408 " in slow.recv(4096)
        with socket.create_connection((url.host, url.port), timeout=10) as junk:
            junk.sendall(b"\x00\x01 nonsense\r\n\r\n")
            junk.recv(4096)
        assert client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in "".join(process.said)


def test_variables_serve_as_flags(tiny, tmp_path):
    with serving(tiny, DARL_API_KEY="secret", DARL_OOD_LOG=str(tmp_path / "x.sqlite"), DARL_THREADS="1") as (
        client,
        process,
    ):
        assert client.get("/info").status_code == 401
        info = client.get("/info", headers={"Authorization": "Bearer secret"}).json()
        assert info["threads"] == 1 and (tmp_path / "x.sqlite").exists()
    assert "secret" not in "".join(process.said)


def test_the_spool_is_in_the_state_folder_by_default(tiny, tmp_path):
    with serving(tiny, XDG_STATE_HOME=str(tmp_path)) as (client, _):
        client.get("/health")
    assert (tmp_path / "darl-opensearch" / "tiny.sqlite").exists()


def test_asking_for_cuda_in_vain_is_said_aloud(tiny):
    with serving(tiny, "--no-ood-log", "--provider", "cuda") as (client, process):
        if client.get("/info").json()["provider"] == "cuda":
            pytest.skip("this machine has a GPU")
    assert "CUDA is unavailable, running on the CPU" in "".join(process.said)


def refuses(*arguments, code=1, **variables):
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(**variables), timeout=60)
    assert done.returncode == code and done.stdout == "" and "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(("darl: ", "Error: "))][-1]


def test_it_refuses_to_start_in_one_line(tiny, tmp_path):
    quiet = ("--no-ood-log", "--port", "0")
    assert "there is no bundle here" in refuses(tmp_path, *quiet)
    changed = shutil.copytree(tiny.path, tmp_path / "changed")
    (changed / "tokenizer.json").write_text("{}")
    assert "The file was changed or damaged" in refuses(changed, *quiet)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}: cannot listen there" in refuses(tiny.path, "--no-ood-log", "--port", port)
    assert "the address does not exist" in refuses(tiny.path, *quiet, "--host", "no.such.host.invalid", code=2)
    assert "CUDA is required" in refuses(tiny.path, *quiet, "--provider", "cuda", "--require-provider")
    assert "no model_int8.onnx" in refuses(tiny.path, *quiet, "--int8")
    assert "contradict" in refuses(tiny.path, *quiet, "--ood-log", tmp_path / "x", code=2)
    assert "'tpu' is not" in refuses(tiny.path, *quiet, "--provider", "tpu", code=2)
    assert "is not a cluster URL" in refuses(
        tiny.path, "--port", "0", "--ood-log", tmp_path / "x", "--ship-to", "nonsense", code=2
    )
    keys = tmp_path / "keys"
    keys.write_text("")
    assert "the file holds no secret" in refuses(tiny.path, *quiet, "--api-key-file", keys)


def test_every_option_has_help_and_a_variable():
    from darl_opensearch.cli.serve import cli
    from darl_opensearch.server import ServerConfig

    names = set()
    for option in cli.params:
        if isinstance(option, click.Option):
            names.add(option.name)
            assert option.help and option.envvar[0] == f"DARL_{option.name.upper()}"
    assert names == {*ServerConfig.__dataclass_fields__, "ship_password_file"}


def test_unreachable_clusters_do_not_keep_it_from_serving(tiny, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    spool = tmp_path / "ood.sqlite"
    with serving(tiny, "--ood-log", spool, "--ship-to", url) as (client, process):
        assert client.post("/v1/rerank", json={"query": "a", "documents": ["b"]}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in "".join(process.said)
    assert [r["kind"] for r in records(spool)].count("request") == 1


def test_a_cluster_that_is_away_is_said_in_one_line(tiny, tmp_path):
    with serving(tiny, "--ood-log", tmp_path / "ood.sqlite", "--ship-to", "http://127.0.0.1:1") as (client, process):
        assert client.post("/rerank", json={"query": "q", "documents": TEXTS}).status_code == 200
        deadline = time.monotonic() + 20
        while not any("OOD shipper" in line for line in process.said) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)  # further attempts
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    about = [line for line in process.said if "INFO" not in line]
    assert len(about) == 1 and "nothing is listening there" in about[0]
