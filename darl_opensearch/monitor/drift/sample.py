"""Samples of a window and of the reference, drawn so that logging policy is not mistaken for drift.

The log holds every OOD pair but only a share ``r`` of the others, so as a whole it is far from any reference. Weighting
by ``1 / r`` would correct the mean but not the variance, and a permutation test needs identically distributed clusters.
So OOD pairs are thinned as well: a pair is in the sample if its record's id is drawn at rate ``r``, OOD or not, which
gives a uniform sample of all scored pairs. If parts of a window were logged at different rates, the lowest is used for
all: draws are nested. The reference is thinned alike: a query with ``n`` retrieved items keeps Binomial(n, r) pairs.

Each query counts once, by its first request in the window, as in the calibration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from darl_opensearch.bundle import DriftReference
from darl_opensearch.monitor.drift.two_sample import Clusters
from darl_opensearch.monitor.drift.windows import Window, draw_number
from darl_opensearch.ood.record import PairRecord, is_sampled, to_ms
from darl_opensearch.ood.store import OodStore
from darl_opensearch.text import same_text

Texts = Callable[[Sequence[str]], Mapping[str, str]]  # item ids to known texts

MOST_UNJOINED = 0.1  # share of pairs without text above which the rest is not representative
READ_AHEAD = 4  # queries read per pair wanted: some have no pair in the sample
_ONE_MS = timedelta(milliseconds=1)  # the resolution of a store's times
FAR_OFF = 5.0  # standard deviations between the log's pairs and its weights


@dataclass(frozen=True)
class WindowSample:
    """A uniform sample of a window's pairs.

    :param texts: item texts of each query's pairs, at least one each.
    :param unjoined: pairs left out because their item's text is unknown.
    :param candidates: median number of items ranked per request.
    """

    queries: tuple[str, ...]
    slices: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rate: float
    unjoined: int
    candidates: int

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return sum(map(len, self.texts))


class NoSample(Exception):
    """The log does not allow a sample; the message says why, and what to do."""


def sample_window(
    store: OodStore, window: Window, reference: DriftReference, *, max_pairs: int, seed: int, texts: Texts | None
) -> WindowSample:
    """Sample pairs of a window.

    :param reference: pairs deeper than its lists are left out.
    :param max_pairs: no further query is taken once there are so many pairs.
    :param texts: looks up items that were logged without text.
    :raises NoSample: if the log does not allow a sample.
    """
    depth, most = reference.depth, reference.most_rows
    order = sorted(window.queries, key=window.draw)[: READ_AHEAD * max_pairs]
    rate, held = _drawn_pairs(store, window, set(order), depth)
    chosen: list[list[PairRecord]] = []
    count = 0
    for key in order:
        if count >= max_pairs:
            break
        pairs = sorted(held.get(key, ()), key=lambda p: draw_number(f"{seed}:{p.record_id}"))[:most]
        if pairs:
            chosen.append(sorted(pairs, key=lambda p: p.position))
            count += len(pairs)
    sampled, unjoined = _with_texts(chosen, texts)
    if unjoined > MOST_UNJOINED * count:
        raise NoSample(
            f"{unjoined:,} of {count:,} sampled pairs have no item text"
            + (", neither in the log nor in the item index" if texts else "; pass the index that holds them (--index)")
        )
    candidates = sorted(tally.first.candidates for tally in window.queries.values())
    return WindowSample(
        queries=tuple(pairs[0][0].query for pairs in sampled),
        slices=tuple(pairs[0][0].slice or "" for pairs in sampled),
        texts=tuple(tuple(text for _, text in pairs) for pairs in sampled),
        rate=rate,
        unjoined=unjoined,
        candidates=candidates[len(candidates) // 2] if candidates else 0,
    )


def thin_reference(
    reference: DriftReference, rate: float, rng: np.random.Generator
) -> tuple[Clusters, tuple[str, ...]]:
    """Thin the reference to a window's sampling rate.

    :return: the remaining features, and the slice of each query.
    """
    kept = np.minimum(rng.binomial(reference.candidates, rate), reference.sizes)
    starts = np.cumsum(reference.sizes) - reference.sizes
    rows = [
        start + np.sort(rng.permutation(size)[:keep])
        for start, size, keep in zip(starts.tolist(), reference.sizes.tolist(), kept.tolist(), strict=True)
    ]
    clusters = Clusters(reference.features[np.concatenate([np.empty(0, np.int64), *rows])], kept[kept > 0])
    return clusters, tuple(name for name, keep in zip(reference.slices, kept, strict=True) if keep)


def _drawn_pairs(
    store: OodStore, window: Window, keys: set[str], depth: int
) -> tuple[float, dict[str, list[PairRecord]]]:
    """The sampling rate of a window, and the pairs sampled from each query's first request."""
    # Time and query as well: a caller may reuse one id for many requests.
    firsts = {(first.request_id, to_ms(first.timestamp), key) for key in keys for first in [window.queries[key].first]}
    rate, held = 1.0, dict[str, list[PairRecord]]()
    ood, ordinary = 0, 0.0
    for pair in store.pairs(since=window.first, until=window.last + _ONE_MS):
        key = same_text(pair.query)
        if (pair.request_id, to_ms(pair.timestamp), key) not in firsts:
            continue
        if (pair.model, pair.version) != (window.model, window.version):
            continue
        if pair.is_ood:
            ood += 1
        else:
            ordinary += pair.weight
            rate = min(rate, 1 / pair.weight)
        # The rate only falls while reading, so a pair left out now would be left out at the end.
        if pair.position < depth and is_sampled(pair.record_id, rate):
            held.setdefault(key, []).append(pair)
    _check_complete(window, keys, ood, ordinary, rate)
    return rate, {key: [p for p in pairs if is_sampled(p.record_id, rate)] for key, pairs in held.items()}


def _check_complete(window: Window, keys: set[str], ood: int, ordinary: float, rate: float) -> None:
    """Refuse a log whose pairs do not match its own weights and counts."""
    firsts = [window.queries[key].first for key in keys]
    expected_ood = sum(request.ood_pairs for request in firsts)
    expected = sum(request.candidates - request.ood_pairs for request in firsts)
    if expected and not ordinary:
        raise NoSample("the log holds OOD pairs only; score with --ood-sample-rate above 0")
    noise = FAR_OFF * math.sqrt(expected * (1 / rate - 1)) + 0.01 * expected
    if abs(ordinary - expected) > noise or ood < 0.98 * expected_ood:
        raise NoSample(
            f"requests count {expected:,} ordinary and {expected_ood:,} OOD pairs, but logged pairs represent"
            f" {ordinary:,.0f} and {ood:,}: pairs were lost, or some scorers log OOD pairs only"
        )


def _with_texts(
    chosen: Sequence[Sequence[PairRecord]], texts: Texts | None
) -> tuple[list[list[tuple[PairRecord, str]]], int]:
    """Pairs with their texts, and the number without."""
    wanted = [p.item_id for pairs in chosen for p in pairs if p.item_text is None and p.item_id]
    joined = texts(list(dict.fromkeys(wanted))) if texts and wanted else {}
    complete, missing = [], 0
    for pairs in chosen:
        joined_pairs = [(p, p.item_text if p.item_text is not None else joined.get(p.item_id or "")) for p in pairs]
        with_text = [(p, text) for p, text in joined_pairs if text is not None]
        missing += len(joined_pairs) - len(with_text)
        if with_text:
            complete.append(with_text)
    return complete, missing
