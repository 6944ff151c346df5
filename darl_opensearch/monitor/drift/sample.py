"""Samples of a window and of the reference, drawn so that the logging policy is not mistaken for drift.

The log holds every OOD pair but only a share ``r`` of the others, so as a whole it is far from any reference. Weighting
by ``1 / r`` would correct the mean but not the variance, and a permutation test needs identically distributed clusters.
So OOD pairs are thinned as well: a pair is in the sample if its record's id is drawn at rate ``r``, OOD or not, which
gives a uniform sample of all scored pairs. If parts of a window were logged at different rates, the lowest is used for
all, since draws are nested. The reference is thinned alike: a query with ``n`` retrieved items keeps Binomial(n, r)
pairs.

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

Texts = Callable[[Sequence[str]], Mapping[str, str]]  # looks up texts by item id

MOST_UNJOINED = 0.1  # maximum share of pairs without text; beyond it the others are not representative
READ_AHEAD = 4  # queries read per pair to sample: some have no pair in the sample
_ONE_MS = timedelta(milliseconds=1)  # the resolution of a store's times
FAR_OFF = 5.0  # standard deviations that logged weights may differ from the number of pairs


@dataclass(frozen=True)
class WindowSample:
    """A uniform sample of a window's pairs.

    :param texts: item texts of each query's pairs, at least one each.
    :param unjoined: pairs left out for lack of their item's text.
    :param candidates: median number of items ranked per request.
    """

    queries: tuple[str, ...]
    slices: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rate: float
    unjoined: int
    candidates: int


class NoSample(Exception):
    """The log does not allow a sample; the message says why, and what to do."""


def sample_window(
    store: OodStore, window: Window, reference: DriftReference, *, max_pairs: int, seed: int, texts: Texts | None
) -> WindowSample:
    """Sample pairs of a window.

    :param reference: pairs ranked deeper than its queries' lists are left out.
    :param max_pairs: sampling stops after the query that reaches this number.
    :param texts: looks up items that were logged without text.
    :raises NoSample: if the log does not allow a sample.
    """
    order = sorted(window.queries, key=window.draw)[: READ_AHEAD * max_pairs]
    rate, pairs_by_query = _draw_pairs(store, window, set(order), reference.depth)
    chosen: list[list[PairRecord]] = []
    count = 0
    for key in order:
        if count >= max_pairs:
            break
        pairs = sorted(pairs_by_query.get(key, ()), key=lambda p: draw_number(f"{seed}:{p.record_id}"))
        if pairs := pairs[: reference.most_rows]:
            chosen.append(sorted(pairs, key=lambda p: p.position))
            count += len(pairs)
    sampled, unjoined = _join_texts(chosen, texts)
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
    thinned_sizes = np.minimum(rng.binomial(reference.candidates, rate), reference.sizes)
    starts = np.cumsum(reference.sizes) - reference.sizes
    rows = [
        start + np.sort(rng.permutation(size)[:keep])
        for start, size, keep in zip(starts.tolist(), reference.sizes.tolist(), thinned_sizes.tolist(), strict=True)
    ]
    features = reference.features[np.concatenate([np.empty(0, np.int64), *rows])]
    slices = tuple(name for name, keep in zip(reference.slices, thinned_sizes, strict=True) if keep)
    return Clusters(features, thinned_sizes[thinned_sizes > 0]), slices


def _draw_pairs(
    store: OodStore, window: Window, keys: set[str], depth: int
) -> tuple[float, dict[str, list[PairRecord]]]:
    """Find a window's sampling rate, and draw pairs from each query's first request."""
    # Compared with time and query too, because a caller may reuse an id for many requests.
    firsts = {(first.request_id, to_ms(first.timestamp), key) for key in keys for first in [window.queries[key].first]}
    rate, pairs_by_query = 1.0, dict[str, list[PairRecord]]()
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
        # The rate can only fall, so a pair that is not sampled now would not be sampled at the end.
        if pair.position < depth and is_sampled(pair.record_id, rate):
            pairs_by_query.setdefault(key, []).append(pair)
    _check_complete(window, keys, ood, ordinary, rate)
    return rate, {key: [p for p in pairs if is_sampled(p.record_id, rate)] for key, pairs in pairs_by_query.items()}


def _check_complete(window: Window, keys: set[str], ood: int, ordinary: float, rate: float) -> None:
    """Refuse a log whose pair records do not match the counts in its request records."""
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


def _join_texts(
    chosen: Sequence[Sequence[PairRecord]], texts: Texts | None
) -> tuple[list[list[tuple[PairRecord, str]]], int]:
    """Join pairs with their texts; also count the pairs without."""
    ids = [p.item_id for pairs in chosen for p in pairs if p.item_text is None and p.item_id]
    looked_up = texts(list(dict.fromkeys(ids))) if texts and ids else {}
    joined, unjoined = [], 0
    for pairs in chosen:
        candidates = [(p, p.item_text if p.item_text is not None else looked_up.get(p.item_id or "")) for p in pairs]
        with_text = [(p, text) for p, text in candidates if text is not None]
        unjoined += len(pairs) - len(with_text)
        if with_text:
            joined.append(with_text)
    return joined, unjoined
