"""What arrives before a request's body is bounded: by sockets, for a test client never gets there."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import httpx
import pytest
import uvicorn

from darl_opensearch.server import ServerConfig, Service, create_scorer_app, protocol


@pytest.fixture
def port(tiny, monkeypatch):
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 1.0)
    service = Service(ServerConfig(threads=1), tiny)
    config = uvicorn.Config(create_scorer_app(service), http=protocol.BoundedHttp, ws="none", log_config=None)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        while not (server.started and service.ready):
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(20)


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        yield connection


def read_all(connection):
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            said += piece
    return said


@pytest.mark.parametrize("head", [b"X-%d: " + b"v" * 900 + b"\r\n", b"v" * 1000], ids=["many headers", "one header"])
def test_an_endless_head_is_cut_off(port, head):
    with connected(port) as connection:
        connection.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nX: ")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 4_000_000:
                piece = b"".join(head % (sent + i) if b"%d" in head else head for i in range(10))
                connection.sendall(piece)
                sent += len(piece)
                time.sleep(0.0005)
        assert sent < 4_000_000


@pytest.mark.parametrize("begun", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_whole_head_is_closed(port, begun):
    with connected(port) as connection:
        connection.sendall(begun)
        started = time.monotonic()
        assert read_all(connection) == b""
        assert time.monotonic() - started < 5


def test_blank_lines_do_not_keep_a_connection_open(port):
    with connected(port) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in connection.recv(65536)
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - started < 8:
                connection.sendall(b"\r\n")
                time.sleep(0.1)


def test_requests_one_after_the_other_and_a_slow_body_are_served(port):
    def slowly():
        body = b'{"query":"stolen bicycle","documents":["bike"]}'
        for i in range(0, len(body), 16):
            time.sleep(0.6)
            yield body[i : i + 16]

    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as client:
        for _ in range(3):
            assert client.get("/health").status_code == 200
            time.sleep(0.3)
        assert client.post("/v1/rerank", content=slowly()).status_code == 200
        assert client.post("/v1/rerank", json={"query": "q", "documents": ["x" * 300_000]}).status_code == 200
        assert client.get("/health").status_code == 200
