"""What HTTP adds to a warm search of 100 documents: idle, at saturation, and where it goes.

One ``darl serve`` process and one ``Reranker`` share a folder of item states, and every item is known to both. Idle,
they answer the same requests in turns, one at a time. At saturation eight threads ask again as soon as they are
answered; over HTTP they work in the client, on the same cores. Parts are timed in this process, by the service's own
functions on the same bodies; what is left of the time over HTTP is the socket, the web framework and the threads
between, of which ``GET /health`` alone is shown.

    DARL_DATA=… python -m benchmarks.serving.http --rounds 10
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.measuring import choose_out, describe_machine, ratio, spread, write_result
from benchmarks.serving.load import serve
from benchmarks.serving.sample import find_data, make_bundle, read_texts
from darl_opensearch.reranker import Reranker
from darl_opensearch.server.wire import parse_request, render_response
from darl_opensearch.stats.bootstrap import bootstrap_mean

RESULT = Path(__file__).parent / "results" / "http.json"
ITEMS, SHOWN, THREADS = 1000, 100, 8
Ask = Callable[["Request"], object]


@dataclass(frozen=True)
class Request:
    """A search: as arguments, and as the body of a request."""

    query: str
    documents: list[str]
    body: bytes


class Requests:
    """Draws requests; each has a query that nobody has seen."""

    def __init__(self, queries: list[str], items: list[str], seed: int) -> None:
        self._queries, self._items = queries, items
        self._draw, self._numbers, self._lock = random.Random(seed), itertools.count(), threading.Lock()

    def draw(self) -> Request:
        """Draw a query and the documents of a search."""
        with self._lock:
            number = next(self._numbers)
            documents = self._draw.sample(self._items, min(SHOWN, len(self._items)))
        return self.make(f"{self._queries[number % len(self._queries)]} {number}", documents)

    @staticmethod
    def make(query: str, documents: list[str]) -> Request:
        """Make the request of a search."""
        return Request(query, documents, json.dumps({"query": query, "documents": documents}).encode())


class Client:
    """One connection to the service, which stays open."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)

    def rerank(self, request: Request) -> bytes:
        """Send a request and read its answer."""
        return self._send("POST", "/v1/rerank", request.body)

    def check_health(self) -> bytes:
        """Ask for nothing but an answer."""
        return self._send("GET", "/health", None)

    def _send(self, method: str, path: str, body: bytes | None) -> bytes:
        self._connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        response = self._connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise SystemExit(f"{path} answered {response.status}: {text.decode(errors='replace')[:500]}")
        return text


@contextlib.contextmanager
def open_both(work: Path, items: list[str], *, int8: bool) -> Iterator[tuple[Reranker, str]]:
    """Open a reranker and a service on one store, and show them every item."""
    with contextlib.ExitStack() as stack:
        reranker = stack.enter_context(Reranker(work / "bundle", int8=int8, states=work / "states"))
        shown = [items[start : start + SHOWN] for start in range(0, len(items), SHOWN)]
        for texts in shown:
            reranker.rank("warm up", texts)
        options = ["--states", str(work / "states"), "--max-wait-ms", "0", *["--int8"] * int8]
        url = stack.enter_context(serve(reranker.bundle, work / "serve.log", *options))
        client = Client(url)
        for texts in shown:
            client.rerank(Requests.make("warm up", texts))
        yield reranker, url


def time_ms(work: Callable[..., object], *arguments: object) -> float:
    """Time a call."""
    started = time.perf_counter()
    work(*arguments)
    return 1000 * (time.perf_counter() - started)


def measure_idle(reranker: Reranker, url: str, requests: Requests, rounds: int, seed: int) -> dict[str, Any]:
    """Answer the same requests both ways, in turns, and time the parts of an answer."""
    client, order = Client(url), random.Random(seed)
    ways: dict[str, Ask] = {"http": client.rerank, "in_process": lambda r: reranker.rank(r.query, r.documents)}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "health")}
    parts: dict[str, list[float]] = {}
    for _ in range(rounds):
        request = requests.draw()
        for name in order.sample(sorted(ways), len(ways)):
            times[name].append(time_ms(ways[name], request))
        times["health"].append(time_ms(client.check_health))
        for name, ms in _time_parts(reranker, requests.draw()).items():
            parts.setdefault(name, []).append(ms)
    added = bootstrap_mean(np.subtract(times["http"], times["in_process"]), seed=seed)
    medians = {name: float(np.median(values)) for name, values in parts.items()}
    rest = float(np.median(times["http"])) - sum(
        medians[name] for name in ("parse_request", "score", "render_response")
    )
    return {
        "ms": {name: spread(values) for name, values in times.items()},
        "added_ms_p50": round(float(np.median(times["http"]) - np.median(times["in_process"])), 3),
        "added_ms_mean": added.to_json(),
        "parts_ms": {name: spread(values) for name, values in parts.items()}, "rest_ms": round(rest, 3),
    }  # fmt: skip


