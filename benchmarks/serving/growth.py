"""How serving grows: items of a query, clients at once, and the store of item states, up to the start of the service.

Items are made up, and so are their states (70 tokens of 384 numbers): nothing is encoded but the queries, which are
those of the insurance sample. Searches are warm, on one scorer. Stores are filled through ``StateStore.put`` in a
temporary folder (``TMPDIR`` says where: a million states take 33 GB) and read by a process of its own, as far as the
operating system has the file in memory. ``darl serve`` starts with the largest store and without one, in turns, from
``exec`` until ``/ready`` answers 200.

    python -m benchmarks.serving.growth --rounds 5 --states 10000 100000
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import itertools
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.measuring import choose_out, describe_machine, memory_mib, spread, write_result
from benchmarks.serving.load import launch, wait_for_url
from benchmarks.serving.sample import SAMPLE, make_bundle
from darl_opensearch.bundle import Bundle
from darl_opensearch.cli.demo.sample import read_queries
from darl_opensearch.scoring import Scorer
from darl_opensearch.states import ItemState, StateStore

RESULT = Path(__file__).parent / "results" / "growth.json"
SIZES, CLIENTS, SHOWN = (10, 100, 1000, 10_000), (1, 4, 16, 64), 100
TOKENS, WIDTH, VECTORS = 70, 384, 2
BYTES_OF_A_STATE = 33_000  # on disk: a page, and the tree above it
READS, BATCH = 20, 1000
MEMORY = 1 << 30  # of states; holds those of the largest search


def make_states(count: int, seed: int, vectors: int = VECTORS) -> list[ItemState]:
    """Draw states of made-up items."""
    rng = np.random.default_rng(seed)
    content, states = np.ones(TOKENS, dtype=np.bool_), []
    content[[0, -1]] = False
    for _ in range(count):
        tokens = rng.standard_normal((TOKENS, WIDTH), dtype=np.float32)
        pooled = rng.standard_normal((vectors, WIDTH), dtype=np.float32)
        tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        states.append(ItemState.of(tokens, content, pooled))
    return states


def name_key(number: int) -> bytes:
    """Name a made-up state; keys come in no order, as those of texts do."""
    return hashlib.blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


class Searches:
    """Warm searches of made-up items on one scorer."""

    def __init__(self, scorer: Scorer, store: StateStore, items: int, seed: int) -> None:
        if scorer.halves is None:
            raise SystemExit("the bundle has no graphs for item states")
        self._scorer, self._lock = scorer, threading.Lock()
        self._items = [f"item {number}" for number in range(items)]
        keys = [scorer.halves.keys.of(text) for text in self._items]
        probe = "what a state of this model looks like"
        scorer.score(probe, [probe])
        vectors = len(store.get([scorer.halves.keys.of(probe)])[scorer.halves.keys.of(probe)].pooled)
        drawn = make_states(min(items, BATCH), seed, vectors)
        store.put(dict(zip(keys, itertools.cycle(drawn), strict=False)))
        queries = [query.query for query in read_queries(SAMPLE / "test_queries.jsonl")]
        self._queries = (f"{query} {number}" for number, query in enumerate(itertools.cycle(queries)))
        self._rng = np.random.default_rng(seed)

    def search(self, size: int) -> float:
        """Score drawn items with a new query; gives milliseconds."""
        with self._lock:
            query, places = next(self._queries), self._rng.choice(len(self._items), size, replace=False).tolist()
        texts = [self._items[place] for place in places]
        started = time.perf_counter()
        self._scorer.score(query, texts)
        return 1000 * (time.perf_counter() - started)

    def search_at_once(self, clients: int, seconds: float) -> tuple[list[float], float]:
        """Search from some threads that search again at once; gives milliseconds, and searches a second."""
        times: list[float] = []
        started = time.perf_counter()

        def search_on() -> None:
            while time.perf_counter() < started + seconds:
                times.append(self.search(SHOWN))

        threads = [threading.Thread(target=search_on) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return times, len(times) / (time.perf_counter() - started)


def measure_searches(
    bundle: Bundle, *, int8: bool, sizes: Sequence[int], rounds: int, searches: int, seconds: float, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure searches by their number of items, and by clients at once."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    at_once: dict[int, tuple[list[float], list[float]]] = {clients: ([], []) for clients in CLIENTS}
    rng = np.random.default_rng(seed)
    with StateStore(None, memory_bytes=MEMORY) as store, Scorer.open(bundle, int8=int8, states=store) as scorer:
        warm = Searches(scorer, store, max(sizes), seed)
        for size in sizes:
            warm.search(size)
        for _ in range(rounds):
            for size in rng.permutation(sizes).tolist():
                times[size] += [warm.search(size) for _ in range(searches)]
            for clients in rng.permutation(CLIENTS).tolist():
                values, rate = warm.search_at_once(clients, seconds)
                at_once[clients][0].extend(values)
                at_once[clients][1].append(rate)
    return (
        {str(size): spread(values) for size, values in times.items()},
        {str(n): {"ms": spread(values), "searches_per_s": spread(rates)} for n, (values, rates) in at_once.items()},
    )


@contextlib.contextmanager
def filled_store(count: int, seed: int) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Fill a store in a temporary folder; gives the folder, and how fast it was filled."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, needed = Path(scratch), count * BYTES_OF_A_STATE + (1 << 30)
        if (free := shutil.disk_usage(folder).free) < needed:
            raise SystemExit(f"{count} states need {needed / 1e9:.0f} GB in {folder}, which has {free / 1e9:.0f} free")
        states, started = make_states(BATCH, seed), time.perf_counter()
        with StateStore(folder, disk_bytes=_bound(count)) as store:
            for start in range(0, count, BATCH):
                numbers = range(start, min(start + BATCH, count))
                store.put(dict(zip(map(name_key, numbers), states, strict=False)), wait=True)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in folder.iterdir())
        yield folder, {"written_per_s": round(count / seconds), "file_mb": round(size / 1e6, 1)}


def _bound(count: int) -> int:
    return 2 * count * BYTES_OF_A_STATE + (1 << 24)


def read_store(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Open a store and read random states, in this process."""
    rng, before, started = np.random.default_rng(seed), memory_mib(), time.perf_counter()
    with StateStore(folder, disk_bytes=_bound(count)) as store:
        opened, times = time.perf_counter() - started, []
        for _ in range(READS):
            keys = [name_key(number) for number in rng.integers(0, count, 100).tolist()]
            began = time.perf_counter()
            states = store.get(keys)
            times.append(1000 * (time.perf_counter() - began))
            if len(states) < len(set(keys)):
                raise SystemExit(f"{len(set(keys)) - len(states)} states are missing")
        after, in_memory = memory_mib(), store.to_json()["in_memory"]
    return {
        "open_ms": round(1000 * opened, 2), "read_100_ms": spread(times), "states_in_memory": in_memory,
        "rss_mib": round(after[0], 1), "rss_anon_mib": round(after[1], 1),
        "rss_mib_before": round(before[0], 1), "rss_anon_mib_before": round(before[1], 1),
    }  # fmt: skip


