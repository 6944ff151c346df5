"""The OOD report, by model version, from one pass over a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from darl_opensearch.ood.record import PairRecord, RequestRecord, format_timestamp
from darl_opensearch.ood.store import OodStore
from darl_opensearch.stats.shares import Share, share_of
from darl_opensearch.text import same_text

# Counters of records that are missing from the store.
LOSSES = ("dropped_queue", "dropped_error", "evicted", "evicted_dead_letters", "stored_dead_letters")


@dataclass(frozen=True)
class SliceReport:
    """One slice of the traffic.

    :param name: empty for requests without a slice.
    """

    name: str
    requests: int
    share_ood: Share


@dataclass(frozen=True)
class QueryReport:
    """One query.

    :param query: its latest spelling.
    """

    query: str
    requests: int
    candidates: int
    share_ood: float
    max_ood_distance: float


@dataclass(frozen=True)
class ModelReport:
    """One model version; versions are never mixed.

    :param alpha: expected share of OOD pairs in traffic like the calibration's.
    :param requests: those that were reranked; only they enter any other figure.
    :param not_reranked: searches that returned first-stage order instead, as far as clients logged them.
    :param latency_ms: the median, or None if nothing was reranked.
    :param share_ood: share of OOD pairs, from the exact counts of the requests.
    :param share_ood_weighted: the same, estimated from logged pairs by ``weight``; differs if pairs were lost.
    :param slices: by share, highest first.
    :param strangest: queries by share OOD, then by distance, highest first.
    """

    model: str
    version: str
    alpha: float
    requests: int
    not_reranked: int
    queries: int
    pairs: int
    first: datetime
    last: datetime
    share_ood: Share
    share_ood_weighted: Share
    pair_records: int
    latency_ms: float | None
    slices: tuple[SliceReport, ...]
    strangest: tuple[QueryReport, ...]

    @property
    def verdict(self) -> str:
        """Share of OOD pairs compared with alpha: ``above``, ``below``, ``as expected`` or ``unknown``."""
        return self.share_ood.against(self.alpha)


@dataclass(frozen=True)
class MonitorReport:
    """A report on a period of the log.

    :param since: earliest time, or None for all.
    :param counters: the spool's counters; empty without a spool.
    """

    store: str
    since: datetime | None
    until: datetime
    models: tuple[ModelReport, ...]
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether the period has no records."""
        return not self.models

    @property
    def losses(self) -> dict[str, int]:
        """Counters of lost or refused records that are not 0."""
        return {name: self.counters[name] for name in LOSSES if self.counters.get(name)}

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        models = []
        for model in self.models:
            values = dataclasses.asdict(model) | {"verdict": model.verdict}
            models.append(values | {name: format_timestamp(values[name]) for name in ("first", "last")})
        return {
            "store": self.store,
            "since": format_timestamp(self.since) if self.since else None,
            "until": format_timestamp(self.until),
            "models": models,
            "losses": self.losses,
            "counters": dict(self.counters),
        }


def report(
    store: OodStore,
    since: datetime | None = None,
    *,
    until: datetime | None = None,
    top: int = 10,
    counters: Mapping[str, int] | None = None,
) -> MonitorReport:
    """Report on a store.

    :param since: earliest time, or None for all.
    :param until: latest time, excluded; now by default.
    :param top: most OOD queries to list per model version.
    :param counters: the spool's counters, if not the store's own.
    """
    until = until or datetime.now(UTC)
    tallies: dict[tuple[str, str, float], _ModelTally] = {}
    for request in store.requests(since=since, until=until, not_reranked=True):
        key = request.model, request.version, request.alpha
        if key not in tallies:
            tallies[key] = _ModelTally(request.timestamp)
        tallies[key].add(request)
    for pair in store.pairs(since=since, until=until):
        # Pairs of a version without request records cannot be compared.
        if tally := tallies.get((pair.model, pair.version, pair.alpha)):
            tally.add_pair(pair)
    models = [tally.report(*key, top=top) for key, tally in tallies.items()]
    models.sort(key=lambda m: (m.last, m.model, m.version), reverse=True)
    counts = store.counters() if counters is None else counters
    return MonitorReport(store.where, since, until, tuple(models), dict(counts))


