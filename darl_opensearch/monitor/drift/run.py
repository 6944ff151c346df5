"""Drift tests of the logged traffic: share OOD against alpha, features against the bundle's reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from darl_opensearch.bundle import Bundle, DriftReference
from darl_opensearch.errors import BundleError
from darl_opensearch.monitor.drift.config import MOST_PERMUTATIONS, DriftConfig, parse_window
from darl_opensearch.monitor.drift.report import (
    ALL,
    AUC,
    DRIFT,
    INCOMPLETE,
    MMD,
    NO_DRIFT,
    SHARE,
    TOO_FEW,
    DriftReport,
    DriftTest,
    SampleReport,
    WindowReport,
)
from darl_opensearch.monitor.drift.sample import NoSample, Texts, WindowSample, sample_window, thin_reference
from darl_opensearch.monitor.drift.two_sample import Clusters, two_sample_tests
from darl_opensearch.monitor.drift.windows import RequestCounts, Window, read_windows
from darl_opensearch.ood.store import OodStore
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.shares import share_of, share_test
from darl_opensearch.text import cut_to_tokens

Report = Callable[[str, int, int], object]

DEPTH_FACTOR = 1.5  # ratio of list lengths between requests and reference that is reported


def drift(
    store: OodStore,
    bundle: Bundle | None = None,
    config: DriftConfig | None = None,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    texts: Texts | None = None,
    threads: int | None = None,
    report: Report = lambda what, done, total: None,
) -> DriftReport:
    """Test the log for drift, window by window.

    Each completed window is tested at level ``1 / config.one_in``: the share OOD against alpha and, for windows of the
    bundle's version, MMD and a classifier test against its reference, on all traffic and on each slice that is large
    enough, with Holm's procedure over all tests. So ``config.one_in`` windows without drift have at most one false
    alarm on average, whatever their dependence.

    :param bundle: without it only shares are tested, ignoring the size of the calibration set.
    :param since: earliest time, or None for all.
    :param until: latest time, excluded; now by default.
    :param texts: looks up item texts that were not logged.
    :param threads: for embedding; by default one per core.
    :param report: called with the activity, the windows done and the total (0: unknown).
    """
    config = config or DriftConfig()
    until = until or datetime.now(UTC)
    feature_test = _FeatureTest(store, bundle, config, texts, threads) if bundle else None
    reports: list[tuple[datetime, datetime, WindowReport]] = []
    for window in read_windows(
        store, parse_window(config.window), since=since, until=until, max_queries=config.max_queries, seed=config.seed
    ):
        report(f"window that ends {window.end:%Y-%m-%d %H:%M}", len(reports), 0)
        reports.append((window.end, window.last, _test_window(window, config, feature_test)))
    reports.sort(key=lambda entry: entry[:2])  # of two versions in one span, the one that served last comes last
    name = f"{bundle.card.name} {bundle.card.version}" if bundle else None
    return DriftReport(store.where, name, since, until, config.one_in, tuple(w for _, _, w in reports))


def _test_window(window: Window, config: DriftConfig, feature_test: _FeatureTest | None) -> WindowReport:
    counts = [tally.all for tally in window.queries.values()]
    hits, totals = _count_queries_once(counts)
    tests: list[DriftTest] = []
    sample, notes = None, list[str]()
    if window.sampled:
        notes.append(f"a random sample of {len(window.queries):,} queries, because there were more")
    scored_queries = sum(total > 0 for total in totals)
    if not window.complete:
        verdict = INCOMPLETE
    elif scored_queries < config.min_queries:
        verdict = TOO_FEW
        notes.append(f"{scored_queries:,} queries; a test needs {config.min_queries:,}")
    else:
        is_own = feature_test is not None and feature_test.is_of(window)
        calibration = feature_test.calibration_queries if feature_test and is_own else None
        parts: dict[str | None, list[RequestCounts]] = {ALL: counts}
        parts |= _select_slices(window, config)
        tests = [_test_share(name, part, window.alpha, calibration) for name, part in parts.items()]
        if feature_test and is_own:
            sample, feature_tests, problems = feature_test(window, [name for name in parts if name is not None])
            tests += feature_tests
            notes += problems
        elif feature_test:
            notes.append("not the bundle's version: only shares were tested")
        tests = adjust(tests, 1 / config.one_in)
        verdict = DRIFT if any(test.drift for test in tests) else NO_DRIFT
    return WindowReport(
        window.model, window.version, window.alpha, window.start, window.end, window.requests, len(window.queries),
        window.sampled, share_of(hits, totals), tuple(tests), sample, tuple(notes), verdict,
    )  # fmt: skip


def _count_queries_once(counts: Iterable[RequestCounts]) -> tuple[list[float], list[float]]:
    """Average OOD pairs and pairs over each query's requests: a popular query is not drift."""
    averages = [count.per_request for count in counts]
    return [hits for hits, _ in averages], [total for _, total in averages]


def _select_slices(window: Window, config: DriftConfig) -> dict[str | None, list[RequestCounts]]:
    """Select the largest slices with enough queries, if there is more than one slice."""
    slices: dict[str, list[RequestCounts]] = {}
    for tally in window.queries.values():
        for name, counts in tally.slices.items():
            slices.setdefault(name, []).append(counts)
    if len(slices) < 2:
        return {}
    large = [(name, part) for name, part in slices.items() if name and len(part) >= config.min_queries]
    large.sort(key=lambda entry: (-len(entry[1]), entry[0]))
    return dict(large[: config.max_slices])


