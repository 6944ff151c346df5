"""A world of queries and items, a bundle with a reference from it, and logs of its traffic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from darl_opensearch.bundle import REFERENCE, REFERENCE_QUERIES, Bundle
from darl_opensearch.ood.record import LogPolicy, RankedRequest
from darl_opensearch.ood.spool import Spool
from darl_opensearch.scores import Scores
from darl_opensearch.scoring.embed import Embedder
from tests.helpers.bundles import correct_digests, tiny_bundle
from tests.helpers.traffic import rows_of

DAY = datetime(2026, 3, 1, tzinfo=UTC)
ALPHA, CALIBRATION = 0.1, 150
USUAL = "stolen bicycle lost luggage flight storm damage roof rescue piste kitchen fire pipes house rider lock".split()
STRANGE = "quantum xylem jazz zebra vortex pixel".split()
ITEM_WORDS = "cover theft travel home accident storm fire luggage missed skis third party walls burst".split()


class World:
    """Queries of a few words, and what is retrieved for each: ``depth`` of 80 items.

    How strange a pair is depends on its text: pairs with items of a kind are over the calibrated threshold, so that
    the log of OOD pairs looks unlike the traffic although nothing has changed.

    :param folder: where the bundle goes.
    :param alpha: share of OOD pairs that the threshold is calibrated for.
    :param depth: items a query.
    """

    def __init__(self, folder: Path, *, depth: int = 20) -> None:
        rng = np.random.default_rng(11)
        self.depth = depth
        self.items = [" ".join(rng.choice(ITEM_WORDS, 4)) + f" {i}" for i in range(80)]
        self.item_effect = 2 * rng.standard_normal(len(self.items))
        held_out = self.queries(CALIBRATION, np.random.default_rng(12))
        pairs = [(q, self.retrieved(q)) for q in held_out]
        distances = np.concatenate([self.distances(q, found) for q, found in pairs])
        self.calibration = np.sort(distances)
        bundle = tiny_bundle(folder, alpha=ALPHA)
        rows = 3
        with Embedder(bundle, threads=1) as embedder:
            some = [(q, rng.permutation(found)[:rows]) for q, found in pairs]
            features = embedder.embed([(q, [self.items[i] for i in found]) for q, found in some])
        np.save(folder / REFERENCE, features)
        queries = [{"rows": rows, "candidates": depth, "slice": self.slice(q)} for q in held_out]
        (folder / REFERENCE_QUERIES).write_text(json.dumps({"queries": queries}))
        card = json.loads((folder / "darl.json").read_text())["ood"] | {"calibration_queries": CALIBRATION}
        self.bundle = Bundle.open(correct_digests(folder, ood=card))

    def queries(self, count: int, rng: np.random.Generator, words: Sequence[str] = USUAL) -> list[str]:
        """Distinct queries of four words."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[" ".join(rng.choice(words, 4))] = None
        return list(found)

    def retrieved(self, query: str) -> list[int]:
        """Places of the items that are found for a query."""
        return np.random.default_rng(_number(query)).permutation(len(self.items))[: self.depth].tolist()

    def distances(self, query: str, found: Sequence[int]) -> np.ndarray:
        """How strange the pairs are: pairs of a query, and pairs of an item, go together."""
        rng = np.random.default_rng([_number(query), 1])
        return self.item_effect[list(found)] + rng.standard_normal() + rng.standard_normal(len(found))

    def slice(self, query: str) -> str:
        return ("pet", "travel")[_number(query) % 2]

    def request(self, number: int, query: str, time: datetime, *, push: float = 0.0) -> RankedRequest:
        found = self.retrieved(query)
        distances = self.distances(query, found) + push
        beyond = len(self.calibration) - np.searchsorted(self.calibration, distances)
        data = np.zeros((len(found), 6), dtype=np.float32)
        data[:, 1:4] = (0.2, 0.3, 0.5)
        data[:, 4] = 1 - (1 + beyond) / (len(self.calibration) + 1)
        data[:, 5] = distances
        return RankedRequest(
            request_id=f"{time:%d}-{number}", timestamp=time, query=query, slice=self.slice(query),
            doc_ids=[f"i-{i}" for i in found], documents=[self.items[i] for i in found],
            scores=Scores(data, ALPHA), latency_ms=5.0, route="python",
        )  # fmt: skip

    def day(self, place: int, queries: Sequence[str], *, push: float = 0.0, repeats: int = 0) -> list[RankedRequest]:
        """A day's requests, a minute apart; the first query is asked ``repeats`` times more."""
        asked = [*queries, *queries[:1] * repeats]
        start = DAY + timedelta(days=place)
        return [self.request(i, q, start + timedelta(seconds=20 * i), push=push) for i, q in enumerate(asked)]

    def traffic(self, days: int, count: int, *, seed: int = 0, words: Sequence[str] = USUAL) -> list[RankedRequest]:
        """Days of queries like those of the calibration."""
        rng = np.random.default_rng([seed, 13])
        return [request for place in range(days) for request in self.day(place, self.queries(count, rng, words))]

    def policy(self, rate: float = 0.05, **values: object) -> LogPolicy:
        return LogPolicy(**({"model": "tiny", "version": "1", "alpha": ALPHA, "sample_rate": rate} | values))


def write_log(path: Path, requests: Sequence[RankedRequest], policy: LogPolicy) -> Path:
    with Spool.open(path, create=True) as spool:
        spool.append(rows_of(requests, policy))
    return path


def _number(query: str) -> int:
    return int.from_bytes(query.encode()[-12:]) % 2**31 + len(query)
