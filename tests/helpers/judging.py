"""Small jobs for judges: tasks, gold whose grade is the number in the item's text, and an endpoint that answers."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from darl_opensearch.scores import GradeScale
from tests.helpers.files import write_rows
from trainer.judging.base import JudgingJob, Task
from trainer.judging.tasks import task_id

SCALE = GradeScale(("irrelevant", "related", "fits"), (0.0, 1.0, 3.0))


def pair(query: str, item: str, **fields: Any) -> dict[str, Any]:
    return {"query_id": f"q-{query}", "query": query, "item_id": item, "text": f"text of {item}", **fields}


def pairs(prefix: str, queries: int, items: int) -> list[dict[str, Any]]:
    """Pairs whose item is named after its grade: ``a3-2`` deserves a 2."""
    return [pair(f"{prefix} {q}", f"{prefix}{q}{i}-{(q + i) % 3}") for q in range(queries) for i in range(items)]


def truth(item_id: str) -> int:
    return int(item_id.rpartition("-")[2])


def project(folder: Path, *, tasks: int = 4, gold: int = 12) -> tuple[Path, Path]:
    """A file of tasks and one of gold, three items a query."""
    rows = [
        row | {"arm": "control" if n % 3 == 2 else "selected", "slice": "s", "score": 0.25, "traffic": 7}
        for n, row in enumerate(pairs("task", tasks, 3))
    ]
    known = [row | {"grade": truth(row["item_id"])} for row in pairs("gold", gold, 3)]
    return write_rows(folder / "tasks.jsonl", rows), write_rows(folder / "gold.jsonl", known)


def task(query: str = "stolen bike", item: str = "i-2", text: str = "Covers theft", **fields: Any) -> Task:
    return Task(task_id(query, item), f"q-{query}", query, item, text, **fields)


def job(
    folder: Path, *, scale: GradeScale = SCALE, guideline: str = "In doubt the lower.", label: str = ""
) -> JudgingJob:
    return JudgingJob(scale, guideline, folder, folder, label)


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def completion(text: str, top: dict[str, float] | None = None, *, usage: tuple[int, int] | None = (100, 1)) -> bytes:
    """A chat completion; ``top`` gives the probabilities of what could have stood in the place of its one token."""
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None}
    if top is not None:
        choices = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top.items()]
        choice["logprobs"] = {"content": [{"token": text, "logprob": 0.0, "top_logprobs": choices}]}
    body: dict[str, Any] = {"choices": [choice]}
    if usage:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return json.dumps(body).encode()


class FakeEndpoint:
    """What was asked, and what is answered: a function from the request to status, headers and body."""

    def __init__(self, answer: Callable[[dict[str, Any], int], tuple[int, dict[str, str], bytes]]) -> None:
        self.answer, self.asked, self.keys, self.url = answer, [], [], ""
        self.paths: list[str] = []
        self.lock, self.most, self.now = threading.Lock(), 0, 0

    def prompt(self, n: int) -> str:
        return self.asked[n]["messages"][0]["content"]


@contextmanager
def endpoint(answer):
    fake = FakeEndpoint(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                n = len(fake.asked)
                fake.asked.append(body)
                fake.keys.append(self.headers.get("Authorization"))
                fake.paths.append(self.path)
                fake.now += 1
                fake.most = max(fake.most, fake.now)
            try:
                status, headers, data = fake.answer(body, n)
            finally:
                with fake.lock:
                    fake.now -= 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def knowing(body: dict[str, Any], n: int) -> tuple[int, dict[str, str], bytes]:
    """An endpoint that knows the truth, sure by .8 of it."""
    prompt = body["messages"][0]["content"]
    grade = int(prompt.partition("text of ")[2].partition("\n")[0].rpartition("-")[2])
    rest = {str(g): 0.1 for g in range(3) if g != grade}
    return 200, {}, completion(str(grade), {str(grade): 0.8, **rest})
