"""Files, locks, digests, SQLite and HTTP: what every part relies on."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import itertools
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from email.utils import format_datetime
from pathlib import Path

import pytest

from darl_opensearch.errors import DarlError, UsageError
from darl_opensearch.io import http, writing
from darl_opensearch.io.digest import digest_data, digest_file, digest_json, hash_int, name_text
from darl_opensearch.io.http import HttpClient, TryAgain, backoff, bearer, read_retry_after, retry
from darl_opensearch.io.listening import listen
from darl_opensearch.io.lock import hold_lock
from darl_opensearch.io.sqlite import open_exclusive, open_finished, open_scratch, open_shared, sqlite_errors
from darl_opensearch.io.writing import new_file, new_folder, sibling, write_file, write_lines, write_rows
from tests.helpers.http import Quiet, serving

both = pytest.mark.parametrize("fixed_name", [False, True])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- files


@both
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, fixed_name):
    path = tmp_path / "new" / "f.txt"
    write_file(path, "één", fixed_name=fixed_name)
    with pytest.raises(RuntimeError), new_file(path, fixed_name=fixed_name) as work:
        work.write_text("half")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "één" and names(path.parent) == ["f.txt"]
    write_file(path, b"\xff", fixed_name=fixed_name)
    write_lines(path.with_name("g"), (str(n) for n in range(2)), fixed_name=fixed_name)
    assert path.read_bytes() == b"\xff" and path.with_name("g").read_text() == "0\n1\n"
    write_rows(path.with_name("g"), [{"a": "é"}], fixed_name=fixed_name)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_rows(path.with_name("g"), [{"a": float("nan")}], fixed_name=fixed_name)
    assert path.with_name("g").read_text(encoding="utf-8") == '{"a": "é"}\n'
    with pytest.raises(FileNotFoundError), new_file(path, fixed_name=fixed_name):
        pass  # nothing was written
    assert path.read_bytes() == b"\xff" and names(path.parent) == ["f.txt", "g"]


def test_what_a_killed_process_left_is_overwritten(tmp_path):
    left, target = sibling(tmp_path / "f"), tmp_path / "elsewhere"
    target.write_text("another's")
    left.symlink_to(target)
    write_file(tmp_path / "f", "mine", fixed_name=True)
    assert (tmp_path / "f").read_text() == "mine" and target.read_text() == "another's" and not left.is_symlink()
    sibling(tmp_path / "d").mkdir()
    (sibling(tmp_path / "d") / "left").touch()
    with new_folder(tmp_path / "d", fixed_name=True) as work:
        (work / "x").touch()
    assert names(tmp_path / "d") == ["x"]


def test_the_umask_decides_who_may_read(tmp_path):
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "f", "x")
        with new_folder(tmp_path / "d"):
            pass
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("f", "d")]
    assert modes == [0o640, 0o750]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(os, "fsync", lambda handle: order.append(Path(f"/proc/self/fd/{handle}").readlink()))
    with new_file(tmp_path / "f") as work:
        work.write_text("x")
    assert order == [work]

    def full(handle):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_file(tmp_path / "f", "y")
    assert (tmp_path / "f").read_text() == "x" and names(tmp_path) == ["f"]


def test_a_link_to_the_folder_stays_and_a_relative_name_will_do(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link" / "f", "x")
    monkeypatch.chdir(tmp_path / "real")
    with new_folder(".", replace=True) as work:
        (work / "g").touch()
    assert names(tmp_path / "link") == ["g"]


# ---- folders


@pytest.mark.parametrize("replace", [False, True])
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, replace):
    path = tmp_path / "a" / "d"
    with pytest.raises(RuntimeError), new_folder(path, replace=replace):
        raise RuntimeError
    assert names(path.parent) == []
    with new_folder(path, replace=replace) as work:
        (work / "x").touch()
        assert not path.exists()
    assert names(path) == ["x"] and names(path.parent) == ["d"]


def test_an_older_folder_is_replaced_only_where_that_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "d"
    path.mkdir()
    with new_folder(path) as work:  # an empty one is free
        (work / "x").touch()
    with pytest.raises(UsageError, match="d: it already exists"), new_folder(path):
        pass
    (tmp_path / "link").symlink_to("d")
    with pytest.raises(UsageError, match="link: it is a symbolic link"), new_folder(tmp_path / "link"):
        pass
    with new_folder(path, replace=True) as work:
        (work / "y").touch()
    assert names(path) == ["y"] and names(tmp_path) == ["d", "link"]
    monkeypatch.setattr(writing, "check_empty", lambda folder: None)  # as if it came in between
    with pytest.raises(OSError, match="not empty"), new_folder(path) as work:
        pass
    assert names(path) == ["y"]


# ---- locks


def test_the_holder_is_named_and_its_end_frees_the_lock(tmp_path):
    code = (
        "import sys, pathlib; from darl_opensearch.io.lock import hold_lock\n"
        "with hold_lock(pathlib.Path(sys.argv[1]), 'busy'): print('held', flush=True); input()"
    )
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        text = rf"lock: another is at work \(process {holder.pid} on {socket.gethostname()} since 2.*\)\. Wait for it"
        with pytest.raises(DarlError, match=text), hold_lock(path, "another is at work"):
            pass
        told = []
        threading.Timer(0.2, holder.kill).start()
        with hold_lock(path, "busy", wait_s=60, waiting=told.append):
            assert path.read_text().startswith(f"process {os.getpid()} ")
    assert len(told) == 1 and f"process {holder.pid} " in told[0] and path.read_text() == ""


# ---- digests


def test_digests(tmp_path):
    (tmp_path / "f").write_bytes("é".encode())
    assert digest_file(tmp_path / "f") == digest_data("é") == hashlib.sha256("é".encode()).hexdigest()
    assert digest_data(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4
    assert digest_json({"b": [1], "a": "é"}) == digest_data(r'{"a": "\u00e9", "b": [1]}')
    assert digest_json("é", ensure_ascii=False) == digest_data('"é"') != digest_json("é")
    with pytest.raises(TypeError):
        digest_json({"a": object()})
    assert name_text("log", "") == "log-e3b0c44298fc1c14"
    values = {hash_int("a"), hash_int("b"), hash_int("a", purpose=b"draw")}
    assert len(values) == 3 and all(0 <= value < 1 << 64 for value in values) and hash_int(b"a") in values


# ---- SQLite


def test_a_shared_file_keeps_what_two_connections_write(tmp_path):
    path = tmp_path / "s.sqlite"
    with (
        contextlib.closing(open_shared(path)) as one,
        contextlib.closing(open_shared(path, synchronous="NORMAL")) as two,
    ):
        one.execute("CREATE TABLE t (n)")
        two.execute("INSERT INTO t VALUES (1)")
        assert one.execute("SELECT n FROM t").fetchall() == [(1,)]
        assert [db.execute("PRAGMA synchronous").fetchone() for db in (one, two)] == [(2,), (1,)]
        assert one.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_finished_file_is_only_read(tmp_path):
    path = tmp_path / "with # and %.sqlite"
    with contextlib.closing(open_scratch(path)) as db:
        db.execute("CREATE TABLE t (n)")
        db.execute("INSERT INTO t VALUES (1)")
        db.commit()
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with contextlib.closing(open_finished(path)) as db:
            assert db.execute("SELECT n FROM t").fetchall() == [(1,)]
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                db.execute("INSERT INTO t VALUES (2)")
    finally:
        tmp_path.chmod(0o700)
    with pytest.raises(DarlError, match=r"x: the index fails \(unable to open.*\)\. Look"):
        with sqlite_errors("the index fails", where="x", todo="look"):
            open_finished(tmp_path / "none.sqlite")


def test_an_exclusive_file_has_one_user(tmp_path):
    path = tmp_path / "e.sqlite"
    with contextlib.closing(open_exclusive(path, busy_s=0.1)):
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            open_exclusive(path, busy_s=0.1)
    open_exclusive(path, busy_s=0.1).close()


# ---- HTTP


def answering(*answers):
    """A handler that gives each ``(status, headers, body)`` in turn, the last one for ever, and what it was sent."""
    seen = []

    class Handler(Quiet):
        def do_POST(self):
            seen.append((self.path, dict(self.headers.items()), self.body()))
            status, headers, body = answers[min(len(seen), len(answers)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return seen, Handler


def test_a_request_and_its_answer():
    seen, handler = answering((307, {"Location": "/other", "Retry-After": "7"}, b"moved"))
    with serving(handler) as url, HttpClient(5, headers={"A": "1"}) as client:
        answer = client.send("POST", f"{url}/x", b"body", {"B": "2"})
    assert (answer.status, answer.body, answer.retry_after_s) == (307, b"moved", 7)
    [(path, headers, body)] = seen  # not followed
    assert (path, body, headers["A"], headers["B"]) == ("/x", b"body", "1", "2")


def test_what_comes_back_is_bounded():
    _, handler = answering((200, {}, b"x" * 100))
    with serving(handler) as url:
        with HttpClient(5, most_bytes=99) as client, pytest.raises(http.AnswerTooLong):
            client.send("POST", url, b"")
        with HttpClient(5, most_bytes=100) as client:
            assert len(client.send("POST", url, b"").body) == 100
        with HttpClient(5, most_bytes=0) as client:
            assert client.send("POST", url, b"").body == b""


@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        ("http://127.0.0.1:9/?token=abc", http.Unreachable, r"\[Errno \d+\] Connection refused"),
        ("ftp://h/?token=abc", http.InvalidUrl, "URLSchemeUnknown"),
        ("http://b\u00fc_/?token=abc", http.InvalidUrl, "LocationParseError"),
    ],
)
def test_errors_do_not_show_the_url(url, kind, message):
    with HttpClient(5) as client, pytest.raises(kind, match=f"^{message}$"):
        client.send("POST", url, b"")


@pytest.mark.parametrize(
    ("sent", "kind", "message"),
    [
        (b"", http.Unreachable, "Remote end closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", http.Unreachable, "6 more expected"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
            http.UnreadableAnswer,
            "decompr",
        ),
    ],
)
def test_answers_that_are_none(sent, kind, message):
    def answer(listener):
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=[listener])
        thread.start()
        with HttpClient(5) as client, pytest.raises(kind, match=message):
            client.send("POST", f"http://127.0.0.1:{listener.getsockname()[1]}", b"")
        thread.join()


def test_proxies_of_the_environment(monkeypatch):
    seen, handler = answering((200, {}, b"proxied"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "inside.example")
    with serving(handler) as proxy:
        monkeypatch.setenv("http_proxy", proxy.replace("http://", "http://ann:pw@"))
        with HttpClient(5) as client:
            assert client.send("POST", "http://far.example/x", b"").body == b"proxied"
            with pytest.raises(http.Unreachable):
                client.send("POST", "http://inside.example:1/x", b"")
        with HttpClient(5, proxies=False) as client, pytest.raises(http.Unreachable):
            client.send("POST", "http://far.example/x", b"")
    [(path, headers, _)] = seen
    assert path == "http://far.example/x" and headers["proxy-authorization"] == "Basic YW5uOnB3"


@pytest.mark.parametrize("key", ["sec\nret", "sec\x7fret", "s\u00e9cret"])
def test_a_token_that_no_header_takes_is_not_quoted(key):
    with pytest.raises(UsageError, match="the key holds a character that is not allowed in an HTTP header") as caught:
        bearer(key)
    assert "sec" not in str(caught.value)
    assert bearer("") == {} and bearer("abc") == {"Authorization": "Bearer abc"}


def test_retry_after_is_seconds_or_a_date():
    values = (None, "", "3", "0.5", "-1", "nan", "inf", "soon")
    assert [read_retry_after(value) for value in values] == [0, 0, 3, 0.5, 0, 0, 0, 0]
    now = datetime.datetime.now(tz=datetime.UTC)
    for seconds, least, most in ((100, 95, 100), (-100, 0, 0)):
        date = format_datetime(now + datetime.timedelta(seconds=seconds), usegmt=True)
        assert least <= read_retry_after(date) <= most


def test_attempts_are_spaced_and_end():
    waits, calls = [], itertools.count()

    def attempt(failures, wait_s=0.0):
        if next(calls) < failures:
            raise TryAgain("busy", wait_s)
        return "done"

    assert retry(lambda: attempt(3), 3, 0.5, wait=waits.append, jitter=False) == "done" and waits == [0.5, 1.0, 2.0]
    waits.clear()
    with pytest.raises(TryAgain, match="busy"):
        retry(lambda: attempt(99, 7.0), 2, 0.5, wait=waits.append)
    assert waits == [7.0, 7.0]
    with pytest.raises(json.JSONDecodeError):
        retry(lambda: json.loads("{"), 9, 0.5)  # other errors are none of its business


def test_pauses_grow_to_a_bound():
    assert [backoff(n, 1.0, jitter=False) for n in (0, 1, 5, 6, 9999)] == [1, 2, 32, 60, 60]
    assert all(15 <= backoff(9, 1.0, 30.0) <= 30 for _ in range(50))


def test_an_accepted_connection_sends_answers_at_once():
    with listen("127.0.0.1", 0, todo="") as listener, socket.create_connection(listener.getsockname()) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(DarlError, match=r"cannot listen there \(Address already in use\)\. Choose another"):
            listen(*listener.getsockname(), todo="choose another port")
        assert client.fileno() > 0
    with pytest.raises(UsageError, match="the address does not exist"):
        listen("no.such.host.invalid", 80, todo="")


def test_all_addresses_of_ipv6_are_those_of_ipv4_too():
    with listen("::", 0, todo="") as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5) as client:
                accepted, _ = listener.accept()
                accepted.close()
                assert client.getpeername()[0] == host
        with pytest.raises(DarlError, match=rf"^\[::\]:{port}: cannot listen there"):
            listen("::", port, todo="")


def test_a_name_with_both_kinds_of_address_is_listened_on_at_ipv4(monkeypatch):
    found = [(socket.AF_INET6, 1, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen("localhost", 0, todo="") as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
