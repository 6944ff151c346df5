"""The service under load: an open loop up to twice its capacity, with and without a budget for waiting.

One ``darl serve`` process at a time on all cores, beside the client. Capacity is what eight clients get that ask again
as soon as they are answered. Then requests arrive at random (Poisson) at shares of that rate, whether or not earlier
ones are answered. Every request has another query and 30 products drawn at random; item states are off
(``--states-memory 0``), so that every item costs its full price. The arms take turns.

    DARL_DATA=… python -m benchmarks.serving.load --seconds 30 --rounds 2
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.measuring import choose_out, describe_machine, write_result
from benchmarks.serving.sample import find_data, make_bundle, read_texts
from darl_opensearch.bundle import Bundle

RESULT = Path(__file__).parent / "results" / "load.json"
DOCUMENTS, CLIENTS, PATIENCE = 30, 8, 60.0
ARMS = {"waits for any time": "0", "waits for a second at most": "1000"}
SHARES = (0.5, 1.0, 2.0)


@dataclass
class Tally:
    """What became of the requests of one stretch."""

    seconds: float = 0.0
    latency: list[float] = field(default_factory=list)  # of those answered with 200
    refused: list[float] = field(default_factory=list)
    failed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Render rates in requests a second and times in milliseconds."""
        sent = len(self.latency) + len(self.refused) + self.failed
        answered, refused = np.array(self.latency or [math.nan]), np.array(self.refused or [math.nan])
        return {
            "sent": sent, "answered_per_s": round(len(self.latency) / self.seconds, 2),
            "refused": round(len(self.refused) / max(sent, 1), 3), "failed": self.failed,
            "p50_ms": _ms(answered, 50), "p99_ms": _ms(answered, 99), "refused_p99_ms": _ms(refused, 99),
        }  # fmt: skip


def _ms(seconds: np.ndarray[Any, Any], percentile: float) -> float | None:
    value = 1000 * float(np.percentile(seconds, percentile))
    return round(value, 1) if math.isfinite(value) else None


class Load:
    """Sends requests to a scorer."""

    def __init__(self, url: str, items: list[str], queries: list[str], seed: int) -> None:
        self.url, self.items, self.queries = url, items, queries
        self.draw, self.numbers = random.Random(seed), itertools.count()

    async def ask(self, client: httpx.AsyncClient, tally: Tally) -> None:
        """Send one request and count its answer."""
        number = next(self.numbers)
        body = {
            "query": f"{self.queries[number % len(self.queries)]} {number}",
            "documents": self.draw.sample(self.items, DOCUMENTS),
        }
        started = time.perf_counter()
        try:
            answer = await client.post(f"{self.url}/v1/rerank", json=body)
        except httpx.HTTPError:
            tally.failed += 1
            return
        took = time.perf_counter() - started
        if answer.status_code == 200:
            tally.latency.append(took)
        elif answer.status_code == 503:
            tally.refused.append(took)
        else:
            tally.failed += 1

    async def saturate(self, seconds: float) -> Tally:
        """Ask with some clients that ask again as soon as they are answered."""
        tally, end = Tally(), time.perf_counter() + seconds
        async with _client() as client:

            async def ask_on() -> None:
                while time.perf_counter() < end:
                    await self.ask(client, tally)

            started = time.perf_counter()
            await asyncio.gather(*(ask_on() for _ in range(CLIENTS)))
            tally.seconds = time.perf_counter() - started
        return tally

    async def arrive(self, rate: float, seconds: float) -> Tally:
        """Ask at random moments, ``rate`` a second on average, whatever has been answered."""
        tally, asked = Tally(), []
        started = due = time.perf_counter()
        async with _client() as client:
            while (due := due + self.draw.expovariate(rate)) < started + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                asked.append(asyncio.create_task(self.ask(client, tally)))
            await asyncio.gather(*asked)
        tally.seconds = time.perf_counter() - started  # until the last one is answered
        return tally


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=PATIENCE, trust_env=False, limits=httpx.Limits(max_connections=None))


@contextlib.contextmanager
def launch(bundle: Bundle, log: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``darl serve`` without an OOD log, on any free port."""
    command = [
        sys.executable, "-m", "darl_opensearch", "serve", str(bundle.path), "--port", "0", "--no-ood-log", *options,
    ]  # fmt: skip
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_url(process: subprocess.Popen[bytes], log: Path, *, ready: bool = True) -> str:
    """Wait until a service listens, or is ready; gives its URL."""
    while not (match := re.search(r"(http://\S+:\d+)" + r"[\s\S]*is ready" * ready, log.read_text())):
        if process.poll() is not None:
            raise SystemExit(log.read_text())
        time.sleep(0.01)
    return match[1]


@contextlib.contextmanager
def serve(bundle: Bundle, log: Path, *options: str) -> Iterator[str]:
    """Run ``darl serve`` until it is ready and while its URL is used."""
    with launch(bundle, log, *options) as process:
        yield wait_for_url(process, log)


def run(folder: Path, *, given: Path | None, seconds: float, rounds: int, int8: bool, seed: int) -> dict[str, Any]:
    """Measure every arm at every rate."""
    found: dict[str, Any] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as scratch:
        bundle = make_bundle(Path(scratch), given)
        items, queries, _ = read_texts(folder, bundle.tokenizer)
        for number in range(rounds):
            for arm, max_wait in ARMS.items() if number % 2 == 0 else reversed(ARMS.items()):
                options = ["--states-memory", "0", "--max-queue", "1000", "--max-wait-ms", max_wait]
                with serve(bundle, Path(scratch) / "serve.log", *options, *["--int8"] * int8) as url:
                    load = Load(url, items, queries, seed + number)
                    asyncio.run(load.saturate(5.0))  # warm up; the first requests tell what one costs
                    capacity = asyncio.run(load.saturate(seconds))
                    rate = len(capacity.latency) / capacity.seconds
                    rows = {"closed loop": capacity.to_json()}
                    for share in SHARES:
                        rows[f"{share:g} x capacity"] = asyncio.run(load.arrive(share * rate, seconds)).to_json()
                        print(arm, share, json.dumps(rows[f"{share:g} x capacity"]), file=sys.stderr, flush=True)
                    found[arm].append(rows)
    return {
        "documents": DOCUMENTS, "seconds": seconds, "rounds": rounds, "int8": int8, "seed": seed,
        **describe_machine("onnxruntime", "uvicorn"), "arms": found,
    }  # fmt: skip


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.load", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each stretch (default: 30)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of all arms (default: 2)")
    parser.add_argument("--int8", action="store_true", help="serve the quantised graphs")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and documents (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    folder = find_data(parser)
    out = choose_out(args.out, RESULT, int8=args.int8)
    result = run(
        folder, given=args.bundle, seconds=args.seconds, rounds=args.rounds, int8=args.int8,
        seed=args.seed,
    )  # fmt: skip
    write_result(out, result)


if __name__ == "__main__":
    main()