def _test_share(name: str | None, counts: list[RequestCounts], alpha: float, calibration: int | None) -> DriftTest:
    hits, totals = _count_queries_once(counts)
    p = share_test(hits, totals, alpha, calibration_queries=calibration)
    value = sum(hits) / sum(totals) if sum(totals) else 0.0
    return DriftTest(SHARE, name, value, alpha, len(counts), p, p, drift=False)


def adjust(tests: list[DriftTest], level: float) -> list[DriftTest]:
    """Adjust the p-values of one window's tests together, by Holm's procedure, and decide each at a level."""
    adjusted = holm({place: test.p for place, test in enumerate(tests)})
    return [dataclasses.replace(tests[place], p_holm=p, drift=p <= level) for place, p in adjusted.items()]


class _FeatureTest:
    """MMD and classifier test against a bundle's reference."""

    def __init__(
        self, store: OodStore, bundle: Bundle, config: DriftConfig, texts: Texts | None, threads: int | None
    ) -> None:
        self._store, self._bundle, self._config, self._texts, self._threads = store, bundle, config, texts, threads
        self.calibration_queries = bundle.card.ood.calibration_queries
        self._reference: DriftReference | None = None
        self._problem = ""
        try:
            self._reference = bundle.reference()
        except BundleError as err:
            self._problem = str(err)

    def is_of(self, window: Window) -> bool:
        """Whether the window's requests were scored by this bundle."""
        return (window.model, window.version) == (self._bundle.card.name, self._bundle.card.version)

    def __call__(self, window: Window, slices: list[str]) -> tuple[SampleReport | None, list[DriftTest], list[str]]:
        """Test a window; return its sample, the tests, and notes on what could not be tested."""
        if self._reference is None:
            return None, [], [f"no MMD or classifier test: {self._problem}"]
        config, reference = self._config, self._reference
        try:
            sample = sample_window(
                self._store, window, reference, max_pairs=config.max_pairs, seed=config.seed, texts=self._texts
            )
        except NoSample as err:
            return None, [], [f"no MMD or classifier test: {err}"]
        thinned, thinned_slices = thin_reference(
            reference, sample.rate, np.random.default_rng([config.seed, 2, window.number])
        )
        fewest = min(len(sample.queries), len(thinned))
        if fewest < config.min_queries:
            return None, [], [
                f"no MMD or classifier test: at sampling rate {sample.rate:g}, {len(sample.queries):,} queries of the"
                f" window and {len(thinned):,} of the reference have pairs; a test needs {config.min_queries:,}"
            ]  # fmt: skip
        notes = self._depth_note(sample, reference)
        sampled = Clusters(self._embed(sample), np.array([len(texts) for texts in sample.texts]))
        sample_report = SampleReport(
            len(sampled), len(sampled.features), len(thinned), len(thinned.features), sample.rate, sample.unjoined
        )
        parts: dict[str | None, tuple[Clusters, Clusters]] = {ALL: (thinned, sampled)}
        for name in slices:
            pair = _select_slice(thinned, thinned_slices, name), _select_slice(sampled, sample.slices, name)
            if min(map(len, pair)) >= config.min_queries:
                parts[name] = pair
        tests = []
        family = 1 + len(slices) + 2 * len(parts)
        # Twice the number that Holm's smallest level needs, so that p-values below it do not depend on luck.
        permutations = min(max(config.permutations, 2 * family * config.one_in), MOST_PERMUTATIONS)
        for place, (part, (before, now)) in enumerate(parts.items()):
            results = two_sample_tests(
                before, now, permutations=permutations, folds=config.folds,
                seed=(config.seed, window.number, place),
            )  # fmt: skip
            for test, expected in ((MMD, 0.0), (AUC, 0.5)):
                result = results[test]
                tests.append(DriftTest(test, part, result.value, expected, len(now), result.p, result.p, drift=False))
        return sample_report, tests, notes

    def _depth_note(self, sample: WindowSample, reference: DriftReference) -> list[str]:
        theirs, ours = sample.candidates, int(np.median(reference.candidates))
        if 1 / DEPTH_FACTOR <= max(theirs, 1) / max(ours, 1) <= DEPTH_FACTOR:
            return []
        return [
            f"requests rank {theirs:,} items but reference queries {ours:,} (medians), and deeper items are less "
            "like their query: set [ood] depth to the number that the pipeline ranks, and train again"
        ]

    def _embed(self, sample: WindowSample) -> NDArray[np.float32]:
        from darl_opensearch.scoring.embed import Embedder

        tokenizer, cap = self._bundle.tokenizer, self._bundle.card.item_cap
        requests = [
            (query, [cut_to_tokens(text, tokenizer, cap) for text in texts])
            for query, texts in zip(sample.queries, sample.texts, strict=True)
        ]
        with Embedder(self._bundle, threads=self._threads) as embedder:
            return embedder.embed(requests)


def _select_slice(clusters: Clusters, slices: tuple[str, ...], name: str) -> Clusters:
    selected = np.array([slice_name == name for slice_name in slices], dtype=bool)
    return Clusters(clusters.features[np.repeat(selected, clusters.sizes)], clusters.sizes[selected])