def start_service(bundle: Bundle, log: Path, *options: str) -> tuple[float, float]:
    """Start the service; gives seconds until it is ready, and its anonymous memory in MiB then."""
    started = time.perf_counter()
    with launch(bundle, log, *options) as process:
        address = urlsplit(wait_for_url(process, log, ready=False)).netloc
        while True:
            connection = http.client.HTTPConnection(address)
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return time.perf_counter() - started, memory_mib(process.pid)[1]
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.005)


def measure_stores(
    bundle: Bundle, *, counts: Sequence[int], int8: bool, rounds: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure stores by their number of states, and the start of the service with the largest and without."""
    stores, starts = {}, {}
    for count in sorted(counts):
        with filled_store(count, seed) as (folder, about):
            # A process of its own: what filled the store has its own memory.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                stores[str(count)] = about | pool.submit(read_store, folder, count, seed).result()
            if count == max(counts):
                arms: dict[str, list[str]] = {
                    f"{count} states": ["--states", str(folder), "--states-bytes", str(_bound(count))],
                    "no states": ["--states-memory", "0"],
                }
                measured: dict[str, list[tuple[float, float]]] = {arm: [] for arm in arms}
                for _, (arm, options) in itertools.product(range(rounds), arms.items()):
                    started = start_service(bundle, folder / "serve.log", *options, *["--int8"] * int8)
                    measured[arm].append(started)
                starts = {
                    arm: {"seconds": spread([s for s, _ in rows]), "rss_anon_mib": spread([mib for _, mib in rows])}
                    for arm, rows in measured.items()
                }
    return stores, starts


def print_growth(result: dict[str, Any]) -> None:
    """Print tables."""
    print(f"\n{'items of a query':<20} {'p50':>9} {'p5':>9} {'p95':>9} ms")
    for size, ms in result["by_items"].items():
        print(f"{size:<20} {ms['p50']:9.1f} {ms['p5']:9.1f} {ms['p95']:9.1f}")
    print(f"\n{'clients at once':<20} {'p50':>9} {'p5':>9} {'p95':>9} ms {'searches/s':>12}")
    for clients, row in result["by_clients"].items():
        ms, rate = row["ms"], row["searches_per_s"]["p50"]
        print(f"{clients:<20} {ms['p50']:9.1f} {ms['p5']:9.1f} {ms['p95']:9.1f}    {rate:12.1f}")
    print(
        f"\n{'states':<20} {'file, MB':>9} {'open, ms':>9} {'100 reads, ms':>14} {'RssAnon, MiB':>13} {'written/s':>10}"
    )
    for count, row in result["stores"].items():
        print(
            f"{count:<20} {row['file_mb']:9.0f} {row['open_ms']:9.1f} {row['read_100_ms']['p50']:14.2f} "
            f"{row['rss_anon_mib']:13.0f} {row['written_per_s']:10d}"
        )
    print(f"\n{'start of the service':<20} {'s':>9} {'RssAnon, MiB':>13}")
    for arm, row in result["start"].items():
        print(f"{arm:<20} {row['seconds']['p50']:9.2f} {row['rss_anon_mib']['p50']:13.0f}")


def main() -> None:
    """Measure, write the result and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--bundle", type=Path, help="bundle of the insurance sample (default: trained now)")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of all sizes, and starts of each kind (default: 5)"
    )
    parser.add_argument("--searches", type=int, default=5, help="searches of a size and a round (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of clients at once, in a round (default: 4)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="items of a query (default: 10 to 10000)")
    parser.add_argument(
        "--states", type=int, nargs="+", default=[10_000, 100_000], help="of a store (default: 10000 100000)"
    )
    parser.add_argument("--int8", action="store_true", help="score with the quantised graphs")
    parser.add_argument("--seed", type=int, default=0, help="of states, items and the order (default: 0)")
    parser.add_argument("--out", type=Path, help=f"JSON to write (default: results/{RESULT.name})")
    args = parser.parse_args()
    out = choose_out(args.out, RESULT, int8=args.int8)
    with tempfile.TemporaryDirectory() as work:
        bundle = make_bundle(Path(work), args.bundle)
        by_items, by_clients = measure_searches(
            bundle, int8=args.int8, sizes=args.sizes, rounds=args.rounds, searches=args.searches,
            seconds=args.seconds, seed=args.seed,
        )  # fmt: skip
        stores, start = measure_stores(bundle, counts=args.states, int8=args.int8, rounds=args.rounds, seed=args.seed)
    result = {
        "rounds": args.rounds, "searches_of_a_round": args.searches, "seconds": args.seconds, "int8": args.int8,
        "seed": args.seed, "shown": SHOWN, "tokens": TOKENS, **describe_machine("onnxruntime", "numpy"),
        "by_items": by_items, "by_clients": by_clients, "stores": stores, "start": start,
    }  # fmt: skip
    write_result(out, result)
    print_growth(result)


if __name__ == "__main__":
    main()
