"""Versions of a tiny bundle that answer differently, and a client that searches without a pause."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from darl_opensearch.errors import DarlError
from darl_opensearch.search import PipelineSearch


@dataclass
class Load:
    """What searches came to while something else went on."""

    searches: int = 0
    failed: list[str] = field(default_factory=list)
    not_reranked: int = 0
    took_ms: list[tuple[float, float]] = field(default_factory=list)  # when it started, and how long it took
    scores: list[float] = field(default_factory=list)  # of the first hit: tells which version ranked


@contextmanager
def searching(make: object, queries: list[str], *, threads: int = 4, size: int = 3) -> Iterator[Load]:
    """Search by several clients at once, each as fast as it is answered, until the block is left."""
    load, lock, stop = Load(), threading.Lock(), threading.Event()

    def run(number: int) -> None:
        client: PipelineSearch = make()  # type: ignore[operator]
        turn = number
        while not stop.is_set():
            started = time.perf_counter()
            failed, outcome = None, None
            try:
                outcome = client.search(queries[turn % len(queries)], size=size)
            except DarlError as err:  # anything but 200 is one
                failed = str(err)
            took = (time.perf_counter() - started) * 1000
            with lock:
                load.searches += 1
                load.took_ms.append((started, took))
                if outcome is None:
                    load.failed.append(str(failed))
                else:
                    load.not_reranked += not outcome.reranked
                    load.scores += [hit.score for hit in outcome.hits[:1] if hit.score is not None]
            turn += 1

    workers = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield load
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)
