"""Threads on which the batches of several requests take turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from darl_opensearch.errors import UsageError
from darl_opensearch.scoring.deadline import check_deadline

T = TypeVar("T")


class Workers:
    """A pool of threads for batches; must be closed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="darl-score")
        self._closed = threading.Event()

    def run(self, work: Callable[[T], None], batches: Iterable[T], deadline: float | None = None) -> None:
        """Process the batches of one request.

        At most two batches per thread are queued, so that requests take turns: ten documents need not wait for a
        thousand.

        :param deadline: ``time.monotonic()`` value after which no further batch starts.
        :raises DeadlinePassed: if the deadline passes first.
        """
        if self._closed.is_set():
            raise UsageError("the scorer is closed", todo="open another")
        waiting = deque(batches)
        running: set[Future[None]] = set()
        try:
            while waiting or running:
                while waiting and len(running) < 2 * self.threads:
                    check_deadline(deadline)
                    running.add(self._pool.submit(work, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            for future in running:
                future.cancel()
            wait(running)  # running batches still write into the caller's arrays

    def close(self) -> None:
        """Stop the threads; later calls raise UsageError."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
