"""Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from darl_opensearch.scoring import Pass

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """The service's metrics, in a registry of their own, so that a process may run two services."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._requests = Counter("darl_requests", "Requests by route and status.", ["route", "status"], registry=r)
        self._seconds = Histogram(
            "darl_request_seconds", "Time to the first byte of the response.", ["route"], buckets=_SECONDS, registry=r
        )
        self._stage_seconds = Histogram(
            "darl_stage_seconds", "Time spent per scoring stage.", ["stage"], buckets=_SECONDS, registry=r
        )
        self._pairs = Counter("darl_pairs", "Pairs scored.", registry=r)
        self._chunks = Counter("darl_chunks", "Texts scored: pairs, and further chunks of long items.", registry=r)
        self._ood_pairs = Counter("darl_ood_pairs", "Pairs found out of distribution.", registry=r)
        self._tokens = Counter("darl_tokens", "Tokens scored, without padding.", registry=r)
        self.deadlines = Counter("darl_deadlines_passed", "Requests that missed their deadline.", registry=r)
        self.abandoned = Counter("darl_requests_abandoned", "Requests whose caller went away.", registry=r)
        self.inside = Gauge("darl_requests_inside", "Requests being scored or waiting.", registry=r)
        self.ready = Gauge("darl_ready", "1 when the model is loaded and warm.", registry=r)
        self.fallback = Gauge("darl_provider_fallback", "1 when the requested provider is not used.", registry=r)
        self.model = Info("darl_model", "The model being served.", registry=r)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request.

        :param route: its path, or ``other``.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_pass(self, ranked: Pass) -> None:
        """Count scored pairs, tokens and times."""
        self._pairs.inc(len(ranked.scores))
        self._chunks.inc(ranked.chunks)
        self._ood_pairs.inc(int(ranked.scores.is_ood.sum()))
        self._tokens.inc(ranked.tokens)
        self._stage_seconds.labels("tokenize").observe(ranked.tokenize_ms / 1000)
        self._stage_seconds.labels("forward").observe(ranked.forward_ms / 1000)

    def watch_ood_log(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export the OOD log's counters."""
        gauges = {"queued": "Requests waiting to be spooled."}
        self.registry.register(_Counters(counters, "darl_ood_log", "Requests of the OOD log by outcome.", gauges))

    def watch_states(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export the counters of the store of item states."""
        gauges = {"in_memory": "Item states in memory.", "memory_bytes": "Bytes of them."}
        self.registry.register(_Counters(counters, "darl_item_states", "Item states by what became of them.", gauges))

    def render(self) -> bytes:
        """Render in the Prometheus text format."""
        return generate_latest(self.registry)


class _Counters(Collector):
    """Exports counters as events of one metric, except those in ``gauges``, which are metrics of their own."""

    def __init__(
        self, counters: Callable[[], Mapping[str, int]], prefix: str, text: str, gauges: Mapping[str, str]
    ) -> None:
        self._counters, self._prefix, self._text, self._gauges = counters, prefix, text, gauges

    def collect(self) -> Iterator[Metric]:
        values = dict(self._counters())
        for name, text in self._gauges.items():
            yield GaugeMetricFamily(f"{self._prefix}_{name}", text, values.pop(name, 0))
        family = CounterMetricFamily(f"{self._prefix}_events", self._text, labels=["event"])
        for event, value in sorted(values.items()):
            family.add_metric([event], value)
        yield family
