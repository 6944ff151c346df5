"""Searching through a ``darl`` pipeline, with queries escaped for it, and detecting whether it reranked."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from darl_opensearch.bundle import Bundle, Card
from darl_opensearch.cluster import guards, pipelines
from darl_opensearch.cluster.calls import Cluster, join_path
from darl_opensearch.cluster.history import Served
from darl_opensearch.cluster.pipelines import PipelineShape
from darl_opensearch.cluster.search_body import check_page, is_hybrid, make_body, replace_text
from darl_opensearch.config_files import render_body
from darl_opensearch.errors import ClusterError, InputError
from darl_opensearch.scores import Columns, Scores, Thresholds
from darl_opensearch.text import ID_FIELD, TEXT_FIELD, cut_to_tokens

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

    from darl_opensearch.ood import RankedRequest

EXT_PATH = "ext.ml_inference.query_text"


@dataclass(frozen=True)
class RankedHit:
    """A hit of a pipeline search.

    :param position: rank, from 1.
    :param id: the document's ``_id``.
    :param source: its ``_source``.
    :param score: the score it is ranked by; the first stage's if it was not reranked.
    :param first_score: the first stage's score if it was reranked.
    :param grade: the most probable grade, 0 for the lowest; None, like all scores, if it was not reranked.
    :param grade_name: the grade's name in the bundle.
    :param grade_probs: probability of each grade, lowest first.
    :param ood_score: 1 minus the conformal p-value.
    :param ood_distance: detector distance: 0 at the calibration median, 1 at its 95th percentile, unbounded.
    :param is_ood: whether the pair is out of distribution.
    """

    position: int
    id: str
    source: Mapping[str, Any]
    score: float | None
    first_score: float | None = None
    grade: int | None = None
    grade_name: str | None = None
    grade_probs: tuple[float, ...] | None = None
    ood_score: float | None = None
    ood_distance: float | None = None
    is_ood: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        return dict(vars(self)) | {"grade_probs": self.grade_probs and list(self.grade_probs)}


@dataclass(frozen=True)
class SearchOutcome:
    """Hits of a pipeline search.

    :param query: the query, as it was passed.
    :param query_id: the caller's id of the query.
    :param slice: traffic slice of the query.
    :param hits: the hits, best first.
    :param dropped: hits that do not reach the thresholds; the OOD log gets them as well.
    :param window: how many hits are fetched, scored and cut into pages; hits at later positions are in first-stage
        order and have no grade.
    :param reranked: whether every hit of the window was scored and they are in score order; True for an empty result,
        and for a page beyond the window, for which nothing is scored.
    :param took_ms: round-trip time.
    :param total: documents that matched, as far as OpenSearch counted.
    :param mode: where the pipeline's model runs: ``local`` or ``connector``.
    :param alpha: false-alarm rate of the model's OOD calibration.
    """

    query: str
    query_id: str | None
    slice: str | None
    hits: tuple[RankedHit, ...]
    dropped: tuple[RankedHit, ...]
    window: int
    reranked: bool
    took_ms: float
    total: int | None
    mode: str
    alpha: float

    @property
    def logged_by_scorer(self) -> bool:
        """Whether the scorer behind the connector has logged this search; it knows nothing of one that failed."""
        return self.mode == "connector" and self.reranked

    def to_json(self) -> dict[str, Any]:
        """Render as JSON values."""
        return dict(vars(self)) | {name: [hit.to_json() for hit in vars(self)[name]] for name in ("hits", "dropped")}

    def ranked_request(self, request_id: str | None = None) -> RankedRequest | None:
        """Make the request for ``OodLog.offer``, from all scored hits; without any it is None.

        If the hits were not reranked, the log is told just that.

        :param request_id: by default a new UUID.
        """
        from darl_opensearch.ood import RankedRequest

        every = [hit for hit in (*self.hits, *self.dropped) if hit.grade is not None and self.reranked]
        if self.reranked and not every:
            return None
        return RankedRequest(
            request_id=request_id or str(uuid.uuid4()),
            timestamp=datetime.now(UTC),
            query=self.query,
            query_id=self.query_id,
            slice=self.slice,
            doc_ids=[str(hit.source.get(ID_FIELD, hit.id)) for hit in every],
            documents=[str(hit.source.get(TEXT_FIELD, "")) for hit in every],
            scores=_collect_scores(every, self.alpha),
            latency_ms=self.took_ms,
            route="search",
            reranked=self.reranked,
        )


class PipelineSearch:
    """Searches through a ``darl`` pipeline.

    Queries are escaped for the pipeline (:mod:`~darl_opensearch.cluster.guards`): unescaped quotes, brackets or
    placeholders would silently disable reranking. A search body with a ``hybrid`` query requires the pipeline
    ``NAME-hybrid``, which serves other queries as well.

    :param client: an opensearch-py client.
    :param model: the bundle that the pipeline serves, or its card, for grade names and alpha. With the bundle, the
        model's query is cut to the query cap.
    :param index: the index, filled by ``darl index``.
    :param pipeline: the search pipeline, created by ``darl register``.
    """

    def __init__(self, client: OpenSearch, model: Bundle | Card, index: str, pipeline: str = "darl") -> None:
        self.card = model.card if isinstance(model, Bundle) else model
        self._tokenizer = model.tokenizer if isinstance(model, Bundle) else None
        self.index, self.pipeline = index, pipeline
        self._cluster = Cluster(client)

    @cached_property
    def _definition(self) -> dict[str, Any]:
        body = pipelines.fetch_pipeline(self._cluster, self.pipeline)
        if body is None:
            raise ClusterError(
                f"search pipeline {self.pipeline!r} does not exist",
                where=self._cluster.url,
                todo="create it with darl register",
            )
        return body

    @property
    def served(self) -> Served | None:
        """The version named in the pipeline's definition, fetched once, or None.

        If it differs from :attr:`card`, results must not be logged under the card's version.
        """
        return Served.of_pipeline(self._definition)

    @cached_property
    def shape(self) -> PipelineShape:
        """The pipeline's parsed definition, fetched once."""
        shape = PipelineShape.of(self.pipeline, self._definition, where=self._cluster.url)
        if shape.fields != self.card.columns.hit_fields().keys():
            raise ClusterError(
                f"search pipeline {self.pipeline!r} writes different grades from {self.card.name} {self.card.version}",
                where=self._cluster.url,
                todo="pass the bundle that it serves, or register this one",
            )
        return shape

    def search(
        self,
        query: str,
        *,
        size: int = 10,
        from_: int = 0,
        body: Mapping[str, Any] | None = None,
        min_grade: int | str | None = None,
        min_score: float | None = None,
        drop_ood: bool = False,
        query_id: str | None = None,
        slice: str | None = None,
    ) -> SearchOutcome:
        """Search and rerank.

        Each page is cut from one ranking: the pipeline's ``max_k`` hits (or ``size``, if that is more), reranked, and
        behind them the first stage's order. Pages of the same size therefore show each hit once.

        Thresholds leave hits out of the page, so that fewer than ``size`` may remain; if the search was not reranked,
        there are no grades to compare, and all are returned.

        :param query: the text that the model scores items against.
        :param size: hits per page.
        :param from_: hits to skip, as in OpenSearch's ``from``.
        :param body: your own search body; by default a match on ``darl_text``.
        :param min_grade: return only hits of this grade or better, by its number or name.
        :param min_score: return only hits with this score or more, in [0, 1].
        :param drop_ood: return only hits that are in distribution.
        :param query_id: your id of the query, for the OOD log.
        :param slice: traffic slice of the query, for the OOD log.
        :raises InputError: if the model has no such grade or score.
        """
        thresholds = Thresholds.of(self.card.scale, min_grade=min_grade, min_score=min_score, drop_ood=drop_ood)
        check_page(from_, size)
        window, end = self._window(size, from_), from_ + size
        started = time.perf_counter()
        answers, ranked, later = [], list[RankedHit](), list[Mapping[str, Any]]()
        if from_ < window:
            request = self._request(query, window, body, query_id, slice)
            place = f"{join_path(self.index, '_search')}?search_pipeline={self.pipeline}"
            answers.append(self._cluster.read("POST", place, request))
            ranked = [self._hit(position, hit) for position, hit in enumerate(_hits(answers[0]), 1)]
        start = max(from_, window)
        if start < end and (from_ >= window or len(ranked) == window):
            answers.append(self._send_first_stage(make_body(query, end - start, body, start)))
            later = _hits(answers[-1])
        took_ms = (time.perf_counter() - started) * 1000
        reranked = is_in_order(ranked)
        scored = ranked[from_:end]
        kept = [True] * len(scored)
        if reranked and scored:
            kept = thresholds.keep(_collect_scores(scored, self.card.ood.alpha)).tolist()
        hits = (*scored, *(self._hit(position, hit) for position, hit in enumerate(later, start + 1)))
        kept += [not reranked or thresholds == Thresholds()] * len(later)  # nothing says that they reach one
        return SearchOutcome(
            query=query,
            query_id=query_id,
            slice=slice,
            hits=tuple(itertools.compress(hits, kept)),
            dropped=tuple(hit for hit, keep in zip(hits, kept, strict=True) if not keep),
            window=window,
            reranked=reranked,
            took_ms=took_ms,
            total=(answers[0].get("hits", {}).get("total") or {}).get("value"),
            mode=self.shape.mode,
            alpha=self.card.ood.alpha,
        )

    def first_stage(
        self, query: str, *, size: int = 10, body: Mapping[str, Any] | None = None
    ) -> list[Mapping[str, Any]]:
        """Search without the pipeline, for comparison; return the hits as they are.

        :param body: your own search body; by default a match on ``darl_text``.
        """
        check_page(0, size)
        return _hits(self._send_first_stage(make_body(query, size, body)))

    def _window(self, size: int, from_: int) -> int:
        """Return how many hits are fetched and scored: the same for each page of a size."""
        shape = self.shape
        if shape.max_k is None:
            if from_:
                raise ClusterError(
                    f"search pipeline {self.pipeline!r} does not say how many pairs it scores, so from_ has no meaning",
                    where=self._cluster.url,
                    todo="write it with darl register, or leave from_ out",
                )
            return size
        return max(size, min(shape.max_k, shape.max_result_window))

    def _send_first_stage(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if not is_hybrid(request):
            return self._cluster.search(self.index, request)
        self._check_hybrid(request)
        steps = {"search_pipeline": {"phase_results_processors": list(self.shape.phases)}}
        return self._cluster.read("POST", join_path(self.index, "_search"), {**request, **steps})

    def _check_hybrid(self, request: Mapping[str, Any]) -> None:
        if is_hybrid(request) and not self.shape.normalizes:
            raise InputError(
                f"search pipeline {self.pipeline!r} has no processor that combines the sub-queries of a hybrid query",
                where=self._cluster.url,
                todo=f"search through {self.pipeline + pipelines.HYBRID!r}, which darl register creates",
            )

    def _request(
        self, query: str, size: int, body: Mapping[str, Any] | None, query_id: str | None, slice_: str | None
    ) -> dict[str, Any]:
        request = make_body(query, size, body)
        self._check_hybrid(request)
        if self._tokenizer is not None:  # in ML Commons a query beyond its cap would shorten the items
            query = cut_to_tokens(query, self._tokenizer, self.card.query_cap) or query
        local = self.shape.mode == "local"
        if self.shape.query_path != EXT_PATH:
            text = guards.guard_for_query_path(query) if local else guards.guard_for_connector(query)
            where = f"search pipeline {self.pipeline!r}"
            request = replace_text(request, self.shape.query_path, text, where=where)
        else:
            text = guards.guard_for_local(query) if local else guards.guard_for_connector(query)
        ext = render_body(
            "search_ext.json",
            query_text=text,
            # A pipeline that maps these fields does not rerank a request without them.
            query_id=guards.guard_for_connector(query_id or ""),
            slice=guards.guard_for_connector(slice_ or ""),
        )
        return request | {"ext": {**request.get("ext", {}), **ext}}

    def _hit(self, position: int, hit: Mapping[str, Any]) -> RankedHit:
        source = hit.get("_source") or {}
        columns = self.card.columns.hit_fields()
        score = hit.get("_score")
        if not pipelines.is_scored(source, columns):
            return RankedHit(position, str(hit.get("_id")), source, score)
        row = np.array([[float(source[name]) for name in columns]], dtype=np.float32)
        scores = Scores(row, self.card.ood.alpha)
        grade = int(scores.grade[0])
        return RankedHit(
            position=position,
            id=str(hit.get("_id")),
            source=source,
            score=float(source["darl_score"]),
            first_score=source.get("previous_score"),
            grade=grade,
            grade_name=self.card.scale.names[grade],
            grade_probs=tuple(float(p) for p in scores.grade_probs[0]),
            ood_score=float(scores.ood_score[0]),
            ood_distance=float(scores.ood_distance[0]),
            is_ood=bool(scores.is_ood[0]),
        )


def _hits(answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(answer.get("hits", {}).get("hits", []))


def _collect_scores(hits: Sequence[RankedHit], alpha: float) -> Scores:
    """Collect the model's columns of reranked hits."""
    rows = [[hit.score, *(hit.grade_probs or ()), hit.ood_score, hit.ood_distance] for hit in hits]
    return Scores(np.asarray(rows, dtype=np.float32) if rows else np.zeros((0, Columns(2).width), np.float32), alpha)


def is_in_order(hits: Sequence[RankedHit]) -> bool:
    """Whether all hits were scored and are sorted by score."""
    if any(hit.grade is None or hit.first_score is None for hit in hits):
        return False
    scores = [hit.score or 0.0 for hit in hits]
    return all(a >= b for a, b in zip(scores, scores[1:], strict=False))