def _time_parts(reranker: Reranker, request: Request) -> dict[str, float]:
    scale = reranker.bundle.card.scale
    call = parse_request(request.body, scale=scale, max_documents=SHOWN)
    started = time.perf_counter()
    ranked = reranker.scorer.run(call.query, call.documents)
    scored = 1000 * (time.perf_counter() - started)
    read = time_ms(json.loads, request.body)
    parsed = time_ms(lambda: parse_request(request.body, scale=scale, max_documents=SHOWN))
    return {
        "parse_request": parsed, "json_loads": read, "validation": parsed - read, "score": scored,
        "render_response": time_ms(render_response, call, ranked, reranker.bundle.card, "0" * 32),
    }  # fmt: skip


def measure_saturated(
    reranker: Reranker, url: str, requests: Requests, rounds: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Ask from eight threads that ask again at once, both ways in turns; requests a second."""
    ways: dict[str, Callable[[], Ask]] = {
        "http": lambda: Client(url).rerank, "in_process": lambda: lambda r: reranker.rank(r.query, r.documents),
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in ways if number % 2 == 0 else reversed(ways):
            rates[name].append(_saturate(ways[name], requests, seconds))
    return {
        "requests_per_s": {name: spread(values) for name, values in rates.items()},
        "http_over_in_process": [round(value, 3) for value in ratio(rates["http"], rates["in_process"], seed)],
    }


def _saturate(open_way: Callable[[], Ask], requests: Requests, seconds: float) -> float:
    answered = itertools.count()
    started = time.perf_counter()

    def ask_on() -> None:
        ask = open_way()
        while time.perf_counter() < started + seconds:
            ask(requests.draw())
            next(answered)

    threads = [threading.Thread(target=ask_on) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return next(answered) / (time.perf_counter() - started)


def print_http(result: dict[str, Any]) -> None:
    """Print tables."""
    idle, saturated = result["idle"], result["saturated"]
    print(f"\n{'idle, ms':<24} {'p50':>8} {'p5':>8} {'p95':>8}")
    for name, ms in (idle["ms"] | {f"  {name}": ms for name, ms in idle["parts_ms"].items()}).items():
        print(f"{name:<24} {ms['p50']:8.2f} {ms['p5']:8.2f} {ms['p95']:8.2f}")
    print(f"{'  rest':<24} {idle['rest_ms']:8.2f}")
    mean = idle["added_ms_mean"]
    print(f"HTTP adds {idle['added_ms_p50']:.2f} ms (p50); mean {mean['mean']:.2f} ({mean['low']} to {mean['high']})")
    rates = {name: rate["p50"] for name, rate in saturated["requests_per_s"].items()}
    print(f"\nsaturated, requests/s: {rates}; HTTP over in process: {saturated['http_over_in_process']}")


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.http", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--rounds", type=int, default=10, help="rounds at saturation, both ways (default: 10)")
    parser.add_argument("--requests", type=int, default=200, help="idle requests, each both ways (default: 200)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each way and round at saturation (default: 5)")
    parser.add_argument("--items", type=int, default=ITEMS, help="items to draw from (default: 1000)")
    parser.add_argument("--int8", action="store_true", help="score with the quantised graphs")
    parser.add_argument("--seed", type=int, default=0, help="of documents and the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT, int8=args.int8)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        bundle = make_bundle(work, args.bundle)
        items, queries, _ = read_texts(folder, bundle.tokenizer, args.items)
        requests = Requests(queries, items, args.seed)
        with open_both(work, items, int8=args.int8) as (reranker, url):
            idle = measure_idle(reranker, url, requests, args.requests, args.seed)
            saturated = measure_saturated(reranker, url, requests, args.rounds, args.seconds, args.seed)
    result = {
        "items": len(items), "shown": SHOWN, "requests": args.requests, "rounds": args.rounds, "threads": THREADS,
        "seconds": args.seconds, "int8": args.int8, "seed": args.seed, **describe_machine("onnxruntime", "uvicorn"),
        "idle": idle, "saturated": saturated,
    }  # fmt: skip
    write_result(out, result)
    print_http(result)


if __name__ == "__main__":
    main()
