"""The versions of a model that are compared: each ranks the candidates, and says how long its stages took."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from darl_opensearch.bundle import Bundle
from darl_opensearch.cluster.without_text import count_hits_without_text, describe_hits_without_text
from darl_opensearch.scores import Scores
from darl_opensearch.scoring import Scorer
from darl_opensearch.search import PipelineSearch, RankedHit
from darl_opensearch.states import StateStore
from darl_opensearch.tryout.candidates import Candidate, ClusterRetriever
from darl_opensearch.tryout.tokens import TokenComparer, why_without_tokens


@dataclass(frozen=True)
class RankedCandidate:
    """A candidate as a version ranks it; without scores if it was not scored."""

    candidate: Candidate
    score: float | None = None
    grade: int | None = None
    grade_probs: tuple[float, ...] | None = None
    ood_score: float | None = None
    ood_distance: float | None = None
    is_ood: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values, rounded as they are shown."""
        values: dict[str, Any] = {"item": self.candidate.key, "grade": self.grade, "is_ood": self.is_ood}
        values |= {name: _rounded(getattr(self, name)) for name in ("score", "ood_score", "ood_distance")}
        return values | {"grade_probs": self.grade_probs and [_rounded(p) for p in self.grade_probs]}


@dataclass(frozen=True)
class TimedStage:
    """One stage of a search.

    :param detail: what it worked on, such as ``12 of 50 items``.
    """

    name: str
    ms: float
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        return {"name": self.name, "ms": round(self.ms, 1), "detail": self.detail}


@dataclass(frozen=True)
class Ranking:
    """The candidates in a version's order.

    :param problem: why they are not reranked, or not all of them; ``""``: they are.
    """

    rows: Sequence[RankedCandidate]
    stages: Sequence[TimedStage]
    problem: str = ""


class TriedVersion:
    """A bundle that scores in this process.

    :param label: its name on the page.
    :param place: its place among the compared bundles, from 0.
    :param states: item states, shared by the versions.
    """

    def __init__(self, bundle: Bundle, label: str, place: int, states: StateStore) -> None:
        self.bundle, self.label, self.place = bundle, label, place
        self.scorer = Scorer.open(bundle, states=states)
        self.why_not = why_without_tokens(bundle)
        self.tokens = TokenComparer(self.scorer, self.scorer.halves) if self.scorer.halves else None

    def rank(self, query: str, candidates: Sequence[Candidate], size: int) -> Ranking:
        """Rank candidates.

        :param size: how many are shown.
        """
        texts = [candidate.texts[self.place] for candidate in candidates]
        readable = [(c, text) for c, text in zip(candidates, texts, strict=True) if text is not None]
        scores, stages = self._score(query, [text for _, text in readable])
        rows = [_of_scores(readable[row][0], scores, row) for row in scores.order().tolist()]
        rows += [RankedCandidate(c) for c, text in zip(candidates, texts, strict=True) if text is None]
        blank = len(candidates) - len(readable)
        problem = f"{blank} of {len(candidates)} candidates have no text for this bundle and come last, without grades."
        return Ranking(rows, stages, problem if blank else "")

    def _score(self, query: str, texts: Sequence[str]) -> tuple[Scores, list[TimedStage]]:
        halves = self.scorer.halves
        if halves is None:
            done = self.scorer.run(query, texts)
            pairs = f"{done.chunks} pairs, {done.tokens:,} tokens"
            return done.scores, [TimedStage("tokenise", done.tokenize_ms), TimedStage("score", done.forward_ms, pairs)]
        chunks, _ = self.scorer.chunk(texts)
        keys = {halves.keys.of(text): text for text in chunks}
        missing = len(keys) - len(halves.store.contains(list(keys)))
        started = time.perf_counter()
        halves.fill(keys)
        items = time.perf_counter()
        halves.encode_query(query)
        encoded = time.perf_counter()
        scores = self.scorer.score(query, texts)
        times = [1000 * (b - a) for a, b in ((started, items), (items, encoded), (encoded, time.perf_counter()))]
        return scores, [
            TimedStage("encode items", times[0], f"{missing} of {len(keys)} were not yet encoded"),
            TimedStage("encode query", times[1]), TimedStage("score", times[2], f"{len(chunks)} pairs"),
        ]  # fmt: skip

    def close(self) -> None:
        """Stop the scorer."""
        self.scorer.close()


class ServedVersion(TriedVersion):
    """A bundle behind a search pipeline: it ranks as users see it. Its tokens are compared in this process.

    :param search: through the pipeline.
    :param retriever: of the same index.
    """

    def __init__(
        self, bundle: Bundle, label: str, states: StateStore, search: PipelineSearch, retriever: ClusterRetriever
    ) -> None:
        super().__init__(bundle, label, 0, states)
        self._search, self._retriever = search, retriever

    def rank(self, query: str, candidates: Sequence[Candidate], size: int) -> Ranking:
        """Search through the pipeline; the candidates are its first stage's.

        :raises ClusterError: if the cluster does not answer.
        """
        outcome = self._search.search(query, size=size)
        known = {candidate.key: candidate for candidate in candidates}
        rows = [
            _of_hit(hit, known.get(hit.id) or self._retriever.of_hit(hit.id, hit.source, hit.first_score))
            for hit in outcome.hits
        ]  # fmt: skip
        problem = ""
        if not outcome.reranked:
            hits = [{"_source": hit.source} for hit in outcome.hits]
            reason = describe_hits_without_text(count_hits_without_text(hits), len(hits))
            problem = f"Not reranked: {reason or 'check the log of the node and the scorer'}."
        return Ranking(rows, [TimedStage("search through the pipeline", outcome.took_ms, outcome.mode)], problem)


def name_versions(bundles: Sequence[Bundle]) -> list[str]:
    """Name bundles by model and version; where that is the same, also by folder."""
    names = [f"{bundle.card.name} {bundle.card.version}" for bundle in bundles]
    return [
        name if names.count(name) == 1 else f"{name} ({bundle.path.resolve().name})"
        for name, bundle in zip(names, bundles, strict=True)
    ]


def _of_scores(candidate: Candidate, scores: Scores, row: int) -> RankedCandidate:
    return RankedCandidate(
        candidate, float(scores.score[row]), int(scores.grade[row]), tuple(map(float, scores.grade_probs[row])),
        float(scores.ood_score[row]), float(scores.ood_distance[row]), bool(scores.is_ood[row]),
    )  # fmt: skip


def _of_hit(hit: RankedHit, candidate: Candidate) -> RankedCandidate:
    score = None if hit.grade is None else hit.score
    return RankedCandidate(
        candidate, score, hit.grade, hit.grade_probs, hit.ood_score, hit.ood_distance, hit.is_ood
    )  # fmt: skip


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
