"""Cutting the log into windows, and counting requests and pairs by query in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from darl_opensearch.io.digest import hash_int
from darl_opensearch.ood.record import RequestRecord
from darl_opensearch.ood.store import OodStore
from darl_opensearch.text import same_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PATIENCE_S = 60.0  # between two records; then the store is queried again, because a cluster closes slow cursors
_SLACK = 1.25  # a window may exceed its bound by this factor before queries are dropped


@dataclass
class RequestCounts:
    """Counts of requests, of scored pairs, and of OOD pairs."""

    requests: int = 0
    candidates: int = 0
    ood_pairs: int = 0

    def add(self, request: RequestRecord) -> None:
        """Count a request."""
        self.requests += 1
        self.candidates += request.candidates
        self.ood_pairs += request.ood_pairs

    @property
    def per_request(self) -> tuple[float, float]:
        """Average OOD pairs and pairs per request."""
        return self.ood_pairs / self.requests, self.candidates / self.requests


@dataclass
class QueryTally:
    """One query of a window.

    :param first: its first request, whose pairs represent the query.
    :param slices: counts by slice.
    """

    first: RequestRecord
    all: RequestCounts = field(default_factory=RequestCounts)
    slices: dict[str, RequestCounts] = field(default_factory=dict)


class Window:
    """Requests of one model version, by query; of a large window, a random sample of its queries.

    :param first: its first request, to be added like the others.
    :param number: for seeds; with a span also the number of spans before it since 1970.
    :param span: its length; None: from its first to its last request.
    """

    def __init__(
        self, first: RequestRecord, number: int, span: timedelta | None, *, max_queries: int, seed: int
    ) -> None:
        self.model, self.version, self.alpha, self.number = first.model, first.version, first.alpha, number
        self.first = self.last = first.timestamp
        self.complete = True
        self.requests = 0
        self.sampled = False
        self.queries: dict[str, QueryTally] = {}
        self._span = span
        self._most, self._seed = max_queries, seed
        self._bar = 2**64  # queries were dropped unless their draw is below it

    @property
    def start(self) -> datetime:
        """Start of its span, or time of its first request."""
        return self.first if self._span is None else _EPOCH + self.number * self._span

    @property
    def end(self) -> datetime:
        """End of its span, or time of its last request."""
        return self.last if self._span is None else self.start + self._span

    def add(self, request: RequestRecord) -> None:
        """Count a request, unless its query is outside the sample."""
        self.requests += 1
        self.last = request.timestamp
        key = same_text(request.query)
        tally = self.queries.get(key)
        if tally is None:
            if self.draw(key) >= self._bar:
                return
            tally = self.queries[key] = QueryTally(request)
            if len(self.queries) > self._most * _SLACK:
                self.close()
        tally.all.add(request)
        tally.slices.setdefault(request.slice or "", RequestCounts()).add(request)

    def close(self) -> None:
        """Drop the queries with the highest draws, down to the bound."""
        if len(self.queries) <= self._most:
            return
        # A dropped query cannot come back, because its draw stays above the bar. So the others are a uniform sample.
        self._bar = sorted(map(self.draw, self.queries))[self._most]
        self.queries = {key: tally for key, tally in self.queries.items() if self.draw(key) < self._bar}
        self.sampled = True

    def draw(self, key: str) -> int:
        """Draw a number in ``0..2**64 - 1`` that depends on seed, window and query only.

        :param key: the query, normalised by :func:`~darl_opensearch.text.same_text`.
        """
        return draw_number(f"{self._seed}:{self.number}:{key}")


def draw_number(key: str) -> int:
    """Draw a number in ``0..2**64 - 1`` that depends on the text only."""
    return hash_int(key.encode("utf-8", "surrogatepass"), purpose=b"darl-drift")


def read_windows(
    store: OodStore,
    cut: timedelta | int | None,
    *,
    since: datetime | None,
    until: datetime,
    max_queries: int,
    seed: int,
) -> Iterator[Window]:
    """Read the request records window by window, each model version separately.

    Spans begin at multiples since 1970, UTC, so that windows do not depend on the time of the call. A window that ends
    after ``until``, begins before ``since``, or has too few requests is not complete.

    :param cut: a span, a number of requests, or None for one window.
    :param since: earliest time, or None for all.
    :param until: latest time, excluded.
    :yields: windows with requests, by end time.
    """
    span = cut if isinstance(cut, timedelta) else None
    running: dict[tuple[str, str, float], Window] = {}
    numbers: dict[tuple[str, str, float], int] = {}
    for request in _requests(store, since, until):
        key = request.model, request.version, request.alpha
        for ended in [k for k, w in running.items() if span is not None and request.timestamp >= w.end]:
            yield _close(running.pop(ended), since, until)
        if (window := running.get(key)) is None:
            number = numbers.get(key, 0) if span is None else (request.timestamp - _EPOCH) // span
            window = Window(request, number, span, max_queries=max_queries, seed=seed)
            running[key], numbers[key] = window, number + 1
        window.add(request)
        if isinstance(cut, int) and window.requests >= cut:
            yield _close(running.pop(key), since, until)
    for window in sorted(running.values(), key=lambda w: w.last):
        if isinstance(cut, int):
            window.complete = False
        yield _close(window, since, until)


def _requests(store: OodStore, since: datetime | None, until: datetime) -> Iterator[RequestRecord]:
    """Read request records for a slow reader: embedding a window between two of them may take long."""
    last: RequestRecord | None = None
    while True:
        for request in store.requests(since=last.timestamp if last else since, until=until):
            # Sorted by time, then by id: records up to the last one were yielded before.
            if last and (request.timestamp, request.record_id) <= (last.timestamp, last.record_id):
                continue
            yielded = time.monotonic()
            yield request
            last = request
            if time.monotonic() - yielded > PATIENCE_S:
                break
        else:
            return


def _close(window: Window, since: datetime | None, until: datetime) -> Window:
    window.close()
    window.complete &= window.end <= until and (since is None or window.start >= since)
    return window
