"""The writing side of the OOD log.

``offer`` never waits for the disk: a bounded queue in memory feeds a writer thread, which commits to the spool in
batches. If the queue is full, because the disk is full or slow, requests are dropped and counted; searches are never
delayed and never fail.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence

from darl_opensearch.errors import DarlError
from darl_opensearch.ood.record import LogPolicy, RankedRequest, Record, TextPolicy, expand_request, to_ms
from darl_opensearch.ood.spool import DEFAULT_MAX_BYTES, Row, Spool

logger = logging.getLogger(__name__)

MAX_QUEUED_REQUESTS = 10_000
MAX_QUEUED_CHARS = 64 * 1024 * 1024
COMMIT_INTERVAL_SECONDS = 0.2
COMMIT_REQUESTS = 500
RETRY_SECONDS = (0.5, 30.0)  # first wait after a failed write, and the longest
_COUNTERS = (
    "offered", "accepted", "dropped_queue", "dropped_error", "write_failures", "spooled_requests", "spooled_records",
    "repeated", "evicted",
)  # fmt: skip


class OodLog:
    """Writes ranked requests to a spool in the background.

    :param spool: closed by the log.
    """

    def __init__(
        self,
        spool: Spool,
        policy: LogPolicy,
        *,
        max_queued_requests: int = MAX_QUEUED_REQUESTS,
        max_queued_chars: int = MAX_QUEUED_CHARS,
    ) -> None:
        self.policy = policy
        self._spool = spool
        self._max_requests, self._max_chars = max_queued_requests, max_queued_chars
        self._queue: deque[tuple[RankedRequest, int]] = deque()
        self._chars = 0  # queued or being written
        self._changed = threading.Condition()
        self._closing = False
        self._flushing = 0
        self._settled = 0  # requests written or dropped
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._reported = {"dropped_queue": 0, "dropped_error": 0}  # drops that the spool has counted
        self._failing = False
        self._writer = threading.Thread(target=self._run, name="darl-ood-log", daemon=True)
        self._writer.start()
        atexit.register(self.close)

    @classmethod
    def open(
        cls,
        spool_path: str | os.PathLike[str],
        *,
        model: str,
        version: str,
        alpha: float,
        sample_rate: float = 0.05,
        text: TextPolicy = "full",
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> OodLog:
        """Open a log; a missing spool is created.

        :param spool_path: the spool's file, on a local file system.
        :param sample_rate: share of the pairs to log that are not OOD.
        :param text: how an item's text is logged: ``full``, ``hash`` or ``none``.
        :param max_bytes: limit of the spool; beyond it the oldest records are deleted and counted.
        """
        policy = LogPolicy(model=model, version=version, alpha=alpha, sample_rate=sample_rate, text=text)
        return cls(Spool.open(spool_path, create=True, max_bytes=max_bytes), policy)

    def __enter__(self) -> OodLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def offer(self, request: RankedRequest) -> bool:
        """Queue a request without waiting.

        :return: False if it was dropped because the queue is full or the log is closed.
        """
        chars = len(request.query) + sum(map(len, request.documents))
        with self._changed:
            self._counts["offered"] += 1
            crowded = len(self._queue) >= self._max_requests or self._chars + chars > self._max_chars
            if self._closing or crowded:
                self._counts["dropped_queue"] += 1
                return False
            self._counts["accepted"] += 1
            self._queue.append((request, chars))
            self._chars += chars
            if len(self._queue) in (1, COMMIT_REQUESTS):
                self._changed.notify_all()
        return True

    def counters(self) -> dict[str, int]:
        """Read this process's counters, without disk access.

        :return: requests ``offered``, ``accepted``, ``queued``, ``dropped_queue``, ``dropped_error`` and
            ``spooled_requests``; records ``spooled_records``, ``repeated`` and ``evicted``; and failed commits,
            ``write_failures``.
        """
        with self._changed:
            return self._counts | {"queued": self._counts["accepted"] - self._settled}

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until all requests offered so far are committed.

        :param timeout: maximum seconds to wait.
        :return: False on timeout, or if requests were dropped.
        """
        with self._changed:
            target, dropped = self._counts["accepted"], self._counts["dropped_error"]
            self._flushing += 1
            self._changed.notify_all()
            try:
                settled = self._changed.wait_for(lambda: self._settled >= target, timeout)
            finally:
                self._flushing -= 1
            return settled and self._counts["dropped_error"] == dropped

    def close(self) -> None:
        """Write queued requests, with one last try, and close the spool; may be called twice."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join()
        self._spool.close()

    def _run(self) -> None:
        while batch := self._next_batch():
            rows: list[Row] = []
            unusable = 0
            for request, _ in batch:
                try:
                    rows += [_row(record) for record in expand_request(request, self.policy)]
                except Exception:  # one bad request must not stop the log
                    logger.warning("OOD log: request %r cannot be logged", request.request_id, exc_info=True)
                    unusable += 1
            self._write(rows, requests=len(batch) - unusable, unusable=unusable)
            with self._changed:
                self._settled += len(batch)
                self._chars -= sum(chars for _, chars in batch)
                self._changed.notify_all()
        if self._unreported():
            self._write([], requests=0, unusable=0)

    def _next_batch(self) -> list[tuple[RankedRequest, int]]:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            # Collect a batch: a commit costs one sync, whatever its size.
            hurry = lambda: self._closing or self._flushing or len(self._queue) >= COMMIT_REQUESTS  # noqa: E731
            self._changed.wait_for(hurry, COMMIT_INTERVAL_SECONDS)
            return [self._queue.popleft() for _ in range(min(len(self._queue), COMMIT_REQUESTS))]

    def _write(self, rows: Sequence[Row], *, requests: int, unusable: int) -> None:
        with self._changed:
            self._counts["dropped_error"] += unusable
        wait, longest = RETRY_SECONDS
        while True:
            last_try = self._closing
            try:
                self._reopen_if_gone()
                drops = self._unreported()
                appended = self._spool.append(rows, drops | {"spooled_requests": requests})
            except (DarlError, OSError) as err:  # OSError: the folder is gone or not accessible
                self._note_failure(err)
                if last_try:
                    with self._changed:
                        self._counts["dropped_error"] += requests
                    logger.warning("OOD log: %d requests could not be written before closing", requests)
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, wait)
                wait = min(2 * wait, longest)
                continue
            break
        with self._changed:
            self._counts["spooled_requests"] += requests
            self._counts["spooled_records"] += appended.records
            self._counts["repeated"] += appended.repeated
            self._counts["evicted"] += appended.evicted
            for name, value in drops.items():
                self._reported[name] += value
        self._note_success()

    def _unreported(self) -> dict[str, int]:
        with self._changed:
            return {name: new for name, count in self._reported.items() if (new := self._counts[name] - count)}

    def _reopen_if_gone(self) -> None:
        if self._spool.is_in_place():
            return
        replaced = self._spool
        self._spool = Spool.open(replaced.path, create=True, max_bytes=replaced.max_bytes)
        replaced.close()
        logger.warning("OOD log: %s was deleted or replaced while in use; it was reopened", replaced.path)

    def _note_failure(self, err: Exception) -> None:
        with self._changed:
            self._counts["write_failures"] += 1
        if not self._failing:  # once per outage, not once per attempt
            logger.warning(
                "OOD log: cannot write. %s Searches continue; requests are queued in memory and dropped beyond %d. "
                "Free disk space, or use another path.",
                err, self._max_requests,
            )  # fmt: skip
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            with self._changed:
                dropped = self._counts["dropped_queue"]
            logger.warning("OOD log: %s can be written again; %d requests were dropped", self._spool.path, dropped)
        self._failing = False


def _row(record: Record) -> Row:
    body = json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Row(record.record_id, to_ms(record.timestamp), record.kind, body)
