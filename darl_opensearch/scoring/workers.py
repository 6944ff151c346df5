"""Threads on which the batches of several requests take turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from darl_opensearch.errors import UsageError
from darl_opensearch.scoring.deadline import Deadline

T = TypeVar("T")


class Workers:
    """A pool of threads for batches; must be closed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="darl-score")
        self._closed = threading.Event()

    def run(self, work: Callable[[T], None], batches: Iterable[T], deadline: Deadline | None = None) -> None:
        """Process the batches of one request.

        At most two batches per thread are queued, so that requests take turns: ten documents need not wait for a
        thousand.

        :param deadline: after which no further batch starts.
        :raises DeadlinePassed: if the deadline passes first.
        :raises CallerGone: if it is cancelled first.
        """
        if self._closed.is_set():
            raise UsageError("the scorer is closed", todo="open another")
        waiting = deque(batches)
        deadline = deadline or Deadline()
        running: set[Future[float]] = set()

        def time_work(batch: T) -> float:
            started = time.perf_counter()
            work(batch)
            return time.perf_counter() - started

        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.threads:
                    deadline.check()
                    running.add(self._pool.submit(time_work, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    deadline.batch_seconds += future.result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # running batches still write into the caller's arrays

    def close(self) -> None:
        """Stop the threads; later calls raise UsageError."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
