"""How long does a selection take, and how much memory, for a million queries?

``python -m benchmarks.cycle.scale BUNDLE``. A log with as many distinct queries as asked for, every one of them strange
and with three logged items, goes through the whole of ``darl select``: gathered, de-duplicated, divided, listed,
cleaned, covered. Two steps are not those of a real run. The queries' words are made up. And their features are drawn
(a few thousand directions with noise around them), because what a model needs a pair is another question, which is
measured beside it: the bundle's own ``features.onnx`` on ``--embedded`` pairs. Last, what the sparse kernel costs: the
coverage of a choice by nearest neighbours alone over that of one by all pairs, where both can be worked out.

Memory is the peak resident size of a process of its own. Memory-mapped features count as far as they are in memory,
and the operating system takes those pages back when something else needs them: ``mib_anonymous`` is without them.
``cpu_seconds`` add up both cores and leave out what a busy machine does besides.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import memory_mib
from darl_opensearch.bundle import Bundle
from darl_opensearch.ood.record import Kind, PairRecord, Record, RequestRecord
from darl_opensearch.ood.store import OodStore
from trainer.dasa.config import SelectConfig
from trainer.dasa.labelled import LabelledQueries
from trainer.dasa.registry import Floats

START = datetime(2026, 3, 1, tzinfo=UTC)
ITEMS_LOGGED, WIDTH, DIRECTIONS, NOISES, KNOWN, BUDGET = 3, 384, 5000, 7919, 5000, 2000
TEXT = "An item's text as a shop would render it: name | material and size | what it is for | 12 to 16 words."


PRIMES = 99_961, 99_971, 99_989, 99_991, 100_003  # one for each word: together they never come round


def words(number: int) -> str:
    """Five of 100,000 words: few queries share four of them."""
    return " ".join(f"w{(7919 * number + 1) * (place + 2) % prime}" for place, prime in enumerate(PRIMES))


class MadeUpLog(OodStore):
    """A store of as many queries as wanted, a request each."""

    def __init__(self, bundle: Bundle, count: int) -> None:
        self._bundle, self._count = bundle, count

    @property
    def where(self) -> str:
        """How many."""
        return f"{self._count} made-up queries"

    def _common(self, number: int, record: str) -> dict[str, Any]:
        card = self._bundle.card
        return {
            "record_id": f"{number:024x}{record:>08}", "timestamp": START + timedelta(milliseconds=97 * number),
            "request_id": f"r{number}", "query": words(number), "query_id": None, "slice": f"slice {number % 20}",
            "model": card.name, "version": card.version, "alpha": card.ood.alpha, "route": "server",
        }  # fmt: skip

    def requests(
        self, *, since: datetime | None = None, until: datetime | None = None, not_reranked: bool = False
    ) -> Iterator[RequestRecord]:
        for number in range(self._count):
            yield RequestRecord(**self._common(number, "f"), candidates=20, ood_pairs=20, ood_share=1.0, latency_ms=9.0)

    def pairs(self, *, since: datetime | None = None, until: datetime | None = None) -> Iterator[PairRecord]:
        for number in range(self._count):
            for place in range(ITEMS_LOGGED):
                item = (7919 * number + place) % 200_000
                yield PairRecord(
                    **self._common(number, str(place)), position=place, item_id=f"i{item}", item_text=f"{TEXT} {item}",
                    score=0.9 - 0.2 * place, grade=1, grade_probs=(0.2, 0.5, 0.3), ood_score=0.99, ood_distance=1.5,
                    is_ood=True, weight=1.0,
                )  # fmt: skip

    def counters(self) -> dict[str, int]:
        return {}

    def _read(self, kind: Kind, since: datetime | None, until: datetime | None) -> Iterator[Record]:
        return iter(self.requests() if kind == "request" else self.pairs())


@functools.cache
def vectors(count: int, seed: int) -> Floats:
    """Drawn directions."""
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


def drawn_features(requests: Sequence[tuple[str, Sequence[str]]]) -> Floats:
    """A direction for each query, some common and most rare, and noise around it; always the same of one query."""
    rows = []
    for query, texts in requests:
        seed = zlib.crc32(query.encode())
        common, noise = vectors(DIRECTIONS, 1), vectors(NOISES, 2)
        row = common[int(DIRECTIONS * (seed / 2**32) ** 2)]
        row = row + 0.7 * (noise[seed % NOISES] + noise[zlib.adler32(query.encode()) % NOISES])
        rows += [row] * len(texts)
    return np.array(rows, dtype=np.float32)


class Watch:
    """Peaks of memory, looked at four times a second, and seconds by what was reported."""

    def __init__(self) -> None:
        self.peak, self.anonymous = memory_mib()
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self._what, self._begun, self._cpu = "start", time.perf_counter(), time.process_time()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def report(self, what: str, done: int, total: int) -> None:
        now, cpu = time.perf_counter(), time.process_time()
        self.seconds[self._what] = self.seconds.get(self._what, 0.0) + now - self._begun
        self.cpu[self._what] = self.cpu.get(self._what, 0.0) + cpu - self._cpu
        if what != self._what:
            print(
                f"{what} (so far {sum(self.seconds.values()):.0f} s, {memory_mib()[0]:.0f} MiB)",
                file=sys.stderr,
                flush=True,
            )
        self._what, self._begun, self._cpu = what, now, cpu

    def told(self) -> dict[str, Any]:
        self.report("end", 0, 0)
        self._stop.set()
        self._thread.join()
        cpu = {what: round(value, 1) for what, value in self.cpu.items()}
        return {"mib": round(self.peak), "mib_anonymous": round(self.anonymous),
                "seconds": round(sum(self.seconds.values()), 1), "cpu_seconds": round(sum(self.cpu.values()), 1),
                "cpu_seconds_by_step": cpu}  # fmt: skip

    def _look(self) -> None:
        while not self._stop.wait(0.25):
            resident, anonymous = memory_mib()
            self.peak, self.anonymous = max(self.peak, resident), max(self.anonymous, anonymous)


def measure_selection(bundle: Bundle, count: int, folder: Path) -> dict[str, Any]:
    """The whole selection, with drawn features."""
    from trainer.dasa.run import select

    config = SelectConfig(budget=BUDGET, items_per_query=3, noise=1.5)
    trained = tuple((words(10**9 + n), (TEXT,)) for n in range(KNOWN))
    known = LabelledQueries(trained, frozenset(query for query, _ in trained))
    watch = Watch()
    result = select(
        config, bundle, MadeUpLog(bundle, count), labelled=known, out=folder, until=START + timedelta(days=999),
        embed=drawn_features, report=watch.report,
    )  # fmt: skip
    return watch.told() | {"queries": result.log["queries"], "candidates": result.candidates,
                           "selected": result.selected["pairs"], "dropped": result.dropped}  # fmt: skip


def measure_embedding(bundle: Bundle, count: int) -> dict[str, Any]:
    """The bundle's own features of pairs."""
    from darl_opensearch.scoring.embed import Embedder

    requests = [(words(n), [f"{TEXT} {n} {place}" for place in range(ITEMS_LOGGED)]) for n in range(count // 3)]
    with Embedder(bundle, threads=2) as embedder:
        embedder.embed(requests[:32])
        begin = time.perf_counter()
        for start in range(0, len(requests), 64):
            embedder.embed(requests[start : start + 64])
    seconds = time.perf_counter() - begin
    return {
        "pairs": 3 * len(requests),
        "seconds": round(seconds, 1),
        "pairs_a_second": round(3 * len(requests) / seconds),
    }


def measure_sparse(count: int) -> dict[str, Any]:
    """What a kernel of nearest neighbours alone loses: coverage by its choice over coverage by the dense choice."""
    from trainer.dasa.coverage import choose_bandwidth, kernel, measure_coverage
    from trainer.dasa.features import average_pairs
    from trainer.dasa.neighbours import find_nearest
    from trainer.dasa.registry import Candidates
    from trainer.dasa.selectors.herding import Herding

    features = average_pairs(drawn_features([(words(n), [TEXT]) for n in range(count)]), [1] * count, 2)
    known = average_pairs(drawn_features([(words(10**9 + n), [TEXT]) for n in range(500)]), [1] * 500, 2)
    candidates = Candidates(
        features, np.full(count, 5), np.ones(count), np.ones(count, dtype=np.bool_), slices=("",) * count
    )
    bandwidth = choose_bandwidth(find_nearest(features, features, 11)[0][:, 10])
    before = measure_coverage(known, features, bandwidth)
    found = {}
    for name, exact in (("dense", count), ("sparse", 1)):
        begin = time.perf_counter()
        chosen = Herding(exact=exact)(candidates, known, 1000, np.random.default_rng(0))
        seconds = time.perf_counter() - begin
        after = np.maximum(before, kernel((features @ features[chosen].T).max(axis=1), bandwidth))
        found[name] = {"seconds": round(seconds, 1), "coverage": round(float((after - before).sum()), 2)}
    rng = np.random.default_rng(0)
    after = np.maximum(before, kernel((features @ features[rng.permutation(count)[:200]].T).max(axis=1), bandwidth))
    found["random"] = {"coverage": round(float((after - before).sum()), 2)}
    return {"candidates": count, "chosen": 200, **found,
            "share": round(found["sparse"]["coverage"] / found["dense"]["coverage"], 4)}  # fmt: skip


def measure(part: str, bundle: Path, count: int) -> dict[str, Any]:
    """Measure one part in this process."""
    if part == "sparse":
        return measure_sparse(count)
    model = Bundle.open(bundle)
    if part == "embedding":
        return measure_embedding(model, count)
    with tempfile.TemporaryDirectory() as folder:
        return measure_selection(model, count, Path(folder) / "out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--queries", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--embedded", type=int, default=3000)
    parser.add_argument("--sparse", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/cycle/results/scale.json"))
    parser.add_argument("--measure", choices=("selection", "embedding", "sparse"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.bundle, options.queries[0])))
        return

    def told(part: str, count: int) -> Any:
        command = [sys.executable, "-m", "benchmarks.cycle.scale", str(options.bundle), "--measure", part,
                   "--queries", str(count)]  # fmt: skip
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)

    from benchmarks.quality.feedbackqa import circumstances  # loads torch, which would count in the measured processes

    result: dict[str, Any] = {
        "config": {"items_logged": ITEMS_LOGGED, "width": WIDTH, "directions": DIRECTIONS, "known": KNOWN,
                   "budget_pairs": BUDGET},
        **circumstances(),
        "load_average": os.getloadavg()[0],
        "embedding": told("embedding", options.embedded),
        "sparse": told("sparse", options.sparse),
        "selection": {},
    }  # fmt: skip
    for count in options.queries:
        result["selection"][str(count)] = told("selection", count)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
