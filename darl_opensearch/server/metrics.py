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
    """The service's metrics, in their own registry, so that two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._requests = Counter("darl_requests", "Requests by route and status.", ["route", "status"], registry=r)
        self._seconds = Histogram(
            "darl_request_seconds",
            "Time to the first byte of the response.",
            ["route"],
            buckets=_SECONDS,
            registry=r,
        )
        self._stage_seconds = Histogram(
            "darl_stage_seconds", "Time spent per scoring stage.", ["stage"], buckets=_SECONDS, registry=r
        )
        self._pairs = Counter("darl_pairs", "Pairs scored.", registry=r)
        self._ood_pairs = Counter("darl_ood_pairs", "Pairs found out of distribution.", registry=r)
        self._tokens = Counter("darl_tokens", "Tokens scored, without padding.", registry=r)
        self.deadlines = Counter("darl_deadlines_passed", "Requests that missed their deadline.", registry=r)
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
        self._ood_pairs.inc(int(ranked.scores.is_ood.sum()))
        self._tokens.inc(ranked.tokens)
        self._stage_seconds.labels("tokenize").observe(ranked.tokenize_ms / 1000)
        self._stage_seconds.labels("forward").observe(ranked.forward_ms / 1000)

    def watch_ood_log(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export the OOD log's counters."""
        self.registry.register(_OodLogCollector(counters))

    def watch_states(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Export what became of the item states."""
        self.registry.register(_StatesCollector(counters))

    def render(self) -> bytes:
        """Render in the Prometheus text format."""
        return generate_latest(self.registry)


class _StatesCollector(Collector):
    def __init__(self, counters: Callable[[], Mapping[str, int]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        values = dict(self._counters())
        for name, text in (("in_memory", "Item states in memory."), ("memory_bytes", "Bytes of them.")):
            yield GaugeMetricFamily(f"darl_item_states_{name}", text, values.pop(name, 0))
        family = CounterMetricFamily("darl_item_states_events", "Item states by what became of them.", labels=["event"])
        for event, value in sorted(values.items()):
            family.add_metric([event], value)
        yield family


class _OodLogCollector(Collector):
    def __init__(self, counters: Callable[[], Mapping[str, int]]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        values = dict(self._counters())
        yield GaugeMetricFamily("darl_ood_log_queued", "Requests waiting to be spooled.", values.pop("queued", 0))
        family = CounterMetricFamily("darl_ood_log_events", "Requests of the OOD log by outcome.", labels=["event"])
        for event, value in sorted(values.items()):
            family.add_metric([event], value)
        yield family
