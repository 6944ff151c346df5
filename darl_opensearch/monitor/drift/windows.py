"""Cutting the log into windows: what each query of a window was answered with, in bounded memory."""

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
PATIENCE_S = 60.0  # between two records, after which the store is asked anew: a cluster forgets who reads too slowly
_SLACK = 1.25  # a window holds so many times its bound before queries are let go


@dataclass
class RequestCounts:
    """Requests, the pairs they scored, and those of them that are OOD."""

    requests: int = 0
    candidates: int = 0
    ood_pairs: int = 0

    def add(self, request: RequestRecord) -> None:
        """Count a request."""
        self.requests += 1
        self.candidates += request.candidates
        self.ood_pairs += request.ood_pairs

    @property
    def once(self) -> tuple[float, float]:
        """OOD pairs and pairs of one request of this query, on average."""
        return self.ood_pairs / self.requests, self.candidates / self.requests


@dataclass
class QueryTally:
    """One query of a window.

    :param first: its first request: the one whose pairs stand for the query.
    :param slices: counts by slice.
    """

    first: RequestRecord
    all: RequestCounts = field(default_factory=RequestCounts)
    slices: dict[str, RequestCounts] = field(default_factory=dict)


class Window:
    """Requests of one model version, by query; of a large window, a random sample of its queries.

    :param number: which window it is, for seeds.
    :param start: when it begins, or None for with its first request.
    :param end: when it ends, or None for with its last request.
    """

    def __init__(
        self, model: str, version: str, alpha: float, number: int, start: datetime | None, end: datetime | None,
        *, max_queries: int, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.version, self.alpha, self.number = model, version, alpha, number
        self.complete = True
        self.requests = 0
        self.sampled = False
        self.queries: dict[str, QueryTally] = {}
        self._start, self._end = start, end
        self._first: datetime | None = None
        self._last: datetime | None = None
        self._most, self._seed = max_queries, seed
        self._bar = 2**64  # queries whose draw is not below it were let go

    @property
    def first(self) -> datetime:
        """Time of the first request."""
        return self._first or self._start or _EPOCH

    @property
    def last(self) -> datetime:
        """Time of the last request."""
        return self._last or self.first

    @property
    def start(self) -> datetime:
        """When it begins."""
        return self._start or self.first

    @property
    def end(self) -> datetime:
        """When it ends."""
        return self._end or self.last

    def add(self, request: RequestRecord) -> None:
        """Count a request, unless its query is not of the sample."""
        self.requests += 1
        self._first = self._first or request.timestamp
        self._last = request.timestamp
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
        """Let queries go, those of the highest draws, until the bound holds."""
        if len(self.queries) <= self._most:
            return
        # What was let go can never come back: its draw stays above the bar. So the rest is a uniform sample.
        self._bar = sorted(map(self.draw, self.queries))[self._most]
        self.queries = {key: tally for key, tally in self.queries.items() if self.draw(key) < self._bar}
        self.sampled = True

    def draw(self, key: str) -> int:
        """Draw a number for a query: always the same for the same window, query and seed.

        :param key: the query's text, as :func:`~darl_opensearch.text.same_text` has it.
        :return: uniform in ``0..2**64 - 1``.
        """
        return draw_number(f"{self._seed}:{self.number}:{key}")


def draw_number(key: str) -> int:
    """Draw a number for a text.

    :return: uniform in ``0..2**64 - 1``.
    """
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
    """Read the request records window by window, each model version apart.

    Spans begin at whole multiples since 1970, UTC, so that windows are the same whenever they are asked for. A window
    that is not over by ``until``, was begun before ``since``, or has too few requests is given as not complete.

    :param cut: a span, a number of requests, or None for one window.
    :param since: earliest time, or None for all.
    :param until: latest time, excluded.
    :yields: windows, by their end; only those with requests.
    """
    running: dict[tuple[str, str, float], Window] = {}
    numbers: dict[tuple[str, str, float], int] = {}
    for request in _requests(store, since, until):
        key = request.model, request.version, request.alpha
        if isinstance(cut, timedelta):
            over = [k for k, w in running.items() if request.timestamp >= w.end]
            for k in over:
                yield _closed(running.pop(k), since, until)
        if (window := running.get(key)) is None:
            number, start, end = numbers.get(key, 0), None, None
            if isinstance(cut, timedelta):
                number = (request.timestamp - _EPOCH) // cut
                start, end = _EPOCH + number * cut, _EPOCH + (number + 1) * cut
            window = Window(*key, number, start, end, max_queries=max_queries, seed=seed)
            running[key], numbers[key] = window, number + 1
        window.add(request)
        if isinstance(cut, int) and window.requests >= cut:
            yield _closed(running.pop(key), since, until)
    for window in sorted(running.values(), key=lambda w: w.last):
        if isinstance(cut, int):
            window.complete = False
        yield _closed(window, since, until)


def _requests(store: OodStore, since: datetime | None, until: datetime) -> Iterator[RequestRecord]:
    """Read request records, however long a reader takes over each: a window may be embedded between two of them."""
    last: RequestRecord | None = None
    while True:
        for request in store.requests(since=last.timestamp if last else since, until=until):
            # By time, then by id: what stands at or before the last one was given already.
            if last and (request.timestamp, request.record_id) <= (last.timestamp, last.record_id):
                continue
            given = time.monotonic()
            yield request
            last = request
            if time.monotonic() - given > PATIENCE_S:
                break
        else:
            return


def _closed(window: Window, since: datetime | None, until: datetime) -> Window:
    window.close()
    window.complete &= window.end <= until and (since is None or window.start >= since)
    return window