@dataclass
class _Tally:
    requests: int = 0
    candidates: int = 0
    ood_pairs: int = 0
    weighted_ood: float = 0.0
    weighted: float = 0.0
    max_ood_distance: float = float("-inf")
    query: str = ""

    def add(self, request: RequestRecord) -> None:
        self.requests += 1
        self.candidates += request.candidates
        self.ood_pairs += request.ood_pairs
        self.query = request.query
        if request.max_ood_distance is not None:
            self.max_ood_distance = max(self.max_ood_distance, request.max_ood_distance)

    def merge(self, tally: _Tally) -> None:
        self.requests += tally.requests
        self.candidates += tally.candidates
        self.ood_pairs += tally.ood_pairs
        self.weighted += tally.weighted
        self.weighted_ood += tally.weighted_ood
        self.max_ood_distance = max(self.max_ood_distance, tally.max_ood_distance)
        self.query = tally.query or self.query


class _ModelTally:
    def __init__(self, first: datetime) -> None:
        self._first = self._last = first
        # One tally per query and slice: queries are the clusters of every interval.
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._latencies: list[float] = []
        self._not_reranked = 0
        self._pair_records = 0

    def add(self, request: RequestRecord) -> None:
        self._last = request.timestamp
        if not request.reranked:
            self._not_reranked += 1
            return
        self._tally(request).add(request)
        self._latencies.append(request.latency_ms)

    def add_pair(self, pair: PairRecord) -> None:
        tally = self._tally(pair)
        tally.weighted += pair.weight
        tally.weighted_ood += pair.weight * pair.is_ood
        self._pair_records += 1

    def _tally(self, record: RequestRecord | PairRecord) -> _Tally:
        return self._tallies.setdefault((record.slice or "", same_text(record.query)), _Tally())

    def report(self, model: str, version: str, alpha: float, *, top: int) -> ModelReport:
        queries: dict[str, _Tally] = {}
        slices: dict[str, list[_Tally]] = {}
        for (slice_name, key), tally in self._tallies.items():
            queries.setdefault(key, _Tally()).merge(tally)
            slices.setdefault(slice_name, []).append(tally)
        whole = list(queries.values())
        parts = [
            SliceReport(name, sum(t.requests for t in tallies), _share(tallies)) for name, tallies in slices.items()
        ]
        parts.sort(key=lambda part: (-(part.share_ood.value or 0.0), part.name))
        most_ood = sorted(
            (tally for tally in whole if tally.candidates),
            key=lambda t: (-t.ood_pairs / t.candidates, -t.max_ood_distance, t.query),
        )
        latencies = sorted(self._latencies)
        return ModelReport(
            model=model,
            version=version,
            alpha=alpha,
            requests=len(latencies),
            not_reranked=self._not_reranked,
            queries=len(whole),
            pairs=sum(t.candidates for t in whole),
            first=self._first,
            last=self._last,
            share_ood=_share(whole),
            share_ood_weighted=share_of([t.weighted_ood for t in whole], [t.weighted for t in whole]),
            pair_records=self._pair_records,
            latency_ms=latencies[len(latencies) // 2] if latencies else None,
            slices=tuple(parts),
            strangest=tuple(
                QueryReport(t.query, t.requests, t.candidates, t.ood_pairs / t.candidates, t.max_ood_distance)
                for t in most_ood[:top]
                if t.ood_pairs
            ),
        )


def _share(tallies: list[_Tally]) -> Share:
    return share_of([t.ood_pairs for t in tallies], [t.candidates for t in tallies])
