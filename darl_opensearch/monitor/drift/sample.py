"""A window's pairs and the reference's, drawn so that how the log is kept is not mistaken for drift.

The log holds every OOD pair and a share ``r`` of the rest. Taken as it is, it would be far from any reference. Weights
of ``1 / r`` would mend the mean but not the spread, and a permutation test needs clusters of one law. So the draw that
the rest has passed is made for the OOD pairs, too: a pair belongs to the sample if its record's id is drawn at rate
``r``, whether it is OOD or not. What is left is a uniform sample of all pairs that were scored. Where parts of a window
were logged at several rates the lowest is used for all: draws are nested. The reference then passes the same: of a
query with ``n`` retrieved items it keeps Binomial(n, r) pairs.

A query counts once, by its first request in the window, as the calibration's queries do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from darl_opensearch.bundle import DriftReference
from darl_opensearch.monitor.drift.two_sample import Clusters
from darl_opensearch.monitor.drift.windows import Window, drawn
from darl_opensearch.ood.record import PairRecord, is_drawn, to_ms
from darl_opensearch.ood.store import OodStore
from darl_opensearch.text import same_text

Texts = Callable[[Sequence[str]], Mapping[str, str]]  # item ids to the texts that are known

MOST_UNJOINED = 0.1  # share of pairs without text above which the rest is no sample
READ_AHEAD = 4  # queries looked at for each pair wanted: a query may have none in the sample
_ONE_MS = timedelta(milliseconds=1)  # what a store's times are counted in
FAR_OFF = 5.0  # standard deviations between what the log holds and what its weights say


@dataclass(frozen=True)
class WindowSample:
    """Pairs of a window, uniformly drawn.

    :param texts: item texts of each query's pairs, at least one each.
    :param rate: share of the scored pairs that they were drawn at.
    :param unjoined: pairs left out because their item's text is not known.
    :param candidates: median number of items that the requests ranked.
    """

    queries: tuple[str, ...]
    slices: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]
    rate: float
    unjoined: int
    candidates: int

    @property
    def pairs(self) -> int:
        """Pairs of all queries."""
        return sum(map(len, self.texts))


class NoSample(Exception):
    """The log does not hold what a sample needs; the message says why, and what to do."""


def sample_window(
    store: OodStore, window: Window, reference: DriftReference, *, max_pairs: int, seed: int, texts: Texts | None
) -> WindowSample:
    """Draw pairs of a window.

    :param reference: what they will be compared with: pairs that no reference could have are left out.
    :param max_pairs: number of pairs from which on no further query is taken.
    :param texts: looks up items that were logged without text; None where there is nothing to look in.
    :raises NoSample: when the log does not hold one.
    """
    depth, most = reference.depth, reference.most_rows
    order = sorted(window.queries, key=window.draw)[: READ_AHEAD * max_pairs]
    rate, held = _drawn_pairs(store, window, set(order), depth)
    chosen: list[list[PairRecord]] = []
    count = 0
    for key in order:
        if count >= max_pairs:
            break
        pairs = sorted(held.get(key, ()), key=lambda p: drawn(f"{seed}:{p.record_id}"))[:most]
        if pairs:
            chosen.append(sorted(pairs, key=lambda p: p.position))
            count += len(pairs)
    known, unjoined = _with_texts(chosen, texts)
    if unjoined > MOST_UNJOINED * count:
        raise NoSample(
            f"{unjoined:,} of {count:,} drawn pairs have no item text"
            + (", neither in the log nor in the item index" if texts else "; name the index that holds them (--index)")
        )
    candidates = sorted(tally.first.candidates for tally in window.queries.values())
    return WindowSample(
        queries=tuple(pairs[0][0].query for pairs in known),
        slices=tuple(pairs[0][0].slice or "" for pairs in known),
        texts=tuple(tuple(text for _, text in pairs) for pairs in known),
        rate=rate,
        unjoined=unjoined,
        candidates=candidates[len(candidates) // 2] if candidates else 0,
    )


def matched(reference: DriftReference, rate: float, rng: np.random.Generator) -> tuple[Clusters, tuple[str, ...]]:
    """Let the reference pass the draw that a window's pairs have passed.

    :param rate: share of the pairs that were drawn.
    :return: what is left, and the slice of each of its queries.
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
    """The rate of a window, and the pairs drawn at it from each query's first request."""
    # By time and query besides: a caller may give one id to many requests.
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
        # The rate only falls while reading: what it leaves out already, it would leave out at the end.
        if pair.position < depth and is_drawn(pair.record_id, rate):
            held.setdefault(key, []).append(pair)
    _check_complete(window, keys, ood, ordinary, rate)
    return rate, {key: [p for p in pairs if is_drawn(p.record_id, rate)] for key, pairs in held.items()}


def _check_complete(window: Window, keys: set[str], ood: int, ordinary: float, rate: float) -> None:
    """Refuse a log that is not the sample which its own weights and counts say."""
    firsts = [window.queries[key].first for key in keys]
    expected_ood = sum(request.ood_pairs for request in firsts)
    expected = sum(request.candidates - request.ood_pairs for request in firsts)
    if expected and not ordinary:
        raise NoSample("no pair but OOD ones is in the log; score with --ood-sample-rate above 0")
    noise = FAR_OFF * math.sqrt(expected * (1 / rate - 1)) + 0.01 * expected
    if abs(ordinary - expected) > noise or ood < 0.98 * expected_ood:
        raise NoSample(
            f"the requests count {expected:,} ordinary and {expected_ood:,} OOD pairs, the log's pairs stand for"
            f" {ordinary:,.0f} and {ood:,}: pairs were lost, or some scorers log OOD pairs only"
        )


def _with_texts(
    chosen: Sequence[Sequence[PairRecord]], texts: Texts | None
) -> tuple[list[list[tuple[PairRecord, str]]], int]:
    """Pairs with their texts, and how many have none."""
    wanted = [p.item_id for pairs in chosen for p in pairs if p.item_text is None and p.item_id]
    joined = texts(list(dict.fromkeys(wanted))) if texts and wanted else {}
    known, missing = [], 0
    for pairs in chosen:
        found = [(p, p.item_text if p.item_text is not None else joined.get(p.item_id or "")) for p in pairs]
        with_text = [(p, text) for p, text in found if text is not None]
        missing += len(found) - len(with_text)
        if with_text:
            known.append(with_text)
    return known, missing
