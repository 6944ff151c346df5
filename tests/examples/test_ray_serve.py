"""The scorer behind a real Ray Serve."""

from __future__ import annotations

import socket

import httpx
import pytest

pytest.importorskip("ray")
# Ray's, of its own sockets and of what it imports.
pytestmark = pytest.mark.filterwarnings("ignore:::ray", "ignore:::fastapi", "ignore::ResourceWarning")


def test_the_application_answers_as_the_image_does(ray, tiny, tmp_path):
    from ray import serve

    from examples.ray_serve.scorer import build

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = {"threads": 1, "ood_log": tmp_path / "ood.sqlite", "api_key": "k"}
    try:
        serve.run(build({"bundle": str(tiny.path), **settings}))
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer k"}, trust_env=False) as client:
            assert client.get("/ready").json() == {"status": "ready", "model": "tiny", "version": "1"}
            body = {"query": "stolen bicycle", "documents": ["ski week", "stolen bicycles"]}
            answer = client.post("/v1/rerank", json=body)
            assert answer.status_code == 200 and [row["index"] for row in answer.json()["results"]] == [1, 0]
            assert client.post("/v1/rerank", json=body, headers={"Authorization": "Bearer x"}).status_code == 401
    finally:
        serve.shutdown()
    assert (tmp_path / "ood.sqlite").exists()
