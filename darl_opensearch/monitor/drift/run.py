"""Drift of the logged traffic: share OOD against alpha, features against the bundle's reference."""

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
from darl_opensearch.monitor.drift.sample import NoSample, Texts, WindowSample, matched, sample_window
from darl_opensearch.monitor.drift.two_sample import Clusters, two_sample_tests
from darl_opensearch.monitor.drift.windows import Counts, Window, windows
from darl_opensearch.ood.store import OodStore
from darl_opensearch.stats.holm import holm
from darl_opensearch.stats.shares import share_of, share_test
from darl_opensearch.text import cut_to_tokens

Report = Callable[[str, int, int], object]

DEPTH_FACTOR = 1.5  # between the lists that requests rank and those of the reference, from which on it is said


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

    Each window that is over is tested at level ``1 / config.one_in``: share OOD against alpha, and for windows of the
    bundle's version MMD and classifier test against its reference, of all traffic and of each slice that is large
    enough; Holm's procedure over all of them. So N windows without drift have at most one false alarm on average,
    whatever they have to do with each other.

    :param bundle: the model; without it, only shares are tested, and the calibration's size is not known.
    :param config: windows, level and bounds.
    :param since: earliest time, or None for all.
    :param until: latest time, excluded; now by default.
    :param texts: looks up texts of items that were logged without.
    :param threads: for embedding; by default the cores of this process.
    :param report: called with what is being done, how much is done and of how much (0: not known).
    :return: the windows with their tests.
    """
    config = config or DriftConfig()
    until = until or datetime.now(UTC)
    feature_test = _FeatureTest(store, bundle, config, texts, threads) if bundle else None
    found: list[tuple[datetime, datetime, WindowReport]] = []
    read = windows(
        store, parse_window(config.window), since=since, until=until, max_queries=config.max_queries, seed=config.seed
    )
    for window in read:
        report(f"window that ends {window.end:%Y-%m-%d %H:%M}", len(found), 0)
        found.append((window.end, window.last, _judge(window, config, feature_test)))
    found.sort(key=lambda entry: entry[:2])  # of versions that share a span, the one that served last comes last
    name = f"{bundle.card.name} {bundle.card.version}" if bundle else None
    return DriftReport(store.where, name, since, until, config.one_in, tuple(w for _, _, w in found))


def _judge(window: Window, config: DriftConfig, feature_test: _FeatureTest | None) -> WindowReport:
    counts = [tally.all for tally in window.queries.values()]
    hits, totals = _once(counts)
    tests: list[DriftTest] = []
    sample, notes = None, list[str]()
    if window.sampled:
        notes.append(f"more queries than are kept: a random {len(window.queries):,} of them")
    asked = sum(total > 0 for total in totals)
    if not window.complete:
        verdict = INCOMPLETE
    elif asked < config.min_queries:
        verdict = TOO_FEW
        notes.append(f"{asked:,} queries; {config.min_queries:,} are the fewest that are tested")
    else:
        own = feature_test is not None and feature_test.is_of(window)
        calibration = feature_test.calibration_queries if feature_test and own else None
        parts: dict[str | None, list[Counts]] = {ALL: counts}
        parts |= _slices(window, config)
        for name, part in parts.items():
            tests.append(_share(name, part, window.alpha, calibration))
        if feature_test and own:
            sample, more, said = feature_test(window, [name for name in parts if name is not None])
            tests += more
            notes += said
        elif feature_test:
            notes.append("of another version than the bundle: only shares were tested")
        tests = _adjusted(tests, config.level)
        verdict = DRIFT if any(test.drift for test in tests) else NO_DRIFT
    return WindowReport(
        window.model, window.version, window.alpha, window.start, window.end, window.requests, len(window.queries),
        window.sampled, share_of(hits, totals), tuple(tests), sample, tuple(notes), verdict,
    )  # fmt: skip


def _once(counts: Iterable[Counts]) -> tuple[list[float], list[float]]:
    """OOD pairs and pairs of queries, each asked once: one that is asked a thousand times is no drift."""
    pairs = [count.once for count in counts]
    return [hits for hits, _ in pairs], [total for _, total in pairs]


def _slices(window: Window, config: DriftConfig) -> dict[str | None, list[Counts]]:
    """The largest slices that have enough queries, where there is more than one."""
    found: dict[str, list[Counts]] = {}
    for tally in window.queries.values():
        for name, counts in tally.slices.items():
            found.setdefault(name, []).append(counts)
    if len(found) < 2:
        return {}
    large = [(name, part) for name, part in found.items() if name and len(part) >= config.min_queries]
    large.sort(key=lambda entry: (-len(entry[1]), entry[0]))
    return dict(large[: config.max_slices])


def _share(name: str | None, counts: list[Counts], alpha: float, calibration: int | None) -> DriftTest:
    hits, totals = _once(counts)
    p = share_test(hits, totals, alpha, calibration_queries=calibration)
    value = sum(hits) / sum(totals) if sum(totals) else 0.0
    return DriftTest(SHARE, name, value, alpha, len(counts), p, p, drift=False)


def _adjusted(tests: list[DriftTest], level: float) -> list[DriftTest]:
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
        self._missing = ""
        try:
            self._reference = bundle.reference()
        except BundleError as err:
            self._missing = str(err)

    def is_of(self, window: Window) -> bool:
        """Whether the window's requests were scored by this bundle."""
        return (window.model, window.version) == (self._bundle.card.name, self._bundle.card.version)

    def __call__(self, window: Window, slices: list[str]) -> tuple[SampleReport | None, list[DriftTest], list[str]]:
        """Run the tests of a window; what was looked at, what was found, and what could not be tested."""
        if self._reference is None:
            return None, [], [f"no MMD and no classifier test: {self._missing}"]
        config, reference = self._config, self._reference
        try:
            sample = sample_window(
                self._store, window, reference, max_pairs=config.max_pairs, seed=config.seed, texts=self._texts
            )
        except NoSample as err:
            return None, [], [f"no MMD and no classifier test: {err}"]
        known, known_slices = matched(reference, sample.rate, np.random.default_rng([config.seed, 2, window.number]))
        fewest = min(len(sample.queries), len(known))
        if fewest < config.min_queries:
            return None, [], [
                f"no MMD and no classifier test: of pairs drawn at {sample.rate:g}, {len(sample.queries):,} queries of"
                f" the window and {len(known):,} of the reference have any; {config.min_queries:,} are the fewest"
            ]  # fmt: skip
        notes = self._depth_note(sample, reference)
        seen = Clusters(self._embed(sample), np.array([len(texts) for texts in sample.texts]))
        looked_at = SampleReport(
            len(seen), len(seen.features), len(known), len(known.features), sample.rate, sample.unjoined
        )
        parts: dict[str | None, tuple[Clusters, Clusters]] = {ALL: (known, seen)}
        for own in slices:
            part = _part(known, known_slices, own), _part(seen, sample.slices, own)
            if min(map(len, part)) >= config.min_queries:
                parts[own] = part
        tests = []
        family = 1 + len(slices) + 2 * len(parts)
        # Twice what the smallest of Holm's levels needs, so that a p-value below it is no matter of luck.
        permutations = min(max(config.permutations, 2 * family * config.one_in), MOST_PERMUTATIONS)
        for place, (name, (one, other)) in enumerate(parts.items()):
            said = two_sample_tests(
                one, other, permutations=permutations, folds=config.folds,
                seed=(config.seed, window.number, place),
            )  # fmt: skip
            for test, expected in ((MMD, 0.0), (AUC, 0.5)):
                result = said[test]
                tests.append(DriftTest(test, name, result.value, expected, len(other), result.p, result.p, drift=False))
        return looked_at, tests, notes

    def _depth_note(self, sample: WindowSample, reference: DriftReference) -> list[str]:
        theirs, ours = sample.candidates, int(np.median(reference.candidates))
        if 1 / DEPTH_FACTOR <= max(theirs, 1) / max(ours, 1) <= DEPTH_FACTOR:
            return []
        return [
            f"requests rank {theirs:,} items and the reference's queries {ours:,} (medians): deeper items are less like"
            " their query; set [ood] depth to what the pipeline ranks and train again"
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


def _part(clusters: Clusters, slices: tuple[str, ...], name: str) -> Clusters:
    inside = np.array([own == name for own in slices], dtype=bool)
    return Clusters(clusters.features[np.repeat(inside, clusters.sizes)], clusters.sizes[inside])
